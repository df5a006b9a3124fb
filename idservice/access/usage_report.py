"""Reports usage: what the runs of all instances wrote, added up by day, and by counter or tally."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from idservice import errors
from idservice.core.access_key import EVERYTHING, covers, why_no_scope
from idservice.core.usage import RunEnd, UsageKind, UsagePart, day_of, is_final
from idservice.stores.at_once import for_each
from idservice.stores.instants import day_in, day_text
from idservice.stores.usage_store import UsageStore

DAYS_MAX = 400  # of one report
MONTH = re.compile(r"(19[7-9][0-9]|2[0-9]{3})-(0[1-9]|1[0-2])", re.ASCII)
COLUMNS = ("day", "counter", "kind", "count", "reserved", "final")
NOTES = (
    "Nothing is counted twice: only a run itself writes its totals of a day, whole each time.",
    "A crash loses at most the last minute, in the customer's favour.",
    "Ids that are lost are not billed, and an add that is sent again is billed once.",
    "`reserved` is an upper bound of `count`: the ids in memory or reserved on that day.",
    "A day is final 24 hours after its end, and changes no more.",
)


@dataclass(frozen=True, slots=True)
class UsagePeriod:
    """The days of a report, first and last, and the scope that it covers."""

    first: int
    last: int
    scope: str = EVERYTHING


@dataclass(frozen=True, slots=True)
class DayUsage:
    """One counter or tally on one day, by all runs. `reserved` is None for a tally."""

    day: int
    name: str
    kind: UsageKind
    count: int
    reserved: int | None
    final: bool


@dataclass(frozen=True, slots=True)
class RunSeen:
    """One run on one day: its first and last write, in milliseconds since 1970, and its end."""

    day: int
    run: str
    first: int
    last: int
    end: RunEnd


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Usage in a period. The runs are those that handed out what the report shows. It is `final` if
    each day of the period is."""

    period: UsagePeriod
    usage: list[DayUsage]
    runs: list[RunSeen]
    final: bool

    def total(self, kind: UsageKind) -> int:
        """Return the sum over all days."""
        return sum(row.count for row in self.usage if row.kind is kind)


def period(
    now_ms: int,
    *,
    first: str | None = None,
    last: str | None = None,
    month: str | None = None,
    scope: str | None = None,
) -> UsagePeriod:
    """Return the period of a month, such as `2026-10`, or of all days from `first` to `last`, such
    as `2026-10-01`. Without `last` they end today; without `first` they begin with the last one's
    month.

    Raises BadUsageReport.
    """
    if scope is not None and (why := why_no_scope(scope)):
        raise _bad(why)
    if month is not None:
        if first is not None or last is not None:
            raise _bad("it names a month and days; name either the month or the days")
        if not MONTH.fullmatch(month):
            raise _bad(f"the month is {month[:80]!r}; write one since 1970 as 2026-10")
        begin = _day("month", f"{month}-01")
        return UsagePeriod(begin, _month_of(begin + 31) - 1, scope or EVERYTHING)
    end = day_of(now_ms) if last is None else _day("last day", last)
    begin = _month_of(end) if first is None else _day("first day", first)
    if begin > end:
        raise _bad(f"its first day, {day_text(begin)}, is after its last one, {day_text(end)}")
    if end - begin >= DAYS_MAX:
        raise _bad(f"it has {end - begin + 1} days; ask for at most {DAYS_MAX} at once")
    return UsagePeriod(begin, end, scope or EVERYTHING)


def _bad(why: str) -> errors.BadUsageReport:
    return errors.BadUsageReport(why=why)


def _day(which: str, text: str) -> int:
    try:
        day = day_in(text)
        if day < 0:
            raise ValueError
    except ValueError:
        why = f"its {which} is {text[:80]!r}; write a day since 1970 as 2026-10-31"
        raise _bad(why) from None
    return day


def _month_of(day: int) -> int:
    """Return the first day of the month of a day."""
    return day_in(f"{day_text(day)[:7]}-01")


async def report(
    store: UsageStore,
    asked: UsagePeriod,
    *,
    now_ms: int,
    sees: Callable[[str], bool] = lambda name: True,
) -> UsageReport:
    """Return what the store has of a period; only names that the asker `sees`. Raises StoreError,
    UsageIllFormed."""
    days = range(asked.first, min(asked.last, day_of(now_ms) + 1) + 1)
    found = await for_each(days, store.parts)

    def shown(name: str) -> bool:
        return covers(asked.scope, name) and sees(name)

    usage: list[DayUsage] = []
    runs: list[RunSeen] = []
    for day, parts in zip(days, found, strict=True):
        usage += _added_up(day, parts, shown, final=is_final(day, now_ms))
        runs += _runs(day, [one for one in parts if any(shown(row.name) for row in one.rows)])
    return UsageReport(asked, usage, runs, is_final(asked.last, now_ms))


def _added_up(
    day: int, parts: Sequence[UsagePart], shown: Callable[[str], bool], *, final: bool
) -> list[DayUsage]:
    sums: dict[tuple[str, UsageKind], tuple[int, int]] = {}
    for part in parts:
        for row in part.rows:
            if row.count and shown(row.name):
                count, reserved = sums.get((row.name, row.kind), (0, 0))
                sums[row.name, row.kind] = count + row.count, reserved + (row.reserved or 0)
    found = []
    for (name, kind), (count, reserved) in sorted(sums.items()):
        bound = reserved if kind is UsageKind.IDS else None
        found.append(
            DayUsage(day=day, name=name, kind=kind, count=count, reserved=bound, final=final)
        )
    return found


def _runs(day: int, parts: Sequence[UsagePart]) -> list[RunSeen]:
    by_run: dict[str, list[UsagePart]] = {}
    for part in parts:
        by_run.setdefault(part.run, []).append(part)
    seen = []
    for run, its in by_run.items():
        newest = max(its, key=attrgetter("last"))
        seen.append(RunSeen(day, run, min(one.first for one in its), newest.last, newest.end))
    return sorted(seen, key=attrgetter("first", "run"))


def csv_lines(usage: Sequence[DayUsage]) -> str:
    """Return usage as comma-separated values. No name needs quotes: it has no comma in it."""
    lines = [",".join(COLUMNS)]
    for row in usage:
        reserved = "" if row.reserved is None else str(row.reserved)
        final = "true" if row.final else "false"
        lines.append(f"{day_text(row.day)},{row.name},{row.kind},{row.count},{reserved},{final}")
    return "\n".join([*lines, ""])
