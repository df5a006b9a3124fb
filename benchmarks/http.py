"""CPU time of the server for one `GET /next`, beside other ways to count up and a floor.

The servers run on one core, and a load on the other has keep-alive connections to them, flat out
and in turns; servers that have no turn are idle. The figure is CPU time of all threads of a server.
The load is wrk if it is installed, and redis-benchmark for Redis. The load of this package takes
more CPU than the servers that it measures, and cannot vary its requests. Candidates that are not
installed are left out; their rows say so.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.load import LoadRun, flat_out
from benchmarks.measure import (
    ROUNDS,
    Row,
    check,
    cpu_seconds,
    interleaved,
    machine,
    ratio,
    spread,
)
from benchmarks.picture import Bar, bars
from benchmarks.processes import ROOT, on_load_core, serving
from benchmarks.rivals import KINDS, Rival, redis_load
from benchmarks.wrk import CONNECTIONS, MISSING, PATIENCE_S, run_wrk

OURS = {  # the modules that serve, and their further arguments
    "plain": ("benchmarks.plain",),
    "uvloop": ("benchmarks.plain", "--loop", "uvloop"),
    "idservice": ("idservice",),
}
HEADERS = {  # with Host, eight
    "User-Agent": "idservice-benchmark/1",
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "Accept-Language": "en",
    "Cache-Control": "no-cache",
    "Pragma": "no-cache",
    "DNT": "1",
}
VARIED = ROOT / "benchmarks" / "wrk.lua"
PLAIN = "plain aiohttp application"
WORDS = {
    "idservice": "idservice",
    "varied": "idservice, each request with a token and a new trace id",
    "plain": PLAIN,
    "uvloop": f"{PLAIN}, on uvloop",
    **{name: kind.words for name, kind in KINDS.items()},
}
# What is compared, with what, and the most that the ratio may be.
GOALS: tuple[tuple[str, str, float | None], ...] = (
    ("idservice", "floor", 1.25),
    ("idservice", "nginx", 1.0),
    ("idservice", "go", 0.45),
    ("idservice", "plain", 0.2),
    ("idservice", "uvloop", None),
    ("varied", "idservice", 1.15),
    ("idservice", "redis", 1.1),
    ("idservice", "webdis", 0.6),
)


def wrk(
    port: int,
    seconds: float,
    *,
    path: str = "/next",
    headers: Mapping[str, str] = HEADERS,
    varied: bool = False,
    threads: int = 1,
    connections: int = CONNECTIONS,
    patience_s: int = PATIENCE_S,
    scheme: str = "http",
) -> LoadRun:
    """Run wrk with `headers`, as callers send them; every answer must be a success."""
    flags = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    if varied:
        flags += ["-s", str(VARIED)]
    url = f"{scheme}://127.0.0.1:{port}{path}"
    ran = run_wrk(
        url, seconds, *flags, threads=threads, connections=connections, patience_s=patience_s
    )
    check(not ran.refused, f"{ran.refused} of {ran.answered} requests for {path} were refused")
    return ran


def run(quick: bool) -> list[Row]:
    """Return the rows of `http`."""
    rounds, round_s = (1, 0.02) if quick else (ROUNDS, 2)
    per_second: dict[str, list[float]] = {}

    def measure(name: str, rival: Rival, load: Callable[[], LoadRun]) -> float:
        """Return microseconds of CPU per request in one round."""
        before = [cpu_seconds(pid) for pid in rival.pids]
        ran = load()
        spent = sum(cpu_seconds(pid) - was for pid, was in zip(rival.pids, before, strict=True))
        per_second.setdefault(name, []).append(ran.per_second)
        return spent / ran.answered * 1e6

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        loads = _loads(folder, stack, round_s, warm_s=0.02 if quick else 1.0)
        us = interleaved(
            {name: partial(measure, name, *load) for name, load in loads.items()}, rounds
        )
    return [
        *(_compared(us, *goal) for goal in GOALS),
        *(
            Row(
                f"http: CPU per request, {WORDS[name]}",
                median(found),
                "µs",
                note=f"{spread(found)}, {median(per_second[name]):,.0f} per second on one core",
                parts={"name": name, "machine": machine()},
            )
            for name, found in us.items()
        ),
    ]


def _own_load(port: int, seconds: float) -> LoadRun:
    """Run the load of this package."""
    return flat_out(port, connections=CONNECTIONS, seconds=seconds, headers=HEADERS)


def _loads(
    folder: Path, stack: ExitStack, round_s: float, *, warm_s: float
) -> dict[str, tuple[Rival, Callable[[], LoadRun]]]:
    """Return every candidate that can be started here, running and warm, and the load on it."""
    loads: dict[str, tuple[Rival, Callable[[], LoadRun]]] = {}
    for name, (module, *more) in OURS.items():
        store = ("--store", f"sqlite:{folder / 'http'}", "--init")
        port, child, _ = stack.enter_context(serving(*store, *more, module=module))
        rival = Rival(port, (child.pid,))
        # Warms up, and checks the answers.
        flat_out(port, connections=CONNECTIONS, seconds=warm_s)
        loads[name] = (rival, partial(_own_load if MISSING else wrk, port, round_s))
        if name == "idservice" and not MISSING:
            loads["varied"] = (rival, partial(wrk, port, round_s, varied=True))
    for name, kind in KINDS.items():
        if kind.missing:
            continue
        its_own = folder / name
        its_own.mkdir()
        rival = kind.start(its_own, stack)
        if name == "redis":
            loads[name] = (rival, partial(redis_load, rival.port, CONNECTIONS, round_s))
        else:
            loads[name] = (rival, partial(wrk, rival.port, round_s, path=rival.path))
        loads[name][1]()  # warms up
    return loads


def _compared(us: dict[str, list[float]], one: str, other: str, goal: float | None) -> Row:
    subject = "GET /next" if one == "idservice" else "GET /next, a token and a new traceparent"
    against = "the same, requests all alike" if other == "idservice" else WORDS[other]
    what = f"http: CPU per {subject} / {against}"
    missing = [name for name in (one, other) if name not in us]
    if missing:
        kind = KINDS.get(missing[0])
        return Row(what, None, goal=goal, note=kind.missing if kind else MISSING)
    note = f"{median(us[one]):.2f} µs beside {median(us[other]):.2f} µs"
    return Row(what, ratio(us[one], us[other]), "×", goal=goal, note=note)


def documents(rows: list[Row]) -> dict[str, str]:
    """Return the candidates as a picture."""
    found = sorted(
        (
            Bar(WORDS[str(row.parts["name"])], row.figure or 0.0, row.parts["name"] == "idservice")
            for row in rows
            if row.parts.get("name") not in (None, "varied")
        ),
        key=lambda bar: bar.value,
    )
    return {
        "http.svg": bars(
            found,
            title="What one id costs the server",
            subtitle=f"CPU per request, one core, {CONNECTIONS} keep-alive connections, flat out",
            unit="µs",
            note=next((str(row.parts["machine"]) for row in rows if row.parts), ""),
        )
    }
