"""An asyncio event loop on virtual time: waiting costs nothing, and a seed decides every order."""

import asyncio
import random
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Everybody waits, and nothing is scheduled that could wake anybody."""


class _Select(selectors.SelectSelector):
    """Reports no event and never sleeps: to wait is to move the clock."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing is scheduled")
        self.loop.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Ready callbacks run in an order drawn from `seed`; `faults` collects what nobody caught."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.faults: list[dict[str, Any]] = []
        selector = _Select()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-9
        self.set_exception_handler(lambda _, context: self.faults.append(context))

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if len(self._ready) > 1:
            ready = list(self._ready)
            self.rng.shuffle(ready)
            self._ready.clear()
            self._ready.extend(ready)
        super()._run_once()


def run(main: Coroutine[Any, Any, T], *, seed: int = 0) -> T:
    """What `main` returns, on a fresh virtual loop. A fault that nobody caught is raised here."""
    loop = VirtualLoop(seed)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(main)
    for context in loop.faults:
        raise RuntimeError(context["message"]) from context.get("exception")
    return result


async def elapse(seconds: float) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)
