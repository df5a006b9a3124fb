"""The time for which a service goes on at full rate without its store, from the worst moment.

One client asks at a steady rate. Memory holds between one runway and two, and least just before a
refill. Shortly before a refill the SQLite file is locked for good. The figure is the time until the
first request that is not answered in time.
"""

import re
import sqlite3
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Connection
from benchmarks.measure import Row, check, distinct
from benchmarks.processes import get, on_load_core, serving

LOW = 0.56  # share of the ids held after a refill; the next refill begins at half of them
STEADY = 1.05  # ratio to the refill before, below which memory grows no more


@dataclass(frozen=True, slots=True)
class Size:
    """The extent of the measurement."""

    runway_s: int = 30
    rate: int = 200
    goal_s: float = 25.0
    in_time_s: float = 0.2  # an answer that takes longer waited for the store
    wait_s: int = 1  # of a request, for the store
    patience: int = 5  # runways until memory has been through a whole round


QUICK = Size(runway_s=2, goal_s=1.0, in_time_s=5.0, wait_s=30, patience=30)  # of a busy machine


class Client(Connection):
    """Takes one id after the other, each at its time."""

    def __init__(self, port: int, size: Size) -> None:
        super().__init__(port)
        self.socket.settimeout(size.in_time_s)
        self.ids: list[int] = []
        self._apart_s = 1 / size.rate
        self._due = time.perf_counter()

    def one(self) -> bool:
        """Take an id; return True if it came in time."""
        self._due += self._apart_s
        time.sleep(max(0.0, self._due - time.perf_counter()))
        self.send()
        try:
            while (id := self.receive()) is None:
                pass
        except TimeoutError:
            return False
        self.ids.append(id)
        return True


def run(quick: bool) -> list[Row]:
    """Return the rows of `outage`."""
    size = QUICK if quick else Size()
    with tempfile.TemporaryDirectory() as folder, on_load_core():
        file = Path(folder) / "store"
        store = ("--store", f"sqlite:{file}", "--init", "--runway", str(size.runway_s))
        wait = ("--wait", str(size.wait_s))
        with serving(*store, *wait) as (port, _, _), Client(port, size) as client:
            full = _near_the_worst(client, port, size)
            locker = sqlite3.connect(file, isolation_level=None)
            locker.execute("BEGIN EXCLUSIVE")
            held, began = _held(port), time.perf_counter()
            check(held < 0.7 * full, "a refill was quicker")
            most = began + size.patience * size.runway_s
            while client.one():
                check(time.perf_counter() < most, "the store was not gone")
            lasted = time.perf_counter() - began - size.in_time_s
            locker.close()
    distinct(client.ids)
    return [
        Row(
            f"outage: seconds at full rate without the store, runway {size.runway_s} s",
            lasted,
            "s",
            size.goal_s,
            f"{size.rate:,} ids/s; {held:,.0f} ids in memory when it went",
            at_least=True,
        )
    ]


def _near_the_worst(client: Client, port: int, size: Size) -> float:
    """Ask at the rate until memory grows no more and a refill is near. Return the number of ids
    after the last refill."""
    began, held, peaks = time.perf_counter(), 0.0, [0.0, 0.0]
    while True:
        check(time.perf_counter() < began + size.patience * size.runway_s, "memory never ran low")
        for _ in range(size.rate // 20):
            check(client.one(), "a request waited while the store was there")
        before, held = held, _held(port)
        if held > before:
            peaks.append(held)
        if peaks[-1] < STEADY * peaks[-2] and held < LOW * peaks[-1]:
            return peaks[-1]


def _held(port: int) -> float:
    found = re.search(
        r'idservice_ids_in_memory\{counter="default"\} (\S+)', get(port, "/metrics")[1]
    )
    check(found is not None, "no idservice_ids_in_memory on /metrics")
    assert found is not None
    return float(found[1])
