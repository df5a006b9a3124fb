"""The event loop and its signals: uvloop's loop if it is installed, else asyncio's own.

Neither is imported before it is needed: a health check runs without them.
"""

import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


def run(work: "Coroutine[object, object, int | None]") -> int:
    """Run a coroutine to its end and return its exit code."""
    import asyncio

    with asyncio.Runner(loop_factory=factory()) as runner:
        return runner.run(work) or 0


def factory() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    """Return the function that makes a loop of uvloop; None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextmanager
def on_signals(call: Callable[[], object], *numbers: signal.Signals) -> Iterator[None]:
    """Have the running loop call a function at each of these signals, in place of its handler."""
    import asyncio

    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])
