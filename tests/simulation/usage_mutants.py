"""Planted faults in usage: one rule broken each, which the world must find."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from idservice.access.usage import LOOK_S, UsageMeter
from idservice.allocation.service import Service
from idservice.core.tally import AddFate
from idservice.core.usage import (
    DAY_MS,
    RunTotals,
    UsageKind,
    UsagePart,
    UsageReading,
)
from idservice.server.startup import usage_readings
from idservice.tallies.service import Tallies
from tests.simulation.store import Table
from tests.simulation.usage_world import BEFORE_S, DAY, UsageParts

honest_due, honest_looked, honest_wrote = RunTotals.due, RunTotals.looked, RunTotals.wrote


class Unconditional(Table):
    """Takes every write, also one that is older than what it has."""

    def write_usage(self, part: UsagePart) -> bool:
        self.usage[part.day, part.name] = part
        return True


class Adding(Table):
    """Adds what it is sent, as a counter of DynamoDB does with ADD."""

    def write_usage(self, part: UsagePart) -> bool:
        found = self.usage.get((part.day, part.name))
        before = {(row.kind, row.name): row.count for row in found.rows} if found else {}
        rows = {(row.kind, row.name): row for row in part.rows}
        kept = tuple(
            replace(row, count=row.count + before.get(named, 0)) for named, row in rows.items()
        )
        self.usage[part.day, part.name] = replace(part, rows=kept)
        return True


def increments(self: RunTotals) -> Iterator[tuple[UsagePart, int]]:
    """What was handed out since the last write that was answered."""
    acknowledged = _acknowledged(self)
    for part, version in honest_due(self):
        known = acknowledged.get((part.day, part.number), {})
        rows = tuple(
            replace(row, count=row.count - known.get((row.kind, row.name), 0)) for row in part.rows
        )
        yield replace(part, rows=rows), version


def noted_increments(self: RunTotals, part: UsagePart, version: int) -> None:
    known = _acknowledged(self).setdefault((part.day, part.number), {})
    for row in part.rows:
        known[row.kind, row.name] = known.get((row.kind, row.name), 0) + row.count
    honest_wrote(self, part, version)


def _acknowledged(totals: RunTotals) -> dict[tuple[int, int], dict[Any, int]]:
    found: dict[tuple[int, int], dict[Any, int]] = _told.setdefault(id(totals), {})
    return found


_told: dict[int, dict[tuple[int, int], dict[Any, int]]] = {}


class AtTicks(UsageMeter):
    """Does not look at midnight, but where it would look anyway."""

    async def _look_on_time(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._look_at - self._loop.time()))
            await self.look()


class Seldom(UsageMeter):
    """Looks every 100 s, and at midnight."""

    async def _look_on_time(self) -> None:
        while True:
            midnight_s = (DAY_MS - self._now() % DAY_MS) / 1000
            await asyncio.sleep(min(midnight_s, 2 * LOOK_S))
            await self.look()


class WithoutLastWrite(UsageMeter):
    """Ends at a stop as it does at a kill."""

    async def stop(self, within_s: float) -> None:
        pass


class WithoutLastLook(UsageMeter):
    """Writes at a stop what it saw before."""

    async def stop(self, within_s: float) -> None:
        with mock.patch.object(self, "look", _nothing):
            await super().stop(within_s)


async def _nothing() -> None:
    pass


def since_the_start(self: RunTotals, day: int, now_ms: int) -> None:
    """The next day goes on with the totals of the one before."""
    base = self._base
    honest_looked(self, day, now_ms)
    self._base = base


def from_nothing_held(self: RunTotals, day: int, now_ms: int) -> None:
    """What was in memory at midnight counts as reserved on no later day."""
    before = self.day
    honest_looked(self, day, now_ms)
    if self.day > before:
        self._base = {named: replace(one, held=0) for named, one in self._base.items()}


class FiledToday(Table):
    """Files what comes after midnight under the new day."""

    def write_usage(self, part: UsagePart) -> bool:
        is_over = asyncio.get_running_loop().time() > BEFORE_S
        return super().write_usage(replace(part, day=DAY + 1) if is_over else part)


def numbered_once(self: RunTotals) -> Iterator[tuple[UsagePart, int]]:
    """A write that failed has the number of the one before it."""
    for made, version in honest_due(self):
        part = _part(self, made)
        part.seq -= 1
        yield made, version


def numbered_on(self: RunTotals, part: UsagePart, version: int) -> None:
    _part(self, part).seq += 1
    honest_wrote(self, part, version)


def _part(totals: RunTotals, part: UsagePart) -> Any:
    day = next(one for one in totals._days if one.day == part.day)
    return day.parts[part.number]


def all_written(self: RunTotals, part: UsagePart, version: int) -> None:
    """What changed during a write counts as written with it."""
    honest_wrote(self, part, _part(self, part).version)


def with_wasted(service: Service, tallies: Tallies) -> Iterable[UsageReading]:
    """Ids count that were taken, whatever became of them."""
    for reading in usage_readings(service, tallies):
        gaps = 0
        if reading.kind is UsageKind.IDS:
            gaps = service.local_counters[reading.name].allocator.gaps.get("abandoned", 0)
        yield replace(reading, count=reading.count + gaps)


def with_reserved(service: Service, tallies: Tallies) -> Iterable[UsageReading]:
    """Ids count once they are reserved."""
    for reading in usage_readings(service, tallies):
        count = reading.brought if reading.kind is UsageKind.IDS else reading.count
        yield replace(reading, count=count)


def with_replays(service: Service, tallies: Tallies) -> Iterable[UsageReading]:
    """Adds count each time that they are sent."""
    for reading in usage_readings(service, tallies):
        if reading.kind is UsageKind.ADDS:
            adds = next(one.stats.adds for one in tallies.samples() if one.tally == reading.name)
            counted = adds.get(AddFate.COUNTED.value, 0) + adds.get("replayed", 0)
            reading = replace(reading, count=counted)
        yield reading


@dataclass(frozen=True)
class UsageMutant:
    """A fault; `check` must see it. `patched` are methods of `RunTotals`."""

    name: str
    check: str
    parts: UsageParts = field(default_factory=UsageParts)
    patched: tuple[tuple[str, Any], ...] = ()
    found_by: int = 0  # the seed that is tried first

    def planted(self) -> AbstractContextManager[object]:
        """The fault in place, as long as this is entered."""
        if not self.patched:
            return nullcontext()
        return mock.patch.multiple(RunTotals, **dict(self.patched))


USAGE_MUTANTS = (
    UsageMutant(
        "increments in place of totals", "over", UsageParts(table=Adding),
        (("due", increments), ("wrote", noted_increments)),
    ),
    UsageMutant(
        "an older write over a newer one", "lost", UsageParts(table=Unconditional), found_by=6,
    ),
    UsageMutant(
        "a number used twice", "lost",
        patched=(("due", numbered_once), ("wrote", numbered_on)),
    ),
    UsageMutant("no look at midnight", "over", UsageParts(meter=AtTicks)),
    UsageMutant("a look every 100 s", "lost", UsageParts(meter=Seldom), found_by=1),
    UsageMutant("a day begins with the run", "over", patched=(("looked", since_the_start),)),
    UsageMutant(
        "a late write into the present day", "over", UsageParts(table=FiledToday), found_by=2,
    ),
    UsageMutant(
        "a change during a write forgotten", "silent", patched=(("wrote", all_written),),
        found_by=25,
    ),
    UsageMutant("wasted ids billed", "over", UsageParts(readings=with_wasted)),
    UsageMutant("reserved ids billed", "over", UsageParts(readings=with_reserved)),
    UsageMutant("replayed adds billed", "over", UsageParts(readings=with_replays)),
    UsageMutant("a stop without its last write", "lost", UsageParts(meter=WithoutLastWrite)),
    UsageMutant("a stop without its last look", "lost", UsageParts(meter=WithoutLastLook)),
    UsageMutant(
        "ids in memory at midnight not at hand", "reserved",
        patched=(("looked", from_nothing_held),), found_by=1,
    ),
)  # fmt: skip
