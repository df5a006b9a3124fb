"""The writes to the store per million ids, and the ids in memory, in virtual time.

A `Service` runs over a store in memory, on a loop whose clock jumps to the next timer. Minutes of
load take seconds, and the figure does not depend on the machine.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from benchmarks.measure import Row, check
from benchmarks.memory import MemoryStore
from idservice import errors
from idservice.allocation.context import Limits
from idservice.allocation.local_counter import LocalCounter
from idservice.allocation.service import Service

GOAL = 10.0
GOAL_LOST = 2.01  # as documented: two runways, and the error of a measured rate
RATE = 10_000  # ids per second
TICK_S = 0.001
TICKS_PER_LOOK = 10  # at the ids that are reserved and not handed out
RAMP_RUNWAYS = 2
MILLION = 1_000_000

T = TypeVar("T")


def run(quick: bool) -> list[Row]:
    """Return the rows of `writes`."""
    rate, runways = (1_000, 2) if quick else (RATE, 10)
    runway_s = 6.0 if quick else Limits().runway
    rows = []
    for delay_s in (0.01, 1.0):
        ramp, steady = virtual(_load(delay_s, rate=rate, runway_s=runway_s, runways=runways))
        store = f"store of {delay_s * 1000:g} ms"
        what, goal = f"writes per million ids at {rate:,}/s, {store}", None if quick else GOAL
        rows += [
            Row(f"{what}, steady", steady.per_million, goal=goal, note=str(steady)),
            Row(f"{what}, first minute", ramp.per_million, note=str(ramp)),
            Row(
                f"writes: ids that a crash loses at most, in runways, {store}",
                steady.most_lost / rate / runway_s,
                goal=None if quick else GOAL_LOST,
                note=f"{steady.most_lost:,} ids",
            ),
        ]
    each = virtual(_write_per_id(1_000))
    rows.append(Row("writes per million ids, a write per id", each, note="what is replaced"))
    return rows


@dataclass(frozen=True, slots=True)
class Span:
    """The counts of a stretch of time."""

    ids: int
    writes: int
    waits: int
    refused: int
    most_lost: int

    def __str__(self) -> str:
        return f"{self.writes} for {self.ids:,} ids; {self.waits} waited, {self.refused} refused"

    @property
    def per_million(self) -> float:
        """Writes per million ids."""
        return self.writes * MILLION / self.ids


async def _load(delay_s: float, *, rate: int, runway_s: float, runways: int) -> tuple[Span, Span]:
    store = MemoryStore(delay_s)
    service = Service(store, Limits(runway=runway_s), random=Random(1), declared=["default"])
    async with service:
        await service.warm()
        supply = await service.local_counter("default")
        seen = bytearray(rate * (runways + 3 * RAMP_RUNWAYS) * int(runway_s))
        ramp = await _drive(supply, store, seen, rate=rate, seconds=RAMP_RUNWAYS * runway_s)
        steady = await _drive(supply, store, seen, rate=rate, seconds=runways * runway_s)
        reading = supply.reading()
        check(reading.issued == sum(seen) == ramp.ids + steady.ids, "ids were lost or repeated")
        check(reading.reserved == reading.issued + reading.held, "there are gaps")
        check(steady.writes > 0, "no refill was seen")
        check(steady.waits == steady.refused == 0, f"a request waited in steady state: {steady}")
    return ramp, steady


async def _drive(
    supply: LocalCounter, store: MemoryStore, seen: bytearray, *, rate: int, seconds: float
) -> Span:
    """Take ids at an even rate; requests that memory cannot serve wait, and delay no others."""
    loop = asyncio.get_running_loop()
    writes, waits, began = store.writes, supply.stats.waits, loop.time()
    waiting: set[asyncio.Task[int]] = set()
    each, most_lost = round(rate * TICK_S), 0
    for tick in range(1, round(seconds / TICK_S) + 1):
        for _ in range(each):
            id = supply.take()
            if id is None:
                waiting.add(asyncio.create_task(supply.next_id()))
            else:
                check(not seen[id], f"id {id} came twice")
                seen[id] = 1
        if not tick % TICKS_PER_LOOK:
            most_lost = max(most_lost, store.reserved - supply.reading().issued)
        await asyncio.sleep(began + tick * TICK_S - loop.time())
    refused = 0
    for late in await asyncio.gather(*waiting, return_exceptions=True):
        if isinstance(late, errors.Unavailable):
            refused += 1
        elif isinstance(late, BaseException):
            raise late
        else:
            check(not seen[late], f"id {late} came twice")
            seen[late] = 1
    return Span(
        ids=each * round(seconds / TICK_S) - refused,
        writes=store.writes - writes,
        waits=supply.stats.waits - waits,
        refused=refused,
        most_lost=most_lost,
    )


async def _write_per_id(count: int) -> float:
    store = MemoryStore()
    counter = await store.counter("default")
    ids = [
        id
        for _ in range(count)
        for id in (await store.reserve(counter, count=1, seen=0, room=counter.limit)).indices
    ]
    check(ids == list(range(count)), "ids were lost or repeated")
    return store.writes * MILLION / count


# --- virtual time ---------------------------------------------------------------------------------


class _JumpingSelector(selectors.DefaultSelector):
    """Let the clock of the loop jump instead of sleeping."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def virtual(work: Coroutine[object, object, T]) -> T:
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(work)
