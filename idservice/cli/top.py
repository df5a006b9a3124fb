"""The command `top`: the status of a service in the terminal, again and again.

Problems come first, each with the command that mends it; then the service, its counters, and its
tallies.
On a terminal the screen is drawn anew at each look. Elsewhere the same facts are plain text.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from idservice.cli import http_get
from idservice.cli.shown_key import shown_key
from idservice.client.own_key import UNAUTHORIZED, OwnKey
from idservice.errors import KeyRefused, Unavailable
from idservice.observability import format
from idservice.server import stop_signals
from idservice.server.left_address import service_address

ANSWER_S = 5.0
AROUND = 8  # lines of the screen that are neither counters nor tallies
PER_MAX = 1000  # counters on a page
WIDE = 1000  # columns of plain text
GAP = 2  # cells between two columns of a table
LINE_S = 120.0  # the time that the line of runways spans
RATE_S = 3.0  # ids per second are counted over this time
SPARK_CELLS, BAR_CELLS = 12, 10
STYLES = {"bad": "bold red", "warn": "yellow", "calm": "dim"}  # by level of a status
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
    "changed": "LAST CHANGE",
}
# The columns that are left out if there is no room, in this order.
LEFT_OUT = (
    "changed",
    "mode",
    "epoch",
    "line",
    "reserve",
    "bar",
    "gaps",
    "ends",
    "memory",
    "used",
    "rate",
)
TALLY_COLUMNS = {
    "name": "TALLY",
    "state": "STATE",
    "adds": "ADDS/S",
    "waiting": "WAITING",
    "commits": "COMMITS/S",
    "lost": "BEATEN",
    "commit": "COMMIT P99",
    "trouble": "LAST TROUBLE",
}
TALLIES_LEFT_OUT = ("trouble", "lost", "commits", "commit", "waiting", "adds")
LEFT_ALIGNED = ("name", "state", "mode", "bar", "line", "gaps", "changed", "trouble")


class KeyRefusedBy(KeyRefused):
    text = "The service at {url} refused: {why}"


def top(arguments: argparse.Namespace) -> int:
    """Show the status of a service, once or until told to end. Raises Usage, and once as `look`."""
    url = arguments.url or default_url(os.environ)
    ask = partial(look, url, here=not arguments.url, key=shown_key(arguments))
    if arguments.once:
        _print(ask(), Trails(), as_json=arguments.json)
        return 0
    for number in stop_signals.numbers():  # as Ctrl-C: the terminal is put in order
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        if arguments.json or not sys.stdout.isatty():
            _follow(ask, as_json=arguments.json, every_s=arguments.interval)
        else:
            _watch(ask, every_s=arguments.interval)
    return 0


def default_url(environment: Mapping[str, str]) -> str:
    """Return the URL of the control plane of the service that runs here. Raises Usage."""
    return http_get.reachable_url(service_address(environment, admin=True))


def look(
    url: str, *, per: int = PER_MAX, here: bool = False, key: OwnKey | None = None
) -> dict[str, Any]:
    """Return the status of a service; `here` and `key` as for `http_get.ask`. Raises NoAnswer,
    RefusedBy, KeyRefusedBy, Usage."""
    target = f"/v1/status?page=1&per={per}"
    code, body = http_get.ask(url, target, timeout=ANSWER_S, here=here, key=key)
    if code == UNAUTHORIZED:  # asking again is of no use
        is_bare = http_get.lacks_key(code, key)
        raise KeyRefusedBy(url=url, why=http_get.NO_KEY if is_bare else http_get.detail(code, body))
    if code != 200:
        why = "it shows no status there; give the address of its --admin-listen as --url."
        raise http_get.RefusedBy(url=url, why=why if code == 404 else http_get.detail(code, body))
    try:
        status: dict[str, Any] = json.loads(body)
        status["counters"]
    except (ValueError, KeyError, TypeError):
        raise http_get.NoAnswer(url=url, why="the answer is not a status") from None
    return status


def _follow(ask: Callable[[], dict[str, Any]], *, as_json: bool, every_s: float) -> None:
    trails = Trails()
    while True:
        try:
            _print(ask(), trails, as_json=as_json)
        except Unavailable as error:
            print(f"idservice: {error}", file=sys.stderr, flush=True)
        time.sleep(every_s)


def _watch(ask: Callable[..., dict[str, Any]], *, every_s: float) -> None:
    for name in ("COLUMNS", "LINES"):  # they do not follow the size of the terminal
        os.environ.pop(name, None)
    console, trails = Console(highlight=False), Trails()
    shown: RenderableType = ""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                status = ask(per=min(PER_MAX, max(1, console.height - AROUND)))
                shown = Board(status, trails)
                live.update(shown, refresh=True)
            except Unavailable as error:
                away = Text(f"Asking again. {error}", "bold red")
                live.update(Group(away, shown), refresh=True)
            time.sleep(every_s)


def _print(status: dict[str, Any], trails: "Trails", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(status), flush=True)
        return
    width = None if sys.stdout.isatty() else WIDE
    console = Console(highlight=False, width=width, file=sys.stdout)
    with console.capture() as text:
        console.print(Board(status, trails))
    print("\n".join(line.rstrip() for line in text.get().splitlines()), end="\n\n", flush=True)


# --- what is shown --------------------------------------------------------------------------------


class Board:
    """A status, drawn for the width of a console."""

    def __init__(self, status: Mapping[str, Any], trails: "Trails") -> None:
        self._status = status
        now = status["time"]
        rate = trails.follow("", now, status["issued"], None)  # the name of no counter
        self._rate = status["ids_per_second"] if rate is None else rate
        self._rows = [trails.row(counter, now) for counter in status["counters"]]
        self._tallies = status.get("tallies", ())  # a service of an earlier version has none

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        status = self._status
        yield Text(status["verdict"], STYLES.get(status["level"], "bold"))
        if status["store"]["error"]:
            yield Text(status["store"]["error"], STYLES["bad"])
        for one in (*status["counters"], *self._tallies):
            yield from _advice(one)
        yield from _head(status, self._rate)
        if status["pages"] > 1:
            shown = f"{len(self._rows):,} of {status['found']:,} counters, problems first"
            yield Text(shown, "dim")
        yield ""
        if self._rows:
            levels = [counter["level"] for counter in status["counters"]]
            yield _table(COLUMNS, LEFT_OUT, self._rows, levels, options.max_width)
        else:
            yield Text("no counter is in use", "dim")
        if self._tallies:
            yield ""
            rows = [{**format.tally_row(one), "name": one["tally"]} for one in self._tallies]
            levels = [one["level"] for one in self._tallies]
            yield _table(TALLY_COLUMNS, TALLIES_LEFT_OUT, rows, levels, options.max_width)


def _table(
    titles: Mapping[str, str],
    left_out: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    levels: Sequence[str],
    width: int,
) -> Table:
    """Return a table of rows, without the columns that have no room."""
    columns, widths = dict(titles), {}
    for name, title in titles.items():
        widths[name] = max(map(cell_len, (title, *(row[name] for row in rows))))
    for key in left_out:
        if sum(widths[name] for name in columns) + GAP * (len(columns) - 1) <= width:
            break
        del columns[key]
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="reverse", pad_edge=False)
    for name, title in columns.items():
        justify: Literal["left", "right"] = "left" if name in LEFT_ALIGNED else "right"
        table.add_column(title, justify=justify, no_wrap=True, overflow="crop")
    for level, row in zip(levels, rows, strict=True):
        table.add_row(*(Text(row[name]) for name in columns), style=STYLES.get(level))
    return table


def _advice(one: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield what is wrong with a counter or a tally, and the command to run, in one piece."""
    if one["why"]:
        name = one["counter"] if "counter" in one else one["tally"]
        yield Text.assemble((name, STYLES.get(one["level"], "")), f": {one['why']}")
    if one["command"]:
        yield Text(f"  $ {one['command']}", overflow="fold")


def _head(status: Mapping[str, Any], rate: float) -> Iterator[Text]:
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
        f"in memory {status['ids_in_memory']:,}",
        f"waiting {status['waiting']:,}",
    )
    times = (
        f"reservations p50 / p99 {format.reserve(status['reserve'])}",
        f"event loop late, p99 {format.at_most(lag['p99']) if lag else format.NONE}",
    )
    for facts, style in ((service, "dim"), (ids, ""), (times, "")):
        yield Text("   ".join(facts), style, no_wrap=True, overflow="ellipsis")


class Trails:
    """The last looks at each counter, from which the runways and the ids per second are drawn."""

    def __init__(self) -> None:
        self._trails: dict[str, deque[tuple[float, int, float | None]]] = {}

    def row(self, counter: Mapping[str, Any], now: float) -> dict[str, str]:
        """Return the cells of a counter, and remember its figures."""
        strict = counter["mode"] == "strict"
        runway = None if strict else counter["runway_seconds"]
        if not strict and not counter["ids_in_memory"]:
            runway = 0.0
        rate = self.follow(counter["counter"], now, counter["issued"], runway)
        row = format.row(counter, now)
        if rate is not None:
            row["rate"] = format.rate(rate)
        row["name"] = counter["counter"]
        held, stock = counter["ids_in_memory"], counter["stock"]
        full = round(BAR_CELLS * held / stock) if stock else 0  # after a refill, all of it
        row["bar"] = "" if strict else "█" * full + "·" * (BAR_CELLS - full)
        row["line"] = format.spark(
            self._spark(counter["counter"], now), 2 * (counter["runway"] or 1.0)
        )
        return row

    def follow(self, name: str, now: float, issued: int, runway: float | None) -> float | None:
        """Remember figures; return the recent ids a second, or None if not known yet."""
        trail = self._trails.setdefault(name, deque())
        if trail and (issued < trail[-1][1] or now < trail[-1][0]):
            trail.clear()  # another service, or a new start
        trail.append((now, issued, runway))
        while trail[0][0] < now - LINE_S:
            trail.popleft()
        at, before, _ = next((one for one in reversed(trail) if one[0] <= now - RATE_S), trail[0])
        return (issued - before) / (now - at) if at < now else None

    def _spark(self, name: str, now: float) -> list[float | None]:
        """Return the lowest runway in each part of the time."""
        cells: list[float | None] = [None] * SPARK_CELLS
        for at, _, runway in self._trails[name]:
            cell = min(SPARK_CELLS - 1, int((at - now + LINE_S) / LINE_S * SPARK_CELLS))
            known = cells[cell]
            if runway is not None and (known is None or runway < known):
                cells[cell] = runway
        return cells
