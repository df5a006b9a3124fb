"""The event loop: uvloop's if it is installed, else asyncio's own.

Neither is imported before it is needed: a health check runs without them.
"""

from collections.abc import Callable, Coroutine
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
