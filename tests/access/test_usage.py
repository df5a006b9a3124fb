"""The meter of a run: what it writes, when, and what becomes of it while the store is away."""

import asyncio
import logging
from random import Random
from unittest import mock

import pytest

from idservice.access.usage import LOOK_S, UsageMeter
from idservice.access.usage_report import UsagePeriod, UsageReport, report
from idservice.catalogue.changes import Delete
from idservice.catalogue.counters import new_counter
from idservice.core.gap_causes import GapCause
from idservice.core.usage import (
    DAY_MS,
    PART_ROWS,
    RunEnd,
    UsageKind,
    UsagePart,
    UsageReading,
    day_of,
)
from idservice.server.startup import build_instance, usage_readings
from tests.simulation import loop
from tests.simulation.loop import elapse
from tests.simulation.serving import controlled, elsewhere, table
from tests.simulation.store import Faults, SimStore

DAY = 20_700
HOUR_S, DAY_S = 3600.0, 86_400.0


class Metered:
    """A meter over a store; `taken` is what its run handed out."""

    def __init__(self, *, begin_s: float = 0.0, faults: Faults | None = None) -> None:
        self.begin_s = DAY * DAY_S + begin_s
        self.faults = faults or Faults(latency_s=(0.0, 0.0))
        self.store = SimStore(Random(1), faults=self.faults)
        self.taken = 0
        self.meter = UsageMeter(self.store.usage, self.readings, random=Random(2), clock=self.clock)

    def clock(self) -> float:
        return self.begin_s + asyncio.get_running_loop().time()

    def readings(self) -> list[UsageReading]:
        return [UsageReading(UsageKind.IDS, "orders", self.taken, self.taken + 10, 10)]

    async def reported(self) -> UsageReport:
        honest = SimStore(Random(3), self.store.data).usage
        asked = UsagePeriod(DAY, DAY + 3)
        return await report(honest, asked, now_ms=int(self.clock() * 1000))

    async def by_day(self) -> dict[int, int]:
        return {row.day - DAY: row.count for row in (await self.reported()).usage}


async def idle() -> None:
    scene = Metered()
    running = asyncio.create_task(scene.meter.run())
    await elapse(DAY_S * 1.5)
    assert scene.store.calls == 0
    scene.taken = 3
    await elapse(LOOK_S + 1)
    assert scene.store.calls == 1
    await elapse(HOUR_S)
    assert scene.store.calls == 1
    running.cancel()
    await scene.meter.stop(1.0)
    assert scene.store.calls == 2  # it says that it ended


def test_an_idle_run_writes_nothing() -> None:
    loop.run(idle())


async def away(until_s: float) -> tuple[dict[int, int], dict[int, int]]:
    """What is reported of a run whose store is away from before midnight on, for so long after;
    and a day later."""
    begin_s = DAY_S - 600.0
    outage = (300.0, 600.0 + until_s)
    scene = Metered(begin_s=begin_s, faults=Faults(latency_s=(0.0, 0.0), outages=[outage]))
    running = asyncio.create_task(scene.meter.run())
    scene.taken = 5
    await elapse(310.0)
    scene.taken = 9
    await elapse(291.0)
    scene.taken = 12  # on the day after
    await elapse(until_s + 60.0)
    first = await scene.by_day()
    await elapse(DAY_S - until_s)
    assert (await scene.reported()).usage[0].final
    closed = await scene.by_day()
    scene.taken = 20
    await elapse(DAY_S)
    assert (await scene.by_day())[0] == closed[0]
    running.cancel()
    return first, closed


def test_what_was_not_written_is_written_later_into_its_own_day() -> None:
    first, closed = loop.run(away(22 * HOUR_S))
    assert first == {0: 9, 1: 3}
    assert closed[0] == 9


def test_what_is_too_late_is_not_sent_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    first, closed = loop.run(away(23.5 * HOUR_S))
    assert first == {0: 5, 1: 3}
    assert closed[0] == 5
    (dropped,) = [one for one in caplog.records if getattr(one, "action", "") == "usage_dropped"]
    assert dropped.getMessage() == (
        "usage: 4 ids and adds of 2026-09-04 were not written in time, so they are not billed"
    )


async def behind() -> None:
    scene = Metered(faults=Faults(latency_s=(0.0, 0.0), outages=[(0.0, 300.0)]))
    running = asyncio.create_task(scene.meter.run())
    scene.taken = 5
    await elapse(LOOK_S - 1)
    assert scene.meter.behind_s == 0
    await elapse(101.0)
    assert scene.meter.behind_s == 100.0
    await elapse(200.0)
    assert scene.meter.behind_s == 0
    running.cancel()


def test_it_is_known_for_how_long_the_store_lacks_usage() -> None:
    loop.run(behind())


async def stopped() -> None:
    scene = Metered(faults=Faults(outages=[(0.0, 1e9)]))
    scene.taken = 5
    before = asyncio.get_running_loop().time()
    await scene.meter.stop(1.0)
    assert asyncio.get_running_loop().time() <= before + 1.0
    assert await scene.by_day() == {}


def test_a_stop_waits_no_longer_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    loop.run(stopped())
    assert {getattr(one, "action", "") for one in caplog.records} == {"usage_not_written"}


async def counted_exactly() -> None:
    data = table("orders", "others")
    async with controlled(data) as (service, catalogue):
        _, _, tallies = build_instance(service.store, random=Random(5))
        local = await service.local_counter("orders")
        await local.next_batch(7)
        await local.next_id()
        local.allocator.record_wasted(1)

        def counted() -> tuple[int, int, int]:
            (one,) = [each for each in usage_readings(service, tallies) if each.name == "orders"]
            return one.count, one.brought, one.held

        count, brought, held = counted()
        assert count == 7
        assert brought >= count + held
        local.allocator.record_burnt(4, GapCause.UNKNOWN)
        service.apply_entry(await elsewhere(data, Delete()))
        assert counted()[0] == 7
        await catalogue.create(new_counter("orders", Random(4)))
        await (await service.local_counter("orders")).next_batch(2)
        assert counted()[0] == 9


def test_burnt_and_wasted_ids_do_not_count_and_a_deleted_counter_keeps_its_own() -> None:
    loop.run(counted_exactly())


async def strictly() -> None:
    async with controlled(table("orders", strict=True, limit=8)) as (service, _):
        _, _, tallies = build_instance(service.store, random=Random(5))
        local = await service.local_counter("orders")
        waiting = [asyncio.create_task(local.next_batch(count)) for count in (1, 2, 3)]
        left = asyncio.create_task(local.next_batch(3))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(*waiting)
        (one,) = usage_readings(service, tallies)
        assert one.count == 6
        assert one.brought >= 6
        assert one.held == 0


def test_a_strict_counter_counts_what_its_waiters_were_given() -> None:
    loop.run(strictly())


class Faulty(Metered):
    """Its readings fail once."""

    def readings(self) -> list[UsageReading]:
        if self.taken == 1:
            self.taken = 5
            raise RuntimeError("planted")
        return super().readings()


async def mended() -> None:
    scene = Faulty()
    scene.taken = 1
    running = asyncio.create_task(scene.meter.run())
    await elapse(2 * LOOK_S + 1)
    assert await scene.by_day() == {0: 5}
    running.cancel()


def test_a_bug_in_counting_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    loop.run(mended())
    assert [getattr(one, "action", "") for one in caplog.records] == ["usage_bug"]


async def silent() -> None:
    scene = Metered()
    running = asyncio.create_task(scene.meter.run())
    scene.taken = 5
    await elapse(2 * LOOK_S)
    running.cancel()  # killed
    (run,) = (await scene.reported()).runs
    assert (run.end, run.first, run.last) == (RunEnd.OPEN, run.first, run.first)
    assert run.first == DAY * DAY_MS + LOOK_S * 1000
    assert day_of(run.first) == DAY


def test_a_run_that_was_killed_is_seen_to_have_no_end() -> None:
    loop.run(silent())


class Suspended(Metered):
    """Its process stands still for two days while the first part of a day is written."""

    slept_s = 0.0

    def clock(self) -> float:
        return super().clock() + self.slept_s

    def readings(self) -> list[UsageReading]:
        some = range(PART_ROWS + 1) if self.taken else ()
        return [UsageReading(UsageKind.IDS, f"c{number}", 1) for number in some]


async def suspended() -> None:
    scene = Suspended(begin_s=DAY_S - 100.0)
    scene.taken = 1
    await scene.meter.look()
    write = scene.store.usage.write

    async def slowly(part: UsagePart) -> bool:
        done = await write(part)
        scene.slept_s = 2 * DAY_S
        return done

    with mock.patch.object(scene.store.usage, "write", slowly):
        assert not await scene.meter._write()
    assert len((await scene.reported()).usage) == PART_ROWS, "a part came late"


def test_a_process_that_stood_still_changes_no_day_that_is_final() -> None:
    loop.run(suspended())
