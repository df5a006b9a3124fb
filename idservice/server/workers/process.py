"""One worker as its parent sees it: a forked process, a channel to it, and what it owes."""

import asyncio
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from idservice.server.exits import EXIT_FAILURE
from idservice.server.workers import messages as channel
from idservice.server.workers.signals import HEARD

READ_MAX = 2**18  # bytes at once
PAUSE_FIRST_S, PAUSE_MAX_S = 0.1, 5.0  # before one that ended is started again
LIVED_S = 10.0  # who lived that long was in order


class Backoff:
    """The pause before a worker is started again: doubled with each in a row that lived briefly."""

    def __init__(self) -> None:
        self._next_s = PAUSE_FIRST_S

    def after(self, lived_s: float) -> float:
        """Seconds to wait after one that lived that long."""
        if lived_s >= LIVED_S:
            self._next_s = PAUSE_FIRST_S
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, PAUSE_MAX_S)
        return pause_s


class WorkerProcess:
    """A process with the number `number`, at the other end of `connection`."""

    def __init__(self, number: int, pid: int, connection: socket.socket) -> None:
        self.number = number
        self.pid = pid
        self.connection = connection
        self.serving = False
        self.served_from: float | None = None
        self.hung_up = False  # it closed the channel, or it cannot be written to
        self.asked = 0  # number of the last request to report,
        self.told = 0  # and of the last one it answered
        self.silent_s = 0.0  # see `silent_for`
        self.unsent = bytearray()
        self._reader = channel.Reader()

    def receive(self) -> list[channel.Message]:
        """What it said since."""
        messages: list[channel.Message] = []
        try:
            while data := self.connection.recv(READ_MAX):
                messages += self._reader.messages(data)
            self.hung_up = True
        except BlockingIOError:
            pass
        except OSError:
            self.hung_up = True
        return messages

    def send(self, message: channel.Message | None = None) -> None:
        """Send that, after what could not be sent so far."""
        if self.hung_up:
            return
        if message is not None:
            self.unsent += channel.written(message)
        try:
            while self.unsent:
                del self.unsent[: self.connection.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.hung_up = True

    def served_for(self, now: float) -> float:
        """Seconds since it began to serve; 0 where it never did."""
        return now - self.served_from if self.served_from is not None else 0.0

    def answered(self, number: int) -> None:
        """It reported: to that request, and it lives."""
        self.told = max(self.told, number)
        self.silent_s = 0.0

    def silent_for(self, elapsed: float) -> float:
        """Seconds for which it owes an answer and gives none, now that `elapsed` have passed."""
        self.silent_s = self.silent_s + elapsed if self.told < self.asked else 0.0
        return self.silent_s

    def kill(self) -> None:
        """End it at once: safe at any time, a gap at worst."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def fork(number: int, live: Callable[[socket.socket], int]) -> WorkerProcess:
    """A new process in which `live` runs, with its end of the channel; its result is the exit code.

    The process that forks has neither threads nor an event loop. Raises OSError.
    """
    assert threading.active_count() == 1, "a thread would be lost, and what it holds stay locked"
    assert asyncio._get_running_loop() is None, "a service would be copied, with its ids"
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)  # in the child, until its handlers are its own
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
    """The whole life of the child: it never comes back to what its parent was about to do."""
    code = EXIT_FAILURE
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until it serves
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent listens to it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        code = live(connection)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
