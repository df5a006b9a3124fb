"""Turns signals into bytes on a socket, so that the supervisor waits for them as for messages.

The handlers themselves do nothing.
"""

import signal
import socket
from typing import Self

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Signals:
    """Makes `wakeup` readable when a stop is asked for or a child has ended, while entered."""

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

    def __exit__(self, *_: object) -> None:
        for number in HEARD:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        self.close()

    def stops(self) -> int:
        """Read the signals that came, and return the number of those that ask for a stop."""
        return sum(number != signal.SIGCHLD for number in self.wakeup.recv(4096))

    def close(self) -> None:
        """Close the sockets, also in a forked child, which has its own signals."""
        self.wakeup.close()
        self._written.close()
