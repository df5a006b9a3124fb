"""The effect of a reshard: p99 of `GET /next`, second by second, while shards go 1 -> 8 -> 2.

Two instances on one SQLite file are asked in turns at a fixed rate. A latency counts from the time
a request was meant to be sent, and an answer that is not an id ends the benchmark. The runway is so
short that both reserve in every epoch.
"""

import asyncio
import json
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from statistics import median

from benchmarks.latency import Counted
from benchmarks.load import Clock, Connection, Target, at_rate
from benchmarks.measure import Row, check, distinct
from benchmarks.processes import get, on_load_core, serving
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Reshard
from idservice.stores.sqlite.store import SQLiteStore

GOAL = 3.0
CONNECTIONS = 32
STEPS = (8, 2)  # shards


@dataclass(frozen=True, slots=True)
class Size:
    """The extent of the measurement."""

    runway_s: int = 4
    rate: int = 5_000  # ids/s of both instances together
    warm_up_s: float = 15.0
    steady_s: float = 20.0
    step_s: float = 15.0  # after each reshard


QUICK = Size(runway_s=1, rate=40, warm_up_s=1.0, steady_s=2.0, step_s=4.0)


class Instance(Target):
    """A target that keeps the time at which each of its answers was asked for."""

    def __init__(self, port: int, stack: ExitStack, clock: Clock) -> None:
        super().__init__(port, CONNECTIONS, stack, clock)
        self.port = port
        self.asked_at: list[float] = []

    def answered(self, connection: Connection) -> None:
        """Read what came on a connection."""
        intended, before = connection.intended, len(self.ids)
        super().answered(connection)
        self.asked_at += [intended] * (len(self.ids) - before)


def run(quick: bool) -> list[Row]:
    """Return the rows of `reshard`."""
    size = QUICK if quick else Size()
    clock = Clock()
    with ExitStack() as stack:
        stack.enter_context(on_load_core())
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "store"
        flags = ("--store", f"sqlite:{file}", "--init", "--runway", str(size.runway_s))
        if quick:
            flags += ("--wait", "30")  # of a busy machine
        ports = [stack.enter_context(serving(*flags))[0] for _ in range(2)]
        instances = [Instance(port, stack, clock) for port in ports]
        each = size.rate / len(instances)
        at_rate(instances, clock, each, size.warm_up_s)
        waits = sum(Counted.of(port).waits for port in ports)
        began = clock.now()
        operator = threading.Thread(target=_operate, args=(str(file), size))
        operator.start()
        at_rate(instances, clock, each, size.steady_s + len(STEPS) * size.step_s)
        operator.join()
        for port in ports:
            shown = json.loads(get(port, "/v1/counters/default")[1])
            check((shown["epoch"], shown["shards"]) == (1 + len(STEPS), STEPS[-1]), f"{shown}")
        waits = sum(Counted.of(port).waits for port in ports) - waits
    distinct([id for instance in instances for id in instance.ids])
    return _rows(instances, size, began, waits, clock)


def _operate(file: str, size: Size) -> None:
    """Do the work of `idservice reshard`, without the start of a process beside the load."""

    async def reshard(shards: int) -> None:
        async with SQLiteStore(file) as store:
            changer = EpochChanger(store, random=SystemRandom(), stale_s=60.0)
            await changer.change("default", Reshard(shards=shards))

    time.sleep(size.steady_s)
    for shards in STEPS:
        asyncio.run(reshard(shards))
        time.sleep(0.8 * size.step_s)


def _rows(
    instances: list[Instance], size: Size, began: float, waits: int, clock: Clock
) -> list[Row]:
    seconds: dict[int, list[float]] = {}
    for instance in instances:
        for at, latency in zip(instance.asked_at, instance.latencies, strict=True):
            seconds.setdefault(int(at - began), []).append(latency * 1000)
    whole = range(round(size.steady_s + len(STEPS) * size.step_s))
    p99 = [sorted(seconds[second])[int(0.99 * len(seconds[second]))] for second in whole]
    steady, changing = p99[: int(size.steady_s) - 1], p99[int(size.steady_s) - 1 :]
    return [
        Row(
            f"reshard 1 → 8 → 2 at {size.rate:,} ids/s: worst second's p99 beside steady",
            max(changing) / median(steady),
            "×",
            GOAL,
            f"{max(changing):.2f} beside {median(steady):.2f} ms; the worst steady second"
            f" {max(steady):.2f}; load held up {clock.lost:.2f} s",
        ),
        Row(
            "reshard: requests that failed, and that waited for the store",
            waits,
            note=f"0 failed of {sum(map(len, seconds.values())):,}, all ids distinct",
        ),
    ]
