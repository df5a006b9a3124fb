"""The command `usage`: what instances handed out and counted, from the store."""

import argparse
import sys
import time
from collections.abc import Sequence

import msgspec

from idservice import errors
from idservice.access.usage_report import NOTES, DayUsage, RunSeen, csv_lines, period, report
from idservice.cli.counter_table import NONE, in_natural_order, print_columns
from idservice.cli.store_commands import opened
from idservice.core.limits import LINES_MAX
from idservice.core.usage import RunEnd, UsageKind, day_of
from idservice.stores.instants import day_text, instant
from idservice.stores.protocol import has_catalogue
from idservice.web.usage_schemas import usage_answer

COLUMNS = ("NAME", "STATE", "KIND", "COUNT", "RESERVED")
FINAL, OPEN = "final", "not final yet"


async def usage(arguments: argparse.Namespace) -> None:
    """Print the usage of a period."""
    if arguments.csv and arguments.json:
        raise errors.Usage(why="--csv cannot be combined with --json; name one of them")
    now_ms = int(time.time() * 1000)
    asked = period(
        now_ms, first=arguments.first, last=arguments.last, month=arguments.month,
        scope=arguments.scope,
    )  # fmt: skip
    async with opened(arguments, bounded=False) as store:
        if not has_catalogue(store):
            why = f"{store.address} is a service; its usage is in its store. Name that with --store"
            raise errors.Usage(why=f"{why}, or ask the service: GET /v1/usage")
        found = await report(store.usage, asked, now_ms=now_ms)
    if arguments.json:
        print(msgspec.json.encode(usage_answer(found, asked.scope)).decode())
        return
    if arguments.csv:
        print(csv_lines(found.usage), end="")
        print("\n".join(NOTES), file=sys.stderr)
        return
    print_columns(COLUMNS, _lines(found.usage), usual=FINAL)
    days = f"{day_text(asked.first)} to {day_text(asked.last)}"
    sums = f"{found.total(UsageKind.IDS)} ids, {found.total(UsageKind.ADDS)} adds"
    print(f"\n{days}, scope {asked.scope}: {sums}")
    print("\n".join([*_silent(found.runs, today=day_of(now_ms)), *NOTES]))


def _lines(rows: Sequence[DayUsage]) -> list[Sequence[str]]:
    """Return a line for each counter and tally, with its sum over all days."""
    by_name: dict[tuple[str, UsageKind], list[DayUsage]] = {}
    for row in rows:
        by_name.setdefault((row.name, row.kind), []).append(row)
    lines: list[Sequence[str]] = []
    for name, kind in sorted(by_name, key=lambda named: (in_natural_order(named[0]), named[1])):
        days = by_name[name, kind]
        reserved = str(sum(day.reserved or 0 for day in days)) if kind is UsageKind.IDS else NONE
        state = FINAL if all(day.final for day in days) else OPEN
        lines.append((name, state, kind.value, str(sum(day.count for day in days)), reserved))
    return lines


def _silent(runs: Sequence[RunSeen], *, today: int) -> list[str]:
    """Return a line for each run that ended its day without a word, up to LINES_MAX."""
    silent = [run for run in runs if run.end is RunEnd.OPEN and run.day < today]
    lines = [
        f"Run {run.run} of {day_text(run.day)} ended without a stop; its last write was at"
        f" {instant(run.last)}."
        for run in silent[:LINES_MAX]
    ]
    if len(silent) > LINES_MAX:
        lines.append(f"So did {len(silent) - LINES_MAX} others: see --json.")
    return lines
