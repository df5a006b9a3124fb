"""The cost of a thousand ids in one answer, as text and as JSON, and of ranges.

One real server has a counter at ids of ten digits. It is under flat-out load by wrk on keep-alive
connections, and the candidates take turns. The figure is CPU time of all threads of the server.
Blocks have up to a billion ids: with small ones, ranges of a million would measure writes to
SQLite. The answers are checked before they are measured.
"""

import json
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.http import HEADERS, wrk
from benchmarks.measure import ROUNDS, Row, check, cpu_seconds, distinct, interleaved, ratio, spread
from benchmarks.processes import get, on_load_core, run_to_end, serving
from benchmarks.wrk import MISSING

GOAL_IDS_PER_S = 10_000_000  # for a second of the server's CPU
GOAL_RANGES = 1.2
START = 1_000_000_000
COUNT = 1_000
BLOCK_MAX = 1_000_000_000
CANDIDATES: dict[str, tuple[str, str]] = {
    "text": (f"/next?count={COUNT}", "*/*"),
    "JSON": (f"/next?count={COUNT}", "application/json"),
    "ranges of 10": ("/next?count=10&format=ranges", "*/*"),
    "ranges of 1,000": ("/next?count=1000&format=ranges", "*/*"),
    "ranges of 1,000,000": ("/next?count=1000000&format=ranges", "*/*"),
}


def run(quick: bool) -> list[Row]:
    """Return the rows of `batch`."""
    rounds, round_s = (1, 0.05) if quick else (ROUNDS, 2)
    if MISSING:
        return [Row("batch: ids in one answer", None, note=MISSING)]
    with tempfile.TemporaryDirectory() as folder, on_load_core():
        store = ("--store", f"sqlite:{Path(folder) / 'batch'}")
        run_to_end("-m", "idservice", "init", *store)
        run_to_end("-m", "idservice", "create", "ten", "--start", str(START), *store)
        flags = ("--default-counter", "ten", "--block-max", str(BLOCK_MAX))
        with serving(*store, *flags) as (port, child, _):
            _check_answers(port)
            found = interleaved(
                {
                    name: partial(_cpu_us, port, child.pid, path, accept, round_s)
                    for name, (path, accept) in CANDIDATES.items()
                },
                rounds,
            )
    return _rows(found)


def _rows(us: dict[str, list[float]]) -> list[Row]:
    rows = []
    for name in ("text", "JSON"):
        rates = [COUNT / figure * 1e6 for figure in us[name]]
        note = f"{median(us[name]):.1f} µs per answer, rounds {spread(rates, ',.0f')}"
        rows.append(
            Row(
                f"batch: ids per second of CPU, count={COUNT:,}, ten digits, {name}",
                median(rates),
                "/s",
                GOAL_IDS_PER_S,
                note,
                at_least=True,
            )
        )
    least = us["ranges of 10"]
    for name in ("ranges of 1,000", "ranges of 1,000,000"):
        note = f"{median(us[name]):.1f} µs beside {median(least):.1f} µs"
        what = f"batch: CPU per answer, {name} / of 10"
        rows.append(Row(what, ratio(us[name], least), "×", GOAL_RANGES, note))
    return rows


def _cpu_us(port: int, pid: int, path: str, accept: str, seconds: float) -> float:
    """Return microseconds of the server's CPU per answer."""
    before = cpu_seconds(pid)
    ran = wrk(port, seconds, path=path, headers={**HEADERS, "Accept": accept})
    return (cpu_seconds(pid) - before) / ran.answered * 1e6


def _check_answers(port: int) -> None:
    """Check that every id comes once, in all forms, and has ten digits."""
    ids: list[int] = []
    for path in (
        f"/next?count={COUNT}",
        f"/next?count={COUNT}&format=json",
        f"/next?count={COUNT}&format=ranges",
    ) * 5:
        status, body = get(port, path)
        check(status == 200, f"{path} answers {status} {body[:200]}")
        if body[0] != "{":
            ids += [int(line) for line in body.splitlines()]
        elif "ids" in (answer := json.loads(body)):
            ids += answer["ids"]
        else:
            for block in answer["ranges"]:
                stop = block["first"] + block["step"] * block["count"]
                ids += range(block["first"], stop, block["step"])
    distinct(ids)
    check(len(ids) == 15 * COUNT, f"{len(ids)} ids")
    check(all(len(str(id)) == 10 for id in ids), "an id is not of ten digits")
