"""One counter's ids in memory, as a state machine: facts go in, ids and store requests come out.

Theory of operation. The ids at hand are a row of blocks. `take` moves a cursor through the first
of them, and through nothing else: it is a `next()` on a range iterator (I11). Everything that
needs thought happens when that iterator ends, which is why it is cut not only at the end of a
block but also where the next refill should begin (the low-water mark). Then `take` answers None,
and the caller says `advance`, which moves the cursor on, and asks `due`, which tells what to
request from the store, if anything. The caller carries the request out and reports `granted`,
`refused` or `no_room`.

    take() -> id | None        None: `advance` and take again; None again: wait for a grant
    advance()                  move the cursor past a low-water mark or to the next block
    due() -> Request | None    at most one is outstanding (I12)
    granted(), lent(), refused(), throttled(), no_room()   the answer to that request; any other is
                            dropped
    settle()                   after a grant was shared out: a strict counter keeps nothing (I8)
    retire()                   drops everything for good
    inherit()                  ids that others gave back, before the first grant
    returned()                 of what was dropped at a stop, the store took so much back

Block and strict counters are this one machine; they differ in how much `due` asks for (what two
runways hold / exactly what is waited for), and in whether `settle` keeps the rest.

With `hold_s` the ids are another service's, on loan: they expire so long after they were asked for,
and blocks come in no order, since several services may answer at one address. Then the cursor is
never pointed anew while it has ids left: threads that share the allocator may be about to move it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from idservice.core import ranges, sizing
from idservice.core.pace import Pace
from idservice.core.shards import Shards

# Why granted ids become a gap; the other causes ("unknown", "late", "claim") never reach memory.
FROM_MEMORY = (
    "abandoned", "fork", "went_back", "epoch", "revoked", "stale", "stop", "full", "expired",
)  # fmt: skip
RUNWAY_OF_HOLD = 0.4  # two runways are held: a fifth of the time on loan is left for a slower use


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask the store for: `count` indices of a shard, none below `seen`, the first at most
    `room`."""

    token: int
    count: int
    seen: int
    room: int
    shard: int = 0


class Allocator:
    """The ids of a counter that one instance holds, and asks for in one epoch on one of its shards
    after the other."""

    __slots__ = (
        "_asked_at",
        "_asked_cut",
        "_asked_stock",
        "_asked_used",
        "_cut_to",
        "_hold_s",
        "_last_stock",
        "_loans",
        "_low",
        "_mark",
        "_outstanding",
        "_rated_s",
        "_rest",
        "_rest_count",
        "_retired",
        "_runway_s",
        "_segment",
        "_strict",
        "_token",
        "_used_uncounted",
        "_window_start",
        "_window_used",
        "block_max",
        "cursor",
        "gaps",
        "granted_ids",
        "pace",
        "rate",
        "returned_ids",
        "shards",
        "stock",
    )

    def __init__(
        self,
        shards: Shards,
        *,
        now: float,
        runway_s: float,
        block_max: int,
        strict: bool = False,
        hold_s: float | None = None,
    ) -> None:
        assert runway_s > 0
        assert block_max > 0
        assert hold_s is None or hold_s > 0
        self.shards = shards
        self._strict = strict
        self._runway_s = runway_s if hold_s is None else min(runway_s, RUNWAY_OF_HOLD * hold_s)
        self._hold_s = hold_s
        self._loans: list[tuple[float, int]] = []  # when each expires, `granted_ids` by then
        self.block_max = block_max  # may be lowered
        self.cursor: Iterator[int] = iter(range(0))  # for who calls `next` on it without `take`
        self._segment = range(0)  # what the cursor runs through
        self._rest: deque[range] = deque()  # what comes after it
        self._rest_count = 0
        self._low = 0  # ids left from which on a refill is due,
        self._mark = 0  # and ids left at which the cursor stops, so that somebody asks `due`
        self._token = 0
        self._outstanding: Request | None = None
        self._asked_at = now  # when the outstanding request was made,
        self._asked_used = 0  # how many ids had been handed out by then,
        self._asked_cut = False  # whether it asks for less than is wanted, see `_cut_to`,
        self._asked_stock = 0  # and for how many beyond what is waited for
        self._last_stock = sizing.BLOCK_MIN  # the same of the last granted request
        self._cut_to: int | None = None  # since an unknown outcome: ask for no more than this
        self._window_start = now  # the rate is measured from here,
        self._window_used = 0  # where this many ids had been handed out,
        self._used_uncounted = 0  # without what single big batches took
        self._retired = False
        self.rate = 0.0  # ids per second, as last measured,
        self._rated_s = 0.0  # over so many seconds
        self.pace = Pace()
        self.stock = 0  # how many were held after the last grant
        self.granted_ids = 0
        self.returned_ids = 0  # that went back to the store at the stop
        self.gaps: dict[str, int] = {}  # ids that will never be handed out, by cause

    # --- ids out ---------------------------------------------------------------------------------

    def take(self) -> int | None:
        """The next id, or None: then `advance`, ask `due`, and try once more."""
        return next(self.cursor, None)

    def take_batch(self, count: int) -> list[range] | None:
        """`count` ids as blocks in rising order, or None where fewer are held. 0 < count."""
        assert count > 0
        if count == 1:
            id = next(self.cursor, None)
            if id is None:
                self.advance()
                id = next(self.cursor, None)
            return None if id is None else [range(id, id + self._segment.step, self._segment.step)]
        if count > self.held:
            return None
        blocks: list[range] = []
        missing = count
        while missing:
            self.advance()
            head, tail = ranges.split(self._remaining_segment(), missing)
            self._point_at(tail)
            blocks.append(head)
            missing -= len(head)
        # A single batch larger than the stock so far says little about the rate.
        self._used_uncounted += max(0, count - self._last_stock)
        return ranges.joined(blocks)

    # --- what is known ---------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """How many ids are in memory."""
        return self._left_in_segment() + self._rest_count

    @property
    def issued_ids(self) -> int:
        """How many ids were handed out."""
        lost = sum(self.gaps.get(cause, 0) for cause in FROM_MEMORY) if self.gaps else 0
        return self.granted_ids - self.held - lost - self.returned_ids

    @property
    def low(self) -> int:
        """How many are left when the next refill begins."""
        return self._low

    def present_rate(self, now: float) -> float:
        """Ids per second since the last refill and between the two before: a counter that nobody
        uses any more is not as busy as it was. 0 for a strict one, which measures none."""
        if self._strict:
            return 0.0
        used = max(0, self._used - self._window_used)
        seconds = self._rated_s + now - self._window_start
        return sizing.rate(used + self.rate * self._rated_s, seconds)

    @property
    def runway_s(self) -> float:
        """For how long ids are to last."""
        return self._runway_s

    @property
    def unused(self) -> list[range]:
        """The ids in memory, as blocks in the order in which they would be handed out."""
        return [ids for ids in (self._remaining_segment(), *self._rest) if ids]

    @property
    def retired(self) -> bool:
        """Whether everything was dropped for good."""
        return self._retired

    @property
    def expires_at(self) -> float | None:
        """When the first ids in memory expire; None where none ever do."""
        while self._loans and self.held <= self.granted_ids - self._loans[0][1]:
            del self._loans[0]  # used up
        return self._loans[0][0] if self._loans else None

    @property
    def numbered(self) -> bool:
        """Whether its requests are batches of a writer of its own, which may be sent again (I8)."""
        return self._strict and self._hold_s is None

    @property
    def waits_for_store(self) -> bool:
        """Whether a request to the store is outstanding."""
        return self._outstanding is not None

    @property
    def used_up(self) -> bool:
        """Whether no id was left below the limit when that was last found out."""
        return self.shards.used_up

    def room(self, now: float) -> int:
        """How many more ids the limit leaves, as far as is known without asking the store."""
        return self.shards.room(now)

    def advance(self) -> None:
        """Move the cursor to the next ids, where it stands at the end of what it runs through."""
        if not self._left_in_segment() and self._rest:
            self._load()

    # --- requests out ----------------------------------------------------------------------------

    def due(self, now: float, *, waiting: int = 0, first: int = 0) -> Request | None:
        """The request to send to the store now, if any.

        `waiting` is the number of ids that are waited for and not in memory, `first` how many of
        them the first in line needs.
        """
        if self._retired or self._outstanding is not None:
            return None
        if not waiting and (self._strict or self.held > self._low):
            return None
        if not waiting and self._hold_s is not None and not self.held:
            return None  # nobody asks any more
        shard = self.shards.choose(now)
        if shard is None:
            return None
        count = min(self._wanted(now, waiting=waiting, first=first), shard.room)
        if count <= 0:
            return None
        self._token += 1
        self._asked_at, self._asked_used = now, self._used
        self._asked_stock = max(sizing.BLOCK_MIN, count - waiting)
        self._outstanding = Request(
            token=self._token,
            count=count,
            seen=shard.seen,
            room=shard.end - count,
            shard=shard.layout.shard,
        )
        assert self._outstanding.seen <= self._outstanding.room
        return self._outstanding

    def _wanted(self, now: float, *, waiting: int, first: int) -> int:
        self._asked_cut = False
        if self._strict:
            return waiting
        used = max(0, self._used - self._window_used) + min(waiting, self._last_stock)
        seconds = now - self._window_start
        self.rate, self._rated_s = sizing.rate(used, seconds), seconds
        size = sizing.refill if self._hold_s is None else sizing.loan
        stock = size(
            rate=self.rate,
            runway_s=self._runway_s,
            held=self.held,
            used=used,
            block_max=self.block_max,
        )
        # What is waited for is on top of the stock: memory may be empty again before it comes.
        count = waiting + stock
        if self._cut_to is not None and count > self._cut_to:
            self._asked_cut = True
            count = max(self._cut_to, first, 1)
        return min(count, max(self.block_max, first))

    @property
    def _used(self) -> int:
        return self.issued_ids - self._used_uncounted

    # --- answers in ------------------------------------------------------------------------------

    def granted(self, token: int, indices: range, now: float) -> bool:
        """The store's answer to a request: the indices it granted, as it named them (I2).

        False where the answer is an old one (I12) or the allocator is retired: then the range is
        burnt and counted. Raises ValueError where the answer does not fit the request; the caller
        reports such a request as refused with an unknown outcome.
        """
        request = self._outstanding
        if request is None or request.token != token or self._retired:
            self._gap("late", len(indices))
            return False
        if not (len(indices) == request.count and request.seen <= indices.start <= request.room):
            raise ValueError(f"asked for {request}, got {indices}")
        self.shards.granted(request.shard, indices)
        self._accept(request, [self.shards[request.shard].layout.ids(indices)])
        return True

    def lent(self, token: int, blocks: Sequence[range], now: float, *, since: float) -> bool:
        """Another service's answer to a request sent at `since`: the ids, as it named them.

        False and ValueError as with `granted`. What is too old by now is dropped, even if waited
        for.
        """
        assert self._hold_s is not None
        total = sum(map(len, blocks))
        request = self._outstanding
        if request is None or request.token != token or self._retired:
            self._gap("late", total)
            return False
        if total != request.count:
            raise ValueError(f"asked for {request}, got {blocks}")
        self.shards.had_room(request.shard)
        self._accept(request, blocks)
        self._loans.append((since + self._hold_s, self.granted_ids))
        self.expire(now)
        return True

    def _accept(self, request: Request, blocks: Sequence[range]) -> None:
        self._outstanding = None
        self._last_stock = self._asked_stock
        self.granted_ids += request.count
        for ids in blocks:
            self._keep(ids)
            self.pace.saw(ids[-1], self._asked_at)
        self.stock = self.held
        self._low = sizing.low_water(rate=self.rate, runway_s=self._runway_s, held=self.held)
        self._mark = self._low
        if self._asked_cut:
            # The store answers again: at once for the rest, of which as much was used as before.
            self._low, self._cut_to = self.held, request.count * sizing.GROWTH_MAX
        else:
            self._cut_to = None
            self._window_start, self._window_used = self._asked_at, self._asked_used
        self._cut_at_mark()

    def refused(self, token: int, *, unknown: bool) -> None:
        """The request failed. After an unknown outcome its range is burnt (I4), and the next
        request asks for at most half: a slow store must not burn a runway per try. What is burnt of
        numbered batches is told by `burnt`, once it is known."""
        request = self._outstanding
        if request is None or request.token != token:
            return
        self._outstanding = None
        if unknown and not self.numbered:
            self._gap("unknown", request.count)
            self._cut_to = max(1, request.count // 2)
        # A refill stays due. Should nobody try again, half of the rest used is a reminder.
        self._low, self._mark = self.held, self.held // 2
        self._cut_at_mark()

    def no_room(self, token: int, position: int, now: float) -> None:
        """The store found `position`, which leaves fewer indices below the limit than asked for."""
        request = self._outstanding
        if request is None or request.token != token:
            return
        self.refused(token, unknown=False)
        self.shards.no_room(request.shard, position, now)
        if self._hold_s is not None:
            self._cut_to = 1  # how many are left is not said: ask for what the first in line needs

    def throttled(self, token: int) -> None:
        """The store takes no more on that shard now: the next request goes to another one."""
        request = self._outstanding
        if request is None or request.token != token:
            return
        self.refused(token, unknown=False)
        self.shards.throttled(request.shard)

    def settle(self) -> None:
        """Called when a grant was shared out among the waiting: a strict counter burns the rest."""
        if self._strict and self.held:
            self._drop("abandoned")

    def wasted(self, count: int) -> None:
        """`count` ids were taken for somebody who left before they could be answered."""
        self._gap("abandoned", count)

    def burnt(self, count: int, cause: str) -> None:
        """`count` ids were, or may have been, granted for requests that all had left."""
        if cause in FROM_MEMORY:
            self.granted_ids += count
        self._gap(cause, count)

    def expire(self, now: float) -> None:
        """Drop what was held for as long as it may be."""
        later = None  # how many ids were lent after what is over
        while self._loans and self._loans[0][0] <= now:
            later = self.granted_ids - self._loans.pop(0)[1]
        if later is None:
            return
        while (left := self._left_in_segment()) + self._rest_count > later:
            if left:
                self._point_at(range(0))
            else:
                left = len(self._rest.popleft())
                self._rest_count -= left
            self._gap("expired", left)

    def renew(self, shards: Shards, *, strict: bool) -> None:
        """A newer epoch began where the ids are lent: those held are of an older one."""
        assert self._hold_s is not None
        self._drop("epoch")
        self.pace = Pace()
        self.shards, self._strict = shards, strict

    def retire(self, cause: str) -> int:
        """Drop everything in memory and refuse every later grant; the number of ids dropped."""
        self._retired = True
        return self._drop(cause)

    def succeed(self, before: "Allocator", *, keep: bool) -> None:
        """Take over from the allocator of an earlier epoch: its pace, and with `keep` also the ids
        it holds, which are handed out first. It is retired. Only for an allocator that is new."""
        self.rate, self._last_stock, self._cut_to = before.rate, before._last_stock, before._cut_to
        self._rated_s = before._rated_s
        if before._outstanding is not None:  # nobody will hear what becomes of it
            self._cut_to = max(1, before._outstanding.count // 2)
        if keep:
            self.inherit(before._give_up())
        before._retired = True

    def _give_up(self) -> list[range]:
        """The ids in memory, which are another's now."""
        unused = self.unused
        self.granted_ids -= self.held
        self._point_at(range(0))
        self._rest.clear()
        self._rest_count = 0
        return unused

    def keep_for(self, runway_s: float) -> None:
        """From the next request on, let ids last so long."""
        assert runway_s > 0
        self._runway_s = runway_s

    def inherit(self, blocks: Iterable[range]) -> None:
        """Hand these ids out before those of the next grant."""
        for ids in blocks:
            self._keep(ids)
            self.granted_ids += len(ids)
        self.stock = self.held
        self._low = self._mark = self.held // 2
        self._cut_at_mark()

    def lost(self, cause: str, count: int) -> None:
        """`count` ids that were to come into memory became a gap on the way."""
        assert cause not in FROM_MEMORY
        self._gap(cause, count)

    def returned(self, count: int, *, too_many: int) -> None:
        """Of the ids dropped at a stop the store took `count` back, and had no room for `too_many`.

        What is dropped at a stop is a gap until then, whatever becomes of the give-back.
        """
        self.returned_ids += count
        self._gap("stop", -count - too_many)
        self._gap("full", too_many)
        assert self.gaps["stop"] >= 0
        if not self.gaps["stop"]:
            del self.gaps["stop"]

    # --- the row of blocks -----------------------------------------------------------------------

    def _keep(self, ids: range) -> None:
        if self._hold_s is None and self._rest and ranges.continues(self._rest[-1], ids):
            before = self._rest.pop()
            ids = range(before.start, ids.stop, ids.step)
            self._rest_count -= len(before)
        self._rest.append(ids)
        self._rest_count += len(ids)

    def _cut_at_mark(self) -> None:
        """Point the cursor anew, so that it ends where `_mark` ids are left."""
        if self._hold_s is not None:
            self.advance()
            return
        remaining = self._remaining_segment()
        if remaining:
            self._point_at(range(0))
            if self._rest and ranges.continues(remaining, self._rest[0]):
                after = self._rest.popleft()
                self._rest_count -= len(after)
                remaining = range(remaining.start, after.stop, after.step)
            self._rest.appendleft(remaining)
            self._rest_count += len(remaining)
        if self._rest:
            self._load()

    def _load(self) -> None:
        """Point the cursor at the next block, or at its part before the mark."""
        ids = self._rest.popleft()
        before_mark = self._rest_count - self._mark
        self._rest_count -= len(ids)
        if 0 < before_mark < len(ids):
            ids, after = ranges.split(ids, before_mark)
            self._rest.appendleft(after)
            self._rest_count += len(after)
        self._point_at(ids)

    def _point_at(self, ids: range) -> None:
        self._segment = ids
        self.cursor = iter(ids)

    def _left_in_segment(self) -> int:
        left: int = self.cursor.__length_hint__()  # type: ignore[attr-defined]
        return left

    def _remaining_segment(self) -> range:
        return self._segment[len(self._segment) - self._left_in_segment() :]

    def _drop(self, cause: str) -> int:
        assert cause in FROM_MEMORY
        dropped = self.held
        self._gap(cause, dropped)
        self._point_at(range(0))
        self._rest.clear()
        self._rest_count = 0
        self._loans.clear()
        return dropped

    def _gap(self, cause: str, count: int) -> None:
        if count:
            self.gaps[cause] = self.gaps.get(cause, 0) + count
