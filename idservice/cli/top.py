"""The status in the terminal: the figures of the page, again and again, until it is told to end."""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from idservice.cli import http_get
from idservice.cli.board import Board, Line
from idservice.cli.screen import Screen
from idservice.errors import IdserviceError, Usage
from idservice.server import settings

ANSWER_S = 5.0
AROUND = 8  # lines of the screen that are no counters'
PER_MAX = 1000
AWAY = "Asking again. "
WIDE = 1000  # columns, where nobody counts them


def default_url(environment: Mapping[str, str]) -> str:
    """Return the URL of the control plane of this container, by its environment. Raises Usage."""
    admin = settings.from_environment(settings.ADMIN_LISTEN, environment)
    listen = settings.from_environment(settings.LISTEN, environment)
    if admin is None and all(address.is_local for address in listen):
        return http_get.default_url(environment)
    return http_get.reachable_url(admin or settings.ADMIN_DEFAULT)


def top(arguments: argparse.Namespace) -> int:
    """Show the status of a service."""
    run(
        arguments.url or default_url(os.environ),
        once=arguments.once, as_json=arguments.json, every_s=arguments.interval,
    )  # fmt: skip
    return 0


def look(url: str, *, page: int = 1, per: int = PER_MAX) -> dict[str, Any]:
    """The status of a service. Raises NoAnswer, RefusedBy, Usage."""
    code, body = http_get.ask(url, f"/v1/status?page={page}&per={per}", timeout=ANSWER_S)
    if code == 404:
        why = "it shows no status there; name where its --admin-listen says, by --url"
        raise http_get.RefusedBy(url=url, why=f"{why}.")
    if code != 200:
        raise http_get.RefusedBy(url=url, why=http_get.detail(code, body))
    try:
        status: dict[str, Any] = json.loads(body)
        status["counters"]
    except (ValueError, KeyError, TypeError):
        raise http_get.NoAnswer(url=url, why="what came back is no status") from None
    return status


def run(url: str, *, once: bool, as_json: bool, every_s: float) -> None:
    """Show the status once, or until told to end; drawn on a terminal, else printed. Raises Usage,
    and once as `look`."""
    if once:
        _print(look(url), Board(), as_json=as_json)
    elif as_json or not sys.stdout.isatty():
        with suppress(KeyboardInterrupt):
            _follow(url, as_json=as_json, every_s=every_s)
    else:
        _watch(url, every_s=every_s)


def _follow(url: str, *, as_json: bool, every_s: float) -> None:
    board = Board()
    while True:
        try:
            _print(look(url), board, as_json=as_json)
        except Usage:
            raise
        except IdserviceError as error:
            print(f"idservice: {error}", file=sys.stderr, flush=True)
        time.sleep(every_s)


def _watch(url: str, *, every_s: float) -> None:
    board, page, lines, due = Board(), 1, [], 0.0
    with Screen() as screen:
        while True:
            width, height = screen.size
            if time.monotonic() >= due:
                due = time.monotonic() + every_s
                try:
                    status = look(url, page=page, per=max(1, height - AROUND))
                    page = status["page"]
                    lines = board.lines(status, width)
                except Usage:
                    raise
                except IdserviceError as error:
                    lines = [Line(f"{AWAY}{error}", "bad"), *_old(lines)]
            screen.draw(_fitted(lines, height))
            key = screen.wait(max(0.0, due - time.monotonic()))
            if key is None:
                return
            if key in ("n", "p"):
                page, due = max(1, page + (1 if key == "n" else -1)), 0.0


def _old(lines: list[Line]) -> list[Line]:
    """What was last known, without what was said since."""
    return [line for line in lines if not line.text.startswith(AWAY)]


def _fitted(lines: list[Line], height: int) -> list[Line]:
    """As many as there is room for, and what can be done."""
    return [*lines[: height - 1], Line("q quits, n and p turn pages", "soft")]


def _print(status: dict[str, Any], board: Board, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(status), flush=True)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    text = "\n".join(line.text for line in board.lines(status, width))
    print(f"{text}\n", flush=True)
