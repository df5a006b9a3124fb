"""A timer with a precision of some ten microseconds; the timers of the loop have milliseconds.

At a fixed rate, the time by which a request is sent late counts as latency, and latency is often
less than a millisecond.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Self


class Alarm:
    """The interval timer of the process; in the main thread, one at a time."""

    def __init__(self) -> None:
        self._callback: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, self._ring)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGALRM)

    def set(self, ns: int, callback: Callable[[], None]) -> None:
        """Call `callback` once, in `ns` nanoseconds. It replaces one that has not run yet."""
        self._callback = callback
        signal.setitimer(signal.ITIMER_REAL, max(1e-6, ns / 1e9))

    def _ring(self) -> None:
        self._callback()
