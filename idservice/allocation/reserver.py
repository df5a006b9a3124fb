"""One request to the store for ids of a counter: how it is sent, and how long it may take."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from idservice import errors
from idservice.allocation import give_back
from idservice.allocation.epoch_state import EpochState
from idservice.allocation.strict import StrictReserver
from idservice.allocation.wait_queue import WaitQueue
from idservice.core import timeouts
from idservice.core.allocator import Allocator, Request
from idservice.core.shards import Shard
from idservice.stores.protocol import IdStore, with_catalogue
from idservice.stores.records import Counter, Grant, Loan


@dataclass(frozen=True, slots=True)
class PendingReservation:
    """A request, the allocator that made it, and the counter as it was known then."""

    request: Request
    allocator: Allocator
    counter: Counter

    @property
    def shard(self) -> Shard:
        """The shard that it is for."""
        return self.allocator.shards[self.request.shard]


class Reserver:
    """What is asked of `store` for `epoch_state`, on behalf of those in `line`.

    `spawn` starts a task that the owner ends; `random` spreads the pauses between copies.
    """

    __slots__ = (
        "_batches",
        "_epoch_state",
        "_loop",
        "_queue",
        "_random",
        "_spawn",
        "_store",
    )  # fmt: skip

    def __init__(
        self,
        store: IdStore,
        epoch_state: EpochState,
        queue: WaitQueue,
        *,
        spawn: Callable[[Coroutine[object, object, None]], object],
        random: Random,
    ) -> None:
        self._store = store
        self._epoch_state = epoch_state
        self._queue = queue
        self._spawn = spawn
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._batches: StrictReserver | None = None

    async def ask(
        self, asked: PendingReservation, arrived: int, *, in_background: bool
    ) -> Grant | Loan:
        """What the store says to a request, for those who had `arrived`; `in_background`, it may
        take longer than they wait. Raises as `IdStore.reserve`."""
        try:
            async with asyncio.timeout(self._patience(in_background)):
                return await self._ask(asked, arrived)
        except TimeoutError:
            # Cancelled in the middle: it may be applied all the same, now or later.
            raise self.unknown("it took too long") from None

    async def _ask(self, asked: PendingReservation, arrived: int) -> Grant | Loan:
        """One reservation; a numbered one is sent again while those who had `arrived` wait (I8)."""
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
        """Seconds a store call may take: no longer than the request that waits for it, unless that
        was tried and is too short for this store."""
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
        """Bring what others gave back to its shard into memory; whether that was any."""
        claimed = await give_back.inherit(
            with_catalogue(self._store),
            asked.counter,
            grant,
            asked.allocator,
            asked.shard,
            patience_s=self._patience(in_background=False),
        )
        self._epoch_state.tally.claimed += claimed
        return claimed > 0

    # --- batches of a strict counter -------------------------------------------------------------

    @property
    def batches(self) -> StrictReserver:
        """The reservations of a strict counter, from the first use on."""
        if self._batches is None:
            self._batches = StrictReserver(
                with_catalogue(self._store),
                spawn=self._spawn,
                random=self._random,
                burnt=lambda count, cause: self._epoch_state.allocator.record_burnt(count, cause),
            )
        return self._batches

    def end_batches(self) -> None:
        """Nothing more is reserved for now."""
        if self._batches is not None:
            self._batches.end()

    # --- what errors tell ------------------------------------------------------------------------

    @property
    def about(self) -> dict[str, str]:
        """What an error of a reservation says of it."""
        action = f"reserving ids of counter {self._epoch_state.counter.name}"
        return {"store": self._store.address, "action": action}

    @property
    def not_yet(self) -> errors.IdserviceError:
        """Why nothing was brought by a request that was never made."""
        return _not_yet(self._store.address)

    def unknown(self, why: str) -> errors.OutcomeUnknown:
        """The error that tells that a request may have been applied."""
        return errors.OutcomeUnknown(**self.about, why=why)


@lru_cache(maxsize=16)
def _not_yet(store: str) -> errors.IdserviceError:
    """The same for all counters, which are many; it is told, never raised."""
    return errors.StoreError(store=store, why="it has not answered yet")
