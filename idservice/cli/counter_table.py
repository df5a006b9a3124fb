"""Shows counters to people: all of them as a table, and one of them line by line."""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from idservice.stores.records import ACTIVE

COLUMNS = ("NAME", "STATE", "NEXT", "LIMIT USED", "SHARDS", "RUNWAY", "MOVED TO")
NONE = "–"
RETURNS = {
    "old": "its old endpoint answers the value before the increment",
    "new": "its old endpoint answers the value after the increment",
}


def in_natural_order(name: str) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts orders2 before orders10."""
    return tuple(
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)
    )


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print counters in columns; on a terminal with colour for a state that is not `active`."""
    print_columns(COLUMNS, [_cells(row) for row in rows])


def print_columns(
    titles: Sequence[str], cells: Sequence[Sequence[str]], *, usual: str = ACTIVE
) -> None:
    """Print lines of cells in columns, of which the second is a state; on a terminal with colour
    for one that is not the `usual`."""
    if sys.stdout.isatty():
        _draw(titles, cells, usual)
        return
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for line in (titles, *cells):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    state = f"{row['state']} ({row['change']} under way)" if "change" in row else row["state"]
    moved = row.get("moved_to", NONE)
    if "next" not in row:
        return (row["counter"], state, NONE, NONE, str(row["shards"]), _text(row, "runway"), moved)
    start, limit = int(row["start"]), int(row["limit"])
    used = min(1.0, max(0, int(row["next"]) - start) / (limit - start + 1))
    return (
        row["counter"], state, str(row["next"]), f"{used:.0%}", str(row["shards"]),
        _text(row, "runway"), moved,
    )  # fmt: skip


def _draw(titles: Sequence[str], cells: Sequence[Sequence[str]], usual: str) -> None:
    from rich.console import Console  # slow to load: for a terminal only
    from rich.table import Table

    table = Table(*titles, box=None, header_style="bold")
    for line in cells:
        table.add_row(*line, style=None if line[1] == usual else "yellow")
    Console(highlight=False).print(table)


def print_row(row: Mapping[str, Any]) -> None:
    """Print one counter or tally, a line for each of its fields."""
    width = max(10, *(len(name) + 1 for name in row))
    for name in row:
        print(f"{name + ':':{width}} {_text(row, name)}")


def _text(row: Mapping[str, Any], name: str) -> str:
    """Return a field in words."""
    match name, row[name]:
        case _, bool() as yes:
            return "yes" if yes else "no"
        case (("runway" | "runway_seconds"), (int() | float() as seconds)):
            return f"{seconds:g} s"
        case (("adopted" | "home"), dict() as item):
            return _item(item)
        case "last_change", dict() as change:
            return _change(change)
        case _, list() as several:
            return ", ".join(map(str, several))
        case _, None:
            return NONE
        case _, value:
            return str(value)


def _change(change: Mapping[str, Any]) -> str:
    """Return the last change of a counter."""
    said = f"{change['what']} by {change['by'] or 'an operator'}"
    if change["at"] is not None:
        said += f" at {change['at']}"
    if change["reason"]:
        said += f" ({change['reason']})"
    return said + (f", until about {change['until']}" if "until" in change else "")


def _item(item: Mapping[str, Any]) -> str:
    """Return where the item of an adopted counter is."""
    key = ",".join(f"{name}={value}" for name, value in item["key"].items())
    where = f"{item['table']}[{key}]"
    if "attribute" not in item:
        return where
    return f"{where}.{item['attribute']} ({RETURNS.get(item['returns'], item['returns'])})"
