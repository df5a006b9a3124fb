"""An asyncio event loop on virtual time: waiting costs nothing, and a seed decides every order."""

import asyncio
import contextlib
import contextvars
import gc
import heapq
import random
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")

CANCELLED_MIN = 100  # timers; fewer are not worth to be cleared of cancelled ones


class Deadlock(RuntimeError):
    """Everybody waits, and nothing is scheduled that could wake anybody."""


class _Handle:
    """A callback to run, at the time `at` if it is a timer."""

    __slots__ = ("_args", "_at", "_callback", "_context", "_loop", "in_heap", "is_cancelled")

    def __init__(
        self,
        loop: "VirtualLoop",
        at: float,
        callback: Callable[..., object],
        args: tuple[object, ...],
        context: contextvars.Context | None,
    ) -> None:
        self._loop = loop
        self._at = at
        self._callback = callback
        self._args = args
        self._context = contextvars.copy_context() if context is None else context
        self.in_heap = self.is_cancelled = False

    def __lt__(self, other: object) -> bool:
        return False  # of timers of one moment none goes first

    def when(self) -> float:
        return self._at

    def cancelled(self) -> bool:
        return self.is_cancelled

    def cancel(self) -> None:
        if not self.is_cancelled:
            self.is_cancelled = True
            self._loop.cancelled_timers += self.in_heap
            self._callback, self._args = _nothing, ()

    def run(self) -> None:
        try:
            self._context.run(self._callback, *self._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            message = f"Exception in callback {self._callback!r}"
            self._loop.call_exception_handler({"message": message, "exception": error})


def _nothing() -> None:
    """Stands in for a cancelled callback, so that nothing is kept alive by it."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Ready callbacks run in an order drawn from `seed`; `faults` collects what nobody caught.

    It keeps queues of its own: thousands of runs spend most of their time in asyncio's.
    """

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.faults: list[dict[str, Any]] = []
        self.cancelled_timers = 0  # of those that are still scheduled
        super().__init__(selectors.SelectSelector())
        self._ready: deque[_Handle] = deque()
        self._scheduled: list[tuple[float, _Handle]] = []
        self.set_exception_handler(lambda _, context: self.faults.append(context))

    def time(self) -> float:
        return self.now

    @property
    def timers(self) -> int:
        """How many timers are set."""
        return sum(not handle.is_cancelled for _, handle in self._scheduled)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: object, context: Any = None
    ) -> _Handle:
        handle = _Handle(self, 0.0, callback, args, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: object, context: Any = None
    ) -> _Handle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: object, context: Any = None
    ) -> _Handle:
        handle = _Handle(self, when, callback, args, context)
        handle.in_heap = True
        heapq.heappush(self._scheduled, (when, handle))
        return handle

    def _run_once(self) -> None:
        ready = self._ready
        if len(ready) > 1:
            shuffled = list(ready)
            self.rng.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        if self.cancelled_timers:
            self._drop_cancelled()
        if not ready:
            self._wait()
        scheduled, soon = self._scheduled, self.now + 1e-9
        while scheduled and scheduled[0][0] < soon:
            _, handle = heapq.heappop(scheduled)
            handle.in_heap = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.is_cancelled:
                handle.run()

    def _drop_cancelled(self) -> None:
        scheduled = self._scheduled
        if len(scheduled) > CANCELLED_MIN and self.cancelled_timers > len(scheduled) / 2:
            scheduled[:] = [(at, handle) for at, handle in scheduled if not handle.is_cancelled]
            heapq.heapify(scheduled)
            self.cancelled_timers = 0
        while scheduled and scheduled[0][1].is_cancelled:
            self.cancelled_timers -= 1
            heapq.heappop(scheduled)

    def _wait(self) -> None:
        """Move the clock on to the next timer."""
        if self._stopping:
            return
        if not self._scheduled:
            raise Deadlock("nothing is scheduled")
        self.now += max(0.0, self._scheduled[0][0] - self.now)


def run(main: Coroutine[Any, Any, T], *, seed: int = 0) -> T:
    """What `main` returns, on a fresh virtual loop. A fault that nobody caught is raised here."""
    loop = VirtualLoop(seed)
    with asyncio.Runner(loop_factory=lambda: loop) as runner, _undisturbed(loop):
        result = runner.run(main)
        gc.collect(0)  # a failed task that nobody asked is told of when it is collected
    for context in loop.faults:
        raise RuntimeError(context["message"]) from context.get("exception")
    return result


@contextlib.contextmanager
def _undisturbed(loop: VirtualLoop) -> Iterator[None]:
    """Two things that took a seventh of the time of thousands of runs: garbage is collected once
    for each run, and asyncio is told here which loop is running. CPython 3.11 asks the kernel for
    the process id each time that it looks this up itself."""

    def running() -> VirtualLoop:
        return loop

    gc.disable()
    try:
        with (
            mock.patch.object(asyncio, "get_running_loop", running),
            mock.patch.object(asyncio.events, "get_running_loop", running),
        ):
            yield
    finally:
        gc.enable()


async def elapse(seconds: float) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)
