"""The signals a parent of workers lives by, as bytes on a socket: its loop waits for them as for
messages, and nothing happens inside of a handler."""

import signal
import socket
from types import TracebackType
from typing import Self

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Signals:
    """While it is entered, `wakeup` is readable when a signal came: asked to stop, or a child
    ended."""

    wakeup: socket.socket
    _written: socket.socket

    def __enter__(self) -> Self:
        self.wakeup, self._written = socket.socketpair()
        self.wakeup.setblocking(False)
        self._written.setblocking(False)
        signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        for number in HEARD:
            signal.signal(number, lambda *_: None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in HEARD:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        self.close()

    def stops(self) -> int:
        """How many of those that came since ask to stop."""
        return sum(number != signal.SIGCHLD for number in self.wakeup.recv(4096))

    def close(self) -> None:
        """Let go of the sockets, also in a forked child, whose signals are its own."""
        self.wakeup.close()
        self._written.close()
