"""The routes that show the whole service from memory alone: a page and its JSON.

The page is `status.html` filled in here, so that every figure is worded once. Its script fetches
the page again, replaces what has changed, and draws the lines. The page loads nothing: its policy
names its style and its script by their hashes.
"""

import base64
import hashlib
import re
import shlex
import time
from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from idservice.core.access_key import fits
from idservice.observability import format
from idservice.observability.readings import ServiceView, seen
from idservice.observability.status import StatusQuery, none_in_use, status
from idservice.observability.status_records import Status
from idservice.web.passes import pass_of
from idservice.web.problems import NO_STORE, BadPage, json_answer
from idservice.web.request import COUNT, read_query

FIND = re.compile(r"[A-Za-z0-9._-]{0,64}", re.ASCII)
PER_MAX = 1000
PAGE_MAX = 1_000_000
FILE = Path(__file__).with_name("status.html")
HIDDEN = " hidden"
STORE = "STORE"  # in place of the address, for a client that may not see it
TEMPLATE = re.compile(r'<template id="(\w+)">\n(.*?)</template>\n', re.DOTALL)


class StatusRoutes:
    """Handlers that show the service of `view`, whose store has the address `store`. `clock`
    returns the time in seconds since 1970."""

    def __init__(
        self, view: ServiceView, store: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._view = view
        self._store = store
        self._clock = clock

    async def page(self, request: web.Request) -> web.Response:
        values, partial = msgspec.to_builtins(await self._status(request)), _is_partial(request)
        body = PAGE.filled(values, partial=partial)
        return web.Response(body=body, headers={**NO_STORE, **PAGE.headers})

    async def json(self, request: web.Request) -> web.Response:
        return json_answer(await self._status(request))

    async def _status(self, request: web.Request) -> Status:
        """Return the status. Raises BadPage, RepeatedKey, MalformedRequest, ParentSilent."""
        wanted = read_status_query(request.rel_url.raw_query_string)
        snapshot, by = await self._view.snapshot(), pass_of(request)
        return status(
            snapshot if by.sees_all else seen(snapshot, by.sees),
            wanted,
            store=self._store if by.sees_all else STORE,
            time=self._clock(),
            partial=_is_partial(request),
        )


def _is_partial(request: web.Request) -> bool:
    return not pass_of(request).sees_all


def read_status_query(query: str) -> StatusQuery:
    """Read the query of a status. Raises BadPage, RepeatedKey, MalformedRequest."""
    pairs = read_query(query)
    find = pairs.get("find", "")
    if not fits(FIND, find):  # the page shows it
        rule = "up to 64 letters, digits, '.', '_' or '-', and no access key"
        raise BadPage(key="find", value=find[:80], rule=rule)
    numbers = {}
    for key, most in (("page", PAGE_MAX), ("per", PER_MAX)):
        value = pairs.get(key)
        if value is None:
            continue
        if not COUNT.fullmatch(value) or int(value) > most:
            rule = f"a whole number from 1 to {most}"
            raise BadPage(key=key, value=value[:80], rule=rule)
        numbers[key] = int(value)
    return StatusQuery(find=find, **numbers)


# --- the page -------------------------------------------------------------------------------------


class PageTemplate:
    """The text of a page with one row for a counter and one for a tally, and the headers it is
    served with."""

    def __init__(self, text: str) -> None:
        parts = {name: _inside(text, name) for name in ("style", "script")}
        for name, part in parts.items():
            text = text.replace(part, f"${name}", 1)
        rows = {name: Template(row) for name, row in TEMPLATE.findall(text)}
        self._parts = parts
        self._row, self._tally = rows["row"], rows["tally"]
        self._page = Template(TEMPLATE.sub("", text))
        self.headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": (
                f"default-src 'none'; script-src '{_hash(parts['script'])}'; style-src"
                f" '{_hash(parts['style'])}'; img-src data:; connect-src 'self'; form-action"
                " 'self'; base-uri 'none'; frame-ancestors 'none'"
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    def filled(self, status: dict[str, Any], *, partial: bool = False) -> bytes:
        """Return the page that shows a status, which is made of JSON values. A `partial` status is
        for an access key that does not cover all counters."""
        rows = [self._filled_row(counter, status["time"]) for counter in status["counters"]]
        tallies = [self._filled_tally(tally) for tally in status["tallies"]]
        words = {key: escape(value) for key, value in _words(status, partial).items()}
        page = self._page.substitute(
            words, **self._parts, **_visible(status), rows="".join(rows),
            tallies="".join(tallies), time=status["time"],
        )  # fmt: skip
        return page.encode()

    def _filled_row(self, counter: dict[str, Any], now: float) -> str:
        row = format.row(counter, now)
        strict, total = counter["mode"] == "strict", counter["stock"] or 1
        left = counter["runway_seconds"] if counter["ids_in_memory"] else 0
        words = {
            **row,
            "name": counter["counter"],
            "about": f"{row['mode']}, epoch {row['epoch']}",
            "level": counter["level"],
            "change": f"{counter['change']} under way" if counter["change"] else "",
            "changed": f"last change: {counter['last_change']}" if counter["last_change"] else "",
            "waiting": f"{counter['waiting']:,} waiting" if counter["waiting"] else "",
            "lost": f"{sum(counter['gaps'].values()):,}",
            "by": "" if row["gaps"] == "0" else row["gaps"],
            "ends": "" if counter["runs_out_seconds"] is None else row["ends"],
            "why": counter["why"],
            "command": counter["command"],
        }
        return self._row.substitute(
            {key: escape(value) for key, value in words.items()},
            bar=HIDDEN if strict or not counter["stock"] else "",
            fill=f"{100 * counter['ids_in_memory'] / total:.1f}",
            low=f"{99 * counter['refill_at'] / total:.1f}",
            quiet="" if counter["why"] or counter["command"] else HIDDEN,
            left="" if strict or left is None else left,
            aim=counter["runway"],
        )

    def _filled_tally(self, tally: dict[str, Any]) -> str:
        words = {**format.tally_row(tally), **{k: tally[k] for k in ("level", "why", "command")}}
        return self._tally.substitute(
            {key: escape(value) for key, value in words.items()},
            name=tally["tally"],
            quiet="" if tally["why"] or tally["command"] else HIDDEN,
            calm="" if tally["trouble"] and not tally["why"] else HIDDEN,
        )


def _words(status: dict[str, Any], partial: bool) -> dict[str, str]:
    """Return the texts outside the rows of counters, by their names in the template."""
    store, lag = status["store"], status["loop_lag"]
    seconds = status["shortest_runway_seconds"]
    bad = [one for one in status["tallies"] if one["level"] in ("bad", "warn")]
    attention = status["attention"] + len(bad)
    nothing = "No counter has such a name" if status["in_use"] else none_in_use(partial)
    return {
        "title": (f"({attention}) " if attention else "") + "idservice",
        "level": status["level"],
        "verdict": status["verdict"],
        "clock": datetime.fromtimestamp(status["time"], UTC).strftime("%H:%M:%S"),
        "store": f"{store['address']} {'answers' if store['up'] else 'does not answer'}",
        "store_error": store["error"],
        "store_flag": shlex.quote(store["address"]),
        "shortest": (
            f"{format.span(seconds)}, {status['shortest']}" if status["shortest"] else format.NONE
        ),
        "rate": format.rate(status["ids_per_second"]),
        "memory": f"{status['ids_in_memory']:,}",
        "waiting": f"{status['waiting']:,}",
        "reserve": format.reserve(status["reserve"]),
        "lag": format.at_most(lag["p99"]) if lag else format.NONE,
        "workers": format.workers(status),
        "uptime": f"up for {format.span(status['uptime_seconds'])}",
        "version": status["version"],
        "find": status["find"],
        "found": f"{status['found']:,} of {status['in_use']:,}",
        "tallies_shown": f"{len(status['tallies']):,} of {status['tallies_in_use']:,}",
        "nothing": f"{nothing}.",
        "page": f"Page {status['page']} of {status['pages']}",
        "before": _query(status, status["page"] - 1),
        "after": _query(status, status["page"] + 1),
        "causes": " ".join(f"{cause}: {why}." for cause, why in status["gap_causes"].items()),
    }


def _query(status: dict[str, Any], page: int) -> str:
    return "?" + urlencode({"page": page, "per": status["per"], "find": status["find"]})


def _visible(status: dict[str, Any]) -> dict[str, str]:
    """Return the attribute that hides a part, or nothing."""
    shown = {
        "some": status["found"] > 0,
        "none": status["found"] == 0,
        "many": status["in_use"] > 1,
        "paged": status["pages"] > 1,
        "some_tallies": bool(status["tallies"]),
        "has_before": status["page"] > 1,
        "has_after": status["page"] < status["pages"],
    }
    return {name: "" if is_shown else HIDDEN for name, is_shown in shown.items()}


def _inside(text: str, element: str) -> str:
    match = re.search(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
    assert match is not None, element
    return match[1]


def _hash(part: str) -> str:
    digest = hashlib.sha256(part.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


PAGE = PageTemplate(FILE.read_text(encoding="utf-8"))
