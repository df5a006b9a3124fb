"""Ids per second of a strict counter: 64 clients, one id a request, a store of 5 ms a write.

A real server over SQLite has one write in flight. Each answer of the store is held back until 5 ms
are over. The file is in memory if the machine has a folder there, so that no disk makes a write
longer. A client asks again as soon as it is answered. 64 clients get 12,800 ids a second if each
batch has all of them and only the store takes time.
"""

import tempfile
from pathlib import Path
from statistics import median

from benchmarks.delayed import VARIABLE
from benchmarks.http import wrk
from benchmarks.latency import Counted
from benchmarks.load import LoadRun, flat_out
from benchmarks.measure import ROUNDS, Row, check, cpu_seconds, spread
from benchmarks.processes import cores_awake, get, on_load_core, run_to_end, serving
from benchmarks.wrk import MISSING

GOAL = 10_000
CLIENTS = 64
WRITE_S = 0.005
IN_MEMORY = Path("/dev/shm")


def run(quick: bool) -> list[Row]:
    """Return the rows of `strict`."""
    rounds, round_s = (1, 0.02) if quick else (ROUNDS, 3)
    folder_of = IN_MEMORY if IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=folder_of) as folder, on_load_core():
        store = ("--store", f"sqlite:{Path(folder) / 'strict'}")
        run_to_end("-m", "idservice", "init", *store)
        run_to_end("-m", "idservice", "create", "strict", "--strict", *store)
        served = serving(
            *(*store, "--default-counter", "strict"),
            module="benchmarks.delayed",
            environment={VARIABLE: str(WRITE_S)},
        )
        with served as (port, child, _), cores_awake():
            flat_out(port, connections=CLIENTS, seconds=0.02 if quick else 1.0)
            before, cpu_before = Counted.of(port, "strict"), cpu_seconds(child.pid)
            runs = [_load(port, round_s) for _ in range(rounds)]
            cpu_s = cpu_seconds(child.pid) - cpu_before
            counted = Counted.of(port, "strict").since(before)
            _check_no_gaps(port)
    ids, found = sum(run.answered for run in runs), [run.per_second for run in runs]
    write_ms = counted.seconds / counted.refills * 1000
    check(write_ms >= WRITE_S * 1000 - 0.5, f"a write took {write_ms:.2f} ms")
    note = f"rounds {spread(found, ',.0f')}; a write took {write_ms:.1f} ms"
    return [
        Row(
            f"strict: ids per second, {CLIENTS} clients, {WRITE_S * 1000:g} ms per write",
            median(found),
            goal=GOAL,
            at_least=True,
            note=note,
        ),
        Row("strict: ids per write", ids / counted.refills, note=f"{CLIENTS} ask"),
        Row("strict: CPU per id", cpu_s / ids * 1e6, "µs", note="the writes to SQLite are in it"),
    ]


def _load(port: int, seconds: float) -> LoadRun:
    if MISSING:
        return flat_out(port, connections=CLIENTS, seconds=seconds)
    return wrk(port, seconds)


def _check_no_gaps(port: int) -> None:
    """Check that every reserved id was handed out, except at the end of wrk's rounds.

    There wrk closes connections whose requests are under way.
    """
    status, page = get(port, "/metrics")
    check(status == 200, f"/metrics answers {status}")
    for line in page.splitlines():
        if line.startswith("idservice_gap"):
            check('cause="abandoned"' in line or line.endswith(" 0.0"), line)
