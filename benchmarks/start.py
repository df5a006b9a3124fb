"""The time of a start until `/readyz` says yes, and of a health check.

Every start is a new process on the core for servers. It takes turns with the start of Python alone,
which is a part of each.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.measure import ROUNDS, Row, check, interleaved, ratio, spread
from benchmarks.processes import get, on_load_core, serving, timed

GOAL_S = 0.7


def run(quick: bool) -> list[Row]:
    """Return the rows of `start`."""
    rounds = 1 if quick else ROUNDS
    with tempfile.TemporaryDirectory() as folder, on_load_core():
        return [*_starts(Path(folder), rounds), *_health(Path(folder), rounds)]


def _starts(folder: Path, rounds: int) -> list[Row]:
    fresh, existing = iter(range(rounds)), iter(range(rounds))
    found = interleaved(
        {
            "python": _bare_python,
            "fresh": lambda: _ready(folder / f"fresh{next(fresh)}"),
            "existing": lambda: _ready(folder / f"fresh{next(existing)}"),
        },
        rounds,
    )
    return [
        Row(
            f"start: to ready, {kind} SQLite file",
            median(found[kind]),
            "s",
            GOAL_S,
            f"rounds {spread(found[kind])} s; {_beside_python(found[kind], found['python'])}",
        )
        for kind in ("fresh", "existing")
    ]


def _health(folder: Path, rounds: int) -> list[Row]:
    with serving("--store", f"sqlite:{folder / 'health'}", "--init") as (port, _, _):
        url = f"http://127.0.0.1:{port}"
        health = [sys.executable, "-m", "idservice", "health", "--ready", "--url", url]
        found = interleaved(
            {"python": _bare_python, "health": lambda: timed(health)}, rounds if rounds == 1 else 15
        )
    return [
        Row(
            "start: `health --ready` / bare python",
            ratio(found["health"], found["python"]),
            "×",
            note=f"{median(found['health']) * 1000:.0f} ms",
        )
    ]


def _bare_python() -> float:
    return timed([sys.executable, "-c", "pass"])


def _beside_python(figures: list[float], python: list[float]) -> str:
    return f"{ratio(figures, python):.1f} × bare python ({median(python) * 1000:.0f} ms)"


def _ready(path: Path) -> float:
    """Return the seconds from the start of the process until it is ready."""
    with serving("--store", f"sqlite:{path}", "--init") as (port, _, seconds):
        status, body = get(port, "/next")
        check(status == 200 and body.isdigit(), f"ready, but /next answers {status} {body}")
        return seconds
