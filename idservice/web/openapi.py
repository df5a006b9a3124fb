"""Builds the OpenAPI 3.1 document of this version."""

from collections.abc import Sequence
from typing import Any

import msgspec

from idservice import __version__
from idservice.core.limits import NAME
from idservice.observability.status import PER_DEFAULT
from idservice.observability.status_records import Status
from idservice.web import schemas
from idservice.web.problems import Problem
from idservice.web.request import NONCE, WebLimits
from idservice.web.status_page import FIND, PAGE_MAX, PER_MAX

Schema = dict[str, Any]

REQUESTS = (schemas.Configuration, schemas.Patch, schemas.Deletion, schemas.SetTo)
ANSWERS = (
    Problem, schemas.OneId, schemas.IdBatch, schemas.IdRanges, schemas.CounterAnswer,
    schemas.CounterList, Status,
)  # fmt: skip


def _parameter(name: str, description: str, **schema: Any) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


NAMED: list[Schema] = [
    {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": f"^{NAME.pattern}$"},
    }
]
STATUS_QUERY = [
    _parameter(
        "page", "The number of the page, from 1. A number too high means the last page.",
        type="integer", minimum=1, maximum=PAGE_MAX, default=1,
    ),
    _parameter(
        "per", "The number of counters on a page.",
        type="integer", minimum=1, maximum=PER_MAX, default=PER_DEFAULT,
    ),
    _parameter(
        "find", "Part of a name: only counters whose name contains it are shown.",
        type="string", pattern=f"^{FIND.pattern}$",
    ),
]  # fmt: skip


def document(limits: WebLimits) -> bytes:
    """Return the document as JSON, with the counts that this server permits."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "idservice",
                "version": __version__,
                "description": "Unique, short, ordered numbers. Answers must not be cached.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": {
                "/next": _ids("Next", "the default counter", [], limits),
                "/v1/counters/{name}/next": _ids("NextOfCounter", "a counter", NAMED, limits),
                **_counters(),
                **_service(),
            },
            "components": {"schemas": _schemas()},
        }
    )


def _ids(operation: str, of: str, parameters: list[Schema], limits: WebLimits) -> Schema:
    query = [
        _parameter(
            "count",
            f"How many ids: up to {limits.range_max} as ranges, else up to {limits.batch_max}.",
            type="integer", minimum=1, maximum=limits.batch_max,
        ),
        _parameter(
            "format", "The format of the answer; it takes precedence over the Accept header.",
            enum=["text", "json", "ranges"],
        ),
        _parameter(
            "nonce", "A text that an answer of ranges repeats.",
            type="string", pattern=f"^{NONCE.pattern}$",
        ),
    ]  # fmt: skip
    answer = {
        "description": "The next ids. As text, a single id is its digits and nothing else.",
        "content": {
            "text/plain": {"schema": {"type": "string"}},
            "application/json": {
                "schema": {"anyOf": [_ref("OneId"), _ref("IdBatch"), _ref("IdRanges")]}
            },
        },
    }
    return {
        method: _operation(
            method + operation, f"Take the next id of {of}, or several.", {"200": answer},
            parameters + query, (400, 403, 404, 408, 410, 412, 413, 416, 423, 503),
        )
        for method in ("get", "post")
    }  # fmt: skip


def _counters() -> Schema:
    """Return the paths of the control plane."""
    answer = _json(_ref("CounterAnswer"))
    links = {
        operation: {"operationId": operation, "parameters": {"name": "$request.path.name"}}
        for operation in ("getNextOfCounter", "postNextOfCounter", "showCounter")
    }
    there = {**answer, "links": links}
    begun = {**answer, "description": "The change has begun and goes on by itself."}

    def change(operation: str, summary: str, body: str) -> Schema:
        answers = {"200": answer, "202": begun}
        refusals = (400, 403, 404, 408, 409, 413, 423, 503)
        return _operation(operation, summary, answers, NAMED, refusals, body)

    return {
        "/v1/counters": {
            "get": _operation(
                "listCounters", "List every counter with its configuration.",
                {"200": _json(_ref("CounterList"))}, [], (403, 503),
            ),
        },
        "/v1/counters/{name}": {
            "get": _operation(
                "showCounter", "Show a counter and its position in the store.",
                {"200": answer}, NAMED, (400, 403, 404, 503),
            ),
            "put": _operation(
                "createCounter", "Create a counter, or find it with the same configuration.",
                {"200": there, "201": there}, NAMED, (400, 403, 408, 409, 413, 423, 503),
                "Configuration",
            ),
            "patch": change(
                "patchCounter", "Suspend or resume a counter, or change its limit or runway.",
                "Patch",
            ),
            "delete": change("deleteCounter", "Delete a counter. No id is used again.", "Deletion"),
        },
        "/v1/counters/{name}/set": {
            "post": change("setCounter", "Make a counter go on from another id.", "SetTo"),
        },
    }  # fmt: skip


def _service() -> Schema:
    """Return the paths that show the service."""
    page = {"description": "The page.", "content": {"text/html": {}}}
    text = {"description": "The answer.", "content": {"text/plain": {"schema": {"type": "string"}}}}

    def get(operation: str, summary: str, answer: Schema, *more: Any) -> Schema:
        return {"get": _operation(operation, summary, {"200": answer}, *more)}

    return {
        "/": get(
            "statusPage", "Show the status as a page. The store is not asked.",
            page, STATUS_QUERY, (400, 403, 503),
        ),
        "/v1/status": get(
            "status",
            "Show the service and its counters in use, those that need attention first. The store"
            " is not asked.",
            _json(_ref("Status")), STATUS_QUERY, (400, 403, 503),
        ),
        "/metrics": get("metrics", "Show the metrics for Prometheus.", text, [], (403,)),
        "/livez": get("livez", "Say that the process answers.", text),
        "/readyz": get("readyz", "Say if the next id can be served.", text, [], (503,)),
        "/openapi.json": get("openapi", "Show this document.", _json({"type": "object"})),
    }  # fmt: skip


def _operation(
    operation: str,
    summary: str,
    answers: Schema,
    parameters: Sequence[Schema] = (),
    refusals: Sequence[int] = (),
    body: str = "",
) -> Schema:
    problem = {
        "description": "The request is refused and no id is handed out.",
        "content": {"application/problem+json": {"schema": _ref("Problem")}},
    }
    described = {
        "operationId": operation,
        "summary": summary,
        "parameters": parameters,
        "responses": {**answers, **{str(status): problem for status in (*refusals, 500)}},
    }
    if body:
        described["requestBody"] = {
            "required": True,  # its Content-Type is, even where each field has a default
            "content": {"application/json": {"schema": _ref(body)}},
        }
    return described


def _ref(record: str) -> Schema:
    return {"$ref": f"#/components/schemas/{record}"}


def _json(schema: Schema) -> Schema:
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}


def _schemas() -> Schema:
    """Return the schemas of all bodies, by the names of their records."""
    _, found = msgspec.json.schema_components(
        [*REQUESTS, *ANSWERS], ref_template="#/components/schemas/{name}"
    )
    for record in REQUESTS:  # null means that the field is left out, and is not a value of its own
        for field in found[record.__name__]["properties"].values():
            if field.get("default", "") is None:
                del field["default"]
    # Rules between fields, which a record cannot say.
    found["Configuration"]["anyOf"] = [
        {"properties": {"strict": {"const": False}}},
        {"properties": {"shards": {"const": 1}}},
    ]
    found["Patch"]["anyOf"] = [
        {"required": [field], "properties": {field: {"not": {"type": "null"}}}}
        for field in ("state", "limit", "runway")
    ]
    return found
