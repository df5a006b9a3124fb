"""The cost of a request if two workers share a port on two cores, beside one worker.

The servers may use both cores, and so may the load (wrk). It has two threads and 64 connections for
each core: with one thread neither two workers nor the cores would be busy, and a server that idles
now and then has more wake-ups per request. The CPU of the load is the same for either, and does not
count. The figure is CPU time of the supervisor and all workers. Another row shows how evenly the
workers are busy.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.http import wrk
from benchmarks.measure import ROUNDS, Row, cpu_seconds, interleaved, ratio, spread
from benchmarks.processes import children, serving
from benchmarks.wrk import CONNECTIONS, MISSING

GOAL = 1.1
CORES = 2
load = partial(wrk, threads=CORES, connections=CORES * CONNECTIONS)
WHAT = "workers: CPU per GET /next, two workers / one"


def run(quick: bool) -> list[Row]:
    """Return the rows of `workers`."""
    rounds, round_s = (1, 0.02) if quick else (ROUNDS, 2)
    if MISSING:
        return [Row(WHAT, None, goal=GOAL, note=MISSING)]
    per_second: dict[int, list[float]] = {1: [], 2: []}
    shares: list[float] = []

    def measure(workers: int, port: int, pids: tuple[int, ...]) -> float:
        """Return microseconds of CPU per request in one round."""
        before = [cpu_seconds(pid) for pid in pids]
        ran = load(port, round_s)
        spent = [cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
        per_second[workers].append(ran.per_second)
        if workers > 1:
            shares.append(min(spent[1:]) / max(spent[1:]))
        return sum(spent) / ran.answered * 1e6

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        candidates: dict[str, Callable[[], float]] = {}
        for workers in (1, 2):
            store = ("--store", f"sqlite:{folder / str(workers)}", "--init")
            port, child, _ = stack.enter_context(
                serving(*store, "--workers", str(workers), on_all_cores=True)
            )
            pids = (child.pid, *children(child.pid, 0 if workers == 1 else workers))
            candidates[str(workers)] = partial(measure, workers, port, pids)
            load(port, min(round_s, 1))  # warms up
        us = interleaved(candidates, rounds)
    return [
        Row(
            WHAT,
            ratio(us["2"], us["1"]),
            "×",
            GOAL,
            f"{median(us['2']):.2f} µs beside {median(us['1']):.2f} µs",
        ),
        *(
            Row(
                f"workers: requests per second, {workers}, the load on the same two cores",
                median(found),
                note=spread(found, ",.0f"),
            )
            for workers, found in per_second.items()
        ),
        Row("workers: CPU of the less busy worker / of the other", median(shares), "×"),
    ]
