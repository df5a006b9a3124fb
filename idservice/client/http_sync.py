"""Requests of the synchronous client, over connections that are kept; the standard library only."""

import http.client
import os
import socket
import threading
import time
from contextlib import suppress

from idservice.client.address import ServiceAddress
from idservice.client.protocol import ANSWER_MAX, NoUsableAnswer, Reply

IDLE_MAX_S = 15.0  # then a connection is not used again: the other end may be about to close it
KEPT_MAX = 8  # connections
TIMEOUT_MIN_S = 0.001
HEADERS = {"Accept": "application/json", "User-Agent": "idservice", "Content-Length": "0"}


class _Unix(http.client.HTTPConnection):
    """To a Unix socket."""

    def __init__(self, address: ServiceAddress) -> None:
        super().__init__("localhost")
        self._path = address.path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ConnectionPool:
    """Connections to one service; each carries one request at a time, and no request twice."""

    def __init__(self, address: ServiceAddress) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._kept: list[tuple[float, http.client.HTTPConnection]] = []
        self._in_use: set[http.client.HTTPConnection] = set()
        self._closed = False

    def post(self, target: str, *, timeout: float) -> Reply:
        """Send one request. Raises Unanswered. `timeout` in seconds."""
        deadline = time.monotonic() + timeout
        connection = self._taken()
        whole = False
        try:
            _patience(connection, deadline)
            connection.request("POST", target, headers=HEADERS)
            _patience(connection, deadline)
            response = connection.getresponse()
            body = b""
            while chunk := response.read1(65_536):
                body += chunk
                if len(body) > ANSWER_MAX:
                    raise NoUsableAnswer(url=self._address.url, why="its answer is too long")
                _patience(connection, deadline)
            # `read1` does not tell an answer that was cut off from one that is over.
            if response.length:
                raise NoUsableAnswer(url=self._address.url, why="its answer was cut off")
            whole = not response.will_close
            response.close()  # of which `read1` leaves the end to us; the connection stays
            return Reply(response.status, response.getheader("Content-Type", ""), body)
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise NoUsableAnswer(url=self._address.url, why=why) from None
        finally:
            self._give_back(connection, whole)

    def _taken(self) -> http.client.HTTPConnection:
        with self._lock:
            now = time.monotonic()
            while self._kept:
                since, connection = self._kept.pop()
                if now - since < IDLE_MAX_S:
                    break
                connection.close()
            else:
                connection = self._new()
            self._in_use.add(connection)
            return connection

    def _new(self) -> http.client.HTTPConnection:
        if self._address.path:
            return _Unix(self._address)
        if self._address.tls:
            return http.client.HTTPSConnection(self._address.host, self._address.port)
        return http.client.HTTPConnection(self._address.host, self._address.port)

    def _give_back(self, connection: http.client.HTTPConnection, whole: bool) -> None:
        with self._lock:
            self._in_use.discard(connection)
            if whole and not self._closed and len(self._kept) < KEPT_MAX:
                self._kept.append((time.monotonic(), connection))
                return
        connection.close()

    def forget(self) -> None:
        """In a forked child: close what it has of the parent's connections, but do not end them."""
        for connection in (*self._in_use, *(connection for _, connection in self._kept)):
            if connection.sock is not None:  # closing it would wait for who reads from it
                os.close(connection.sock.detach())

    def close(self) -> None:
        """Close all; who waits for an answer is told that none came."""
        with self._lock:
            self._closed = True
            kept, self._kept = self._kept, []
            for connection in self._in_use:
                if connection.sock is not None:
                    with suppress(OSError):  # it was over already
                        connection.sock.shutdown(socket.SHUT_RDWR)
        for _, connection in kept:
            connection.close()


def _patience(connection: http.client.HTTPConnection, deadline: float) -> None:
    """Let the next step take no longer than what is left."""
    left = max(TIMEOUT_MIN_S, deadline - time.monotonic())
    connection.timeout = left
    if connection.sock is not None:
        connection.sock.settimeout(left)
