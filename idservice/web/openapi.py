"""Builds the OpenAPI 3.1 document of this version."""

from typing import Any

import msgspec

from idservice import __version__
from idservice.core.limits import NAME
from idservice.observability.status import PER_DEFAULT
from idservice.web.request import NONCE
from idservice.web.schemas import schemas
from idservice.web.status_page import FIND, PAGE_MAX, PER_MAX

Schema = dict[str, Any]

NAME_PARAMETER = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": f"^{NAME.pattern}$"},
}

STATUS_QUERY: list[Schema] = [
    {
        "name": "page",
        "in": "query",
        "description": "The number of the page, from 1. A number too high means the last page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": 1},
    },
    {
        "name": "per",
        "in": "query",
        "description": "The number of counters on a page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": PER_MAX, "default": PER_DEFAULT},
    },
    {
        "name": "find",
        "in": "query",
        "description": "Part of a name: only counters whose name contains it are shown.",
        "schema": {"type": "string", "pattern": f"^{FIND.pattern}$"},
    },
]


def document(*, batch_max: int, range_max: int) -> bytes:
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
                "/next": _ids("the default counter", [], batch_max, range_max),
                "/v1/counters/{name}/next": _ids(
                    "a counter", [NAME_PARAMETER], batch_max, range_max
                ),
                **_control(),
                **_health(),
            },
            "components": {"schemas": schemas()},
        }
    )


def _control() -> Schema:
    there = {
        **_json(_ref("CounterAnswer")),
        "links": {
            operation: {"operationId": operation, "parameters": {"name": "$request.path.name"}}
            for operation in ("getNextOfCounter", "postNextOfCounter", "showCounter")
        },
    }
    put = _operation(
        "createCounter",
        "Create a counter, or find it with the same configuration.",
        {"200": there, "201": there},
        parameters=[NAME_PARAMETER],
        refusals=("400", "403", "408", "409", "413", "423", "503"),
    )
    put["requestBody"] = {"content": {"application/json": {"schema": _ref("Configuration")}}}
    return {
        "/v1/counters": {
            "get": _operation(
                "listCounters",
                "List every counter with its configuration.",
                {"200": _json(_ref("CounterList"))},
                refusals=("503",),
            )
        },
        "/v1/counters/{name}": {
            "get": _operation(
                "showCounter",
                "Show a counter and its position in the store.",
                {"200": _json(_ref("CounterAnswer"))},
                parameters=[NAME_PARAMETER],
                refusals=("400", "404", "503"),
            ),
            "put": put,
            "patch": _change(
                "patchCounter",
                "Suspend or resume a counter, or change its limit or runway.",
                "Patch",
            ),
            "delete": _change(
                "deleteCounter", "Delete a counter. No id is used again.", "Deletion"
            ),
        },
        "/v1/counters/{name}/set": {
            "post": _change("setCounter", "Make a counter go on from another id.", "SetTo"),
        },
        **_status(),
    }


def _status() -> Schema:
    return {
        "/": {
            "get": _operation(
                "statusPage",
                "Show the status as a page. The store is not asked.",
                {"200": {"description": "The page.", "content": {"text/html": {}}}},
                parameters=STATUS_QUERY,
                refusals=("400", "503"),
            )
        },
        "/v1/status": {
            "get": _operation(
                "status",
                "Show the service and its counters in use, those that need attention first."
                " The store is not asked.",
                {"200": _json(_ref("Status"))},
                parameters=STATUS_QUERY,
                refusals=("400", "503"),
            )
        },
        "/metrics": {
            "get": _operation("metrics", "Show the metrics for Prometheus.", {"200": _text()})
        },
    }


def _change(operation: str, summary: str, body: str) -> Schema:
    answer = _json(_ref("CounterAnswer"))
    change = _operation(
        operation,
        summary,
        {
            "200": answer,
            "202": {**answer, "description": "The change has begun and goes on by itself."},
        },
        parameters=[NAME_PARAMETER],
        refusals=("400", "403", "404", "408", "409", "413", "423", "503"),
    )
    change["requestBody"] = {
        "required": body != "Deletion",
        "content": {"application/json": {"schema": _ref(body)}},
    }
    return change


def _health() -> Schema:
    ready = _operation(
        "readyz", "Say if the next id can be served.", {"200": _text()}, refusals=("503",)
    )
    return {
        "/livez": {"get": _operation("livez", "Say that the process answers.", {"200": _text()})},
        "/readyz": {"get": ready},
        "/openapi.json": {
            "get": _operation("openapi", "Show this document.", {"200": _json({"type": "object"})})
        },
    }


def _ids(of: str, parameters: list[Schema], batch_max: int, range_max: int) -> Schema:
    query: list[Schema] = [
        {
            "name": "count",
            "in": "query",
            "description": f"How many ids: up to {range_max} as ranges, else up to {batch_max}.",
            "schema": {"type": "integer", "minimum": 1, "maximum": batch_max},
        },
        {
            "name": "format",
            "in": "query",
            "description": "The format of the answer; it takes precedence over the Accept header.",
            "schema": {"enum": ["text", "json", "ranges"]},
        },
        {
            "name": "nonce",
            "in": "query",
            "description": "A text that an answer of ranges repeats.",
            "schema": {"type": "string", "pattern": f"^{NONCE.pattern}$"},
        },
    ]
    answers = {
        "200": {
            "description": "The next ids. As text, a single id is its digits and nothing else.",
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/json": {
                    "schema": {"anyOf": [_ref("OneId"), _ref("IdBatch"), _ref("IdRanges")]}
                },
            },
        }
    }
    refusals = ("400", "403", "404", "408", "410", "412", "413", "416", "423", "503")
    suffix = "OfCounter" if parameters else ""
    return {
        method: _operation(
            f"{method}Next{suffix}",
            f"Take the next id of {of}, or several.",
            answers,
            parameters=parameters + query,
            refusals=refusals,
        )
        for method in ("get", "post")
    }


def _operation(
    operation: str,
    summary: str,
    answers: Schema,
    *,
    parameters: list[Schema] | None = None,
    refusals: tuple[str, ...] = (),
) -> Schema:
    problem = {
        "description": "The request is refused and no id is handed out.",
        "content": {"application/problem+json": {"schema": _ref("Problem")}},
    }
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": parameters or [],
        "responses": {**answers, **dict.fromkeys((*refusals, "500"), problem)},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> Schema:
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}


def _text() -> Schema:
    return {"description": "The answer.", "content": {"text/plain": {"schema": {"type": "string"}}}}
