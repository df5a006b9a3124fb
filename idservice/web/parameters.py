"""Describes the parameters of requests for the OpenAPI document: in paths, queries and headers."""

from typing import Any

from idservice.core import access_key
from idservice.core.limits import KEY, NAME
from idservice.observability.status import PER_DEFAULT
from idservice.web import examples
from idservice.web.components import Schema
from idservice.web.counters import LIST_MAX
from idservice.web.status_page import FIND, PAGE_MAX, PER_MAX


def parameter(name: str, description: str, **schema: Any) -> Schema:
    """Return a parameter of a query."""
    if schema.get("type") == "integer":
        schema["format"] = "int64"
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _named(of: str, example: str) -> list[Schema]:
    return [
        {
            "name": "name",
            "in": "path",
            "required": True,
            "description": f"The name of the {of}.",
            "schema": {"type": "string", "pattern": f"^{NAME.pattern}$"},
            "example": example,
        }
    ]


NAMED, TALLY = _named("counter", "orders"), _named("tally", "donations")
KEY_IN_PATH: Schema = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "The key of the add.",
    "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"},
    "example": "don-4711",
}
IDEMPOTENCY_KEY: Schema = {
    **KEY_IN_PATH,
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Names this add for good; a retry with the same key is counted once. It may be"
    " quoted.",
}
LIST_QUERY = [
    parameter(
        "limit", "The number of counters in an answer.",
        type="integer", minimum=1, maximum=LIST_MAX, default=LIST_MAX,
    ),
    parameter(
        "after", "The `next` of the page before.", type="string", pattern=f"^{NAME.pattern}$",
    ),
]  # fmt: skip
STATUS_QUERY = [
    parameter(
        "page", "The number of the page, from 1. A number too high means the last page.",
        type="integer", minimum=1, maximum=PAGE_MAX, default=1,
    ),
    parameter(
        "per", "The number of counters on a page.",
        type="integer", minimum=1, maximum=PER_MAX, default=PER_DEFAULT,
    ),
    parameter(
        "find", "Part of a name: only counters whose name contains it are shown.",
        type="string", pattern=f"^{FIND.pattern}$",
    ),
]  # fmt: skip


KEY_ID: Schema = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The id of the access key.",
    "schema": {"type": "string", "pattern": f"^{access_key.KEY_ID.pattern}$"},
    "example": examples.KEY.id,
}
USAGE_QUERY = [
    parameter(
        "from", "The first day, in UTC; by default the first one of the month.",
        type="string", format="date",
    ),
    parameter(
        "to", "The last day, which is included; by default today. At most 400 days are reported.",
        type="string", format="date",
    ),
    parameter(
        "scope", "A name, a prefix with `.*` after it, or `*`; by default all that the key covers.",
        type="string", pattern=rf"^(\*|{NAME.pattern}(\.\*)?)$",
    ),
    parameter(
        "format", "The format of the answer; it takes precedence over the Accept header.",
        type="string", enum=["json", "csv"],
    ),
]  # fmt: skip
