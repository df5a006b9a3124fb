"""A status as lines of text, in the order and with the figures of the page."""

import textwrap
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from idservice.observability import format

LINE_S = 120.0  # the time that the line of runways spans
RATE_S = 3.0  # over which ids a second are counted
SPARK_CELLS, BAR_CELLS = 12, 10
# The columns, and in which order they are left out where there is no room.
COLUMNS = {
    "name": "COUNTER",
    "state": "STATE",
    "epoch": "EPOCH",
    "mode": "MODE",
    "bar": "MEMORY",
    "memory": "IDS",
    "rate": "IDS/S",
    "runway": "RUNWAY",
    "line": "TWO MINUTES",
    "reserve": "RESERVE P50 / P99",
    "used": "LIMIT",
    "ends": "ENDS",
    "gaps": "GAPS",
}
LEFT_OUT = ("mode", "epoch", "line", "reserve", "bar", "gaps", "ends", "memory", "used", "rate")
LEFT_ALIGNED = ("name", "state", "mode", "bar", "line", "gaps")


@dataclass(frozen=True, slots=True)
class Line:
    """A line, and what it is: `head`, `soft`, or a level as a status has them."""

    text: str
    style: str = ""


class Board:
    """Remembers what it was shown, for the line of runways and for ids a second."""

    def __init__(self) -> None:
        self._trails: dict[str, deque[tuple[float, int, float | None]]] = {}

    def lines(self, status: Mapping[str, Any], width: int) -> list[Line]:
        """All there is to show; lines of commands may be longer than `width`."""
        now = status["time"]
        total = self._follow("", now, status["issued"], None)  # no counter is called so
        rate = status["ids_per_second"] if total is None else total
        rows = [self._row(counter, now) for counter in status["counters"]]
        shown = _columns(rows, width)
        lines = [Line(text[:width], style) for text, style in _head(status, rate)]
        lines += [Line(""), Line(_joined(COLUMNS, shown)[:width], "head")]
        for counter, row in zip(status["counters"], rows, strict=True):
            lines.append(Line(_joined(row, shown)[:width], counter["level"]))
            lines += _advice(counter, width)
        if not rows:
            lines.append(Line("no counter is in use", "soft"))
        if status["pages"] > 1:
            text = f"page {status['page']} of {status['pages']}, {status['found']:,} counters"
            lines.append(Line(text[:width], "soft"))
        return lines

    def _row(self, counter: Mapping[str, Any], now: float) -> dict[str, str]:
        strict = counter["mode"] == "strict"
        runway = None if strict else counter["runway_seconds"]
        if not strict and not counter["ids_in_memory"]:
            runway = 0.0
        rate = self._follow(counter["counter"], now, counter["issued"], runway)
        row = format.row(counter, now)
        if rate is not None:
            row["rate"] = format.rate(rate)
        full = 2 * (counter["runway"] or 1.0)
        row["name"] = counter["counter"]
        row["bar"] = "" if strict else bar(counter["ids_in_memory"], counter["stock"])
        row["line"] = format.spark(self._spark(counter["counter"], now), full)
        return row

    def _follow(self, name: str, now: float, issued: int, runway: float | None) -> float | None:
        """Take note; ids a second in the last moments, where they are known."""
        trail = self._trails.setdefault(name, deque())
        if trail and (issued < trail[-1][1] or now < trail[-1][0]):
            trail.clear()  # another service, or it began anew
        trail.append((now, issued, runway))
        while trail[0][0] < now - LINE_S:
            trail.popleft()
        at, then, _ = next((one for one in reversed(trail) if one[0] <= now - RATE_S), trail[0])
        return (issued - then) / (now - at) if at < now else None

    def _spark(self, name: str, now: float) -> list[float | None]:
        """The least runway in each part of the time."""
        cells: list[float | None] = [None] * SPARK_CELLS
        for at, _, runway in self._trails[name]:
            cell = min(SPARK_CELLS - 1, int((at - now + LINE_S) / LINE_S * SPARK_CELLS))
            known = cells[cell]
            if runway is not None and (known is None or runway < known):
                cells[cell] = runway
        return cells


def bar(held: int, stock: int) -> str:
    """What is held, of what was held after the last refill."""
    full = round(BAR_CELLS * held / stock) if stock else 0
    return "█" * full + "·" * (BAR_CELLS - full)


def _head(status: Mapping[str, Any], rate: float) -> list[tuple[str, str]]:
    store, lag = status["store"], status["loop_lag"]
    shortest = format.NONE
    if status["shortest"]:
        shortest = f"{format.span(status['shortest_runway_seconds'])}, {status['shortest']}"
    service = (
        f"idservice {status['version']}",
        format.workers(status),
        f"up for {format.span(status['uptime_seconds'])}",
        f"{store['address']} {'answers' if store['up'] else 'does not answer'}",
    )
    ids = (
        f"shortest runway {shortest}",
        f"ids/s {format.rate(rate)}",
        f"in memory {format.whole(status['ids_in_memory'])}",
        f"waiting {format.whole(status['waiting'])}",
    )
    times = (
        f"reservations p50 / p99 {format.reserve(status['reserve'])}",
        f"event loop late, p99 {format.at_most(lag['p99']) if lag else format.NONE}",
    )
    lines = [(status["verdict"], status["level"]), ("   ".join(service), "soft")]
    lines += [("   ".join(ids), ""), ("   ".join(times), "")]
    return lines + ([(store["error"], "bad")] if store["error"] else [])


def _advice(counter: Mapping[str, Any], width: int) -> list[Line]:
    """What is wrong with a counter, and the command to run, which is in one piece."""
    lines = [
        Line(text, "soft")
        for text in textwrap.wrap(
            counter["why"], max(20, width), initial_indent="  ", subsequent_indent="  "
        )
    ]
    return [*lines, Line(f"  $ {counter['command']}")] if counter["command"] else lines


def _columns(rows: Sequence[Mapping[str, str]], width: int) -> dict[str, int]:
    """The columns that there is room for, and how wide they are."""
    shown = {
        key: max([len(title), *(len(row[key]) for row in rows)]) for key, title in COLUMNS.items()
    }
    for key in LEFT_OUT:
        if sum(shown.values()) + 2 * (len(shown) - 1) > width:
            del shown[key]
    return shown


def _joined(row: Mapping[str, str], shown: Mapping[str, int]) -> str:
    cells = [
        row[key].ljust(wide) if key in LEFT_ALIGNED else row[key].rjust(wide)
        for key, wide in shown.items()
    ]
    return "  ".join(cells).rstrip()
