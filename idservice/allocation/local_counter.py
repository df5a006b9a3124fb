"""One counter in use: who is given its ids, from memory or in line, and what speaks against it: the
catalogue, or a doubt about the store."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from random import Random

from idservice import errors
from idservice.allocation import position_check
from idservice.allocation.epoch_state import EpochState
from idservice.allocation.refiller import Refiller
from idservice.allocation.reserver import PendingReservation, Reserver
from idservice.allocation.wait_queue import Served, Waiter, WaitQueue
from idservice.core.allocator import Allocator
from idservice.core.gap_causes import GapCause
from idservice.observability.readings import CounterSample, CounterStats
from idservice.observability.store_health import StoreHealth
from idservice.stores.protocol import IdStore
from idservice.stores.records import ACTIVE, DELETED, MOVED, Counter

log = logging.getLogger("idservice.supply")

SUSPECT_RECHECK_S = 2.0  # how often a counter that was refused is looked at again


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a service. Times in seconds; each has a setting of the same name."""

    runway: float = 30.0  # for counters that name none: how long ids last without the store
    wait: float = 2.0  # how long a request waits for ids
    waiters_max: int = 10_000  # requests waiting per counter
    block_max: int = 10_000_000  # ids per reservation


class LocalCounter:
    """The ids of one counter on this instance.

    `spawn` starts a task that the owner ends; `random` spreads the pauses between failed tries.
    With `keep_filled` the counter is refilled after an outage even if nobody asks. `missing` is
    told where a counter turned out not to be there of which nothing was known; such a supply is
    stopped for good.
    """

    def __init__(
        self,
        counter: Counter,
        store: IdStore,
        limits: Limits,
        *,
        health: StoreHealth,
        spawn: Callable[[Coroutine[object, object, None]], object],
        random: Random,
        keep_filled: bool = False,
        missing: "Callable[[LocalCounter], None]",
    ) -> None:
        self.tally = CounterStats()
        # Why nothing is handed out: until the store is asked again, and until there is other news.
        self.suspect: errors.IdserviceError | None = None
        self.closed: errors.IdserviceError | None = None
        self._store = store
        self._limits = limits
        self._health = health
        self._spawn = spawn
        self._missing = missing
        self._loop = asyncio.get_running_loop()
        self._recheck_at = 0.0  # when a suspect is looked at again; infinite where that is for good
        self._queue = WaitQueue(self.tally, self._too_long)
        self.epoch_state = EpochState(
            counter,
            store,
            runway_s=limits.runway,
            block_max=limits.block_max,
            random=random,
            tally=self.tally,
        )
        self.reserver = Reserver(store, self.epoch_state, self._queue, spawn=spawn, random=random)
        self._refill = Refiller(
            self.epoch_state,
            self._queue,
            self.reserver,
            keep_filled=keep_filled,
            health=health,
            spawn=spawn,
            random=random,
            judge=self,
        )
        if counter.wished_state != ACTIVE:
            self._close(self._why_closed(), cause=GapCause.REVOKED)

    @property
    def counter(self) -> Counter:
        """The counter as it is known."""
        return self.epoch_state.counter

    @property
    def allocator(self) -> Allocator:
        """Its ids in memory."""
        return self.epoch_state.allocator

    # --- ids out ---------------------------------------------------------------------------------

    async def next_id(self) -> int:
        """The next id. Raises Exhausted, Suspended, UnknownCounter, TooManyWaiting, WaitedTooLong,
        CounterSuspect, CatalogueStale, Stopped."""
        id = self.take()
        return id if id is not None else (await self.wait(1))[0].start

    async def next_batch(self, count: int) -> list[range]:
        """`count` ids as blocks, all or an error; raises as `next_id`. 0 < count <= block_max."""
        blocks = self.take_many(count)
        return blocks if blocks is not None else await self.wait(count)

    def take(self) -> int | None:
        """The next id, where one is in memory."""
        id = next(self.epoch_state.buffer.cursor, None)
        if id is None and not self.counter.strict:
            self.allocator.advance()
            id = self.allocator.take()
            self._refill.start_if_needed()
        return id

    def take_many(self, count: int) -> list[range] | None:
        """`count` ids as blocks, where that many are in memory."""
        blocks = self.epoch_state.allocator.take_batch(count)
        if blocks is not None:
            self._refill.start_if_needed()
        return blocks

    async def wait(self, count: int) -> list[range]:
        """Stand in line for `count` ids; raises as `next_id`."""
        future: asyncio.Future[list[range]] = self._loop.create_future()
        waiter = self.enqueue(count, partial(_settle, future), gone=future.done)
        try:
            return await future
        except asyncio.CancelledError:
            if not self._queue.leave(waiter, self._loop.time()) and _has_result(future):
                self.allocator.record_wasted(count)  # served, but gone
            raise

    def enqueue(
        self,
        count: int,
        answer: Callable[[Served], None],
        *,
        gone: Callable[[], bool] | None = None,
    ) -> Waiter:
        """Stand in line for `count` ids; `answer` is called later with them, or with what
        `next_id` raises. Raises the same where it is clear at once.

        First come, first served among those whom memory cannot serve at once.
        """
        now = self._loop.time()
        self._admit(count, now)
        patience_s = self._limits.wait
        waiter = self._queue.join(count, answer, now=now, patience_s=patience_s, gone=gone)
        self._refill.start_if_needed()
        return waiter

    def cancel(self, waiter: Waiter) -> None:
        """Stand in line no longer."""
        self._queue.leave(waiter, self._loop.time())

    def _admit(self, count: int, now: float) -> None:
        if self.suspect is not None:
            if now < self._recheck_at:
                raise self.suspect.with_traceback(None)  # told to many: do not gather their frames
            self.recheck()
        if self.closed is not None:
            raise self.closed.with_traceback(None)
        if len(self._queue) >= self._limits.waiters_max:
            raise errors.TooManyWaiting(name=self.counter.name, count=len(self._queue))
        allocator = self.epoch_state.allocator
        room = allocator.shards.room(now)
        if count > room and count > room + allocator.held:
            raise self.epoch_state.exhausted(count)

    def _too_long(self, waiter: Waiter) -> errors.IdserviceError:
        why = str(self._refill.error).rstrip(".")
        error = errors.WaitedTooLong(name=self.counter.name, seconds=self._limits.wait, why=why)
        return self._refill.unsure(waiter, error)

    async def fill(self) -> None:
        """Bring the first ids into memory; the start of a service does this, to see that it can.

        Nothing to do for a strict counter, which holds nothing, and for one that is used up. Raises
        StoreError.
        """
        await self._refill.fill()

    # --- change ----------------------------------------------------------------------------------

    def apply_entry(self, entry: Counter) -> None:
        """What the catalogue says of the counter; what is older than what is known is ignored.

        Ids of a revoked epoch are dropped, those of one that is merely over are used up (I6).
        """
        known = self.counter
        if self._over or entry.rev <= known.rev or entry.ordinal < known.ordinal:
            return
        opened, revoked = entry.ordinal > known.ordinal, entry.revoked >= known.ordinal
        self.epoch_state.counter = entry
        if entry.wished_state != ACTIVE:
            self._close(self._why_closed(), cause=GapCause.REVOKED)
        elif isinstance(self.closed, errors.CatalogueStale):
            pass  # whoever found that out says when it ends
        elif opened or revoked or self.closed is not None:
            self.closed = None
            self.suspect = None if opened else self.suspect
            if self.suspect is None or not self.allocator.retired:  # it may be granted ids just now
                self.epoch_state.begin_epoch(keep=not revoked)
                self.reserver.end_batches()
                self._refill.start_if_needed()
        else:
            self.allocator.set_runway(self.epoch_state.runway_s)

    def _why_closed(self) -> errors.IdserviceError:
        if self.counter.wished_state == DELETED:
            return errors.UnknownCounter(name=self.counter.name)
        if self.counter.wished_state == MOVED:
            return errors.Moved(name=self.counter.name, why=self.counter.whereabouts)
        return errors.Suspended(name=self.counter.name)

    def _close(self, error: errors.IdserviceError, *, cause: GapCause) -> None:
        """Hand out nothing until there is other news, and answer everybody with `error`."""
        self.closed = error
        self._drop(error, cause)

    def go_stale(self, error: errors.CatalogueStale) -> None:
        """The catalogue was not heard of for too long: ids in memory may be revoked by now."""
        if self.closed is None and not self._over:
            self._close(error, cause=GapCause.STALE)

    def go_on(self) -> None:
        """The catalogue was heard of again."""
        if isinstance(self.closed, errors.CatalogueStale):
            self.closed = None
            if self.suspect is None:
                self.epoch_state.reset(GapCause.STALE)
                self._refill.start_if_needed()

    # --- doubt -----------------------------------------------------------------------------------

    async def on_mismatch(self, error: errors.NotApplied, asked: PendingReservation) -> str:
        """The position of a shard is not as the epoch of a request left it: the entry alone decides
        what that means. Whether it is `changed` or `suspect`."""
        if self.allocator.retired:
            return "changed"  # a request overtaken by our own give-back finds it lower than we left
        told = await position_check.ask(self._store, asked.counter, error, asked.request.shard)
        if told.entry is not None:
            self.apply_entry(told.entry)
        if self.allocator.retired or self.counter.epoch != asked.counter.epoch:
            return "changed"  # or stopped in the meantime
        if told.changing and isinstance(error, errors.EpochChanged) and not error.gone_back:
            why = "it is being changed, or the store does not tell whether it was"
            self._refill.error = errors.NotApplied(**self.reserver.about, why=why)
            return "changed"
        self._distrust(error)
        return "suspect"

    def clear_suspicion(self) -> None:
        """The store gave ids: a doubt is over."""
        self.suspect = None

    def _distrust(self, error: errors.StoreError) -> None:
        """Hand out nothing more: ids in memory may be those that a restored store gives others."""
        if self.allocator.retired:
            return  # stopped in the meantime, and for good
        log.error("%s", error, extra={"action": "counter_suspect"})
        self.stop(
            errors.CounterSuspect(name=self.counter.name, why=str(error)), cause=GapCause.WENT_BACK
        )
        self._recheck_at = self._loop.time() + SUSPECT_RECHECK_S

    def on_refusal(self, error: errors.IdserviceError) -> None:
        """The store gives no ids of the counter; hand out nothing until it is looked at again."""
        if isinstance(error, errors.StoreError):
            self._distrust(error)
            return
        # The service that lends the ids has no such counter (any more), or gives none of it.
        self._health.answered()
        if self.allocator.retired:
            return  # stopped in the meantime, and for good
        self.stop(error, cause=GapCause.REVOKED)
        if isinstance(error, errors.UnknownCounter) and not self.counter.ordinal:
            self._missing(self)  # and over: were it to come back, nobody would count or stop it
        else:
            self._recheck_at = self._loop.time() + SUSPECT_RECHECK_S

    def recheck(self) -> None:
        """Ask the store once more about a counter that was refused, where it is time to, as one who
        remembers its own last reservation. A grant ends the doubt."""
        now = self._loop.time()
        if self.suspect is None or now < self._recheck_at:
            return
        self._recheck_at = now + SUSPECT_RECHECK_S
        if self.closed is not None:
            return
        if self.allocator.retired:
            self.epoch_state.reset(GapCause.WENT_BACK)
        if self.counter.strict:
            self._spawn(self._inspect())  # it reserves nothing until somebody waits
        self._refill.start_if_needed()

    async def _inspect(self) -> None:
        """End the doubt about a strict counter that looks as it should again."""
        allocator = self.allocator
        told = await position_check.look(self._store, self.counter.name)
        if told is None or allocator.retired:
            return
        entry, found = told
        if entry.ordinal > self.counter.ordinal:
            self.apply_entry(entry)
        elif found.next >= max(found.mark, allocator.shards.present.seen):
            self.suspect = None

    # --- the end ---------------------------------------------------------------------------------

    def stop(self, error: errors.IdserviceError, *, cause: GapCause) -> None:
        """Drop the ids in memory and answer everybody with `error`, for good."""
        self.suspect = self._refill.error = error
        self._recheck_at = float("inf")
        self._drop(error, cause)

    def _drop(self, error: errors.IdserviceError, cause: GapCause) -> None:
        for waiter in self._queue:
            self._refill.refuse(waiter, type(error)(**error.fields))
        self.reserver.end_batches()
        self.allocator.retire(cause)

    @property
    def _over(self) -> bool:
        """Whether it was stopped for good."""
        return self.suspect is not None and self._recheck_at == float("inf")

    async def close(self, patience_s: float) -> list[range]:
        """Drop the ids in memory for good; those that may go back to the store, as blocks.

        First, nothing more is asked for, and what is under way may end: it would be a gap.
        """
        self._refill.close()
        for waiter in self._queue:
            self._refill.refuse(waiter, errors.Stopped())
        lasting = not self.epoch_state.lent and not self.counter.strict
        if lasting:
            await self._refill.wait_closed(patience_s)
        unused = self.allocator.buffer.blocks
        self.stop(errors.Stopped(), cause=GapCause.STOP)
        return unused if lasting else []

    def forget_in_child(self) -> None:
        """After a fork: the ids belong to the parent."""
        self.suspect = errors.Stopped()
        self._recheck_at = float("inf")
        self.reserver.end_batches()
        self.allocator.retire(GapCause.FORK)

    # --- what is known ---------------------------------------------------------------------------

    @property
    def unavailable_reason(self) -> errors.IdserviceError | None:
        """Why the next id cannot be served now; None where it can."""
        if (why := self.suspect or self.closed) is not None:
            return why
        if self.allocator.held:
            return None
        if self.allocator.shards.used_up:
            return self.epoch_state.exhausted(1)
        return None if self._health.up else self._refill.error

    def reading(self) -> CounterSample:
        """What is counted of this counter since the start."""
        return self.epoch_state.reading(waiting=len(self._queue), reason=self.unavailable_reason)


def _settle(future: asyncio.Future[list[range]], served: Served) -> None:
    if future.done():
        return  # cancelled; ids are not handed out to who is gone
    if isinstance(served, errors.IdserviceError):
        future.set_exception(served)
    else:
        future.set_result(served)


def _has_result(future: asyncio.Future[list[range]]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
