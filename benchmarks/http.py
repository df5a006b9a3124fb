"""CPU time of the server for one `GET /next`: beside a plain aiohttp application's, and a floor.

The servers run on one core with keep-alive connections from a load on the other, flat out and in
turns; those that have no turn are idle. CPU time of all of a process's threads, from the OS. The
load is wrk where it is installed; this package's own needs more time than the servers it measures,
and cannot vary its requests. The floor is a C program that answers each request with the same
bytes (floor.c); it is measured where a compiler is installed.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.load import flat_out
from benchmarks.measure import ROUNDS, Row, check, cpu_seconds, distinct, interleaved, ratio
from benchmarks.processes import ROOT, accepts, free_port, on_load_core, process, serving

CONNECTIONS = 64
MODULES = {"plain": "benchmarks.plain", "idservice": "idservice"}
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
FLOOR = ROOT / "benchmarks" / "floor.c"
NO_WRK = "wrk is not installed"
NO_CC = "no C compiler, or no wrk"


def wrk(
    port: int,
    seconds: int,
    *,
    path: str = "/next",
    headers: Mapping[str, str] = HEADERS,
    varied: bool = False,
) -> int:
    """Load by wrk; how many requests were answered."""
    arguments = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}"]
    for name, value in headers.items():
        arguments += ["-H", f"{name}: {value}"]
    if varied:
        arguments += ["-s", str(VARIED)]
    said = subprocess.run(
        [*arguments, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True
    ).stdout
    check("Non-2xx" not in said and "Socket errors" not in said, said)
    found = re.search(r"(\d+) requests in", said)
    check(found is not None, said)
    assert found
    return int(found[1])


def run(quick: bool) -> list[Row]:
    """Rows of `http`."""
    rounds, round_s = (1, 1) if quick else (ROUNDS, 2)
    has_wrk = shutil.which("wrk") is not None
    compiler = shutil.which("cc") if has_wrk else None
    per_second: dict[str, list[float]] = {}

    def load(port: int, *, varied: bool) -> int:
        if has_wrk:
            return wrk(port, round_s, varied=varied)
        return len(flat_out(port, connections=CONNECTIONS, seconds=round_s, headers=HEADERS))

    def measure(name: str, port: int, pid: int, *, varied: bool = False) -> float:
        """Microseconds of CPU per request in one round."""
        before = cpu_seconds(pid)
        answered = load(port, varied=varied)
        spent = cpu_seconds(pid) - before
        per_second.setdefault(name, []).append(answered / round_s)
        return spent / answered * 1e6

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        candidates: dict[str, Callable[[], float]] = {}
        for name, module in MODULES.items():
            store = ("--store", f"sqlite:{folder / 'http'}", "--init")
            port, child, _ = stack.enter_context(serving(*store, module=module))
            candidates[name] = partial(measure, name, port, child.pid)
            # Warms up, and sees that what is measured is right.
            distinct(flat_out(port, connections=CONNECTIONS, seconds=0.1 if quick else 1.0))
            if name == "idservice" and has_wrk:
                candidates["varied"] = partial(measure, "varied", port, child.pid, varied=True)
        if compiler is not None:
            port, pid = _floor(compiler, folder, stack)
            candidates["floor"] = partial(measure, "floor", port, pid)
        us = interleaved(candidates, rounds)
    return [
        _row(us, "idservice", "plain", "plain aiohttp application", 0.2),
        _row(us, "idservice", "floor", "C epoll loop, fixed answer", 1.25, NO_CC),
        _row(us, "varied", "idservice", "the same, requests all alike", 1.15, NO_WRK),
        *(
            Row(
                f"http: GET /next per second, {CONNECTIONS} connections, {name}",
                median(found),
                note="one core",
            )
            for name, found in per_second.items()
        ),
    ]


def _floor(compiler: str, folder: Path, stack: ExitStack) -> tuple[int, int]:
    """Port and process of the C program, compiled now."""
    program, port = folder / "floor", free_port()
    subprocess.run([compiler, "-O2", "-o", str(program), str(FLOOR)], check=True)
    child = stack.enter_context(process([str(program), str(port)]))
    accepts(port, child)
    return port, child.pid


def _row(
    us: dict[str, list[float]], one: str, other: str, words: str, goal: float, missing: str = ""
) -> Row:
    what = {"varied": "GET /next, Authorization and a new traceparent each"}.get(one, "GET /next")
    what = f"http: CPU per {what} / {words}"
    if one not in us or other not in us:
        return Row(what, None, goal=goal, note=missing)
    note = f"{median(us[one]):.2f} µs beside {median(us[other]):.2f} µs"
    return Row(what, ratio(us[one], us[other]), "×", goal=goal, note=note)
