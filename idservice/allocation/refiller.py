"""Requests for more ids of one counter, one after the other, and the outcome of each.

The owner gets the first request from `start_if_needed`. It runs through the `outcomes` of this
request and of those that follow. An outcome is complete: ids are in the allocator, or its
bookkeeping is done. The owner decides what an outcome means for the counter and for the requests
that wait.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from idservice import errors
from idservice.allocation import give_back, position_check
from idservice.allocation.context import Context
from idservice.allocation.epoch_state import EpochState
from idservice.allocation.position_check import MismatchAnswer
from idservice.allocation.strict import BatchAbandoned, StrictReserver
from idservice.allocation.wait_queue import Waiter, WaitQueue
from idservice.core import timeouts
from idservice.core.allocator import Allocator, Request
from idservice.core.epoch import Shard
from idservice.observability.readings import count
from idservice.stores.protocol import with_catalogue
from idservice.stores.records import Counter, Grant, Loan

log = logging.getLogger("idservice.allocation")

TRIES_MIN = 6  # failures in a row before the refill of an idle counter is given up
# Refusals of a service that lends ids. For a store of our own, the catalogue tells of these.
ELSEWHERE = (errors.UnknownCounter, errors.Suspended, errors.StoreKeyNotEnough)


class Result(StrEnum):
    """The kinds of outcomes; most are counted by these names."""

    GRANTED = "granted"
    NO_ROOM = "no_room"  # the limit leaves fewer ids; the next request asks for them
    LATE = "late"  # its ids are of an epoch that is over, and burnt
    UNKNOWN = "unknown"
    NOT_APPLIED = "not_applied"
    THROTTLED = "throttled"
    MISMATCH = "mismatch"  # the position is not as the epoch of the request left it
    REFUSED = "refused"  # no ids are given of this counter


@dataclass(frozen=True, slots=True)
class PendingReservation:
    """A request, the allocator that made it, and the counter as it was known then."""

    request: Request
    allocator: Allocator
    counter: Counter

    @property
    def shard(self) -> Shard:
        """The shard that the request is for."""
        return self.allocator.shards[self.request.shard]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one request.

    `error` tells why the request brought no ids. `told` is what the store says about a mismatch;
    None if the request was overtaken. If `serves`, ids came into memory for waiters that had
    `arrived`.
    """

    result: Result
    asked: PendingReservation
    began: float
    arrived: int
    error: errors.IdserviceError | None = None
    told: MismatchAnswer | None = None
    serves: bool = False

    @property
    def succeeded(self) -> bool:
        """True if the next request need not wait."""
        return self.result in (Result.GRANTED, Result.NO_ROOM)


class Refiller:
    """Brings ids of a counter into memory on behalf of the requests in `queue`. With `keep_filled`
    it goes on after an outage even if no request comes."""

    __slots__ = (
        "_asking", "_batches", "_closing", "_context", "_epoch_state", "_keep_filled", "_loop",
        "_queue", "_running", "_sent_to", "_unsure_to",
    )  # fmt: skip

    def __init__(
        self, context: Context, epoch_state: EpochState, queue: WaitQueue, *, keep_filled: bool
    ) -> None:
        self._context = context
        self._epoch_state = epoch_state
        self._queue = queue
        self._keep_filled = keep_filled
        self._loop = asyncio.get_running_loop()
        self._batches: StrictReserver | None = None
        self._running = False
        self._asking = False  # a request is under way, or its outcome is being decided on
        self._closing: asyncio.Event | None = None  # set once none is under way
        self._sent_to = 0  # arrivals before the last request was sent
        self._unsure_to = 0  # arrivals before the last request with an unknown outcome was sent

    # --- when ------------------------------------------------------------------------------------

    def start_if_needed(self) -> PendingReservation | None:
        """Return the first request of a refill that is due; the caller runs its `outcomes`."""
        if self._running or self._queue.window.is_open(len(self._queue)):
            return None
        asked = self._due()
        self._running = asked is not None
        return asked

    async def outcomes(self, asked: PendingReservation | None) -> AsyncIterator[Outcome]:
        """Carry out a request and the ones that follow, for as long as they are needed."""
        failures = 0
        try:
            if asked is not None and asked.allocator.retired:  # its ids would be burnt
                asked = self._due()
            while asked is not None:
                used = self._epoch_state.allocator.issued_in_epoch
                try:
                    outcome = await self._carry_out(asked, in_background=failures > 0)
                    yield outcome
                finally:
                    self._ended()
                if outcome.succeeded:
                    failures = 0
                else:
                    failures += 1
                    await asyncio.sleep(self._pause(failures))
                    if failures >= TRIES_MIN and self._idle_since(used):
                        break  # the next request, or use of half of the rest, begins another
                asked = None if self._queue.window.is_open(len(self._queue)) else self._due()
        finally:
            self._running = False

    async def first_outcomes(self) -> AsyncIterator[Outcome]:
        """Bring the first ids into memory: one try, and others if little is left of a shard."""
        if self._running:
            return
        self._running = True
        try:
            for _ in range(self._epoch_state.counter.shards + 1):
                asked = self._due()
                if asked is None:
                    return
                try:
                    yield await self._carry_out(asked, in_background=True)
                finally:
                    self._ended()
                if self._epoch_state.allocator.held:
                    return
        finally:
            self._running = False

    def close(self) -> None:
        """Send no more requests, and claim nothing."""
        self._closing = asyncio.Event()

    async def wait_closed(self, patience_s: float) -> None:
        """Wait until the request that was under way at `close` has ended, for `patience_s`."""
        if self._asking and self._closing is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._closing.wait()

    def _due(self) -> PendingReservation | None:
        """Return the next request to the store, if one is due. Refuse waiters that no reservation
        can serve."""
        if self._closing is not None:
            return None
        now, allocator = self._loop.time(), self._epoch_state.allocator
        room = allocator.held + allocator.shards.room(now)
        waiting = first = 0
        for waiter in self._queue:
            if waiter.count > room:
                used_up = self._epoch_state.exhausted(waiter.count)
                self.refuse(waiter, self._queue.turn_away(used_up))
                continue
            if waiting + waiter.count > room:
                break  # the rest is looked at again after this request
            first = first or waiter.count
            waiting += waiter.count
        request = allocator.due(now, waiting=waiting, first=first)
        if request is None:
            return None
        return PendingReservation(request, allocator, self._epoch_state.counter)

    def _pause(self, failures: int) -> float:
        spread = self._context.random.random()
        return timeouts.pause(failures, lasts_s=self._epoch_state.lasts_s, spread=spread)

    def _idle_since(self, used: int) -> bool:
        allocator = self._epoch_state.allocator
        if len(self._queue) or allocator.issued_in_epoch != used:
            return False
        return bool(allocator.held) or not self._keep_filled

    # --- one request -----------------------------------------------------------------------------

    async def _carry_out(self, asked: PendingReservation, *, in_background: bool) -> Outcome:
        arrived = self._sent_to = self._queue.arrivals
        outcome = Outcome(Result.UNKNOWN, asked, self._loop.time(), arrived)
        self._asking = True
        try:
            return await self._reserve(outcome, in_background=in_background)
        except asyncio.CancelledError:
            asked.allocator.refused(asked.request.token, unknown=True)
            count(self._epoch_state.stats.reservations, Result.UNKNOWN)
            raise
        except Exception as error:  # a bug of ours or of a library: nothing is known
            log.exception("a reservation failed", extra={"action": "reservation_bug"})
            why = f"an internal fault ({type(error).__name__})"
            return self._failed(outcome, errors.OutcomeUnknown(**self.about, why=why))

    def _ended(self) -> None:
        """Take note that a request has ended, and that its outcome was decided on."""
        self._asking = False
        if self._closing is not None:
            self._closing.set()

    async def _reserve(self, outcome: Outcome, *, in_background: bool) -> Outcome:
        asked, counter = outcome.asked, outcome.asked.counter
        allocator, token = asked.allocator, asked.request.token
        try:
            if 0 < counter.ordinal <= counter.revoked:  # the ids would have to be dropped
                raise errors.EpochChanged(**self.about, name=counter.name, found="", epoch="")
            answer = await self._answer(asked, outcome.arrived, in_background=in_background)
            granted = await self._taken(asked, answer)
            result = Result.GRANTED if granted else Result.LATE
            return replace(outcome, result=result, serves=granted)
        except errors.NoRoom as error:
            serves = await self._no_room(asked, error)
            return replace(outcome, result=Result.NO_ROOM, error=error, serves=serves)
        except (errors.WentBack, errors.EpochChanged, errors.PositionMissing) as error:
            allocator.refused(token, unknown=False)
            told = None
            if not self._epoch_state.allocator.retired:  # else our own give-back overtook it
                store, shard = self._context.store, asked.request.shard
                told = await position_check.ask(store, counter, error, shard)
            return replace(outcome, result=Result.MISMATCH, error=error, told=told)
        except (errors.PositionIllFormed, errors.Withheld, *ELSEWHERE) as error:
            allocator.refused(token, unknown=error.outcome == errors.UNKNOWN)
            return replace(outcome, result=Result.REFUSED, error=error)
        except (errors.OutcomeUnknown, errors.NotApplied, errors.RateExceeded) as error:
            return self._failed(outcome, error)

    async def _answer(
        self, asked: PendingReservation, arrived: int, *, in_background: bool
    ) -> Grant | Loan:
        """Return the store's answer, for waiters that had `arrived`; `in_background` it may take
        longer than they wait. Raises as `IdStore.reserve`."""
        began = self._loop.time()
        try:
            async with asyncio.timeout(self._patience(in_background)):
                answer = await self._send(asked, arrived)
        except TimeoutError:
            # Cancelled in the middle: it may be applied all the same, now or later.
            raise errors.OutcomeUnknown(**self.about, why="it took too long") from None
        finally:  # before any waiter is answered, which takes time too
            took = self._queue.window.took = self._loop.time() - began
            self._context.health.latency.observe(took)
            self._epoch_state.stats.latency.observe(took)
        self._context.health.answered()
        return answer

    async def _send(self, asked: PendingReservation, arrived: int) -> Grant | Loan:
        """Reserve; a numbered batch is sent again while waiters that had `arrived` wait (I8)."""
        request, allocator = asked.request, asked.allocator
        if not allocator.numbered:
            return await self._context.store.reserve(
                asked.counter,
                count=request.count,
                seen=request.seen,
                room=request.room,
                shard=request.shard,
            )

        def wanted() -> bool:
            there = any(waiter.number < arrived for waiter in self._queue)
            return there and not allocator.retired

        return await self.batches.reserve(asked.counter, request, wanted=wanted)

    def _patience(self, in_background: bool) -> float:
        """Return the seconds that a store call may take: no longer than a request waits for it,
        unless a call of that length was too short."""
        state, deadline = self._epoch_state, self._queue.deadline
        most_s = timeouts.in_background(lasts_s=state.lasts_s, runway_s=state.runway_s)
        if deadline is None:
            return most_s
        if state.allocator.numbered:  # later waiters get nothing of this batch
            return timeouts.waited_for(deadline - self._loop.time())
        if in_background:
            return most_s
        return timeouts.waited_for(deadline - self._loop.time(), most_s=most_s)

    async def _taken(self, asked: PendingReservation, answer: Grant | Loan) -> bool:
        """Take granted or borrowed ids into memory; return False if they come too late."""
        request, allocator = asked.request, asked.allocator
        if isinstance(answer, Loan):
            newer = answer.counter.ordinal > self._epoch_state.counter.ordinal
            if newer and not allocator.retired:
                self._epoch_state.renew(answer.counter)
            now = self._loop.time()
            return allocator.borrowed(request.token, answer.blocks, now, since=answer.since)
        asked.shard.rev = answer.rev
        try:
            if await self._claim(asked, answer):
                asked.shard.rev += 1  # that of the claim
        finally:
            taken = allocator.granted(request.token, answer.indices)
        return taken

    async def _no_room(self, asked: PendingReservation, error: errors.NoRoom) -> bool:
        """Claim ids that other instances gave back: no grant will follow that would claim them."""
        self._context.health.answered()
        asked.allocator.no_room(asked.request.token, error.position, self._loop.time())
        nothing = range(error.position, error.position)
        return await self._claim(asked, Grant(nothing, error.rev, error.returned))

    async def _claim(self, asked: PendingReservation, grant: Grant) -> bool:
        """Bring ids that were given back to the shard into memory; return False if none were."""
        if not grant.returned or self._closing is not None:
            return False
        claimed = await give_back.inherit(
            with_catalogue(self._context.store),
            asked.counter,
            grant,
            asked.allocator,
            asked.shard,
            patience_s=self._patience(in_background=False),
        )
        self._epoch_state.stats.claimed += claimed
        return claimed > 0

    def _failed(self, outcome: Outcome, error: errors.StoreError | errors.RateExceeded) -> Outcome:
        if isinstance(error, errors.RateExceeded):  # at the service that lends the ids
            for waiter in self._queue:
                self.refuse(waiter, errors.RateExceeded(**error.fields))
        if error.answered:
            self._context.health.answered()
        elif not isinstance(error, BatchAbandoned):  # which says nothing about the store
            self._context.health.failed(error)
        asked, unknown = outcome.asked, error.outcome == errors.UNKNOWN
        self._unsure_to = self._sent_to if unknown else self._unsure_to
        if error.throttled:
            asked.allocator.throttled(asked.request.token)
        else:
            asked.allocator.refused(asked.request.token, unknown=unknown)
        result = Result.THROTTLED if error.throttled else Result.NOT_APPLIED
        return replace(outcome, result=Result.UNKNOWN if unknown else result, error=error)

    # --- batches of a strict counter -------------------------------------------------------------

    @property
    def batches(self) -> StrictReserver:
        """The sender of a strict counter's batches, made at its first use."""
        if self._batches is None:
            self._batches = StrictReserver(
                with_catalogue(self._context.store),
                spawn=self._context.spawn,
                random=self._context.random,
                burnt=lambda count, cause: self._epoch_state.allocator.record_burnt(count, cause),
            )
        return self._batches

    def end_batches(self) -> None:
        """Take note that nothing more is reserved for now."""
        if self._batches is not None:
            self._batches.end()

    # --- errors ----------------------------------------------------------------------------------

    @property
    def about(self) -> dict[str, str]:
        """The fields of an error of a reservation."""
        action = f"reserving ids of counter {self._epoch_state.counter.name}"
        return {"store": self._context.store.address, "action": action}

    def refuse(self, waiter: Waiter, error: errors.IdserviceError) -> None:
        """Answer a waiter with an error that tells what is known of its batch."""
        self._queue.refuse(waiter, self.unsure(waiter, error))

    def unsure(self, waiter: Waiter, error: errors.IdserviceError) -> errors.IdserviceError:
        """Return the error, with an unknown outcome if the waiter's batch may have been applied."""
        waits = self._epoch_state.allocator.waits_for_store
        sent = self._sent_to if waits else self._unsure_to
        if self._epoch_state.counter.strict and waiter.number < sent:
            error.outcome = errors.UNKNOWN
        return error
