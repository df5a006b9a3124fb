"""CPU time of the whole server side for one id, and ids per second of one core, beside what is
chosen most often instead: a database that counts, behind a small web service.

Each application is written as the manual of its framework shows it. It has a separate database on
the same core. The figure is CPU time of application and database together; a note has that of each.
The load is wrk, as in `http`. Candidates that are not installed are left out; their rows say so.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks.databases import NO_ENGINE, NO_POSTGRES, engine, postgres
from benchmarks.http import wrk
from benchmarks.load import flat_out
from benchmarks.measure import (
    ROUNDS,
    Row,
    cpu_seconds_of_all,
    interleaved,
    machine,
    ratio,
    spread,
)
from benchmarks.picture import Bar, bars
from benchmarks.processes import answers, free_port, on_load_core, process, run_to_end, serving
from benchmarks.rivals import redis
from benchmarks.wrk import CONNECTIONS, MISSING

OURS = "idservice"
ON_DISK = ("--appendonly", "yes")  # as Redis is configured if its data must not be lost
TABLE = "ids"
PATIENCE_S = 20  # some keep one of 64 callers waiting for seconds


@dataclass(frozen=True, slots=True)
class Running:
    """A candidate that runs: its port, and its processes by name, which count with those that they
    started."""

    port: int
    pids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Product:
    """An application and its database: its name, a function that starts it, the Python `modules`
    that it needs, and in `absent` why its database cannot be started."""

    words: str
    start: Callable[[Path, ExitStack], Running]
    modules: tuple[str, ...]
    absent: str

    @property
    def missing(self) -> str:
        """Return why it cannot be started here; empty if it can."""
        modules = [name for name in self.modules if find_spec(name) is None]
        return f"{', '.join(modules)} not installed: make bench does" if modules else self.absent


def _application(stack: ExitStack, module: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Start an application by uvicorn; return its port and its process."""
    port = free_port()
    uvicorn = ["-m", "uvicorn", f"benchmarks.{module}:app", "--port", str(port)]
    faster = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level=warning"]
    child = stack.enter_context(process([sys.executable, *uvicorn, *faster], environment))
    answers(port, child)
    return port, child.pid


def _nextval(folder: Path, stack: ExitStack, *, cache: int) -> Running:
    database, url = stack.enter_context(postgres())
    environment = {"DATABASE_URL": url, "CACHE": str(cache)}
    port, pid = _application(stack, "fastapi_nextval", environment)
    return Running(port, {"application": pid, "PostgreSQL": database})


def _update_item(folder: Path, stack: ExitStack) -> Running:
    database, variables = stack.enter_context(engine())
    store = f"dynamodb:{TABLE}"
    run_to_end("-m", "idservice", "init", "--store", store, environment=variables)
    port, pid = _application(stack, "fastapi_update_item", {**variables, "TABLE": TABLE})
    return Running(port, {"application": pid, "engine": database})


def _incr(folder: Path, stack: ExitStack) -> Running:
    database = redis(folder, stack, *ON_DISK)
    environment = {"REDIS_URL": f"redis://127.0.0.1:{database.port}"}
    port, pid = _application(stack, "fastapi_incr", environment)
    return Running(port, {"application": pid, "Redis": database.pids[0]})


WEB = ("fastapi", "uvicorn", "httptools")
SQL = (*WEB, "asyncpg")
NO_REDIS = "" if shutil.which("redis-server") else "redis-server is not installed"
PRODUCTS = {
    "incr": Product("FastAPI, Redis INCR", _incr, (*WEB, "redis"), NO_REDIS),
    "cache": Product(
        "FastAPI, PostgreSQL nextval, CACHE 1000", partial(_nextval, cache=1000), SQL, NO_POSTGRES
    ),
    "nextval": Product(
        "FastAPI, PostgreSQL nextval, CACHE 1", partial(_nextval, cache=1), SQL, NO_POSTGRES
    ),
    "update": Product("FastAPI, DynamoDB UpdateItem", _update_item, WEB, NO_ENGINE),
}
WORDS = {OURS: OURS, **{name: product.words for name, product in PRODUCTS.items()}}


def run(quick: bool) -> list[Row]:
    """Return the rows of `products`."""
    rounds, round_s = (1, 0.02) if quick else (ROUNDS, 2)
    if MISSING:
        return [Row(_what(name), None, note=MISSING) for name in PRODUCTS]
    cpu: dict[str, dict[str, list[float]]] = {}  # by name and process, µs per id
    per_second: dict[str, list[float]] = {}

    def measure(name: str, running: Running) -> float:
        """Return microseconds of CPU per id in one round."""
        before = {part: cpu_seconds_of_all(pid) for part, pid in running.pids.items()}
        ran = wrk(running.port, round_s, patience_s=PATIENCE_S)
        us = {
            part: (cpu_seconds_of_all(pid) - before[part]) / ran.answered * 1e6
            for part, pid in running.pids.items()
        }
        for part, found in us.items():
            cpu.setdefault(name, {}).setdefault(part, []).append(found)
        per_second.setdefault(name, []).append(ran.per_second)
        return sum(us.values())

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        candidates = _running(folder, stack)
        for running in candidates.values():  # warms up, and checks that no id comes twice
            flat_out(running.port, connections=CONNECTIONS, seconds=0.02 if quick else 1.0)
        us = interleaved(
            {name: partial(measure, name, running) for name, running in candidates.items()}, rounds
        )
    rows = [_compared(name, us, per_second) for name in PRODUCTS]
    for name, found in us.items():
        parts = [f"{part} {median(each):.3g}" for part, each in cpu[name].items()]
        note = f"{', '.join(parts)}; {spread(found)}; "
        note += f"{median(per_second[name]):,.0f} per second on one core"
        about: dict[str, float | str] = {"name": name, "machine": machine()}
        what = f"products: CPU per id, {WORDS[name]}"
        rows.append(Row(what, median(found), "µs", note=note, parts=about))
    return rows


def _running(folder: Path, stack: ExitStack) -> dict[str, Running]:
    """Start every candidate that can be started here, and return them by name."""
    store = ("--store", f"sqlite:{folder / 'ids'}", "--init")
    port, child, _ = stack.enter_context(serving(*store))
    candidates = {OURS: Running(port, {"service": child.pid})}
    for name, product in PRODUCTS.items():
        if not product.missing:
            own = folder / name
            own.mkdir()
            candidates[name] = product.start(own, stack)
    return candidates


def _what(name: str) -> str:
    return f"products: CPU per id, {WORDS[name]} / {OURS}"


def _compared(name: str, us: dict[str, list[float]], per_second: dict[str, list[float]]) -> Row:
    if name not in us:
        return Row(_what(name), None, note=PRODUCTS[name].missing)
    faster = ratio(per_second[OURS], per_second[name])
    note = f"{median(us[name]):.0f} µs beside {median(us[OURS]):.2f} µs;"
    note += f" {OURS} gives {faster:.3g} × the ids per second of a core"
    return Row(_what(name), ratio(us[name], us[OURS]), "×", note=note)


def documents(rows: list[Row]) -> dict[str, str]:
    """Return the candidates as a picture."""
    found = [
        Bar(WORDS[str(row.parts["name"])], row.figure or 0.0, row.parts["name"] == OURS)
        for row in rows
        if row.parts
    ]
    if not found:
        return {}
    return {
        "products.svg": bars(
            sorted(found, key=lambda bar: bar.value),
            title="What one id costs the server",
            subtitle=f"CPU of service and database per id, {CONNECTIONS} keep-alive connections",
            unit="µs",
            note=next((str(row.parts["machine"]) for row in rows if row.parts), ""),
        )
    }
