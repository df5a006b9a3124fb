"""Judges what was asked of one tally, and answered: is there one order of it all?

It knows nothing of the service, only this: a tally is a number; each key adds its amount, or sets
the number, once for ever; what would leave the bounds is refused for ever; a read tells the number.
Every answer names a revision. That is a witness and no proof: there must be moments for all
revisions, one after the other, each of which lies within every request that was told of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from math import inf

from tests.simulation.checker import Violation

TOLD = ("ok", "refused", "reused")  # outcomes by which a key is known to have its fate


@dataclass(frozen=True, slots=True)
class Entry:
    """What an answer says of a key: it was counted, or refused, by `amount` at a revision."""

    key: str
    counted: bool
    amount: Decimal
    sum: Decimal  # behind it
    rev: int
    at: str | int

    @property
    def before(self) -> Decimal:
        return self.sum - self.amount if self.counted else self.sum


@dataclass(slots=True)
class Asked:
    """One request and its answer. Events are numbered in the order in which they happened."""

    client: str
    kind: str  # "add", "set", "read", "lookup", "suspend", "resume"
    key: str = ""
    amount: str = ""  # or the sum to set
    invoke: int = 0
    complete: float = inf
    # "ok", "refused" (for good), "reused" (the key, for another amount), "not_applied" (for this
    # request), "absent" (a lookup that found nothing), or "unknown"
    outcome: str = "unknown"
    code: str = ""
    entry: Entry | None = None  # of an add, a set, or a lookup
    first: Decimal | None = None  # of a reused key: the amount that it was used for
    sum: Decimal | None = None  # that was read,
    rev: int = 0  # and the revision; also of a suspension and its end
    at: str | int = 0
    replayed: bool = False
    instance: str = ""

    def is_for(self, entry: Entry) -> bool:
        """Whether it asks for what became this entry."""
        if self.key != entry.key or self.kind not in ("add", "set"):
            return False
        asked = Decimal(self.amount)
        return asked == (entry.amount if self.kind == "add" else entry.before + entry.amount)


@dataclass(slots=True)
class Point:
    """A revision, and between which events its moment was."""

    rev: int
    after: float = 0.0
    before: float = inf
    entries: list[Entry] = field(default_factory=list)
    reads: list[Asked] = field(default_factory=list)
    closed: bool = False  # a suspension; `opened` is the end of one
    opened: bool = False


def check_history(
    history: Sequence[Asked],
    *,
    start: Decimal = Decimal(0),
    floor: Decimal | None = None,
    ceiling: Decimal | None = None,
    whole: bool = True,
) -> dict[str, Entry]:
    """What became of each key. Raises Violation.

    It is `whole` if in the end every key was looked up: then each revision is known that changed
    the sum.
    """
    entries = _entries(history)
    _check_asked_for(history, entries)
    _check_absent(history, entries)
    points = _points(history, entries)
    _check_moments(points, history)
    if whole:
        _check_sums(points, start, floor, ceiling)
    return entries


def _entries(history: Iterable[Asked]) -> dict[str, Entry]:
    """One fate for each key, and one only."""
    entries: dict[str, Entry] = {}
    first: dict[str, Asked] = {}
    for one in history:
        if one.entry is None:
            continue
        known = entries.setdefault(one.key, one.entry)
        if known != one.entry:
            raise Violation("fate", f"{first[one.key]} and {one}")
        if one.kind != "lookup" and not one.is_for(one.entry):
            raise Violation("amount", f"{one} was told of another amount")
        if one.kind in ("add", "set") and (one.outcome == "ok") != one.entry.counted:
            raise Violation("fate", f"{one} was answered against its entry")
        first.setdefault(one.key, one)
    return entries


def _check_asked_for(history: Sequence[Asked], entries: dict[str, Entry]) -> None:
    """What was counted was asked for, and not by requests alone that were told it was not."""
    asks: dict[str, list[Asked]] = {}
    for one in history:
        asks.setdefault(one.key, []).append(one)
    for key, entry in entries.items():
        mine = [one for one in asks[key] if one.is_for(entry)]
        if not mine:
            raise Violation("asked", f"nobody asked for {entry}")
        if all(one.outcome in ("not_applied", "reused") for one in mine):
            raise Violation("not_applied", f"{entry}, and each who asked was told it was not")
        for one in asks[key]:
            if one.outcome == "reused" and (one.is_for(entry) or one.first != entry.amount):
                raise Violation("amount", f"{one}, but {entry}")
    for one in history:
        if one.outcome == "reused" and one.key not in entries:
            raise Violation("lost", f"{one}, and the key has no entry")


def _check_absent(history: Iterable[Asked], entries: dict[str, Entry]) -> None:
    told: dict[str, float] = {}
    for one in history:
        if one.outcome in TOLD and one.key:
            told[one.key] = min(told.get(one.key, inf), one.complete)
    for one in history:
        if one.outcome == "absent" and told.get(one.key, inf) < one.invoke:
            raise Violation("lost", f"{one}, but {entries.get(one.key)} was told before")


def _points(history: Iterable[Asked], entries: dict[str, Entry]) -> list[Point]:
    """The revisions that anybody was told of, in their order."""
    points: dict[int, Point] = {}
    asked: dict[str, int] = {}  # the first event at which an entry was asked for
    for one in history:
        entry = entries.get(one.key)
        if entry is not None and one.is_for(entry):
            asked[one.key] = min(asked.get(one.key, one.invoke), one.invoke)
    for entry in entries.values():
        point = points.setdefault(entry.rev, Point(entry.rev))
        point.entries.append(entry)
        point.after = max(point.after, asked[entry.key])
    for one in history:
        entry = entries.get(one.key) if one.outcome in (*TOLD, "absent") else None
        if entry is not None:
            point = points[entry.rev]
            if one.outcome == "absent":
                point.after = max(point.after, one.invoke)
            else:
                point.before = min(point.before, one.complete)
            if one.outcome == "ok" and not one.replayed and one.kind != "lookup":
                point.after = max(point.after, one.invoke)
        if one.kind in ("read", "suspend", "resume") and one.outcome == "ok":
            point = points.setdefault(one.rev, Point(one.rev))
            point.before = min(point.before, one.complete)
            if one.kind == "read":
                point.reads.append(one)
            else:
                point.after = max(point.after, one.invoke)
                point.closed |= one.kind == "suspend"
                point.opened |= one.kind == "resume"
    return [points[rev] for rev in sorted(points)]


def _check_moments(points: Sequence[Point], history: Iterable[Asked]) -> None:
    """Each revision has its moment after the one before, and no read was told an older one."""
    for point, next in pairwise(points):
        for read in point.reads:  # the next revision was not yet there when the read began
            next.after = max(next.after, read.invoke)
    # A suspension may have ended before the revision that was told of its end, or was never told.
    resumes = [one.invoke for one in history if one.kind == "resume"]
    now, since, closed, at = 0.0, 0.0, False, None
    for point in points:
        now = max(now, point.after)
        if now >= point.before:
            raise Violation("order", f"no moment for revision {point.rev}: {point}")
        closed = closed and not any(since < invoke < point.before for invoke in resumes)
        if closed and point.entries:
            raise Violation("closed", f"{point.entries} while it was suspended")
        closed = point.closed or (closed and not point.opened)
        since = point.after if point.closed else since
        ats = {entry.at for entry in point.entries} | {read.at for read in point.reads}
        if len(ats) > 1:
            raise Violation("at", f"revision {point.rev} has several times: {ats}")
        for one in ats:
            if at is not None and one < at:  # type: ignore[operator]
                raise Violation("at", f"{one} at revision {point.rev}, {at} before")
            at = one


def _check_sums(
    points: Sequence[Point], start: Decimal, floor: Decimal | None, ceiling: Decimal | None
) -> None:
    """The sum of each revision is that of the one before and what was counted."""
    sum = start
    for point in points:
        after = sum + _total(entry.amount for entry in point.entries if entry.counted)
        reached = _walked(sum, after, [one for one in point.entries if one.counted])
        if reached is None:
            raise Violation("sum", f"from {sum} nothing leads through {point.entries}")
        for one in reached:
            if not _within(one, floor, ceiling):
                raise Violation("bounds", f"{one} at revision {point.rev}")
        for entry in point.entries:
            if entry.counted:
                continue
            if entry.sum not in reached:
                raise Violation("sum", f"{entry} was refused at a sum that never was: {reached}")
            if _within(entry.sum + entry.amount, floor, ceiling):
                raise Violation("bounds", f"{entry} was refused within the bounds")
        sum = after
        for read in point.reads:
            if read.sum != sum:
                raise Violation("read", f"{read}, but the sum was {sum}")


def _walked(start: Decimal, end: Decimal, entries: Sequence[Entry]) -> set[Decimal] | None:
    """The sums that are passed if each entry leads from its sum before to its sum behind, and all
    of them, in some order, from start to end; None if they do not: a path through every edge."""
    leaving: dict[Decimal, list[Decimal]] = {}
    degree: dict[Decimal, int] = {}
    for entry in entries:
        leaving.setdefault(entry.before, []).append(entry.sum)
        degree[entry.before] = degree.get(entry.before, 0) + 1
        degree[entry.sum] = degree.get(entry.sum, 0) - 1
    degree[start] = degree.get(start, 0) - 1
    degree[end] = degree.get(end, 0) + 1
    if any(degree.values()):
        return None
    reached, ways = {start}, [start]
    while ways:
        for to in leaving.get(ways.pop(), ()):
            if to not in reached:
                reached.add(to)
                ways.append(to)
    return reached if leaving.keys() <= reached else None


def _within(sum: Decimal, floor: Decimal | None, ceiling: Decimal | None) -> bool:
    return (floor is None or sum >= floor) and (ceiling is None or sum <= ceiling)


def _total(amounts: Iterable[Decimal]) -> Decimal:
    total = Decimal(0)
    for amount in amounts:
        total += amount
    return total
