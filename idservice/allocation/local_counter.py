"""Serves the ids of one counter on this instance.

A request is answered from memory, or it waits in a queue. When memory runs low the `Refiller`
brings more. Each of its outcomes is decided on here, and the ids that came are shared out. Two
things speak against serving: the catalogue, and a position that is not as it was left. Nothing is
handed out on a guess; `local_state` has the states and their transitions.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import lru_cache, partial

from idservice import errors
from idservice.allocation import change_news, position_check
from idservice.allocation.context import Context
from idservice.allocation.epoch_state import EpochState
from idservice.allocation.local_state import LocalEvent, LocalState, ServingState
from idservice.allocation.position_check import MismatchAnswer
from idservice.allocation.refiller import Outcome, PendingReservation, Refiller, Result
from idservice.allocation.wait_queue import Served, Waiter, WaitQueue, has_result, settle
from idservice.core.allocator import Allocator
from idservice.core.gap_causes import GapCause
from idservice.observability.readings import CounterSample, CounterStats, count
from idservice.stores.records import Counter

log = logging.getLogger("idservice.allocation")

SUSPECT_RECHECK_S = 2.0  # the time between two rechecks of a suspect counter


class LocalCounter:
    """The ids of one counter on this instance.

    With `keep_filled` the counter is refilled after an outage even if no request comes. `missing`
    is called if the store lends no ids of an unknown name; the counter is then stopped.
    """

    def __init__(
        self,
        counter: Counter,
        context: Context,
        *,
        keep_filled: bool = False,
        missing: "Callable[[LocalCounter], None] | None" = None,
    ) -> None:
        self.stats = CounterStats()
        self._serving = ServingState(counter.name)
        self._recheck_at = 0.0  # when a suspect counter is checked again
        self._context = context
        self._missing = missing
        self._loop = asyncio.get_running_loop()
        self._queue = WaitQueue(
            counter.name, context.limits, self.stats, self._too_long, window_over=self._start_refill
        )
        self.epoch_state = EpochState(counter, context, self.stats)
        self.refiller = Refiller(context, self.epoch_state, self._queue, keep_filled=keep_filled)
        self._last_error = _not_yet(context.store.address)  # why requests bring no ids
        if (closing := change_news.closing_error(counter)) is not None:
            log.warning("%s", closing, extra={"action": "change_heard"})
            self._close(closing)

    @property
    def counter(self) -> Counter:
        """The last known entry of the counter."""
        return self.epoch_state.counter

    @property
    def state(self) -> LocalState:
        """The state of the counter on this instance."""
        return self._serving.state

    @property
    def allocator(self) -> Allocator:
        """The ids in memory."""
        return self.epoch_state.allocator

    # --- ids out ---------------------------------------------------------------------------------

    async def next_id(self) -> int:
        """Return the next id. Raises Exhausted, Suspended, UnknownCounter, RateExceeded,
        TooManyWaiting, WaitedTooLong, CounterSuspect, CatalogueStale, Stopped."""
        id = self.take()
        return id if id is not None else (await self.wait(1))[0].start

    async def next_batch(self, count: int) -> list[range]:
        """Return `count` ids as blocks; raises as `next_id`, and RequestTooLarge. 0 < count."""
        blocks = self.take_many(count)
        return blocks if blocks is not None else await self.wait(count)

    def take(self) -> int | None:
        """Return the next id, if one is in memory."""
        id = next(self.epoch_state.buffer.cursor, None)
        if id is None and not self.counter.strict:
            id = self.epoch_state.take()
            self._start_refill()
        return id

    def take_many(self, count: int) -> list[range] | None:
        """Return `count` ids as blocks, if that many are in memory."""
        blocks = self.epoch_state.take_many(count)
        if blocks is not None:
            self._start_refill()
        return blocks

    async def wait(self, count: int) -> list[range]:
        """Wait in the queue for `count` ids; raises as `next_id`."""
        future: asyncio.Future[list[range]] = self._loop.create_future()
        waiter = self.enqueue(count, partial(settle, future), gone=future.done)
        try:
            return await future
        except asyncio.CancelledError:
            if not self._queue.leave(waiter, self._loop.time()) and has_result(future):
                self.allocator.record_wasted(count)  # served, but gone
            raise

    def enqueue(
        self,
        count: int,
        answer: Callable[[Served], None],
        *,
        gone: Callable[[], bool] | None = None,
    ) -> Waiter:
        """Add a request for `count` ids to the queue.

        `answer` is called later with the ids or with an error that `next_id` raises. Raises such an
        error itself if it is clear at once. Requests that memory cannot serve are served in the
        order of arrival.
        """
        now = self._loop.time()
        self._admit(count, now)
        waiter = self._queue.join(count, answer, now=now, gone=gone)
        self._start_refill()
        return waiter

    def cancel(self, waiter: Waiter) -> None:
        """Take a request out of the queue."""
        self._queue.leave(waiter, self._loop.time())

    def _admit(self, count: int, now: float) -> None:
        if self._serving.reason is not None:
            if self.state is not LocalState.SUSPECT or now < self._recheck_at:
                # One error is raised for many requests: it must not collect their frames.
                raise self._queue.turn_away(self._serving.reason.with_traceback(None), told=True)
            self.recheck()
        allocator = self.epoch_state.allocator
        room = allocator.shards.room(now)
        if count > room and count > room + allocator.held:
            raise self._queue.turn_away(self.epoch_state.exhausted(count))
        self.epoch_state.admit(count)

    def _too_long(self, waiter: Waiter) -> errors.IdserviceError:
        if isinstance(self._last_error, errors.Changing):
            return self.refiller.unsure(waiter, _again(self._last_error))
        why, seconds = str(self._last_error).rstrip("."), self._context.limits.wait
        error = errors.WaitedTooLong(name=self.counter.name, seconds=seconds, why=why)
        return self.refiller.unsure(waiter, error)

    # --- refill ----------------------------------------------------------------------------------

    def _start_refill(self) -> None:
        asked = self.refiller.start_if_needed()
        if asked is not None:
            self._context.spawn(self._refill(asked))

    async def _refill(self, asked: PendingReservation) -> None:
        async for outcome in self.refiller.outcomes(asked):
            self._decide(outcome)

    async def fill(self) -> None:
        """Bring first ids into memory, if any are to be held and left. Raises StoreError."""
        failure = None
        try:
            async for outcome in self.refiller.first_outcomes():
                self._decide(outcome)
                failure = None if outcome.succeeded else outcome
        finally:
            if len(self._queue):  # requests that came meanwhile and are not served yet
                self._start_refill()
        if failure is not None:
            error = failure.error
            raise error if isinstance(error, errors.RateExceeded) else self._last_error

    def _decide(self, outcome: Outcome) -> None:
        counted: str = outcome.result
        match outcome.result:
            case Result.MISMATCH:
                counted = self.on_mismatch(outcome.error, outcome.told, outcome.asked.counter)
            case Result.REFUSED:
                counted = "suspect"
                if outcome.asked.allocator is self.allocator:
                    self.on_refusal(outcome.error)
            case Result.GRANTED:
                self._serving.enter(LocalEvent.CONFIRMED)
                self._last_error = _not_yet(self._context.store.address)  # earlier ones are over
            case _ if not isinstance(outcome.error, errors.RateExceeded):  # who waited was told
                self._last_error = outcome.error or self._last_error
        if outcome.serves:
            self._queue.share_out(self.allocator, outcome.arrived, strict=self.counter.strict)
        if outcome.result is Result.GRANTED:
            self.epoch_state.expire_from(outcome.began)
        count(self.stats.reservations, counted)

    # --- the catalogue ---------------------------------------------------------------------------

    def apply_entry(self, entry: Counter) -> None:
        """Apply an entry, if it is newer than the known one. Ids of a revoked epoch are dropped,
        ids of one that is merely over are used up (I6)."""
        known = self.counter
        older = entry.rev <= known.rev or entry.ordinal < known.ordinal
        if older or self.state is LocalState.STOPPED:
            return
        opened, revoked = entry.ordinal > known.ordinal, entry.revoked >= known.ordinal
        closing, held = change_news.closing_error(entry), self.allocator.held
        self.epoch_state.apply(entry)
        if change_news.is_news(known, entry):
            dropped = revoked or closing is not None
            change_news.tell(known, entry, held=held, dropped=dropped)
        if closing is not None:
            self._close(closing)
        elif self.state in (LocalState.STALE, LocalState.SUSPECT_STALE):
            pass  # the watcher says when the catalogue is heard of again
        elif opened or revoked or self.state in (LocalState.CLOSED, LocalState.SUSPECT_CLOSED):
            self._serving.enter(LocalEvent.NEW_EPOCH if opened else LocalEvent.REOPENED)
            # A suspect counter that is rechecked just now may be granted ids of the new epoch.
            if self.state is LocalState.SERVING or not self.allocator.retired:
                self.epoch_state.begin_epoch(keep=not revoked)
                self.refiller.end_batches()
                self._start_refill()
        else:
            self.allocator.runway_s = self.epoch_state.runway_s

    def _close(self, error: errors.IdserviceError) -> None:
        """Hand out nothing until another entry comes: this one closes the counter."""
        self._serving.enter(LocalEvent.CLOSED, error)
        self._drop(error, GapCause.REVOKED)

    def go_stale(self, error: errors.CatalogueStale) -> None:
        """Hand out nothing: the catalogue was not heard of, and ids in memory may be revoked."""
        if self._serving.enter(LocalEvent.CATALOGUE_LOST, error):
            self._drop(error, GapCause.STALE)

    def go_on(self) -> None:
        """Serve again: the catalogue was heard of."""
        if self._serving.enter(LocalEvent.CATALOGUE_FOUND) and self.state is LocalState.SERVING:
            self.epoch_state.reset(GapCause.STALE)
            self._start_refill()

    # --- suspicion -------------------------------------------------------------------------------

    def on_mismatch(
        self, error: errors.IdserviceError | None, told: MismatchAnswer | None, asked: Counter
    ) -> str:
        """Return `changed` if a change may be why a position is not as it was, else `suspect`.
        `asked` is the entry of the counter before the store was asked."""
        if told is None:
            return "changed"
        if told.entry is not None:
            self.apply_entry(told.entry)
        if self.allocator.retired or self.counter.epoch != asked.epoch:
            return "changed"  # or stopped in the meantime
        if told.changing and isinstance(error, errors.EpochChanged) and not error.gone_back:
            why = "it is being changed, or the store does not tell if it was changed"
            self._last_error = errors.NotApplied(**self.refiller.about, why=why)
            if self.counter.intent is not None:
                self._last_error = self.counter.being_changed()
            return "changed"
        self._distrust(error)
        return "suspect"

    def has_reserved(self) -> bool:
        """Return True if the counter is served, and ids of the present epoch were reserved here."""
        reserved = any(shard.seen for shard in self.allocator.shards)
        return reserved and self.state is LocalState.SERVING

    async def compare_position(self) -> None:
        """Compare the positions with this instance's reservations. Positions may have been moved
        back, and while no ids are needed no reservation would notice it."""
        counter, store, shards = self.counter, self._context.store, self.allocator.shards
        found = await position_check.compare(store, counter, shards, serving=self.has_reserved)
        if found is not None and self.has_reserved():
            self.on_mismatch(*found, counter)

    def on_refusal(self, error: errors.IdserviceError | None) -> None:
        """Hand out nothing until a recheck: the store gives no ids of the counter."""
        assert error is not None
        if not isinstance(error, errors.StoreError):
            # The service that lends the ids does not have the counter, or hands out none of it.
            self._context.health.answered()
        if self.allocator.retired:
            return  # stopped in the meantime, and for good
        if isinstance(error, errors.StoreError):
            self._distrust(error)
        elif (
            self._missing is not None
            and not self.counter.ordinal
            and isinstance(error, errors.UnknownCounter | errors.StoreKeyNotEnough)
        ):
            self.stop(error, cause=GapCause.REVOKED)  # for good: if it came back, it would
            self._missing(self)  # neither be counted nor stopped
        else:
            self._suspect(error, GapCause.REVOKED)

    def _distrust(self, error: errors.IdserviceError | None) -> None:
        """Hand out nothing: the ids in memory may be granted again by a restored store."""
        log.error("%s", error, extra={"action": "counter_suspect"})
        suspect = errors.CounterSuspect(name=self.counter.name, why=str(error))
        self._suspect(suspect, GapCause.WENT_BACK)

    def _suspect(self, error: errors.IdserviceError, cause: GapCause) -> None:
        self._last_error = error
        self._serving.enter(LocalEvent.DISTRUSTED, error)
        self._drop(error, cause)
        self._recheck_at = self._loop.time() + SUSPECT_RECHECK_S

    def recheck(self) -> None:
        """Ask the store once more about a suspect counter, if it is time to. The request has the
        end of this instance's last reservation, so a grant ends the suspicion."""
        now = self._loop.time()
        if self.state is not LocalState.SUSPECT or now < self._recheck_at:
            return
        self._recheck_at = now + SUSPECT_RECHECK_S
        if self.allocator.retired:
            self.epoch_state.reset(GapCause.WENT_BACK)
        if self.counter.strict:
            self._context.spawn(self._inspect())  # it reserves nothing until a request waits
        self._start_refill()

    async def _inspect(self) -> None:
        """End the suspicion of a strict counter whose position is as it should be again."""
        allocator = self.allocator
        told = await position_check.look(self._context.store, self.counter.name)
        if told is None or allocator.retired:
            return
        entry, found = told
        if entry.ordinal > self.counter.ordinal:
            self.apply_entry(entry)
        elif found.next >= max(found.mark, allocator.shards.present.seen):
            self._serving.enter(LocalEvent.CONFIRMED)

    # --- the end ---------------------------------------------------------------------------------

    def stop(self, error: errors.IdserviceError, *, cause: GapCause) -> None:
        """Drop the ids in memory and answer every request with `error`, for good."""
        self._last_error = error
        self._serving.enter(LocalEvent.STOPPED, error)
        self._drop(error, cause)

    def _drop(self, error: errors.IdserviceError, cause: GapCause) -> None:
        for waiter in self._queue:
            self.refiller.refuse(waiter, self._queue.turn_away(_again(error), told=True))
        self.refiller.end_batches()
        self.allocator.retire(cause)

    async def close(self, patience_s: float) -> list[range]:
        """Drop the ids in memory for good; return the ones that may go back to the store. No more
        requests are sent. The one under way may end first, or its ids would be a gap."""
        self.refiller.close()
        for waiter in self._queue:
            self.refiller.refuse(waiter, errors.Stopped())
        returnable = not self.epoch_state.borrows and not self.counter.strict
        if returnable:
            await self.refiller.wait_closed(patience_s)
        unused = self.allocator.buffer.blocks
        self.stop(errors.Stopped(), cause=GapCause.STOP)
        return unused if returnable else []

    def forget_in_child(self) -> None:
        """Drop everything after a fork: the ids belong to the parent process."""
        self._serving.enter(LocalEvent.STOPPED, errors.Stopped())
        self.refiller.end_batches()
        self.allocator.retire(GapCause.FORK)

    # --- what is known ---------------------------------------------------------------------------

    @property
    def unavailable_reason(self) -> errors.IdserviceError | None:
        """The error that a request would get now; None if ids are served."""
        if self._serving.reason is not None:
            return self._serving.reason
        if self.allocator.held:
            return None
        if self.allocator.shards.used_up:
            return self.epoch_state.exhausted(1)
        return None if self._context.health.up else self._last_error

    def reading(self) -> CounterSample:
        """Return everything that is counted of this counter since the start."""
        return self.epoch_state.reading(waiting=len(self._queue), reason=self.unavailable_reason)


@lru_cache(maxsize=16)
def _not_yet(store: str) -> errors.IdserviceError:
    """Return one error for all counters, which are many; it is shown, never raised."""
    return errors.StoreError(store=store, why="it has not answered yet")


def _again(error: errors.IdserviceError) -> errors.IdserviceError:
    """Return a copy of an error, for a request whose outcome may be another one."""
    return type(error)(**error.fields)
