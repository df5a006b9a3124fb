"""CPU time of the server for one `GET /next`, beside a plain aiohttp application's.

Both servers run on one core with keep-alive connections from a load on the other, flat out and in
turns; the one that has no turn is idle. CPU time of all of a process's threads, from the OS.
"""

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.load import flat_out
from benchmarks.measure import ROUNDS, Row, cpu_seconds, distinct, interleaved, ratio
from benchmarks.processes import on_load_core, serving

CONNECTIONS = 64
MODULES = {"plain": "benchmarks.plain", "idservice": "idservice"}


def run(quick: bool) -> list[Row]:
    """Rows of `http`."""
    rounds, round_s = (1, 0.1) if quick else (ROUNDS, 2.0)
    ids: dict[str, list[int]] = {name: [] for name in MODULES}
    per_second: dict[str, list[float]] = {name: [] for name in MODULES}

    def measure(name: str, port: int, pid: int) -> float:
        """Microseconds of CPU per request in one round."""
        before = cpu_seconds(pid)
        found = flat_out(port, connections=CONNECTIONS, seconds=round_s)
        spent = cpu_seconds(pid) - before
        ids[name] += found
        per_second[name].append(len(found) / round_s)
        return spent / len(found) * 1e6

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        candidates = {}
        for name, module in MODULES.items():
            store = ("--store", f"sqlite:{folder / 'http'}", "--init")
            port, child, _ = stack.enter_context(serving(*store, module=module))
            candidates[name] = partial(measure, name, port, child.pid)
            flat_out(port, connections=CONNECTIONS, seconds=round_s)  # warm up
        us = interleaved(candidates, rounds)
    for found in ids.values():
        distinct(found)
    return [
        Row(
            "http: CPU per GET /next / plain aiohttp application",
            ratio(us["idservice"], us["plain"]),
            "×",
            note=f"{median(us['idservice']):.1f} µs beside {median(us['plain']):.1f} µs",
        ),
        *(
            Row(
                f"http: GET /next per second, {CONNECTIONS} connections, {name}",
                median(per_second[name]),
                note="one core",
            )
            for name in MODULES
        ),
    ]
