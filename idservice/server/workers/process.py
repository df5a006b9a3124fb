"""The supervisor's side of its workers: forked processes, the channels to them, and signals."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, Self

from idservice.observability import logs
from idservice.server import stop_signals
from idservice.server.exits import EXIT_FAILURE
from idservice.server.workers import messages

HEARD = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD)
READ_MAX = 2**18  # bytes at once


class Signals:
    """Makes `wakeup` readable when a stop is asked for or a child has ended, while entered.

    So the supervisor waits for signals as for messages. The handlers themselves do nothing.
    """

    wakeup: socket.socket
    _written: socket.socket
    _before: dict[signal.Signals, Any]  # handlers

    def __enter__(self) -> Self:
        self.wakeup, self._written = socket.socketpair()
        self.wakeup.setblocking(False)
        self._written.setblocking(False)
        signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        numbers = (*stop_signals.numbers(), signal.SIGINT, signal.SIGCHLD)
        self._before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self.close()

    def stops(self) -> list[int]:
        """Read the signals that came, and return those that ask for a stop."""
        return [number for number in self.wakeup.recv(4096) if number != signal.SIGCHLD]

    def close(self) -> None:
        """Close the sockets, also in a forked child, which has its own signals."""
        self.wakeup.close()
        self._written.close()


class WorkerProcess:
    """The process of worker `number`, at the other end of `connection`."""

    def __init__(self, number: int, pid: int, connection: socket.socket) -> None:
        self.number = number
        self.pid = pid
        self.connection = connection
        self.served_from: float | None = None
        self.hung_up = False  # it closed the channel, or the channel failed
        self.requested = 0  # number of the last request for a report
        self.reported = 0  # number of the last request that it answered
        self.silent_s = 0.0  # the time for which it has owed an answer
        self.unsent = bytearray()
        self._reader = messages.MessageReader()

    def receive(self) -> list[messages.Message]:
        arrived: list[messages.Message] = []
        try:
            while data := self.connection.recv(READ_MAX):
                arrived += self._reader.messages(data)
            self.hung_up = True
        except BlockingIOError:
            pass
        except OSError:
            self.hung_up = True
        return arrived

    def send(self, message: messages.Message | None = None) -> None:
        """Send a message, after what could not be sent before."""
        if self.hung_up:
            return
        if message is not None:
            self.unsent += messages.encoded(message)
        try:
            while self.unsent:
                del self.unsent[: self.connection.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.hung_up = True


def fork(number: int, live: Callable[[socket.socket], int]) -> WorkerProcess:
    """Start a process that runs `live` with its end of the channel, and exits with its result.

    The process that forks has no event loop, and no thread but that of the log. Raises OSError.
    """
    # A lock that another thread holds would stay locked in the child. The log's thread shares none.
    assert {one.name for one in threading.enumerate()} <= {"MainThread", logs.THREAD}
    assert asyncio._get_running_loop() is None, "a service would be copied, with its ids"
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)  # in the child, until it has its own handlers
    try:
        pid = os.fork()
        if not pid:
            ours.close()
            _live(live, theirs)
    except OSError:
        ours.close()
        theirs.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
    theirs.close()
    ours.setblocking(False)
    return WorkerProcess(number, pid, ours)


def _live(live: Callable[[socket.socket], int], connection: socket.socket) -> NoReturn:
    """Run the child to its end; it never returns to the code of the supervisor."""
    code = EXIT_FAILURE
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in stop_signals.numbers():
            signal.signal(number, signal.SIG_DFL)  # until it serves
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the supervisor acts
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        code = live(connection)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        logging.shutdown()
        os._exit(code)
