"""The OpenAPI 3.1 document of what this version serves."""

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

WHICH: list[Schema] = [
    {
        "name": "page",
        "in": "query",
        "description": "From 1; behind the last one is the last one.",
        "schema": {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": 1},
    },
    {
        "name": "per",
        "in": "query",
        "description": "Counters on a page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": PER_MAX, "default": PER_DEFAULT},
    },
    {
        "name": "find",
        "in": "query",
        "description": "Only counters whose name contains this.",
        "schema": {"type": "string", "pattern": f"^{FIND.pattern}$"},
    },
]


def document(*, batch_max: int, range_max: int) -> bytes:
    """The document as JSON, with the counts that this server permits."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "idservice",
                "version": __version__,
                "description": "Unique, short, ordered numbers. No answer may be cached.",
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
        "Create a counter, or find it as it is wished.",
        {"200": there, "201": there},
        parameters=[NAME_PARAMETER],
        refusals=("400", "403", "408", "409", "413", "423", "503"),
    )
    put["requestBody"] = {"content": {"application/json": {"schema": _ref("Configuration")}}}
    return {
        "/v1/counters": {
            "get": _operation(
                "listCounters",
                "Every counter and its configuration.",
                {"200": _json(_ref("CounterList"))},
                refusals=("503",),
            )
        },
        "/v1/counters/{name}": {
            "get": _operation(
                "showCounter",
                "A counter, and where it stands in the store.",
                {"200": _json(_ref("CounterAnswer"))},
                parameters=[NAME_PARAMETER],
                refusals=("400", "404", "503"),
            ),
            "put": put,
            "patch": _change(
                "patchCounter", "Suspend or resume it, change limit or runway.", "Patch"
            ),
            "delete": _change("deleteCounter", "Delete it; no id is used again.", "Deletion"),
        },
        "/v1/counters/{name}/set": {
            "post": _change("setCounter", "Go on from another id.", "SetTo"),
        },
        **_overview(),
    }


def _overview() -> Schema:
    return {
        "/": {
            "get": _operation(
                "statusPage",
                "The status as a page; it asks the store for nothing.",
                {"200": {"description": "HTML.", "content": {"text/html": {}}}},
                parameters=WHICH,
                refusals=("400", "503"),
            )
        },
        "/v1/status": {
            "get": _operation(
                "status",
                "The service, and its counters in use, as they are in memory; those that need"
                " attention first. It asks the store for nothing.",
                {"200": _json(_ref("Status"))},
                parameters=WHICH,
                refusals=("400", "503"),
            )
        },
        "/metrics": {"get": _operation("metrics", "Prometheus metrics.", {"200": _text()})},
    }


def _change(operation: str, summary: str, body: str) -> Schema:
    answer = _json(_ref("CounterAnswer"))
    change = _operation(
        operation,
        summary,
        {"200": answer, "202": {**answer, "description": "Begun; it goes on by itself."}},
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
        "readyz", "Whether the next id can be served.", {"200": _text()}, refusals=("503",)
    )
    return {
        "/livez": {"get": _operation("livez", "Whether the process answers.", {"200": _text()})},
        "/readyz": {"get": ready},
        "/openapi.json": {
            "get": _operation("openapi", "This document.", {"200": _json({"type": "object"})})
        },
    }


def _ids(of: str, parameters: list[Schema], batch_max: int, range_max: int) -> Schema:
    query: list[Schema] = [
        {
            "name": "count",
            "in": "query",
            "description": f"How many ids; up to {range_max} as ranges, else up to {batch_max}.",
            "schema": {"type": "integer", "minimum": 1, "maximum": batch_max},
        },
        {
            "name": "format",
            "in": "query",
            "description": "Instead of an Accept header.",
            "schema": {"enum": ["text", "json", "ranges"]},
        },
        {
            "name": "nonce",
            "in": "query",
            "description": "Echoed in an answer of ranges.",
            "schema": {"type": "string", "pattern": f"^{NONCE.pattern}$"},
        },
    ]
    answers = {
        "200": {
            "description": "The next ids; digits only for a single one as text.",
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
            f"The next id of {of}, or several.",
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
        "description": "Refused; nothing is handed out.",
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
    return {"description": "As asked.", "content": {"application/json": {"schema": schema}}}


def _text() -> Schema:
    return {"description": "As asked.", "content": {"text/plain": {"schema": {"type": "string"}}}}
