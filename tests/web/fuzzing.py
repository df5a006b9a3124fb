"""What the document cannot say, told to the fuzzer (it loads this as its hooks)."""

import contextlib
import itertools
import re
from typing import Any

import schemathesis

from idservice.core.access_key import holds_key
from idservice.stores.instants import day_in, day_text

AMOUNT = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,9})?", re.ASCII)
KEY = re.compile(r"[A-Za-z0-9._:~-]{1,128}", re.ASCII)
numbers = itertools.count()
BATCH_MAX, COUNT_MAX = 10_000, 1_000_000  # the most that a count may be, and only for ranges
MANY = re.compile(r"[1-9][0-9]{4,5}|1000000", re.ASCII)
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
WHOLE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Rules between fields. JSON Schema has words for some, of which generators make no types."""
    query = case.query or {}
    if query.get("format") != "ranges" and MANY.fullmatch(str(query.get("count"))):
        query["count"] = BATCH_MAX
    for name, value in (case.path_parameters or {}).items():
        if holds_key(str(value)):  # it makes access keys, and sends them on
            case.path_parameters[name] = "key"
    key = str((case.headers or {}).get("Idempotency-Key", ""))
    if KEY.fullmatch(key):  # else one key names several amounts
        case.headers["Idempotency-Key"] = f"key-{next(numbers)}"
    if case.path == "/v1/usage":
        of_a_report(query)
    body = case.body
    if not isinstance(body, dict):
        return
    if case.path == "/v1/keys":
        of_a_key(body)
    if case.path.startswith("/v1/tallies"):
        of_a_tally(body)
    for field in ("start", "limit", "shards", "request_max", "next"):
        if isinstance(body.get(field), float) and body[field].is_integer():
            body[field] = int(body[field])  # 19.0 is an integer to JSON Schema, and refused here
    if not str(body.get("reason", "")).isascii():  # as printable as others, which no pattern tells
        body["reason"] = "two\nlines"
    wished = (body.get("start"), body.get("limit"))
    if all(is_whole(value) for value in wished):  # the start is not above the limit
        body["start"], body["limit"] = sorted(wished, key=int)
    if body.get("strict") is True and "shards" in body and is_whole(body["shards"]):
        body["strict"] = int(body["shards"]) <= 1
    if is_whole(body.get("request_max")) and 0 < int(body["request_max"]) < COUNT_MAX:
        body["request_max"] = COUNT_MAX  # a lower bound refuses counts that the document permits
    if type(body.get("rate_max")) in (int, float) and 0 < body["rate_max"] < COUNT_MAX:
        body["rate_max"] = COUNT_MAX
    fields = ("state", "limit", "runway", "request_max", "rate_max")
    if case.method == "PATCH" and all(body.get(one) is None for one in fields):
        body["state"] = "active"


def of_a_report(query: dict[str, Any]) -> None:
    """Days in order, since 1970 and not too many, if they are days."""
    with contextlib.suppress(ValueError):
        days = [day_in(str(query[key])) for key in ("from", "to") if key in query]
        if days:
            query["from"] = query["to"] = day_text(max(0, *days))


def of_a_tally(body: dict[str, Any]) -> None:
    """Amounts that any tally can have, within bounds that any sum is in."""
    if isinstance(body.get("decimals"), float) and body["decimals"].is_integer():
        body["decimals"] = int(body["decimals"])
    for field in ("amount", "sum", "start", "floor", "ceiling", "only"):
        sent = body.get(field)
        if type(sent) in (int, float):
            body[field] = [sent]  # a number is taken as well, which the document keeps to itself
        elif isinstance(sent, str) and AMOUNT.fullmatch(sent):
            whole = sent.lstrip("-").partition(".")[0][:9]
            body[field] = {"floor": f"-{whole}", "ceiling": whole}.get(field, "0")
    if body.get("only") == "0":
        del body["only"]


def of_a_key(body: dict[str, Any]) -> None:
    """Scopes without one twice, and without the one that only another key gives; a day to come."""
    scopes = body.get("scopes")
    if isinstance(scopes, list) and all(isinstance(one, str) for one in scopes):
        beyond = [one == "*" or holds_key(one) for one in scopes]
        named = zip(scopes, beyond, strict=True)
        body["scopes"] = list(dict.fromkeys("all.*" if other else one for one, other in named))
    if DAY.match(str(body.get("expires"))):
        body["expires"] = "2099-01-01"
    if not str(body.get("note", "")).isascii():
        body["note"] = "two\nlines"


def is_whole(value: Any) -> bool:
    return type(value) in (int, str) and WHOLE.fullmatch(str(value)) is not None
