"""The cost of an id in an application that takes it through the Python client.

One real service runs on the core for servers, and the clients in this process on the other. For the
cost of a call, which is CPU time without that of the empty loop, all ids are in memory. For ids per
second, which are by the clock, the client also refills. Afterwards all ids must be distinct.
"""

import asyncio
import tempfile
import time
from array import array
from collections.abc import Callable
from itertools import islice, repeat
from pathlib import Path
from statistics import median

from benchmarks.measure import ROUNDS, Row, check, interleaved, spread
from benchmarks.processes import on_load_core, serving
from idservice.client import AsyncClient, Client

GOALS_NS = {"synchronous": 60.0, "asyncio": 150.0}
GOAL_MARK_NS = 5.0
GOAL_PER_S = 5_000_000
WARM = 4  # ids taken before, as a multiple of those measured, so that a block holds them all
WORDS = {
    "synchronous": "client.next_id()",
    "asyncio": "await client.next_id()",
    "function": "an empty function, for comparison",
    "coroutine": "await of an empty coroutine, for comparison",
}


def run(quick: bool) -> list[Row]:
    """Return the rows of `client`."""
    count, rounds, most = (5_000, 1, 50_000) if quick else (300_000, 2 * ROUNDS, 10_000_000)
    with tempfile.TemporaryDirectory() as folder, on_load_core():
        store = f"sqlite:{Path(folder) / 'client'}"
        with serving("--store", store, "--init") as (port, _, _):
            url = f"http://127.0.0.1:{port}"
            candidates: dict[str, Callable[[], float]] = {
                "empty": lambda: _empty(count),
                "synchronous": lambda: _synchronous(url, count),
                "unmarked": lambda: _synchronous(url, count, marked=False),
                "asyncio": lambda: asyncio.run(_asyncio(url, count)),
                "function": lambda: _function(count),
                "coroutine": lambda: asyncio.run(_coroutine(count)),
            }
            found = interleaved(candidates, rounds)
            per_second = [_flat_out(url, most) for _ in range(1 if quick else 5)]
    empty, unmarked = found.pop("empty"), found.pop("unmarked")
    mark = [(a - b) / count * 1e9 for a, b in zip(found["synchronous"], unmarked, strict=True)]
    rows = []
    for name, seconds in found.items():
        ns = [(one - other) / count * 1e9 for one, other in zip(seconds, empty, strict=True)]
        rows.append(Row(f"client: {WORDS[name]}", median(ns), "ns", GOALS_NS.get(name), spread(ns)))
    return [
        *rows,
        Row(
            "client: of next_id, the check that this process took the ids",
            median(mark),
            "ns",
            GOAL_MARK_NS,
            spread(mark),
        ),
        Row(
            "client: ids per second, one process, one service",
            median(per_second),
            goal=GOAL_PER_S,
            at_least=True,
            note=f"for id in client, {most:,} ids a round, {spread(per_second, ',.0f')}",
        ),
    ]


# --- candidates: the same loop around each --------------------------------------------------------


def _empty(count: int) -> float:
    began = time.process_time()
    for _ in repeat(None, count):
        pass
    return time.process_time() - began


def _synchronous(url: str, count: int, *, marked: bool = True) -> float:
    with Client(url, hold=60, timeout=10) as client:
        if not marked:  # as a client would be if it could repeat ids after a fork in C
            client._ids._guarded = None
        for _ in islice(client, WARM * count):
            pass
        began = time.thread_time()
        for _ in repeat(None, count):
            client.next_id()
        return time.thread_time() - began


async def _asyncio(url: str, count: int) -> float:
    async with AsyncClient(url, hold=60, timeout=10) as client:
        for _ in range(WARM * count):
            await client.next_id()
        began = time.thread_time()
        for _ in repeat(None, count):
            await client.next_id()
        return time.thread_time() - began


def _function(count: int) -> float:
    def nothing() -> None:
        pass

    began = time.thread_time()
    for _ in repeat(None, count):
        nothing()
    return time.thread_time() - began


async def _coroutine(count: int) -> float:
    async def nothing() -> None:
        pass

    began = time.thread_time()
    for _ in repeat(None, count):
        await nothing()
    return time.thread_time() - began


def _flat_out(url: str, most: int) -> float:
    """Return ids per second over `most` ids, once the blocks have grown."""
    with Client(url, timeout=10) as client:
        endless = iter(client)
        list(islice(endless, most // 10))  # until the blocks have grown
        began = time.perf_counter()
        ids = array("Q", islice(endless, most))
        seconds = time.perf_counter() - began
    check(len(set(ids)) == most, "an id came twice")
    return most / seconds
