"""Runs of three processes around a midnight, whose usage goes to a store over an unkind network.

Each hands out real ids and counts real adds. They are killed or stopped at any time, and others
follow. What the clients got is the truth; the report of the store is judged by it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from unittest import mock

from idservice.access.usage import LOOK_S, UsageMeter
from idservice.access.usage_report import UsagePeriod, UsageReport, report
from idservice.allocation import catalogue_watch
from idservice.allocation.service import Service
from idservice.core.tally import Tally
from idservice.core.usage import DAY_MS, RunEnd, UsageKind, UsagePart, UsageReading, day_of
from idservice.server.startup import build_instance, usage_readings
from idservice.stores.usage_store import UsageStore
from idservice.tallies.service import Tallies
from tests.simulation.checker import Violation
from tests.simulation.loop import elapse, run
from tests.simulation.serving import table
from tests.simulation.store import Faults, SimStore, Table

DAY = 20_700
BEFORE_S = 400.6  # from the begin to midnight: writes of the first processes are under way then
LENGTH_S = 800.0
LANDED_S = 15.0  # by then the latest write on its way has arrived
COUNTERS, TALLY = ("acme.orders", "beta.orders"), "gifts"
LOST_MAX_S = 60.0  # "at most the last minute"
STOP_S = 1.0
PAUSE_S = 8.0  # of a client between two requests, on average
POLL_S = 20.0  # nobody changes a counter here: looks at the catalogue decide nothing

Row = tuple[int, str, UsageKind]


@dataclass(frozen=True)
class UsageParts:
    """What a world is built of; a planted fault replaces one of these."""

    table: type[Table] = Table
    meter: type[UsageMeter] = UsageMeter
    readings: Callable[[Service, Tallies], Iterable[UsageReading]] = usage_readings


@dataclass
class Process:
    """One run: what it handed out, when, and how its writes ended."""

    name: str = ""
    given: list[tuple[float, str, UsageKind, int]] = field(default_factory=list)
    writes: list[tuple[float, bool]] = field(
        default_factory=list
    )  # when each was sent; if it was answered
    ended_at: float = 0.0
    stopped: bool = False

    @property
    def lost_from(self) -> float:
        """From when on it may lose what it handed out."""
        failed = [at for at, done in self.writes if not done]
        if self.stopped and not (failed and failed[-1] >= self.ended_at):
            return float("inf")
        streak = []  # of writes that failed, up to the end
        for at, done in reversed(self.writes):
            if done:
                break
            streak.append(at)
        since = streak[-1] if len(streak) > 1 else self.ended_at
        return since - LOST_MAX_S


class Watched:
    """A `UsageStore` that notes how each write of a process ended."""

    def __init__(self, store: UsageStore, process: Process) -> None:
        self._store = store
        self._process = process

    async def write(self, part: UsagePart) -> bool:
        number = len(self._process.writes)
        self._process.writes.append((asyncio.get_running_loop().time(), False))
        done = await self._store.write(part)
        self._process.writes[number] = (self._process.writes[number][0], True)
        return done

    async def parts(self, day: int) -> list[UsagePart]:
        return await self._store.parts(day)


class UsageWorld:
    """Three processes at a time over one table."""

    def __init__(self, seed: int, parts: UsageParts) -> None:
        self.random = Random(seed)
        self.parts = parts
        self.data = parts.table()
        made = table(*COUNTERS)
        self.data.entries, self.data.positions = made.entries, made.positions
        self.data.recorded, self.data.revision = made.recorded, made.revision
        self.data.tallies.create(Tally(TALLY))
        self.faults = Faults(latency_s=self.random.choice(((0.0, 0.02), (0.0, 1.0), (0.5, 1.5))))
        for kind in ("lost_before", "lost_after", "late_request", "late_answer", "repeated"):
            if self.random.random() < 0.5:
                setattr(self.faults, kind, self.random.choice((0.05, 0.15, 0.3)))
        if self.random.random() < 0.5:
            start = self.random.uniform(0.0, LENGTH_S)
            self.faults.outages.append((start, start + self.random.uniform(20.0, 150.0)))
        self.processes: list[Process] = []
        self.keys = 0
        self.wasted = self.replayed = 0

    def clock(self) -> float:
        """The time of day, in seconds since 1970."""
        return (DAY + 1) * DAY_MS / 1000 - BEFORE_S + asyncio.get_running_loop().time()

    async def play(self) -> UsageReport:
        """Let all processes run; return what the store says afterwards."""
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(self._slot())
        await elapse(LANDED_S)
        store = SimStore(Random(0), self.data).usage
        asked = UsagePeriod(DAY - 1, DAY + 2)
        return await report(store, asked, now_ms=int(self.clock() * 1000))

    async def _slot(self) -> None:
        """Run one process after the other."""
        loop, rng = asyncio.get_running_loop(), self.random
        while loop.time() < LENGTH_S:
            lasts_s = rng.choice((rng.uniform(5.0, 300.0), 600.0))
            if rng.random() < 0.5:  # it ends soon after a look, with writes under way
                lasts_s += LOOK_S - lasts_s % LOOK_S + rng.uniform(0.0, 8.0)
            await self._process(lasts_s, stops=rng.random() < 0.5)
            await elapse(rng.uniform(0.0, 20.0))

    async def _process(self, lasts_s: float, *, stops: bool) -> None:
        loop, process = asyncio.get_running_loop(), Process()
        self.processes.append(process)
        store = SimStore(Random(self.random.random()), self.data)
        unkind = SimStore(Random(self.random.random()), self.data, self.faults)
        service, _, tallies = build_instance(
            store, random=Random(self.random.random()), clock=self.clock
        )
        meter = self.parts.meter(
            Watched(unkind.usage, process),
            lambda: self.parts.readings(service, tallies),
            random=Random(self.random.random()),
            clock=self.clock,
        )
        process.name = meter.run_name
        async with service:
            service.spawn(meter.run())
            client = service.spawn(self._client(service, tallies, process))
            await elapse(lasts_s)
            client.cancel()
            process.ended_at, process.stopped = loop.time(), stops
        if stops:
            await meter.stop(STOP_S)

    async def _client(self, service: Service, tallies: Tallies, process: Process) -> None:
        loop, rng = asyncio.get_running_loop(), self.random
        while True:
            await elapse(rng.expovariate(1 / PAUSE_S))
            kind, name, count = UsageKind.IDS, rng.choice(COUNTERS), rng.choice((1, 1, 2, 7))
            if rng.random() < 0.3:
                kind, name, count = UsageKind.ADDS, TALLY, 1
                count -= await self._added_before(tallies)
                self.replayed += 1 - count
            else:
                local = await service.local_counter(name)
                await local.next_batch(count)
                if rng.random() < 0.15:
                    local.allocator.record_wasted(count)  # its client was gone
                    self.wasted += count
                    continue
            process.given.append((loop.time(), name, kind, count))

    async def _added_before(self, tallies: Tallies) -> bool:
        again = self.keys and self.random.random() < 0.3
        self.keys += 0 if again else 1
        key = self.random.randrange(self.keys) if again else self.keys
        return (await tallies.add(TALLY, f"k{key}", "1")).replayed

    # --- the judgement ---------------------------------------------------------------------------

    def truth(self, process: Process, *, before: float = float("inf")) -> Counter[Row]:
        """What a process handed out before a time, by day."""
        found: Counter[Row] = Counter()
        for at, name, kind, count in process.given:
            if at < before:
                now_ms = int(((DAY + 1) * DAY_MS / 1000 - BEFORE_S + at) * 1000)
                found[day_of(now_ms), name, kind] += count
        return found

    def check(self, reported: UsageReport) -> None:
        """Raise Violation if the report is above the truth, or too far below it."""
        total = Counter[Row]()
        for process in self.processes:
            most, least = self.truth(process), self.truth(process, before=process.lost_from)
            found = Counter[Row]()
            for part in self.data.usage.values():
                if part.run == process.name:
                    found += Counter(
                        {(part.day, row.name, row.kind): row.count for row in part.rows}
                    )
            total += found
            for row in {*most, *found}:
                if found[row] > most[row]:
                    raise Violation("over", f"{row}: {found[row]} is above {most[row]}")
                if found[row] < least[row]:
                    text = f"{row}: {found[row]} is below {least[row]} of {most[row]}"
                    raise Violation("lost", text)
        if total != Counter({(one.day, one.name, one.kind): one.count for one in reported.usage}):
            raise Violation("sum", "the report is not the sum of the runs")
        told = {process.name for process in self.processes if process.lost_from == float("inf")}
        for seen in reported.runs:
            if seen.run in told and seen.end is RunEnd.OPEN:
                raise Violation("silent", f"{seen} has no end")
        for one in reported.usage:
            if one.reserved is not None and one.count > one.reserved:
                raise Violation("reserved", f"{one} is not bounded")


def play_usage(seed: int, parts: UsageParts | None = None) -> UsageWorld:
    """Play and judge one world. Raises Violation."""

    async def main() -> UsageWorld:
        world = UsageWorld(seed, parts or UsageParts())
        world.check(await world.play())
        return world

    with mock.patch.object(catalogue_watch, "POLL_S", POLL_S):
        return run(main(), seed=seed)


def usage_violation(seed: int, parts: UsageParts | None = None) -> Violation | None:
    """The promise that a world broke, if any."""
    try:
        play_usage(seed, parts)
    except Violation as violation:
        return violation
    return None
