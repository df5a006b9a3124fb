"""The queue of requests that wait for ids of one counter, and the window in which a strict batch
gathers them."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from idservice.allocation.context import Limits
from idservice.core.allocator import Allocator
from idservice.errors import Exhausted, IdserviceError, TooManyWaiting
from idservice.observability.readings import CounterStats

log = logging.getLogger("idservice.allocation")

Served = list[range] | IdserviceError
SHORT_MIN_S = 1.0  # a shortage that ends sooner is counted as one with the next
WINDOW_MAX_S = 0.002  # uvloop makes this 1 to 2 ms


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits for `count` ids."""

    count: int
    answer: Callable[[Served], None]  # called once, with the ids or with an error
    gone: Callable[[], bool] | None  # returns True if the client left
    number: int  # order of arrival
    since: float  # in loop time, as the next
    deadline: float


class WaitQueue:
    """Waiters for ids of counter `name` in the order of arrival. `too_long` makes the error for a
    waiter that waited too long; `window_over` is called when the `window` of a strict counter's
    batch closes."""

    __slots__ = (
        "_limits", "_loop", "_name", "_short_since", "_stats", "_timer", "_too_long",
        "_turned_away", "_waiting", "arrivals", "window",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        limits: Limits,
        stats: CounterStats,
        too_long: Callable[[Waiter], IdserviceError],
        *,
        window_over: Callable[[], None],
    ) -> None:
        self.arrivals = 0  # the number of waiters that ever arrived
        self.window = BatchWindow(window_over)
        self._name = name
        self._limits = limits
        self._short_since: float | None = None  # in loop time; None while requests get ids
        self._turned_away = 0  # requests that got an error since then
        self._stats = stats
        self._too_long = too_long
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Waiter] = {}  # by number, and so in order
        self._timer: asyncio.TimerHandle | None = None  # one for all: the first one is due first

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiter]:
        """Yield the waiters whose clients have not left, in order; the queue may change."""
        return (one for one in tuple(self._waiting.values()) if one.gone is None or not one.gone())

    @property
    def deadline(self) -> float | None:
        """When the last waiter gives up, in loop time; None if there is none."""
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
        gone: Callable[[], bool] | None = None,
    ) -> Waiter:
        """Add a waiter at the end, from `now` on, in loop time. Raises TooManyWaiting."""
        if len(self._waiting) >= self._limits.waiters_max:
            raise self.turn_away(TooManyWaiting(name=self._name, count=len(self._waiting)))
        number = self.arrivals
        waiter = self._waiting[number] = Waiter(
            count, answer, gone, number, now, now + self._limits.wait
        )
        self.arrivals = number + 1
        self._stats.waits += 1
        if self._timer is None:
            self._timer = self._loop.call_at(waiter.deadline, self._expire)
        return waiter

    def leave(self, waiter: Waiter, now: float) -> bool:
        """Remove a waiter; return False if it was not there any more."""
        if self._waiting.pop(waiter.number, None) is None:
            return False
        self._stats.wait_seconds += now - waiter.since
        return True

    def refuse(self, waiter: Waiter, error: IdserviceError) -> None:
        """Answer a waiter with an error, but not before the present caller has returned."""
        if self.leave(waiter, self._loop.time()):
            self._loop.call_soon(waiter.answer, error)

    def turn_away(
        self, error: IdserviceError, since: float | None = None, *, told: bool = False
    ) -> IdserviceError:
        """Count the error of a request that got no ids, and return it. `since` is the loop time
        from which the request waited. The first error is logged unless its cause was `told` before.
        Once ids come again, the number of errors is logged. A batch that exceeds the limit is not
        counted: there may be ids for others."""
        if isinstance(error, Exhausted) and error.fields["count"] != 1:
            return error
        self._turned_away += 1
        if self._short_since is None:
            self._short_since = self._loop.time() if since is None else since
            if told:
                pass
            elif isinstance(error, Exhausted):
                log.error("%s", error, extra={"action": "counter_exhausted"})
            else:
                log.error("no ids are left. %s", error, extra={"action": "counter_empty"})
        return error

    def _end_shortage(self) -> None:
        if self._short_since is None:
            return
        seconds = self._loop.time() - self._short_since
        if seconds >= SHORT_MIN_S:
            log.warning(
                "counter %s has ids again after %.0f s; %d %s refused",
                self._name, seconds, self._turned_away,
                "request was" if self._turned_away == 1 else "requests were",
                extra={"action": "counter_refilled"},
            )  # fmt: skip
            self._short_since, self._turned_away = None, 0

    def share_out(self, allocator: Allocator, arrived: int, *, strict: bool) -> None:
        """Serve waiters from memory, in the order of arrival. A strict batch serves only waiters
        that had `arrived` when it was sent (I8)."""
        self._end_shortage()
        now, waiting = self._loop.time(), list(self)
        served = []
        for waiter in waiting:
            late = strict and waiter.number >= arrived
            blocks = None if late else allocator.take_batch(waiter.count)
            if blocks is not None:
                self.leave(waiter, now)
                served.append((waiter, blocks))
        if strict:
            self.window.expect(len(waiting))
        allocator.settle()
        for waiter, blocks in served:  # an answered client may ask again at once
            try:
                waiter.answer(blocks)
            except Exception:  # a bug of ours: the other waiters have their ids to get
                log.exception("answering a request failed", extra={"action": "answer_bug"})

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        for waiter in tuple(self._waiting.values()):
            if waiter.deadline > now:
                self._timer = self._loop.call_at(waiter.deadline, self._expire)
                return
            self.refuse(waiter, self.turn_away(self._too_long(waiter), waiter.since))


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


def settle(future: asyncio.Future[list[range]], served: Served) -> None:
    """Give a waiter's result to its future, unless that is done."""
    if future.done():
        return  # cancelled; ids are not handed out to a client that left
    if isinstance(served, IdserviceError):
        future.set_exception(served)
    else:
        future.set_result(served)


def has_result(future: asyncio.Future[list[range]]) -> bool:
    """Return True if ids were given to the future."""
    return future.done() and not future.cancelled() and future.exception() is None
