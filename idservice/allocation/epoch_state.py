"""The state of one counter on an instance: its last known entry, and the allocator of its epoch."""

import asyncio

from idservice import errors
from idservice.allocation.context import Context
from idservice.core import timeouts
from idservice.core.allocator import Allocator
from idservice.core.allowance import Allowance
from idservice.core.epoch import Shards
from idservice.core.gap_causes import GapCause
from idservice.core.id_buffer import IdBuffer
from idservice.observability.readings import CounterSample, CounterState, CounterStats
from idservice.stores.protocol import has_catalogue
from idservice.stores.records import Counter

_NO_IDS = IdBuffer(shared=False)


class EpochState:
    """`allocator` serves the present epoch. A replaced allocator hands out nothing more, and ids
    that still come to it are burnt. Other objects count in `stats`."""

    __slots__ = (
        "_context", "_epoch", "_expiry", "_loop", "allocator", "allowance", "buffer", "counter",
        "stats",
    )  # fmt: skip

    def __init__(self, counter: Counter, context: Context, stats: CounterStats) -> None:
        self.counter = counter
        self.stats = stats
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._expiry: asyncio.TimerHandle | None = None
        self.allocator = self._new_allocator(self._new_shards())
        self.allowance: Allowance | None = None  # if the counter bounds what requests may take
        self.buffer = self.allocator.buffer  # so that taking an id reads one attribute less
        self.apply(counter)

    @property
    def runway_s(self) -> float:
        """The seconds that the ids of the counter are to last without the store."""
        return self.counter.runway or self._context.limits.runway

    @property
    def lasts_s(self) -> float:
        """The seconds that the ids in memory last at the rate last measured."""
        return timeouts.lasts(held=self.allocator.held, rate=self.allocator.rate)

    @property
    def borrows(self) -> bool:
        """True if the ids are borrowed from another service."""
        return not has_catalogue(self._context.store)

    # --- ids out ---------------------------------------------------------------------------------

    def apply(self, entry: Counter) -> None:
        """Take note of an entry of the counter."""
        self.counter, was = entry, self.allowance
        bounds = entry.request_max, entry.rate_max
        if bounds == (None, None):
            self.allowance = None
        elif was is None or bounds != (was.request_max, was.rate_max):
            self.allowance = Allowance(*bounds, now=self._loop.time())
        self._point()

    def _point(self) -> None:
        """Set the `buffer` from which ids are taken. If the counter has bounds, it is empty, so
        that each id is taken by `take`."""
        self.buffer = self.allocator.buffer if self.allowance is None else _NO_IDS

    def take(self) -> int | None:
        """Return the next id after the cursor has ended, if one is in memory and may be taken."""
        if not self._may_take(1):
            return None
        buffer = self.allocator.buffer
        buffer.advance()
        return buffer.take()

    def take_many(self, count: int) -> list[range] | None:
        """Return `count` ids as blocks, if that many are in memory and may be taken."""
        return self.allocator.take_batch(count) if self._may_take(count) else None

    def _may_take(self, count: int) -> bool:
        """Return True if the counter has no bounds, or if `count` ids are in memory and allowed."""
        allowance = self.allowance
        if allowance is None:
            return True
        return self.allocator.held >= count and allowance.take(count, self._loop.time())

    def admit(self, count: int) -> None:
        """Count ids that a request will wait for. Raises RequestTooLarge, RateExceeded.

        If enough ids are in memory, the request was just refused for the rate. However soon the
        rate allows it, it does not wait: it would cause a reservation that nothing needs.
        """
        allowance, name = self.allowance, self.counter.name
        if allowance is None:
            return
        if self.allocator.held < count and allowance.take(count, self._loop.time()):
            return
        if count > allowance.most:
            bound = "request_max"
            if allowance.most != allowance.request_max:
                bound = f"rate_max of {allowance.rate_max:g} ids/s"
            raise errors.RequestTooLarge(name=name, value=count, most=allowance.most, bound=bound)
        seconds = allowance.wait_s(count, self._loop.time())
        rate = f" of {allowance.rate_max:g} ids/s"
        raise errors.RateExceeded(name=name, rate=rate, seconds=seconds)

    # --- epochs ----------------------------------------------------------------------------------

    def begin_epoch(self, *, keep: bool) -> None:
        """Serve the epoch of the present entry; with `keep`, after the ids that are held."""
        self._replace_by(self._new_allocator(self._new_shards()), GapCause.REVOKED, keep=keep)

    def reset(self, cause: GapCause) -> None:
        """Begin with nothing in memory, but with the end of this instance's last reservation."""
        known = self._epoch == self.counter.epoch
        shards = self.allocator.shards if known else self._new_shards()
        self._replace_by(self._new_allocator(shards), cause, keep=False)

    def renew(self, counter: Counter) -> None:
        """Go on in a newer epoch of borrowed ids, which the lender told of."""
        self.allocator.renew(Shards(counter.layout()), strict=counter.strict)
        self.counter = counter

    def expire_from(self, now: float) -> None:
        """Drop borrowed ids as they expire, as long as any are held."""
        if self._expiry is None:
            self._expire(now)

    def _expire(self, now: float) -> None:
        self.allocator.expire(now)
        at = self.allocator.expires_at
        self._expiry = None if at is None else self._loop.call_at(at, self._expire, at)

    def _new_shards(self) -> Shards:
        """The shards in a random order: each instance begins elsewhere and goes elsewhere next."""
        count = self.counter.shards
        order = self._context.random.sample(range(count), count) if count > 1 else (0,)
        return Shards(*(self.counter.layout(at) for at in order), moves=self.stats.moves)

    def _new_allocator(self, shards: Shards) -> Allocator:
        self._epoch = self.counter.epoch
        return Allocator(
            shards,
            now=self._loop.time(),
            runway_s=self.runway_s,
            block_max=self._context.limits.block_max,
            strict=self.counter.strict,
            hold_s=self._context.store.hold_s,
        )

    def _replace_by(self, after: Allocator, cause: GapCause, *, keep: bool) -> None:
        before = self.allocator
        self.allocator = after
        self._point()
        after.take_over_from(before, cause, keep=keep)

    def exhausted(self, count: int) -> errors.Exhausted:
        """Return the error that `count` more ids would go beyond the limit."""
        limit: int | str = self.counter.limit
        if self.borrows:  # the lender does not always tell the limit
            limit = f"at {self._context.store.address}"
        return errors.Exhausted(name=self.counter.name, count=count, limit=limit)

    def reading(self, *, waiting: int, reason: errors.IdserviceError | None) -> CounterSample:
        """Return all counts since the start. `reason` is the error that a request would get now."""
        now, allocator = self._loop.time(), self.allocator
        return CounterSample(
            self.counter.name,
            issued=allocator.issued_ids,
            reserved=allocator.granted_ids,
            held=allocator.held,
            rate=allocator.present_rate(now),
            waiting=waiting,
            gaps=dict(allocator.gaps),
            stats=self.stats,
            returned=allocator.returned_ids,
            state=self._standing(now, reason),
        )

    def _standing(self, now: float, reason: errors.IdserviceError | None) -> CounterState:
        counter, allocator, change = self.counter, self.allocator, self.counter.last_change
        return CounterState(
            epoch=counter.ordinal,
            strict=counter.strict,
            shards=counter.shards,
            limit=None if self.borrows else counter.limit,
            runway=allocator.runway_s,
            stock=allocator.stock,
            low=allocator.low,
            highest=allocator.pace.highest,
            pace=allocator.pace.per_second(now),
            borrowed=self.borrows,
            change=counter.intent.kind if counter.intent is not None else "",
            last_change=f"{change.what} {change}" if change is not None else "",
            code=reason.code if reason is not None else "",
            why=str(reason) if reason is not None else "",
            start=counter.start,
        )
