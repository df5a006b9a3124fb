"""Adds per second to one tally, what they cost the store and the server, and how long one takes.

In one process, the calls of a store in memory take 5 ms on a thread. Over HTTP, a real server on
SQLite in memory holds each commit back until 5 ms are over. On a DynamoDB engine, CPU is compared
with a plain aiohttp application. Callers add again as soon as they are answered, each time with a
new key. At the end the sum must be that of all answers.

Several instances on one tally run in virtual time, over a store that cancels transactions that meet
each other.
"""

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import TypeVar

from benchmarks.adds import Answered, add_flat_out
from benchmarks.databases import NO_ENGINE, engine
from benchmarks.delayed import VARIABLE
from benchmarks.measure import ROUNDS, Row, check, cpu_seconds, interleaved, ratio, spread
from benchmarks.processes import (
    cores_awake,
    get,
    on_load_core,
    run_to_end,
    serving,
)
from benchmarks.slow_tallies import NAME, ContendedTallies, SlowTallies, instances
from benchmarks.strict import IN_MEMORY
from benchmarks.writes import virtual
from idservice.core.tally import ADDS_MAX, Wanted, planned
from idservice.server import loop

T = TypeVar("T")

CALL_S = 0.005
CALLERS = 64
MORE_CALLERS = (128, 256)
GOAL_ADDS, GOAL_TRANSACTIONS, GOAL_LONE, GOAL_CPU, GOAL_READS = 8_000, 12, 1.3, 0.5, 2
READERS = 1_000
TARGET = f"/v1/tallies/{NAME}/add"


def run(quick: bool) -> list[Row]:
    """Return the rows of `tally`."""
    rounds, round_s = (1, 0.01) if quick else (ROUNDS, 2.0)
    with on_load_core():
        with cores_awake():
            rows = _in_process(rounds, round_s)
        rows += _over_http(rounds, round_s)
    virtual_s = 0.05 if quick else 10.0
    rows += [_lone(virtual_s), *(_contended(number, virtual_s) for number in (1, 2, 4, 8))]
    return [*rows, *_beside_plain(rounds, round_s)]


# --- in one process -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """The figures of some seconds of load on instances, and the share of each of them."""

    adds_per_s: float
    transactions: float  # per 1,000 adds
    seconds: Answered
    call_s: float  # of a commit, on average
    lost: float  # share of commits that were beaten, or met another one
    least: float  # share of the adds that the least fortunate instance counted


async def _load(store: SlowTallies, callers: int, seconds: float, *, of_instances: int = 1) -> Load:
    keys, time_, answered = count(), asyncio.get_running_loop().time, Answered()
    until, counted = time_() + seconds, [0] * of_instances

    async with instances(store, of_instances) as them:

        async def caller(number: int) -> None:
            while True:  # each adds once at least, however late it begins
                began = time_()
                await them[number].add(NAME, f"k{next(keys)}", "1")
                answered.seconds.append(time_() - began)
                counted[number] += 1
                if time_() >= until:
                    return

        began = time_()
        each = [caller(number) for number in range(of_instances) for _ in range(callers)]
        await asyncio.gather(*each)
        took = time_() - began
    adds, commits = sum(counted), sum(store.commits.values())
    check(store.sum == adds == len(store.made), f"{store.sum} is the sum of {adds} adds")
    return Load(
        adds / took, store.commits["done"] * 1000 / adds, answered, store.commit_s / commits,
        1 - store.commits["done"] / commits, min(counted) / adds,
    )  # fmt: skip


async def _one_by_one(seconds: float) -> float:
    """Return adds per second of 64 callers if each add is a separate transaction."""
    store, turn, adds = SlowTallies(CALL_S), asyncio.Lock(), 0
    began = time.perf_counter()
    until = began + seconds

    async def caller(number: int) -> None:
        nonlocal adds
        while time.perf_counter() < until:
            async with turn:  # they are on one item
                (tally,) = await store.tallies()
                await store.commit(planned(tally, [Wanted(f"{number}-{adds}", 1)], now=adds))
                adds += 1

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    check(store.sum == adds, f"{store.sum} is the sum of {adds} adds")
    return adds / (time.perf_counter() - began)


async def _readers(seconds: float) -> float:
    """Return the reads of the store for each of its round trips, with 1,000 readers."""
    store, reads = SlowTallies(CALL_S), 0
    until = time.perf_counter() + seconds

    async with instances(store, 1) as (sums,):

        async def reader() -> None:
            nonlocal reads
            while True:
                await sums.value(NAME)
                reads += 1
                if time.perf_counter() >= until:
                    return

        began = time.perf_counter()
        await asyncio.gather(*(reader() for _ in range(READERS)))
        took = time.perf_counter() - began
    check(reads > store.reads, f"{reads} reads")
    return store.reads / (took / CALL_S)


def _in_process(rounds: int, round_s: float) -> list[Row]:
    loads: dict[int, list[Load]] = {number: [] for number in (1, CALLERS, *MORE_CALLERS)}
    ones: list[float] = []

    def load(callers: int) -> float:
        found = _on_loop(_load(SlowTallies(CALL_S), callers, round_s))
        loads[callers].append(found)
        return found.adds_per_s

    def one_by_one() -> float:
        ones.append(_on_loop(_one_by_one(round_s)))
        return ones[-1]

    interleaved(
        {"one by one": one_by_one, **{str(number): partial(load, number) for number in loads}},
        rounds,
    )
    ms = f"{CALL_S * 1000:g} ms per transaction"
    rows = [
        Row(f"tally: adds per second, {CALLERS} callers, {ms}, one each", median(ones),
            note=f"rounds {spread(ones, ',.0f')}; what it is held against"),
    ]  # fmt: skip
    for callers in (CALLERS, *MORE_CALLERS):
        found = loads[callers]
        adds = [one.adds_per_s for one in found]
        took = median(one.call_s for one in found) * 1000
        rows += [
            Row(f"tally: adds per second, {callers} callers, {ms}", median(adds), goal=GOAL_ADDS,
                at_least=True, note=f"rounds {spread(adds, ',.0f')}; one took {took:.1f} ms"),
            Row(f"tally: transactions per 1,000 adds, {callers} callers",
                median(one.transactions for one in found),
                goal=GOAL_TRANSACTIONS if callers >= 2 * ADDS_MAX else None,
                note=_at_best(callers)),
        ]  # fmt: skip
    lone = [one.seconds.p99 / one.call_s for one in loads[1]]
    rows.append(
        Row("tally: p99 of a lone add / one transaction", median(lone), "×", goal=GOAL_LONE,
            note=f"rounds {spread(lone)}")
    )  # fmt: skip
    reads = [_on_loop(_readers(round_s)) for _ in range(rounds)]
    what = f"tally: reads of the store per round trip, {READERS:,} readers"
    return [*rows, Row(what, median(reads), goal=GOAL_READS, note=f"rounds {spread(reads)}")]


def _at_best(callers: int) -> str:
    """Return a note on the best case: callers fill one commit, or two in turns."""
    commits = 1 if callers <= ADDS_MAX else 2
    return f"{max(1000 / ADDS_MAX, 1000 * commits / callers):.3g} at best: {callers} ask"


def _on_loop(work: Coroutine[object, object, T]) -> T:
    with asyncio.Runner(loop_factory=loop.factory()) as runner:
        return runner.run(work)


def _lone(seconds: float) -> Row:
    """Return the row of a lone add in virtual time: without the time that CPU takes."""
    found = virtual(_load(SlowTallies(CALL_S, asyncio.sleep), 1, seconds))
    longest = max(found.seconds.seconds) / CALL_S
    note = f"the longest {longest:.1f} ×, about once a second"
    what = "tally: p99 of a lone add / one transaction, simulated"
    return Row(what, found.seconds.p99 / CALL_S, "×", goal=GOAL_LONE, note=note)


def _contended(number: int, seconds: float) -> Row:
    """Return the row of several busy instances on one tally, in virtual time."""
    logging.disable(logging.WARNING)  # each logs that it is beaten
    try:
        found = virtual(_load(ContendedTallies(CALL_S), CALLERS, seconds, of_instances=number))
    finally:
        logging.disable(logging.NOTSET)
    note = f"{found.lost:.0%} of the commits lost; p99 {found.seconds.p99 * 1000:.0f} ms, longest"
    note += f" {max(found.seconds.seconds) * 1000:,.0f} ms; the least has {found.least:.0%}"
    what = f"tally: adds per second, simulated, instances of {CALLERS} callers: {number}"
    return Row(what, found.adds_per_s, note=note, parts={"beaten": found.lost})


# --- over HTTP ------------------------------------------------------------------------------------


def _over_http(rounds: int, round_s: float) -> list[Row]:
    folder_of = IN_MEMORY if IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=folder_of) as folder:
        store = ("--store", f"sqlite:{Path(folder) / 'tally'}")
        run_to_end("-m", "idservice", "init", *store)
        run_to_end("-m", "idservice", "tally", "create", NAME, "--decimals", "2", *store)
        delay = {VARIABLE: str(CALL_S)}
        served = serving(*store, module="benchmarks.delayed", environment=delay)
        with served as (port, child, _), cores_awake():
            counted = len(
                add_flat_out(port, TARGET, connections=CALLERS, seconds=min(0.2, round_s)).seconds
            )
            found: dict[int, list[Answered]] = {1: [], CALLERS: [], 256: []}
            revs: dict[int, int] = dict.fromkeys(found, 0)
            cpu: dict[int, float] = dict.fromkeys(found, 0.0)

            def load(connections: int) -> float:
                before, cpu_before = _rev(port), cpu_seconds(child.pid)
                one = add_flat_out(port, TARGET, connections=connections, seconds=round_s)
                revs[connections] += _rev(port) - before
                cpu[connections] += cpu_seconds(child.pid) - cpu_before
                found[connections].append(one)
                return len(one.seconds) / round_s

            rates = interleaved({str(each): partial(load, each) for each in found}, rounds)
            counted += sum(len(one.seconds) for all_ in found.values() for one in all_)
            check(_sum(port) == counted, f"{_sum(port)} is the sum of {counted} adds")
    rows = []
    for callers in (CALLERS, 256):
        adds = sum(len(one.seconds) for one in found[callers])
        rate = rates[str(callers)]
        note = f"rounds {spread(rate, ',.0f')}; {revs[callers] * 1000 / adds:.3g} transactions per"
        note += f" 1,000; {cpu[callers] / adds * 1e6:.0f} µs of CPU per add"
        rows.append(
            Row(f"tally: adds per second over HTTP, {callers} callers", median(rate),
                goal=GOAL_ADDS, at_least=True, note=note)
        )  # fmt: skip
    lone = [one.p99 / CALL_S for one in found[1]]
    note = f"rounds {spread(lone)}"
    what = "tally: p99 of a lone add over HTTP / one transaction"
    return [*rows, Row(what, median(lone), "×", goal=GOAL_LONE, note=note)]


def _reading(port: int) -> dict[str, object]:
    status, body = get(port, f"/v1/tallies/{NAME}")
    check(status == 200, f"the tally answers {status}: {body}")
    found: dict[str, object] = json.loads(body)
    return found


def _rev(port: int) -> int:
    return int(str(_reading(port)["rev"]))


def _sum(port: int) -> int:
    return int(str(_reading(port)["sum"]).replace(".", ""))


# --- CPU, beside a plain application --------------------------------------------------------------


def _beside_plain(rounds: int, round_s: float) -> list[Row]:
    what = f"tally: CPU per add / a plain aiohttp application, {CALLERS} callers"
    if NO_ENGINE:
        return [Row(what, None, goal=GOAL_CPU, note=NO_ENGINE)]
    store = ("--store", "dynamodb:tally")
    us: dict[str, list[float]] = {}
    per_s: dict[str, list[float]] = {"idservice": [], "plain": []}
    with on_load_core(), engine(on_all_cores=True) as (_, variables):
        run_to_end("-m", "idservice", "init", *store, environment=variables)
        tally = ("tally", "create", NAME, "--decimals", "2")
        run_to_end("-m", "idservice", *tally, *store, environment=variables)
        plain = serving("--table", "tally", module="benchmarks.plain_adds", environment=variables)
        with (
            serving(*store, environment=variables) as (port, ours, _),
            plain as (plain_port, other, _),
        ):

            def load(name: str, port: int, pid: int) -> float:
                before = cpu_seconds(pid)
                adds = add_flat_out(port, TARGET, connections=CALLERS, seconds=round_s).seconds
                per_s[name].append(len(adds) / round_s)
                return (cpu_seconds(pid) - before) / len(adds) * 1e6

            us = interleaved(
                {
                    "idservice": partial(load, "idservice", port, ours.pid),
                    "plain": partial(load, "plain", plain_port, other.pid),
                },
                rounds,
            )
    note = f"{median(us['idservice']):.0f} µs beside {median(us['plain']):.0f} µs; "
    note += f"{median(per_s['idservice']):,.0f}/s beside {median(per_s['plain']):,.0f}/s"
    return [Row(what, ratio(us["idservice"], us["plain"]), "×", goal=GOAL_CPU, note=note)]
