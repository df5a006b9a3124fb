"""What an instance holds of one counter: the counter as it is known, and the allocators that serve
its epochs one after the other."""

import asyncio
from dataclasses import replace
from random import Random
from typing import Any

from idservice import errors
from idservice.core import timeouts
from idservice.core.allocator import Allocator
from idservice.core.gap_causes import GapCause
from idservice.core.shards import Shards
from idservice.observability.readings import CounterSample, CounterState, CounterStats
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.records import Counter


class EpochState:
    """`allocator` is the present one. One that was replaced hands out nothing more, and what still
    comes to it is burnt.

    `runway_s` is for counters that name none, `block_max` the most ids per reservation; `random`
    makes an order of the shards. `tally` is what else is counted.
    """

    __slots__ = (
        "_block_max", "_epoch", "_expiry", "_loop", "_past", "_random", "_runway_s", "_store",
        "allocator", "buffer", "counter", "tally",
    )  # fmt: skip

    def __init__(
        self,
        counter: Counter,
        store: IdStore,
        *,
        runway_s: float,
        block_max: int,
        random: Random,
        tally: CounterStats,
    ) -> None:
        self.counter = counter
        self.tally = tally
        self._store = store
        self._runway_s = runway_s
        self._block_max = block_max
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._past: CounterSample | None = None  # of the allocators that were replaced
        self._expiry: asyncio.TimerHandle | None = None
        self.allocator = self._new_allocator(self._new_shards())
        self.buffer = self.allocator.buffer  # so that taking an id reads one attribute less

    @property
    def runway_s(self) -> float:
        """For how long the ids of the counter are to last without the store."""
        return self.counter.runway or self._runway_s

    @property
    def lasts_s(self) -> float:
        """For how long those in memory last, at the rate last measured."""
        return timeouts.lasts(held=self.allocator.held, rate=self.allocator.rate)

    @property
    def lent(self) -> bool:
        """Whether the ids are another service's, on loan."""
        return not has_catalogue(self._store)

    # --- one allocator after the other -----------------------------------------------------------

    def begin_epoch(self, *, keep: bool) -> None:
        """Serve the epoch of the counter as it is known now; with `keep` after what is held."""
        self._replace_by(self._new_allocator(self._new_shards()), GapCause.REVOKED, keep=keep)

    def reset(self, cause: GapCause) -> None:
        """With nothing in memory, and with the memory of where its own last reservation ended."""
        known = self._epoch == self.counter.epoch
        shards = self.allocator.shards if known else self._new_shards()
        self._replace_by(self._new_allocator(shards), cause, keep=False)

    def renew(self, counter: Counter) -> None:
        """Go on in a newer epoch of ids on loan, of which a loan tells."""
        self.allocator.renew(Shards(counter.layout()), strict=counter.strict)
        self.counter = counter

    def expire_from(self, now: float) -> None:
        """Drop ids on loan whose time is over, now and again as long as any are held."""
        if self._expiry is None:
            self._expire(now)

    def _expire(self, now: float) -> None:
        self.allocator.expire(now)
        at = self.allocator.expires_at
        self._expiry = None if at is None else self._loop.call_at(at, self._expire, at)

    def _new_shards(self) -> Shards:
        """The shards of its epoch, in an order that is this instance's own: each begins elsewhere,
        and goes elsewhere from there."""
        count = self.counter.shards
        order = self._random.sample(range(count), count) if count > 1 else (0,)
        return Shards(*(self.counter.layout(at) for at in order), moves=self.tally.moves)

    def _new_allocator(self, shards: Shards) -> Allocator:
        self._epoch = self.counter.epoch
        return Allocator(
            shards,
            now=self._loop.time(),
            runway_s=self.runway_s,
            block_max=self._block_max,
            strict=self.counter.strict,
            hold_s=self._store.hold_s,
        )

    def _replace_by(self, after: Allocator, cause: GapCause, *, keep: bool) -> None:
        before = self.allocator
        self.allocator, self.buffer = after, after.buffer
        after.take_over_from(before, keep=keep)
        before.retire(cause)
        self._past = self._with(before)
        before.gaps = {}  # later ones are counted by `add_late`

    # --- what is known ---------------------------------------------------------------------------

    def exhausted(self, count: int) -> errors.Exhausted:
        """The error that tells that `count` more ids would go beyond the limit."""
        limit = f"at {self._store.address}" if self.lent else self.counter.limit  # not always told
        return errors.Exhausted(name=self.counter.name, count=count, limit=limit)

    def add_late(self, allocator: Allocator) -> None:
        """Count what came to an allocator that was replaced since it asked."""
        if allocator is not self.allocator:
            past = self._before
            self._past = replace(past, gaps=_together(past.gaps, allocator.gaps))
            allocator.gaps = {}

    def reading(self, *, waiting: int, reason: errors.IdserviceError | None) -> CounterSample:
        """Return all counts since the start. `reason` is the error that a request would get now."""
        now, allocator = self._loop.time(), self.allocator
        return self._with(
            allocator,
            held=allocator.held,
            rate=allocator.present_rate(now),
            waiting=waiting,
            standing=self._standing(now, reason),
        )

    def _with(self, allocator: Allocator, **present: Any) -> CounterSample:
        past = self._before
        return replace(
            past,
            **present,
            issued=past.issued + allocator.issued_ids,
            reserved=past.reserved + allocator.granted_ids,
            gaps=_together(past.gaps, allocator.gaps),
            returned=past.returned + allocator.returned_ids,
        )

    @property
    def _before(self) -> CounterSample:
        return self._past or CounterSample(self.counter.name, 0, 0, 0, 0.0, 0, {}, self.tally)

    def _standing(self, now: float, reason: errors.IdserviceError | None) -> CounterState:
        counter, allocator = self.counter, self.allocator
        return CounterState(
            epoch=counter.ordinal,
            strict=counter.strict,
            shards=counter.shards,
            limit=None if self.lent else counter.limit,
            runway=allocator.runway_s,
            stock=allocator.stock,
            low=allocator.low,
            highest=allocator.pace.highest,
            pace=allocator.pace.per_second(now),
            lent=self.lent,
            change=counter.intent.kind if counter.intent is not None else "",
            code=reason.code if reason is not None else "",
            why=str(reason) if reason is not None else "",
        )


def _together(gaps: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {cause: gaps.get(cause, 0) + more.get(cause, 0) for cause in {**gaps, **more}}
