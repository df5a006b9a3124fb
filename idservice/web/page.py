"""The status page: `status.html` filled in, so that it can be read without its script.

It may load nothing and run nothing but what stands in it: the policy names both by their hashes.
"""

import base64
import hashlib
import re
import shlex
from datetime import UTC, datetime
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlencode

from idservice.observability import format

HIDDEN = " hidden"
ROW_START, ROW_END = '<template id="row">\n', "</template>"


class Page:
    """The parts of the file, and the headers it is served with."""

    def __init__(self, text: str) -> None:
        parts = {name: _inside(text, name) for name in ("style", "script")}
        for name, part in parts.items():
            text = text.replace(part, f"${name}", 1)
        before, _, rest = text.partition(ROW_START)
        row, _, after = rest.partition(ROW_END)
        self._parts = parts
        self._row = Template(row)
        self._whole = Template(f"{before}{ROW_START}$blank{ROW_END}{after}")
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

    def filled(self, status: dict[str, Any]) -> bytes:
        """The page for a status, whose values are JSON's."""
        rows = [self._filled(counter, status["time"]) for counter in status["counters"]]
        blank = self._row.substitute(
            dict.fromkeys(_names(self._row), ""), quiet=HIDDEN, fill="0", low="0"
        )
        words = {key: escape(value) for key, value in _words(status).items()}
        page = self._whole.substitute(
            words, **self._parts, **_visible(status), rows="".join(rows), blank=blank
        )
        return page.encode()

    def _filled(self, counter: dict[str, Any], now: float) -> str:
        row = format.row(counter, now)
        total = counter["stock"] or 1
        by = "" if row["gaps"] == "0" else row["gaps"]
        words = {
            **row,
            "name": counter["counter"],
            "about": f"{row['mode']}, epoch {row['epoch']}",
            "level": counter["level"],
            "change": f"{counter['change']} under way" if counter["change"] else "",
            "waiting": f"{format.whole(counter['waiting'])} waiting" if counter["waiting"] else "",
            "lost": format.whole(sum(counter["gaps"].values())),
            "by": by,
            "ends": "" if counter["runs_out_seconds"] is None else row["ends"],
            "why": counter["why"],
            "command": counter["command"],
        }
        strict = counter["mode"] == "strict"
        return self._row.substitute(
            {key: escape(value) for key, value in words.items()},
            bar=HIDDEN if strict or not counter["stock"] else "",
            fill=f"{100 * counter['ids_in_memory'] / total:.1f}",
            low=f"{99 * counter['refill_at'] / total:.1f}",
            quiet="" if counter["why"] or counter["command"] else HIDDEN,
        )


@cache
def page() -> Page:
    """The page of this version."""
    return Page(Path(__file__).with_name("status.html").read_text(encoding="utf-8"))


def _words(status: dict[str, Any]) -> dict[str, str]:
    """What stands around the counters."""
    store, lag = status["store"], status["loop_lag"]
    seconds = status["shortest_runway_seconds"]
    found = "No counter has such a name." if status["in_use"] else "No counter is in use yet."
    return {
        "title": (f"({status['attention']}) " if status["attention"] else "") + "idservice",
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
        "memory": format.whole(status["ids_in_memory"]),
        "waiting": format.whole(status["waiting"]),
        "reserve": format.reserve(status["reserve"]),
        "lag": format.at_most(lag["p99"]) if lag else format.NONE,
        "workers": format.workers(status),
        "uptime": f"up for {format.span(status['uptime_seconds'])}",
        "version": status["version"],
        "find": status["find"],
        "found": f"{format.whole(status['found'])} of {format.whole(status['in_use'])}",
        "nothing": found,
        "page": f"Page {status['page']} of {status['pages']}",
        "before": _query(status, status["page"] - 1),
        "after": _query(status, status["page"] + 1),
        "causes": " ".join(f"{cause}: {why}." for cause, why in status["gap_causes"].items()),
    }


def _query(status: dict[str, Any], page: int) -> str:
    return "?" + urlencode({"page": page, "per": status["per"], "find": status["find"]})


def _visible(status: dict[str, Any]) -> dict[str, str]:
    """Which parts are hidden."""
    shown = {
        "some": status["found"] > 0,
        "none": status["found"] == 0,
        "many": status["in_use"] > 1,
        "paged": status["pages"] > 1,
        "has_before": status["page"] > 1,
        "has_after": status["page"] < status["pages"],
    }
    return {name: "" if is_shown else HIDDEN for name, is_shown in shown.items()}


def _names(template: Template) -> list[str]:
    return template.get_identifiers()


def _inside(text: str, element: str) -> str:
    match = re.search(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
    assert match is not None, element
    return match[1]


def _hash(part: str) -> str:
    digest = hashlib.sha256(part.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
