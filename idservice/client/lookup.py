"""Looks the names of hosts up, and connects, within a time limit.

The system's look-up has no limit: with a silent resolver it takes 10 s and more. So it runs in a
thread that is left behind once the time is over, and that holds up no exit of the process.
"""

import os
import socket
import time
from collections.abc import Callable
from typing import Any

LIMIT_MIN_S = 0.001
Found = list[tuple[Any, ...]]  # as `socket.getaddrinfo` returns them

_running: dict[tuple[int, str, int], "LookUp"] = {}  # by pid, too: a forked child has no threads


class LookUp:
    """A look-up in a thread that `start` begins. `then` is called there at its end, when `found` or
    `error` is set."""

    def __init__(
        self, host: str, port: int, then: "Callable[[LookUp], object]", *, flags: int = 0
    ) -> None:
        import threading  # for a number as the host it is not needed

        self._thread = threading.Thread(target=self._run, daemon=True, name="look-up")
        self.found: Found | None = None
        self.error: Exception = TimeoutError("the look-up of its name took too long")
        self._asked = (host, port, 0, socket.SOCK_STREAM, 0, flags)
        self._then = then
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin. A system without another thread to give is a failure of the look-up."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._end(OSError(str(error)))

    def _run(self) -> None:
        error = self.error
        try:
            self.found = socket.getaddrinfo(*self._asked)
        except Exception as failure:  # UnicodeError, too; it is raised where it is waited for
            error = failure
        self._end(error)

    def _end(self, error: Exception) -> None:
        self.error = error
        self._ended.set()
        self._then(self)

    def result(self, limit_s: float) -> Found:
        """Return the addresses. Raises OSError, UnicodeError."""
        self._ended.wait(limit_s)
        if self.found is None:
            raise self.error
        return self.found


def addresses(host: str, port: int, limit_s: float) -> Found:
    """Return the addresses of a host. Raises OSError, UnicodeError; TimeoutError after the limit.

    One look-up for a name runs at a time, whatever number of callers has given it up.
    """
    numeric = as_numbers(host, port)
    if numeric is not None:
        return numeric
    key = (os.getpid(), host, port)
    running = _running.get(key)
    if running is None:
        running = _running[key] = LookUp(host, port, lambda _: _running.pop(key, None))
        running.start()  # only now: it may end at once, and is to be forgotten then
    return running.result(limit_s)


def as_numbers(host: str, port: int) -> Found | None:
    """Return the address that `host` is in numbers, without asking; None if it is a name."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return None


def connect(host: str, port: int, limit_s: float, *, turn: int = 0) -> socket.socket:
    """Return a connection to the first address of a host that accepts one, within the limit.

    It begins with the address number `turn`, counted round and round. What is left of the limit is
    its timeout. Raises OSError, UnicodeError.
    """
    deadline = time.monotonic() + limit_s
    failure: OSError = TimeoutError("it took too long")
    found = addresses(host, port, limit_s)
    first = turn % len(found) if found else 0
    for family, kind, protocol, _, address in found[first:] + found[:first]:
        left_s = deadline - time.monotonic()
        if left_s < LIMIT_MIN_S:
            break
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(left_s)
            connection.connect(address)
            connection.settimeout(max(LIMIT_MIN_S, deadline - time.monotonic()))
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure
