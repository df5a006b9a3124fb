"""Adds up what one run of a process hands out on each day: the totals that a customer is billed by.

A day is a number of days since 1970, in UTC. A run is one process from its start to its end, with a
random name. Its totals of a day are absolute and in parts, which it alone writes:

U1  Nothing is counted twice. A part is written whole, and only over an older `seq`: a write that is
    lost, late or repeated changes nothing that was written after it.
U2  Totals are never above what was handed out. Ids that are burnt count for nothing, and what was
    not written before a crash is not billed.
U3  What a day's totals hold was handed out on that day: the totals at midnight are where the next
    day begins.
U4  A day is final FINAL_MS after its end. A run sends nothing of it from SENT_MS on: the time
    between allows for clocks that differ, and for writes under way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

DAY_MS = 86_400_000
SENT_MS, FINAL_MS = 23 * 3_600_000, 24 * 3_600_000
PART_ROWS = 250  # of a part: 32 KB at most, and DynamoDB bills each KB of what is written


class UsageKind(StrEnum):
    """The things that are counted: ids of a counter, or adds to a tally."""

    IDS = "ids"
    ADDS = "adds"


class RunEnd(StrEnum):
    """The ways in which a run's day ended, as its parts say."""

    OPEN = ""  # the run goes on, or it ended without a last write
    MIDNIGHT = "midnight"
    STOP = "stop"


Named = tuple[UsageKind, str]  # a counter or a tally


@dataclass(frozen=True, slots=True)
class UsageReading:
    """One counter or tally as a run has counted it since it began.

    `brought` is the number of ids that it reserved and did not give back, `held` of those in
    memory. Both are 0 for a tally.
    """

    kind: UsageKind
    name: str
    count: int  # ids handed out, or adds counted
    brought: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One counter or tally on one day.

    `reserved` is the most that `count` can be: the ids in memory when the day began, and those that
    were reserved during the day. None for a tally.
    """

    kind: UsageKind
    name: str
    count: int
    reserved: int | None = None


@dataclass(frozen=True, slots=True)
class UsagePart:
    """A part of a run's day, as it is written. `first` is the time of the first look that found
    something, `last` the time up to which the totals hold, in milliseconds since 1970."""

    day: int
    run: str
    number: int
    seq: int
    first: int
    last: int
    end: RunEnd
    rows: tuple[UsageRow, ...]

    @property
    def name(self) -> str:
        """The name of the part among all of its day: that of the run, for its first one."""
        return f"{self.run}.{self.number}" if self.number else self.run


def day_of(now_ms: int) -> int:
    """Return the day of a time."""
    return now_ms // DAY_MS


def is_final(day: int, now_ms: int) -> bool:
    """Return True if the totals of a day change no more (U4)."""
    return now_ms >= (day + 1) * DAY_MS + FINAL_MS


def may_be_sent(day: int, now_ms: int) -> bool:
    """Return True if a run may still write its totals of a day (U4)."""
    return now_ms < (day + 1) * DAY_MS + SENT_MS


# --- a day of a run -------------------------------------------------------------------------------


@dataclass(slots=True)
class _PartTotals:
    """A part in memory. A change raises its `version`; `written` is the one in the store."""

    rows: dict[Named, UsageRow] = field(default_factory=dict)
    version: int = 0
    written: int = 0
    seq: int = 0
    billed: int = 0  # the sum of the rows that were written

    @property
    def counted(self) -> int:
        """Return the sum of the rows."""
        return sum(row.count for row in self.rows.values())


class _RunDay:
    """The totals of one run on one day."""

    __slots__ = ("_part_of", "day", "end", "first", "last", "parts")

    def __init__(self, day: int) -> None:
        self.day = day
        self.first = 0  # 0 before there is anything to write
        self.last = 0
        self.end = RunEnd.OPEN
        self.parts: list[_PartTotals] = []
        self._part_of: dict[Named, _PartTotals] = {}  # a row stays in the part it was first put in

    @property
    def is_written(self) -> bool:
        """Return True if the store has all of it."""
        return all(part.written == part.version for part in self.parts)

    def put(self, row: UsageRow) -> None:
        """Set a row."""
        named = row.kind, row.name
        part = self._part_of.get(named)
        if part is None:
            if not row.count:
                return
            if not self.parts or len(self.parts[-1].rows) >= PART_ROWS:
                self.parts.append(_PartTotals())
            part = self._part_of[named] = self.parts[-1]
        if part.rows.get(named) != row:
            part.rows[named] = row
            part.version += 1

    def finish(self, end: RunEnd, now_ms: int) -> None:
        """Note that nothing is added any more."""
        self.end, self.last = end, now_ms
        for part in self.parts:
            part.version += 1

    @property
    def unbilled(self) -> int:
        """Return how much of the sum of all rows is not in the store."""
        return sum(part.counted - part.billed for part in self.parts)


class RunTotals:
    """The totals of a run on the days that the store does not have in full.

    At each look, `see` gets every counter and tally, and then `looked` the day and time at which
    the look began. `due` yields the parts to write, and `wrote` gets those that were written.
    """

    def __init__(self, run: str, day: int) -> None:
        self.run = run
        self._seen: dict[Named, UsageReading] = {}
        self._base: dict[Named, UsageReading] = {}  # as it was when the present day began (U3)
        self._days = [_RunDay(day)]

    @property
    def day(self) -> int:
        """The present day. It never goes back, even if a clock does."""
        return self._days[-1].day

    @property
    def is_written(self) -> bool:
        """Return True if the store has all that was seen."""
        return all(day.is_written for day in self._days)

    def see(self, reading: UsageReading) -> None:
        """Take note of a counter or a tally."""
        named = reading.kind, reading.name
        before = self._seen.get(named)
        if before == reading or (before is None and not reading.count):
            return
        self._seen[named] = reading
        base = self._base.get(named)
        if base is None:
            base = UsageReading(*named, 0)
        # An id whose client was gone is subtracted again, maybe on the day after.
        count = max(0, reading.count - base.count)
        reserved = None
        if reading.kind is UsageKind.IDS:
            reserved = reading.brought - base.brought + base.held
        self._days[-1].put(UsageRow(*named, count, reserved))

    def looked(self, day: int, now_ms: int) -> None:
        """End a look that began at this time. If that is on a later day, all that was seen is of
        the day before, and the later day begins here (U3)."""
        present = self._days[-1]
        if not present.is_written:
            present.first = present.first or now_ms
            present.last = now_ms
        if day > present.day:
            present.finish(RunEnd.MIDNIGHT, now_ms)
            self._days = [one for one in self._days if not one.is_written]
            self._days.append(_RunDay(day))
            self._base = dict(self._seen)

    def stop(self, now_ms: int) -> None:
        """Note that the run hands out nothing any more."""
        self._days[-1].finish(RunEnd.STOP, now_ms)

    def due(self) -> Iterator[tuple[UsagePart, int]]:
        """Yield the parts that the store does not have as they are now, the oldest day first, each
        with its version, which `wrote` needs. Their `seq` was never used before."""
        for day in tuple(self._days):
            for number, part in enumerate(day.parts):
                if part.written < part.version:
                    part.seq += 1
                    made = UsagePart(
                        day.day, self.run, number, part.seq, day.first, day.last, day.end,
                        tuple(part.rows.values()),
                    )  # fmt: skip
                    yield made, part.version

    def wrote(self, part: UsagePart, version: int) -> None:
        """Take note that the store has a part, as it was at this version."""
        day = next(one for one in self._days if one.day == part.day)
        mine = day.parts[part.number]
        mine.written, mine.billed = version, sum(row.count for row in part.rows)
        self._days = [one for one in self._days[:-1] if not one.is_written] + self._days[-1:]

    def drop_late(self, now_ms: int) -> dict[int, int]:
        """Drop the days of which nothing may be sent any more (U4); return how much of each is not
        in the store, if anything."""
        late = [one for one in self._days[:-1] if not may_be_sent(one.day, now_ms)]
        self._days = [one for one in self._days if one not in late]
        return {one.day: one.unbilled for one in late if one.unbilled}
