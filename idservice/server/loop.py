"""The event loop: uvloop's, where there is one."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


def run(work: "Coroutine[object, object, None]") -> None:
    """Run a coroutine to its end."""
    import asyncio

    with asyncio.Runner(loop_factory=factory()) as runner:
        runner.run(work)


def factory() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    """What makes such a loop; None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
