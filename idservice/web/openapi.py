"""Builds the OpenAPI 3.1 document of this version."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from idservice import __version__
from idservice.web import components, examples
from idservice.web.components import Schema, ref
from idservice.web.parameters import (
    IDEMPOTENCY_KEY,
    KEY_ID,
    KEY_IN_PATH,
    LIST_QUERY,
    NAMED,
    STATUS_QUERY,
    TALLY,
    USAGE_QUERY,
    parameter,
)
from idservice.web.passes import UNASKED
from idservice.web.request import NONCE, WebLimits

DESCRIPTION = (
    "Unique, short numbers, and sums that count each key once. Answers must not be cached. If a "
    "listener asks for access keys (`serve --require-keys`), only `/livez` and `/readyz` are "
    "answered without one. Counters, tallies and keys can be changed in three ways: with an admin "
    "key; without one at a Unix socket that `--admin-listen` names; and, if `serve` has "
    "`--allow-changes`, without one on the machine itself."
)
TAGS = {
    "ids": "Take ids.",
    "counters": "List, show, create and change counters (the control plane).",
    "tallies": "Add to sums, each key once, and read them; create and change them (the control"
    " plane).",
    "keys": "Make, list and revoke access keys (the control plane).",
    "usage": "Report what was handed out and counted (the control plane).",
    "service": "Show the service: its status, metrics, health and API.",
}


BEARER: Schema = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An access key: `idk_`, its role, its id and its secret. It allows what "
        "its role and its scopes cover. It is judged on every listener.",
    }
}
KEYED = (401, 403)  # how each request is refused for want of a key, or of its rights

ANY = {"type": "object", "additionalProperties": True}


def document(limits: WebLimits) -> bytes:
    """Return the document as JSON, with the counts that this server permits."""
    return msgspec.json.encode(described(limits))


def described(limits: WebLimits) -> Schema:
    """Return the document, with the counts that this server permits."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "idservice",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The address that this document comes from."}],
        "security": [{"bearer": []}, {}],  # most listeners do not ask for a key
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": {
            "/next": _ids("Next", "the default counter", [], limits),
            "/v1/counters/{name}/next": _ids("NextOfCounter", "a counter", NAMED, limits),
            **_counters(),
            **_tallies(),
            **_tally_control(),
            **_keys(),
            **_usage(),
            **_service(),
        },
        "components": {"schemas": _schemas(), "securitySchemes": BEARER},
    }


def _schemas() -> Schema:
    return components.components()


def _ids(operation: str, of: str, parameters: list[Schema], limits: WebLimits) -> Schema:
    query = [
        parameter(
            "count",
            f"How many ids: up to {limits.range_max} as ranges, else up to {limits.batch_max}.",
            type="integer", minimum=1, maximum=max(limits.range_max, limits.batch_max),
        ),
        parameter(
            "format", "The format of the answer; it takes precedence over the Accept header.",
            type="string", enum=["text", "json", "ranges"],
        ),
        parameter(
            "nonce", "A text that an answer of ranges repeats.",
            type="string", pattern=f"^{NONCE.pattern}$",
        ),
    ]  # fmt: skip
    answer = {
        "description": "The next ids. As text, a single id is its digits and nothing else.",
        "content": {
            "application/json": {
                "schema": ref("Ids"),
                "examples": examples.IDS,
            },
            "text/plain": {"schema": {"type": "string"}, "example": "42"},
        },
    }
    return {
        method: _operation(
            "ids", method + operation, f"Take the next id of {of}, or several.", {"200": answer},
            parameters + query, (400, 404, 408, 410, 412, 413, 416, 423, 429, 503),
        )
        for method in ("get", "post")
    }  # fmt: skip


def _counters() -> Schema:
    """Return the paths of the control plane."""
    answer = _json("CounterAnswer")
    links = {
        operation: {"operationId": operation, "parameters": {"name": "$request.path.name"}}
        for operation in ("getNextOfCounter", "postNextOfCounter", "showCounter")
    }
    there = {**answer, "links": links}
    begun = {**answer, "description": "The change has begun and goes on by itself."}

    def change(operation: str, summary: str, body: str) -> Schema:
        answers = {"200": answer, "202": begun}
        refusals = (400, 404, 408, 409, 413, 423, 503)
        return _operation("counters", operation, summary, answers, NAMED, refusals, body)

    return {
        "/v1/counters": {
            "get": _operation(
                "counters", "listCounters", "List the counters with their configuration.",
                {"200": _json("CounterList")}, LIST_QUERY, (400, 503),
            ),
        },
        "/v1/counters/{name}": {
            "get": _operation(
                "counters", "showCounter",
                "Show a counter and its position in the "
                "store. While the store is down, show "
                "it from memory.", {"200": answer}, NAMED, (400, 404, 503),
            ),
            "put": _operation(
                "counters", "createCounter",
                "Create a counter, or find it with the same configuration.",
                {"200": there, "201": there}, NAMED, (400, 408, 409, 413, 423, 503),
                "CounterConfiguration",
            ),
            "patch": change(
                "patchCounter", "Suspend, resume or configure a counter.",
                "Patch",
            ),
            "delete": change("deleteCounter", "Delete a counter. No id is used again.", "Deletion"),
        },
        "/v1/counters/{name}/set": {
            "post": change("setCounter", "Make a counter go on from another id.", "SetTo"),
        },
    }  # fmt: skip


def _tallies() -> Schema:
    """Return the paths of tallies for callers."""
    sum = _json("SumAnswer")
    sum["content"]["text/plain"] = {"schema": {"type": "string"}, "example": "1234.50"}
    return {
        "/v1/tallies/{name}/add": {
            "post": _operation(
                "tallies", "addToTally",
                "Add an amount, counted once for its key, however often it is sent.",
                {"200": _json("AddAnswer")}, [*TALLY, IDEMPOTENCY_KEY],
                (400, 404, 408, 409, 412, 413, 415, 416, 422, 423, 503), "AddRequest",
            ),
        },
        "/v1/tallies/{name}/adds/{key}": {
            "get": _operation(
                "tallies", "showAdd", "Show the record of a key: if it was counted.",
                {"200": _json("RecordAnswer")}, [*TALLY, KEY_IN_PATH], (400, 404, 503),
            ),
        },
        "/v1/tallies/{name}": {
            "get": _operation(
                "tallies", "showSum", "Show the sum, read from the store.",
                {"200": sum}, TALLY, (400, 404, 503),
            ),
            **_tally_changes(),
        },
    }  # fmt: skip


def _tally_changes() -> Schema:
    """Return the operations that create and change a tally."""
    answer = _json("TallyAnswer")
    links = {
        operation: {"operationId": operation, "parameters": {"name": "$request.path.name"}}
        for operation in ("addToTally", "showSum", "setSum", "patchTally")
    }
    there = {**answer, "links": links}
    return {
        "put": _operation(
            "tallies", "createTally", "Create a tally, or find it with the same configuration.",
            {"200": there, "201": there}, TALLY, (400, 408, 409, 413, 503),
            "TallyConfiguration",
        ),
        "patch": _operation(
            "tallies", "patchTally", "Suspend or resume a tally, or change its bounds.",
            {"200": answer}, TALLY, (400, 404, 408, 409, 413, 503), "TallyPatchRequest",
        ),
        "delete": _operation(
            "tallies", "deleteTally", "Delete a tally.",
            {"200": answer}, TALLY, (400, 404, 408, 409, 413, 503), "TallyDeletion",
        ),
    }  # fmt: skip


def _tally_control() -> Schema:
    """Return the other paths of tallies for operators."""
    return {
        "/v1/tallies": {
            "get": _operation(
                "tallies", "listTallies", "List the tallies with their configuration.",
                {"200": _json("TallyList")}, LIST_QUERY, (400, 503),
            ),
        },
        "/v1/tallies/{name}/set": {
            "post": _operation(
                "tallies", "setSum", "Set the sum, once for its key.",
                {"200": _json("SetSumAnswer")}, [*TALLY, IDEMPOTENCY_KEY],
                (400, 404, 408, 409, 413, 422, 423, 503), "SetSumRequest",
            ),
        },
    }  # fmt: skip


def _keys() -> Schema:
    """Return the paths of access keys."""
    return {
        "/v1/keys": {
            "get": _operation(
                "keys", "listKeys", "List the access keys, without their secrets.",
                {"200": _json("KeyList")}, (), (503,),
            ),
            "post": _operation(
                "keys", "createKey", "Make an access key. Only this answer shows it.",
                {"201": _json("NewKey")}, (), (400, 408, 413, 503), "KeyRequest",
            ),
        },
        "/v1/keys/{id}": {
            "delete": _operation(
                "keys", "revokeKey", "Revoke an access key, for good.",
                {"200": _json("KeyAnswer")}, [KEY_ID], (400, 404, 408, 413, 503), "Revocation",
            ),
        },
    }  # fmt: skip


def _usage() -> Schema:
    """Return the path that reports usage."""
    answer = _json("UsageAnswer")
    answer["content"]["text/csv"] = {"schema": {"type": "string"}, "example": examples.CSV}
    return {
        "/v1/usage": {
            "get": _operation(
                "usage", "reportUsage",
                "Report the ids that were handed out and the adds that were counted, by day.",
                {"200": answer}, USAGE_QUERY, (400, 409, 503),
            ),
        },
    }  # fmt: skip


def _service() -> Schema:
    """Return the paths that show the service."""
    page = {"description": "The page.", "content": {"text/html": {}}}  # nothing to be decoded
    text = _content("text/plain", {"type": "string"})

    def get(operation: str, summary: str, answer: Schema, *more: Any) -> Schema:
        described = _operation("service", operation, summary, {"200": answer}, *more)
        if f"/{operation}" in UNASKED:
            described["security"] = []
            for status in KEYED:
                del described["responses"][str(status)]
        return {"get": described}

    return {
        "/": get(
            "statusPage", "Show the status as a page. The store is not asked.",
            page, STATUS_QUERY, (400, 503),
        ),
        "/v1/status": get(
            "status",
            "Show the service and its counters in use, those that need attention first. The store"
            " is not asked.",
            _json("Status"), STATUS_QUERY, (400, 503),
        ),
        "/metrics": get("metrics", "Show the metrics for Prometheus.", text),
        "/livez": get("livez", "Say that the process answers.", text),
        "/readyz": get("readyz", "Say if the next id can be served.", text, [], (503,)),
        "/docs": get("docs", "Show this API as a page.", page),
        "/openapi.json": get(
            "openapi", "Show this document.", _content("application/json", ANY)
        ),
    }  # fmt: skip


def _operation(
    tag: str,
    operation: str,
    summary: str,
    answers: Schema,
    parameters: Sequence[Schema] = (),
    refusals: Sequence[int] = (),
    body: str = "",
) -> Schema:
    described = {
        "tags": [tag],
        "operationId": operation,
        "summary": summary,
        "parameters": parameters,
        "responses": {
            **answers,
            **{str(status): _problem(status, tag) for status in sorted({*refusals, *KEYED, 500})},
        },
    }
    if body:
        described["requestBody"] = {
            "required": True,  # its Content-Type is, even where each field has a default
            "content": {"application/json": {"schema": ref(body), "example": examples.of(body)}},
        }
    return described


def _problem(status: int, tag: str) -> Schema:
    phrase = HTTPStatus(status).phrase
    answer = _content("application/problem+json", ref("Problem"), f"{phrase}: see `code`.")
    if (example := examples.problem(status, tag)) is not None:
        answer["content"]["application/problem+json"]["example"] = example
    return answer


def _json(record: str) -> Schema:
    answer = _content("application/json", ref(record))
    answer["content"]["application/json"]["example"] = examples.of(record)
    return answer


def _content(kind: str, schema: Schema, description: str = "The answer.") -> Schema:
    return {"description": description, "content": {kind: {"schema": schema}}}
