"""The signals that end a command: SIGTERM, and SIGHUP and SIGQUIT, which mean the same.

The first process of a container gets no signal that it has no handler for: it would be lost. So
there is one from the first line on, before the imports, which take half a second.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def numbers() -> tuple[signal.Signals, ...]:
    """Return the stop signals of this process; `nohup` leaves SIGHUP out."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGTERM, signal.SIGQUIT
    return signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP


def end_at_once(number: int, _: FrameType | None) -> None:
    """Handle a stop signal while there is nothing to lose. An exception could get lost in an
    import."""
    os._exit(128 + number)  # as a shell reports it


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # a shell's job in the background ignores Ctrl-C
        raise KeyboardInterrupt
    handler(number, frame)


def hear() -> None:
    """Have stop signals end this process at once, until it has other handlers. The image blocks
    them until here."""
    for number in numbers():
        signal.signal(number, end_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers())


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Have stop signals do what Ctrl-C does, in place of `end_at_once`."""
    heard = [number for number in numbers() if signal.getsignal(number) is end_at_once]
    for number in heard:
        signal.signal(number, _as_ctrl_c)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, end_at_once)
