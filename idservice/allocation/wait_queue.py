"""The queue of requests that wait for ids of one counter, and the window in which a strict batch
gathers them."""

import asyncio
from collections.abc import Callable, Iterator

from idservice.errors import IdserviceError
from idservice.observability.readings import CounterStats

Served = list[range] | IdserviceError
WINDOW_MAX_S = 0.002  # uvloop makes this 1 to 2 ms


class Waiter:
    """One that waits for `count` ids. `answer` is called once, with the ids or with an error;
    where `gone` is given it tells that nobody would hear it."""

    __slots__ = ("answer", "count", "deadline", "gone", "number", "since")

    def __init__(
        self,
        count: int,
        answer: Callable[[Served], None],
        gone: Callable[[], bool] | None,
        number: int,
        since: float,
        deadline: float,
    ) -> None:
        self.count = count
        self.answer = answer
        self.gone = gone
        self.number = number  # order of arrival
        self.since = since
        self.deadline = deadline  # both in loop time


class WaitQueue:
    """A line of waiters. `too_long` makes the error for one whose time is over."""

    __slots__ = ("_loop", "_tally", "_timer", "_too_long", "_waiting", "arrivals")

    def __init__(self, tally: CounterStats, too_long: Callable[[Waiter], IdserviceError]) -> None:
        self.arrivals = 0  # that ever were
        self._tally = tally
        self._too_long = too_long
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Waiter] = {}  # by number, and so in order
        self._timer: asyncio.TimerHandle | None = None  # one for all: who came first is over first

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiter]:
        """Those who are still there, in order; the line may change meanwhile."""
        return (one for one in tuple(self._waiting.values()) if one.gone is None or not one.gone())

    @property
    def deadline(self) -> float | None:
        """When the last one who is still there goes, in loop time; None where nobody is."""
        for one in reversed(self._waiting.values()):
            if one.gone is None or not one.gone():
                return one.deadline
        return None

    def join(
        self,
        count: int,
        answer: Callable[[Served], None],
        *,
        now: float,
        patience_s: float,
        gone: Callable[[], bool] | None = None,
    ) -> Waiter:
        """Stand at the end of the line from `now` on, in loop time."""
        number = self.arrivals
        waiter = self._waiting[number] = Waiter(count, answer, gone, number, now, now + patience_s)
        self.arrivals = number + 1
        self._tally.waits += 1
        if self._timer is None:
            self._timer = self._loop.call_at(waiter.deadline, self._expire)
        return waiter

    def leave(self, waiter: Waiter, now: float) -> bool:
        """Take one out of the line; False where it was out of it."""
        if self._waiting.pop(waiter.number, None) is None:
            return False
        self._tally.wait_seconds += now - waiter.since
        return True

    def refuse(self, waiter: Waiter, error: IdserviceError) -> None:
        """Answer one with an error, but not before whoever calls this is done."""
        if self.leave(waiter, self._loop.time()):
            self._loop.call_soon(waiter.answer, error)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        for waiter in tuple(self._waiting.values()):
            if waiter.deadline > now:
                self._timer = self._loop.call_at(waiter.deadline, self._expire)
                return
            self.refuse(waiter, self._too_long(waiter))


class BatchWindow:
    """Holds a strict counter's next batch until the clients of the last one may have joined it.

    They ask again at once, and a request that misses a batch waits for a whole one. So the next
    batch is not sent (I8) before as many requests wait as did for the last one. It is held no
    longer than `WINDOW_MAX_S` and no longer than the last one `took`, in seconds. Then `over` is
    called.
    """

    __slots__ = ("_expected", "_over", "_timer", "took")

    def __init__(self, over: Callable[[], None]) -> None:
        self.took = 0.0
        self._over = over
        self._expected = 0
        self._timer: asyncio.TimerHandle | None = None

    def is_open(self, waiting: int) -> bool:
        """Return True if the next batch, for which `waiting` requests wait, is to be held."""
        if not 0 < waiting < self._expected:
            return False
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(WINDOW_MAX_S, self.took), self._end)
        return True

    def expect(self, requests: int) -> None:
        """Expect this many requests to join the next batch."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._expected = None, requests

    def _end(self) -> None:
        self.expect(0)
        self._over()
