"""Run benchmarks, print a table, and say which goals are missed: `python -m benchmarks [NAME…]`."""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import Row, machine, short, supported
from benchmarks.picture import ROOT, documents

# Each is a module of this package whose `run(quick)` returns rows.
BENCHMARKS = (
    "writes",
    "take",
    "latency",
    "outage",
    "suspend",
    "revoke",
    "reshard",
    "start",
    "idle",
    "look",
    "http",
    "products",
    "lane",
    "kinds",
    "tls",
    "keys",
    "crowd",
    "pipeline",
    "telemetry",
    "workers",
    "batch",
    "strict",
    "tally",
    "client",
    "fleet",
    "cost",
)
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks; return 1 if a goal is missed, 2 if this machine cannot measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--quick", action="store_true", help="toy sizes: shows that they run, judges nothing"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument(
        "--picture", action="store_true", help="draw the pictures of docs/ anew as well"
    )
    parsed = parser.parse_args(arguments)
    unknown = [name for name in parsed.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if supported():
        print(f"benchmarks: {supported()}", file=sys.stderr)
        return 2
    print(machine())
    rows: list[Row] = []
    files: dict[str, str] = {}
    for name in parsed.names or BENCHMARKS:
        began = time.monotonic()
        found = importlib.import_module(f"benchmarks.{name}").run(parsed.quick)
        print(f"\n{name} ({time.monotonic() - began:.0f} s)")
        for row in found:
            print(_line(row, judged=not parsed.quick), flush=True)
        rows += found
        files |= documents(name, found)
    _write(parsed.results, parsed.names or BENCHMARKS, rows, files, quick=parsed.quick)
    for file, text in files.items():
        if parsed.picture and not parsed.quick and file.endswith(".svg"):
            (ROOT / "docs" / file).write_text(text)
    missed = [row for row in rows if row.reached is False and not parsed.quick]
    goals = sum(row.goal is not None for row in rows)
    skipped = sum(row.goal is not None and row.figure is None for row in rows)
    print(f"\n{goals} goals: {len(missed)} missed, {skipped} not measured")
    return 1 if missed else 0


def _line(row: Row, *, judged: bool) -> str:
    figure = "skipped" if row.figure is None else f"{short(row.figure)} {row.unit}".rstrip()
    goal = "" if row.goal is None else f"{'≥' if row.at_least else '≤'} {short(row.goal)}"
    verdict = {True: "yes", False: "NO", None: ""}[row.reached] if judged else ""
    return f"  {row.what:<66} {figure:>10} {goal:>8} {verdict:<4} {row.note}".rstrip()


def _write(
    folder: Path, names: Sequence[str], rows: list[Row], files: dict[str, str], *, quick: bool
) -> None:
    """Write the results, and the tables and pictures made of them."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    found = [{**asdict(row), "reached": row.reached} for row in rows]
    content = {
        "at": stamp,
        "machine": machine(),
        "quick": quick,
        "benchmarks": list(names),
        "rows": found,
    }
    (folder / f"{stamp}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    for file, text in files.items():
        (folder / f"{stamp}-{file}").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
