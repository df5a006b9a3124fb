"""The policy of one counter's ids in memory: when to request ids from the store, and how many.

Theory of operation. The ids lie in an `IdBuffer`. Taking one is a `next()` on its cursor (I11).
Decisions are made when the cursor ends. Therefore it ends not only with a block but also at the
low-water mark, where the next refill should begin. The caller then calls `buffer.advance`, which
moves the cursor on, and `due`, which tells what to request from the store, if anything. The caller
sends the request and reports the answer.

    buffer.take() -> id | None None: `advance` and take again; None again: wait for a grant
    due() -> Request | None    at most one is outstanding (I12)
    granted() borrowed() refused() throttled() no_room()    the answer to that request only
    settle()                   after a grant was shared out: a strict counter keeps nothing (I8)
    inherit()                  ids that other instances gave back, before the first grant
    retire() returned()        drop everything for good; what the store took back of it

The allocator serves block counters and strict counters. For a block counter, `due` asks for the ids
of two runways. For a strict counter, it asks only for the ids that requests wait for, and `settle`
burns the rest of the grant.

With `hold_s` the ids are borrowed from another service: they expire `hold_s` after they were
requested. Blocks come in no order, since several services may answer at one address, and threads
may share the buffer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from idservice.core import sizing
from idservice.core.epoch import Shards
from idservice.core.gap_causes import FROM_MEMORY, GapCause
from idservice.core.id_buffer import Guard, IdBuffer
from idservice.core.sizing import Pace

RUNWAY_OF_HOLD = 0.4  # two runways are held: a fifth of the hold time is left for a slower use


@dataclass(frozen=True, slots=True)
class Request:
    """A reservation to make: `count` indices of a shard, the first of them from `seen` to
    `room`."""

    token: int
    count: int
    seen: int
    room: int
    shard: int = 0


class Allocator:
    """The ids of a counter on one instance in one epoch, and the requests for more of them."""

    __slots__ = (
        "_asked_at", "_asked_cut", "_asked_stock", "_asked_used", "_cut_to", "_hold_s",
        "_issued_before", "_last_stock", "_loans", "_outstanding", "_rated_s", "_strict",
        "_token", "_used_uncounted", "_window_start", "_window_used", "block_max", "buffer",
        "gaps", "granted_ids", "low", "pace", "rate", "retired", "returned_ids", "runway_s",
        "shards", "stock",
    )  # fmt: skip

    def __init__(
        self,
        shards: Shards,
        *,
        now: float,
        runway_s: float,
        block_max: int,
        strict: bool = False,
        hold_s: float | None = None,
        guarded: Guard | None = None,
    ) -> None:
        assert min(runway_s, block_max, hold_s or 1) > 0
        self.shards = shards
        self.buffer = IdBuffer(shared=hold_s is not None, guarded=guarded)
        # It may be lowered. Borrowed ids come in requests to another service, a million in each.
        self.block_max = block_max if hold_s is None else min(block_max, sizing.BLOCK_ANY)
        self.runway_s = runway_s if hold_s is None else min(runway_s, RUNWAY_OF_HOLD * hold_s)
        self._strict = strict
        self._hold_s = hold_s
        self._loans: list[tuple[float, int]] = []  # each expiry, with `granted_ids` up to it
        self.low = 0  # ids left at which a refill is due
        self._token = 0
        self._outstanding: Request | None = None
        # Of the outstanding request: its time, the ids handed out before it, True if it asks for
        # less than is wanted (see `_cut_to`), and the ids that it asks for beyond those waited for.
        self._asked_at = now
        self._asked_used = 0
        self._asked_cut = False
        self._asked_stock = 0
        self._last_stock = sizing.BLOCK_MIN  # `_asked_stock` of the last granted request
        self._cut_to: int | None = None  # since an unknown outcome: ask for no more than this
        self._window_start = now  # the rate is measured from this time on
        self._window_used = 0  # ids that had been handed out at that time
        self._used_uncounted = 0  # ids of single big batches, which the rate leaves out
        self.rate = 0.0  # ids per second, as last measured
        self._rated_s = 0.0  # the seconds over which it was measured
        self.pace = Pace()
        self.retired = False  # True once everything is dropped for good
        self.stock = 0  # ids in memory after the last grant
        self.granted_ids = 0
        self._issued_before = 0  # ids that earlier epochs' allocators handed out
        self.returned_ids = 0  # ids that went back to the store at the stop
        self.gaps: dict[str, int] = {}  # ids that will never be handed out, by GapCause

    # --- ids out ---------------------------------------------------------------------------------

    def take_batch(self, count: int) -> list[range] | None:
        """Take `count` ids, as blocks in rising order; None if fewer are held. 0 < count."""
        blocks = self.buffer.take_batch(count)
        if blocks is not None and count > self._last_stock:
            # A single batch larger than the stock before it says little about the rate.
            self._used_uncounted += count - self._last_stock
        return blocks

    # --- what is known ---------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """The number of ids in memory."""
        return self.buffer.held

    @property
    def issued_ids(self) -> int:
        """The number of ids that were handed out."""
        lost = sum(self.gaps.get(cause, 0) for cause in FROM_MEMORY) if self.gaps else 0
        return self.granted_ids - self.held - lost - self.returned_ids

    @property
    def issued_in_epoch(self) -> int:
        """The number of ids that were handed out since this allocator took over."""
        return self.issued_ids - self._issued_before

    def present_rate(self, now: float) -> float:
        """Ids per second since the refill before the last one, so that the rate of an idle counter
        falls. 0 for a strict counter, which measures none."""
        if self._strict:
            return 0.0
        used = max(0, self._used - self._window_used)
        seconds = self._rated_s + now - self._window_start
        return sizing.rate(used + self.rate * self._rated_s, seconds)

    @property
    def expires_at(self) -> float | None:
        """When the first ids in memory expire; None if none do."""
        while self._loans and self.held <= self.granted_ids - self._loans[0][1]:
            del self._loans[0]  # used up
        return self._loans[0][0] if self._loans else None

    @property
    def numbered(self) -> bool:
        """True if its requests are numbered batches of a writer, which may be sent again (I8)."""
        return self._strict and self._hold_s is None

    @property
    def waits_for_store(self) -> bool:
        """True if a request to the store is outstanding."""
        return self._outstanding is not None

    # --- requests out ----------------------------------------------------------------------------

    def due(self, now: float, *, waiting: int = 0, first: int = 0) -> Request | None:
        """Return the request to send to the store now, if any. `waiting` ids are waited for and not
        in memory, `first` of them by the first waiter."""
        if self.retired or self._outstanding is not None:
            return None
        if not waiting and (self._strict or self.held > self.low):
            return None
        if not waiting and not self.held and self._hold_s is not None:
            return None  # the counter is idle
        shard = self.shards.choose(now)
        if shard is None:
            return None
        most = sizing.ceiling(self.block_max, left=shard.room)
        count = min(self._wanted(now, waiting=waiting, first=first, most=most), shard.room)
        if count <= 0:
            return None
        self._token += 1
        self._asked_at, self._asked_used = now, self._used
        self._asked_stock = max(sizing.BLOCK_MIN, count - waiting)
        room, number = shard.end - count, shard.layout.shard
        assert shard.seen <= room
        self._outstanding = Request(self._token, count, shard.seen, room, number)
        return self._outstanding

    def _wanted(self, now: float, *, waiting: int, first: int, most: int) -> int:
        self._asked_cut = False
        if self._strict:
            return waiting
        used = max(0, self._used - self._window_used) + min(waiting, self._last_stock)
        seconds = now - self._window_start
        self.rate, self._rated_s = sizing.rate(used, seconds), seconds
        size = sizing.refill if self._hold_s is None else sizing.loan
        stock = size(
            rate=self.rate, runway_s=self.runway_s, held=self.held, used=used,
            block_max=most,
        )  # fmt: skip
        # What is waited for is on top of the stock: memory may be empty again before it comes.
        count = waiting + stock
        if self._cut_to is not None and count > self._cut_to:
            self._asked_cut = True
            count = max(self._cut_to, first, 1)
        return min(count, max(most, first))

    @property
    def _used(self) -> int:
        return self.issued_ids - self._used_uncounted

    def _answers(self, token: int) -> Request | None:
        """The outstanding request, if `token` is its token (I12)."""
        request = self._outstanding
        return request if request is not None and request.token == token else None

    # --- answers in ------------------------------------------------------------------------------

    def granted(self, token: int, indices: range) -> bool:
        """Take in the store's answer to a request: the indices it granted, as it named them (I2).

        Return False if the answer is an old one (I12) or the allocator is retired: then the range
        is burnt and counted. Raises ValueError if the answer does not fit the request; the caller
        reports such a request as refused with an unknown outcome.
        """
        request = self._expected(token, len(indices))
        if request is None:
            return False
        if not (len(indices) == request.count and request.seen <= indices.start <= request.room):
            raise ValueError(f"asked for {request}, got {indices}")
        self.shards.granted(request.shard, indices)
        self._accept(request, [self.shards[request.shard].layout.ids(indices)])
        return True

    def borrowed(self, token: int, blocks: Sequence[range], now: float, *, since: float) -> bool:
        """Take in another service's answer to a request sent at `since`, as `granted` does. Ids
        that have expired before `now` are dropped, even if waited for. Fewer ids than requested may
        come: the rest is beyond the counter's rate_max."""
        assert self._hold_s is not None
        total = sum(map(len, blocks))
        request = self._expected(token, total)
        if request is None:
            return False
        if not 0 < total <= request.count:
            raise ValueError(f"asked for {request}, got {blocks}")
        self.shards.had_room(request.shard)
        self._accept(request, blocks)
        self._loans.append((since + self._hold_s, self.granted_ids))
        self.expire(now)
        return True

    def _expected(self, token: int, count: int) -> Request | None:
        """The request that `count` ids answer; None if they come too late and are burnt (I12)."""
        request = None if self.retired else self._answers(token)
        if request is None:
            self._gap(GapCause.LATE, count)
        return request

    def _accept(self, request: Request, blocks: Sequence[range]) -> None:
        self._outstanding = None
        self._last_stock = self._asked_stock
        for ids in blocks:
            self.granted_ids += len(ids)
            self.buffer.append(ids)
            self.pace.saw(ids[-1], self._asked_at)
        self.stock = held = self.held
        self.low = mark = sizing.low_water(rate=self.rate, runway_s=self.runway_s, held=held)
        if self._asked_cut:
            # The store answers again: a refill for the rest is due, and the rate's window goes on.
            self.low, self._cut_to = held, request.count * sizing.GROWTH_MAX
        else:
            self._cut_to = None
            self._window_start, self._window_used = self._asked_at, self._asked_used
        self.buffer.stop_at(mark)

    def refused(self, token: int, *, unknown: bool) -> None:
        """Take note that a request failed.

        After an unknown outcome its range is burnt (I4), and the next request asks for at most
        half: a slow store must not burn a runway per try. The ids burnt of numbered batches are
        reported by `record_burnt`, once they are known.
        """
        request = self._answers(token)
        if request is None:
            return
        self._outstanding = None
        if unknown and not self.numbered:
            self._gap(GapCause.UNKNOWN, request.count)
            self._cut_to = max(1, request.count // 2)
        # A refill stays due. If none is started, the cursor ends when half of the rest is used.
        self.low = self.held
        self.buffer.stop_at(self.held // 2)

    def no_room(self, token: int, position: int, now: float) -> None:
        """Take note that the store found `position`, which leaves fewer indices than asked for."""
        request = self._answers(token)
        if request is None:
            return
        self.refused(token, unknown=False)
        self.shards.no_room(request.shard, position, now)
        if self._hold_s is not None:
            self._cut_to = 1  # it is not known how many are left: ask for what one waiter needs

    def throttled(self, token: int) -> None:
        """Take note that the store throttles a shard: the next request goes to another one."""
        request = self._answers(token)
        if request is not None:
            self.refused(token, unknown=False)
            self.shards.throttled(request.shard)

    def settle(self) -> None:
        """Burn the rest of a strict counter's grant, once it was shared out among the waiting."""
        if self._strict and self.held:
            self._drop(GapCause.ABANDONED)

    def inherit(self, blocks: Iterable[range]) -> None:
        """Hand these ids out before those of the next grant."""
        for ids in blocks:
            self.buffer.append(ids)
            self.granted_ids += len(ids)
        self.stock = self.held
        self.low = self.held // 2
        self.buffer.stop_at(self.low)

    # --- changes ---------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Drop borrowed ids that have expired."""
        while self._loans and self._loans[0][0] <= now:
            later = self.granted_ids - self._loans.pop(0)[1]  # ids borrowed after those
            while self.held > later:
                self._gap(GapCause.EXPIRED, self.buffer.drop_first())

    def renew(self, shards: Shards, *, strict: bool) -> None:
        """Begin a newer epoch of borrowed ids: the ids held are of an older one."""
        assert self._hold_s is not None
        self._drop(GapCause.EPOCH)
        self.pace = Pace()
        self.shards, self._strict = shards, strict

    def retire(self, cause: GapCause) -> None:
        """Drop everything in memory and refuse every later grant."""
        self.retired = True
        self._drop(cause)

    def take_over_from(self, before: "Allocator", cause: GapCause, *, keep: bool) -> None:
        """Take over pace and counts of an earlier epoch's allocator, which is retired, and with
        `keep` its ids, which are handed out first. Only for an allocator that is new."""
        self.rate, self._last_stock, self._cut_to = before.rate, before._last_stock, before._cut_to
        self._rated_s = before._rated_s
        if before._outstanding is not None:  # its outcome will not be known
            self._cut_to = max(1, before._outstanding.count // 2)
        if keep:
            before.granted_ids -= before.held
            self.inherit(before.buffer.clear())
        before.retire(cause)
        self.granted_ids += before.granted_ids
        self.returned_ids = before.returned_ids
        self.gaps = before.gaps  # shared: an answer to the old allocator is still counted here
        self._window_used = self._issued_before = self.issued_ids

    # --- gaps ------------------------------------------------------------------------------------

    def record_wasted(self, count: int) -> None:
        """Count ids that were taken for a client that left before it could be answered."""
        self._gap(GapCause.ABANDONED, count)

    def record_burnt(self, count: int, cause: GapCause) -> None:
        """Count ids that were, or may have been, granted and never come into memory."""
        if cause in FROM_MEMORY:
            self.granted_ids += count
        self._gap(cause, count)

    def returned(self, count: int, *, too_many: int) -> None:
        """Count what became of the ids dropped at a stop.

        The store took `count` of them back, and had no room for `too_many`. Before this, all of
        them count as a gap, whatever becomes of the give-back.
        """
        self.returned_ids += count
        self._gap(GapCause.STOP, -count - too_many)
        self._gap(GapCause.FULL, too_many)
        assert self.gaps[GapCause.STOP] >= 0
        if not self.gaps[GapCause.STOP]:
            del self.gaps[GapCause.STOP]

    def _drop(self, cause: GapCause) -> None:
        assert cause in FROM_MEMORY
        self._gap(cause, self.held)
        self.buffer.clear()
        self._loans.clear()

    def _gap(self, cause: GapCause, count: int) -> None:
        if count:
            self.gaps[cause] = self.gaps.get(cause, 0) + count
