"""The refill of one counter: when ids are asked for, one request after the other, and what became
of each."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from random import Random
from typing import Protocol

from idservice import errors
from idservice.allocation.epoch_state import EpochState
from idservice.allocation.reserver import PendingReservation, Reserver
from idservice.allocation.strict import BatchAbandoned
from idservice.allocation.wait_queue import BatchWindow, Waiter, WaitQueue
from idservice.core import timeouts
from idservice.observability.readings import count
from idservice.observability.store_health import StoreHealth
from idservice.stores.records import Grant, Loan

log = logging.getLogger("idservice.refill")

TRIES_MIN = 6  # failures in a row before a counter that nobody uses is left alone
# What a service that lends ids says of a counter; of one's own store the catalogue tells it.
ELSEWHERE = (errors.UnknownCounter, errors.Suspended)


class Judge(Protocol):
    """Decides what an answer of the store says of the counter itself."""

    async def on_mismatch(self, error: errors.NotApplied, asked: PendingReservation) -> str:
        """A position is not as the epoch of the request left it; what to count that as."""
        ...

    def on_refusal(self, error: errors.IdserviceError) -> None:
        """No ids are given."""
        ...

    def clear_suspicion(self) -> None:
        """Ids are given."""
        ...


class Refiller:
    """Brings ids of `epoch_state` into memory, and shares them out among those in `line`.

    With `keep_filled` it goes on after an outage even if nobody asks. `spawn` starts a task that
    the owner ends; `random` spreads the pauses between failed tries.
    """

    __slots__ = (
        "_asking",
        "_closing",
        "_epoch_state",
        "_health",
        "_judge",
        "_keep_filled",
        "_loop",
        "_queue",
        "_random",
        "_reserver",
        "_running",
        "_sent_to",
        "_spawn",
        "_unsure_to",
        "_window",
        "error",
    )  # fmt: skip

    def __init__(
        self,
        epoch_state: EpochState,
        queue: WaitQueue,
        reserver: Reserver,
        *,
        keep_filled: bool,
        health: StoreHealth,
        spawn: Callable[[Coroutine[object, object, None]], object],
        random: Random,
        judge: Judge,
    ) -> None:
        self.error = reserver.not_yet  # why the last request brought nothing
        self._epoch_state = epoch_state
        self._queue = queue
        self._reserver = reserver
        self._keep_filled = keep_filled
        self._health = health
        self._spawn = spawn
        self._random = random
        self._judge = judge
        self._loop = asyncio.get_running_loop()
        self._running = False
        self._asking = False  # something is under way to the store
        self._closing: asyncio.Event | None = None  # set once nothing is any more
        self._window = BatchWindow(self.start_if_needed)
        self._sent_to = 0  # arrivals by the time the last request was sent,
        self._unsure_to = 0  # and the last one whose outcome is unknown

    # --- when ------------------------------------------------------------------------------------

    def start_if_needed(self) -> None:
        """Begin a refill where one is needed and none runs. Cheap to call at any time."""
        if self._running or self._window.is_open(len(self._queue)):
            return
        asked = self._due()
        if asked is not None:
            self._running = True
            self._spawn(self._run(asked))

    async def fill(self) -> None:
        """Bring the first ids into memory. One try, and others for what is left where the limit is
        near. Raises StoreError."""
        if self._running:
            return
        self._running = True
        try:
            for _ in range(self._epoch_state.counter.shards + 1):
                asked = self._due()
                if asked is None:
                    return
                if not await self._reserve(asked, in_background=True):
                    raise self.error
                if self._epoch_state.allocator.held:
                    return
        finally:
            self._running = False
            if len(self._queue):  # who came in the meantime, and is not served yet
                self.start_if_needed()

    def close(self) -> None:
        """Ask for nothing more, and claim nothing."""
        self._closing = asyncio.Event()

    async def wait_closed(self, patience_s: float) -> None:
        """Give what is under way when it is closed that long to end."""
        if self._asking and self._closing is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._closing.wait()

    def _due(self) -> PendingReservation | None:
        """The next request to the store, once waiters that no reservation can serve are told."""
        if self._closing is not None:
            return None
        now, allocator = self._loop.time(), self._epoch_state.allocator
        room = allocator.held + allocator.shards.room(now)
        waiting = first = 0
        for waiter in self._queue:
            if waiter.count > room:
                self.refuse(waiter, self._epoch_state.exhausted(waiter.count))
                continue
            if waiting + waiter.count > room:
                break  # the rest is looked at again after this one
            first = first or waiter.count
            waiting += waiter.count
        request = allocator.due(now, waiting=waiting, first=first)
        return (
            PendingReservation(request, allocator, self._epoch_state.counter)
            if request is not None
            else None
        )

    async def _run(self, asked: PendingReservation | None) -> None:
        failures = 0
        try:
            if asked is not None and asked.allocator.retired:  # what this brings would be burnt
                asked = self._due()
            while asked is not None:
                used = self._epoch_state.allocator.issued_ids
                if await self._reserve(asked, in_background=failures > 0):
                    failures = 0
                else:
                    failures += 1
                    await asyncio.sleep(self._pause(failures))
                    if failures >= TRIES_MIN and self._idle_since(used):
                        break  # the next request, or half of the rest used, begins another
                asked = None if self._window.is_open(len(self._queue)) else self._due()
        finally:
            self._running = False

    def _pause(self, failures: int) -> float:
        lasts_s = self._epoch_state.lasts_s
        return timeouts.pause(failures, lasts_s=lasts_s, spread=self._random.random())

    def _idle_since(self, used: int) -> bool:
        allocator = self._epoch_state.allocator
        if len(self._queue) or allocator.issued_ids != used:
            return False
        return bool(allocator.held) or not self._keep_filled

    # --- one request -----------------------------------------------------------------------------

    async def _reserve(self, asked: PendingReservation, *, in_background: bool) -> bool:
        """Carry one request out, and hand what it brings to those who wait; False: try later."""
        allocator, token = asked.allocator, asked.request.token
        arrived = self._sent_to = self._queue.arrivals
        began = self._loop.time()
        result = "unknown"
        self._asking = True
        try:
            counter = asked.counter
            if 0 < counter.ordinal <= counter.revoked:  # what this brings would have to be dropped
                about = self._reserver.about
                raise errors.EpochChanged(**about, name=counter.name, found="", epoch="")
            answer = await self._answer(asked, arrived, in_background=in_background)
            if await self._taken(asked, answer):
                result = "granted"
                self._judge.clear_suspicion()
                self._share_out(arrived)
                self._epoch_state.expire_from(began)
                return True
            result = "late"  # of an epoch that is over: burnt
        except errors.OutcomeUnknown as error:
            self._failed(asked, error)
        except errors.NoRoom as error:
            result = "no_room"
            await self._no_room(asked, error, arrived)
            return True  # which tells at once what to ask for instead, and on which shard
        except (errors.WentBack, errors.EpochChanged, errors.PositionMissing) as error:
            allocator.refused(token, unknown=False)
            result = await self._judge.on_mismatch(error, asked)
        except (errors.PositionIllFormed, errors.Withheld, *ELSEWHERE) as error:
            result = "suspect"
            allocator.refused(token, unknown=error.outcome == errors.UNKNOWN)
            if allocator is self._epoch_state.allocator:
                self._judge.on_refusal(error)
        except errors.NotApplied as error:
            result = "throttled" if error.throttled else "not_applied"
            self._failed(asked, error)
        except asyncio.CancelledError:
            allocator.refused(token, unknown=True)
            raise
        except Exception as error:  # a bug of ours or of a library: nothing is known
            log.exception("a reservation failed", extra={"action": "reservation_bug"})
            why = f"an internal fault ({type(error).__name__})"
            self._failed(asked, self._reserver.unknown(why))
        finally:
            count(self._epoch_state.tally.reservations, result)
            self._epoch_state.add_late(allocator)
            self._asking = False
            if self._closing is not None:
                self._closing.set()
        return False

    async def _answer(
        self, asked: PendingReservation, arrived: int, *, in_background: bool
    ) -> Grant | Loan:
        began = self._loop.time()
        try:
            answer = await self._reserver.ask(asked, arrived, in_background=in_background)
        finally:  # before anybody is answered, which takes time too
            took = self._window.took = self._loop.time() - began
            self._health.latency.observe(took)
            self._epoch_state.tally.latency.observe(took)
        self._health.answered()
        return answer

    # --- what it brought -------------------------------------------------------------------------

    async def _taken(self, asked: PendingReservation, answer: Grant | Loan) -> bool:
        """Take what was granted or lent into memory; False where it comes too late."""
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
                asked.shard.rev += 1  # our claim's
        except asyncio.CancelledError:
            allocator.granted(request.token, answer.indices, self._loop.time())
            raise
        return allocator.granted(request.token, answer.indices, self._loop.time())

    async def _no_room(self, asked: PendingReservation, error: errors.NoRoom, arrived: int) -> None:
        """The limit leaves fewer ids than asked for. Who comes now is granted nothing, and nobody
        else would ever claim what others gave back."""
        self.error = error
        self._health.answered()
        asked.allocator.no_room(asked.request.token, error.position, self._loop.time())
        nothing = range(error.position, error.position)
        if await self._claim(asked, Grant(nothing, error.rev, error.returned)):
            self._share_out(arrived)

    async def _claim(self, asked: PendingReservation, grant: Grant) -> bool:
        if not grant.returned or self._closing is not None:
            return False
        return await self._reserver.claim(asked, grant)

    def _failed(self, asked: PendingReservation, error: errors.StoreError) -> None:
        self.error = error
        if isinstance(error, errors.OutOfTurn):  # which it answered
            self._health.answered()
        elif not isinstance(error, BatchAbandoned):  # which says nothing of the store
            self._health.failed(error)
        unknown = error.outcome == errors.UNKNOWN
        self._unsure_to = self._sent_to if unknown else self._unsure_to
        if error.throttled:
            asked.allocator.throttled(asked.request.token)
        else:
            asked.allocator.refused(asked.request.token, unknown=unknown)

    def _share_out(self, arrived: int) -> None:
        """Serve who waits, in the order of arrival; a strict batch serves only those who waited
        when it was sent, which are the ones that had `arrived` (I8)."""
        now, allocator = self._loop.time(), self._epoch_state.allocator
        strict = self._epoch_state.counter.strict
        waiting = list(self._queue)
        served = []
        for waiter in waiting:
            late = strict and waiter.number >= arrived
            blocks = None if late else allocator.take_batch(waiter.count)
            if blocks is not None:
                self._queue.leave(waiter, now)
                served.append((waiter, blocks))
        if strict:
            self._window.expect(len(waiting))
        allocator.settle()
        for waiter, blocks in served:  # who is answered may ask again at once
            waiter.answer(blocks)

    # --- who is not served -----------------------------------------------------------------------

    def refuse(self, waiter: Waiter, error: errors.IdserviceError) -> None:
        """Answer one who waits with an error, and with what is known of its batch."""
        self._queue.refuse(waiter, self.unsure(waiter, error))

    def unsure(self, waiter: Waiter, error: errors.IdserviceError) -> errors.IdserviceError:
        """An error for one who waits, with what is known of the batch it was to be served from."""
        waits = self._epoch_state.allocator.waits_for_store
        sent = self._sent_to if waits else self._unsure_to
        if self._epoch_state.counter.strict and waiter.number < sent:
            error.outcome = errors.UNKNOWN  # a batch with its id may have been applied
        return error
