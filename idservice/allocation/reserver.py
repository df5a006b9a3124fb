"""Sends one reservation of a counter, and decides how long it may take."""

import asyncio
from dataclasses import dataclass
from functools import lru_cache

from idservice import errors
from idservice.allocation import give_back
from idservice.allocation.context import Context
from idservice.allocation.epoch_state import EpochState
from idservice.allocation.strict import StrictReserver
from idservice.allocation.wait_queue import WaitQueue
from idservice.core import timeouts
from idservice.core.allocator import Allocator, Request
from idservice.core.shards import Shard
from idservice.stores.protocol import with_catalogue
from idservice.stores.records import Counter, Grant, Loan


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


class Reserver:
    """Sends reservations for `epoch_state`, on behalf of the requests in `queue`."""

    __slots__ = ("_batches", "_context", "_epoch_state", "_loop", "_queue", "_store")

    def __init__(self, context: Context, epoch_state: EpochState, queue: WaitQueue) -> None:
        self._context = context
        self._store = context.store
        self._epoch_state = epoch_state
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._batches: StrictReserver | None = None

    async def ask(
        self, asked: PendingReservation, arrived: int, *, in_background: bool
    ) -> Grant | Loan:
        """Return the store's answer to a request, for waiters that had `arrived`.

        With `in_background` it may take longer than they wait. Raises as `IdStore.reserve`.
        """
        try:
            async with asyncio.timeout(self._patience(in_background)):
                return await self._ask(asked, arrived)
        except TimeoutError:
            # Cancelled in the middle: it may be applied all the same, now or later.
            raise self.unknown("it took too long") from None

    async def _ask(self, asked: PendingReservation, arrived: int) -> Grant | Loan:
        """Reserve; a numbered batch is sent again while waiters that had `arrived` wait (I8)."""
        request, allocator = asked.request, asked.allocator
        if not allocator.numbered:
            return await self._store.reserve(
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
        """Return the seconds that a store call may take.

        No longer than a request waits for it, unless that was tried and is too short.
        """
        state = self._epoch_state
        most_s = timeouts.in_background(lasts_s=state.lasts_s, runway_s=state.runway_s)
        deadline = self._queue.deadline
        if deadline is None:
            return most_s
        if state.allocator.numbered:  # later ones are given nothing of this batch
            return timeouts.waited_for(deadline - self._loop.time())
        if in_background:
            return most_s
        return timeouts.waited_for(deadline - self._loop.time(), most_s=most_s)

    async def claim(self, asked: PendingReservation, grant: Grant) -> bool:
        """Bring ids that were given back to the shard into memory; return False if none were."""
        claimed = await give_back.inherit(
            with_catalogue(self._store),
            asked.counter,
            grant,
            asked.allocator,
            asked.shard,
            patience_s=self._patience(in_background=False),
        )
        self._epoch_state.stats.claimed += claimed
        return claimed > 0

    # --- batches of a strict counter -------------------------------------------------------------

    @property
    def batches(self) -> StrictReserver:
        """The sender of a strict counter's batches, made at its first use."""
        if self._batches is None:
            self._batches = StrictReserver(
                with_catalogue(self._store),
                spawn=self._context.spawn,
                random=self._context.random,
                burnt=lambda count, cause: self._epoch_state.allocator.record_burnt(count, cause),
            )
        return self._batches

    def end_batches(self) -> None:
        """Take note that nothing more is reserved for now."""
        if self._batches is not None:
            self._batches.end()

    # --- what errors tell ------------------------------------------------------------------------

    @property
    def about(self) -> dict[str, str]:
        """The fields of an error of a reservation."""
        action = f"reserving ids of counter {self._epoch_state.counter.name}"
        return {"store": self._store.address, "action": action}

    @property
    def not_yet(self) -> errors.IdserviceError:
        """The error that stands for the outcome of a first request that was not made yet."""
        return _not_yet(self._store.address)

    def unknown(self, why: str) -> errors.OutcomeUnknown:
        """Return the error that a request may have been applied."""
        return errors.OutcomeUnknown(**self.about, why=why)


@lru_cache(maxsize=16)
def _not_yet(store: str) -> errors.IdserviceError:
    """One error for all counters, which are many; it is shown, never raised."""
    return errors.StoreError(store=store, why="it has not answered yet")
