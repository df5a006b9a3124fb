"""Requests of the synchronous client, over kept connections; the standard library only."""

import http.client
import os
import socket
import threading
import time
from contextlib import suppress

from idservice.client.address import ServiceAddress
from idservice.client.protocol import (
    ANSWER_MAX,
    NotSent,
    NoUsableAnswer,
    Reply,
    why_not_connected,
)

IDLE_MAX_S = 15.0  # then a connection is not used again: the other end may be about to close it
IDLE_MAX = 8  # connections
TIMEOUT_MIN_S = 0.001
HEADERS = {"Accept": "application/json", "User-Agent": "idservice", "Content-Length": "0"}


class _Unix(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, address: ServiceAddress) -> None:
        super().__init__("localhost")
        self._path = address.path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ConnectionPool:
    """Sends requests to one service, one at a time on each connection, and none of them twice."""

    def __init__(self, address: ServiceAddress) -> None:
        self.url = address.url
        self._address = address
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._in_use: set[http.client.HTTPConnection] = set()
        self._closed = False

    def send(self, method: str, target: str, *, timeout: float) -> Reply:
        """Send one request without a body; `timeout` in seconds. Raises NoUsableAnswer, of which
        NotSent proves that it was not sent."""
        deadline = time.monotonic() + timeout
        connection = self._take()
        whole = False
        try:
            self._connect(connection, deadline)
            _set_timeout(connection, deadline)
            connection.request(method, target, headers=HEADERS)
            _set_timeout(connection, deadline)
            response = connection.getresponse()
            body = b""
            while chunk := response.read1(65_536):
                body += chunk
                if len(body) > ANSWER_MAX:
                    raise NoUsableAnswer(url=self.url, why="its answer is too long")
                _set_timeout(connection, deadline)
            # `read1` ends alike for a whole answer and for one that was cut off.
            if response.length:
                raise NoUsableAnswer(url=self.url, why="its answer was cut off")
            whole = not response.will_close
            response.close()  # `read1` leaves this to its caller; the connection stays open
            return Reply(response.status, response.getheader("Content-Type", ""), body)
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise NoUsableAnswer(url=self.url, why=why) from None
        finally:
            self._give_back(connection, whole)

    def _connect(self, connection: http.client.HTTPConnection, deadline: float) -> None:
        """Connect, if that is not done yet. Raises NotSent."""
        if connection.sock is None:
            _set_timeout(connection, deadline)
            try:
                connection.connect()
            except OSError as error:
                raise NotSent(url=self.url, why=why_not_connected(error)) from None

    def _take(self) -> http.client.HTTPConnection:
        with self._lock:
            now = time.monotonic()
            while self._idle:
                since, connection = self._idle.pop()
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
            if whole and not self._closed and len(self._idle) < IDLE_MAX:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def forget(self) -> None:
        """Close a forked child's copies of the parent's connections, without ending these."""
        for connection in (*self._in_use, *(connection for _, connection in self._idle)):
            if connection.sock is not None:  # `close` would wait for the thread that reads from it
                os.close(connection.sock.detach())

    def close(self) -> None:
        """Close all connections; a call that waits for an answer raises NoUsableAnswer."""
        with self._lock:
            self._closed = True
            kept, self._idle = self._idle, []
            for connection in self._in_use:
                if connection.sock is not None:
                    with suppress(OSError):  # the connection was closed already
                        connection.sock.shutdown(socket.SHUT_RDWR)
        for _, connection in kept:
            connection.close()


def _set_timeout(connection: http.client.HTTPConnection, deadline: float) -> None:
    """Limit the next step to the time that is left."""
    left = max(TIMEOUT_MIN_S, deadline - time.monotonic())
    connection.timeout = left
    if connection.sock is not None:
        connection.sock.settimeout(left)
