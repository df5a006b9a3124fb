"""Requests of the synchronous client, over kept connections; the standard library only."""

import http.client
import io
import os
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from idservice.client import lookup, tls
from idservice.client.address import ServiceAddress
from idservice.client.own_key import OwnKey
from idservice.client.protocol import (
    ANSWER_MAX,
    NotSent,
    NoUsableAnswer,
    Reply,
    why_not_connected,
)
from idservice.client.tally_calls import Steps

T = TypeVar("T")

IDLE_MAX_S = 15.0  # then a connection is not used again: the other end may be about to close it
IDLE_MAX = 8  # connections
TIMEOUT_MIN_S = 0.001
HEADERS = {"Accept": "application/json", "User-Agent": "idservice"}


class _Unix(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, address: ServiceAddress) -> None:
        super().__init__("localhost")
        self._path = address.path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Tcp(http.client.HTTPConnection):
    """A connection whose timeout covers the look-up of the name and all addresses; `turn` says with
    which of them it begins."""

    def __init__(self, address: ServiceAddress, turn: int) -> None:
        super().__init__(address.host, address.port)
        self._turn = turn

    def connect(self) -> None:
        self.sock = lookup.connect(self.host, self.port, self.timeout or 0.0, turn=self._turn)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _Tls(_Tcp):
    """The same, encrypted."""

    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        import ssl  # takes 10 ms

        super().connect()
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


class _Reading(io.RawIOBase):
    """Reads from a socket until a deadline, however slowly the bytes arrive.

    `http.client` closes the socket before it reads the body of a last answer: this keeps it open.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int | None:
        self._sock.settimeout(_left(self._deadline))
        return self._raw.readinto(into)

    def close(self) -> None:
        self._raw.close()
        super().close()


class ConnectionPool:
    """Sends requests to one service, one at a time on each connection, and none of them twice.

    If the access key was refused and its file has a new key, the request is sent again with the new
    key.
    """

    def __init__(self, address: ServiceAddress, own_key: OwnKey | None = None) -> None:
        self.url = address.url
        self._address = address
        self._own_key = own_key or OwnKey()
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._in_use: set[http.client.HTTPConnection] = set()
        self._closed = False
        self._turn = 0

    def send(
        self, method: str, target: str, body: bytes = b"", *, key: str = "", timeout: float
    ) -> Reply:
        """Send one request; `key` is its Idempotency-Key, `timeout` in seconds. Raises
        NoUsableAnswer, of which NotSent proves that it was not sent.

        After that error a new connection begins with the next address of the host, so an instance
        that does not answer is not asked twice if there is another one. While the access key is
        known to be refused, the refusal is returned without a request.
        """
        now = time.monotonic()
        held = self._own_key.held(target, now)
        if held is not None:
            return held
        reply = self._send(method, target, body, key, now + timeout)
        if self._own_key.is_renewed(target, reply, time.monotonic()):
            reply = self._send(method, target, body, key, now + timeout)
        return reply

    def _send(self, method: str, target: str, body: bytes, key: str, deadline: float) -> Reply:
        connection = self._take()
        whole, answered = False, False
        try:
            self._connect(connection, deadline)
            _set_timeout(connection, deadline)
            headers = {**_headers(body, key), **self._own_key.headers}
            connection.request(method, target, body or None, headers)
            connection.response_class = partial(_response, deadline)  # type: ignore[assignment]
            response = connection.getresponse()
            answer = b""
            while chunk := response.read1(65_536):
                answer += chunk
                if len(answer) > ANSWER_MAX:
                    raise NoUsableAnswer(url=self.url, why="its answer is too long")
            # `read1` ends alike for a whole answer and for one that was cut off.
            if response.length:
                raise NoUsableAnswer(url=self.url, why="its answer was cut off")
            whole = not response.will_close
            response.close()  # `read1` leaves this to its caller; the connection stays open
            said = response.headers
            form, pause = said.get("Content-Type", ""), said.get("Retry-After", "")
            answered = True
            return Reply(response.status, form, answer, pause)
        except (OSError, http.client.HTTPException) as error:
            raise NoUsableAnswer(url=self.url, why=self._words(error)) from None
        finally:
            self._give_back(connection, whole)
            if not answered:
                self._turn_away()

    def carry_out(self, steps: Steps[T]) -> T:
        """Send what the steps of a call say, and return their result."""
        reply: Reply | NoUsableAnswer | None = None
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, float):
                    time.sleep(step)
                    continue
                try:
                    reply = self.send(
                        step.method, step.target, step.body, key=step.key, timeout=step.limit_s
                    )
                except NoUsableAnswer as error:
                    reply = error
        except StopIteration as end:
            result: T = end.value
            return result

    def _words(self, error: Exception) -> str:
        """Return why there was no answer."""
        if isinstance(error, http.client.RemoteDisconnected) and self._address.is_plain:
            return tls.CLOSED
        line = getattr(error, "line", "").encode("latin-1", "replace")  # which is not of HTTP
        return tls.SPOKEN if line.startswith(tls.ALERT) else str(error) or type(error).__name__

    def _connect(self, connection: http.client.HTTPConnection, deadline: float) -> None:
        """Connect, if that is not done yet. Raises NotSent."""
        if connection.sock is None:
            _set_timeout(connection, deadline)
            try:
                connection.connect()
            except (OSError, UnicodeError) as error:  # UnicodeError for the name of a host
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
            return _Tls(self._address, self._turn)
        return _Tcp(self._address, self._turn)

    def _turn_away(self) -> None:
        """Begin new connections with the next address, and keep none to the one that failed."""
        with self._lock:
            self._turn += 1
            kept, self._idle = self._idle, []
        for _, connection in kept:
            connection.close()

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


def _response(deadline: float, sock: socket.socket, **options: Any) -> http.client.HTTPResponse:
    return http.client.HTTPResponse(_Reading(sock, deadline), **options)  # type: ignore[arg-type]


def _headers(body: bytes, key: str) -> dict[str, str]:
    headers = dict(HEADERS)
    if body:
        headers["Content-Type"] = "application/json"
    if key:
        headers["Idempotency-Key"] = key
    return headers


def _set_timeout(connection: http.client.HTTPConnection, deadline: float) -> None:
    """Limit the next step to the time that is left."""
    connection.timeout = _left(deadline)
    if connection.sock is not None:
        connection.sock.settimeout(connection.timeout)


def _left(deadline: float) -> float:
    return max(TIMEOUT_MIN_S, deadline - time.monotonic())
