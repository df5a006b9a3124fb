"""The schemas of what requests and answers hold, for the OpenAPI document."""

from typing import Any

import msgspec

from idservice.catalogue.changes import JUMP_MAX
from idservice.catalogue.counters import REASON_MAX, RUNWAY_MAX_S, RUNWAY_MIN_S
from idservice.observability.status_records import Status
from idservice.stores.records import LIMIT_MAX, SHARDS_MAX

Schema = dict[str, Any]

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "retryable", "outcome"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "retryable": {"type": "boolean"},
        "outcome": {"enum": ["not_applied", "unknown"]},
    },
}
NUMBER = {
    "description": "A number; a string of digits for counters whose limit is above 2^53 - 1.",
    "oneOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": "^(0|[1-9][0-9]{0,18})$"},
    ],
}
WISHED = {
    "oneOf": [
        {"type": "integer", "minimum": 0, "maximum": LIMIT_MAX},
        {"type": "string", "pattern": "^(0|[1-9][0-9]{0,17})$"},
    ]
}
COUNTER = {
    "type": "object",
    "required": [
        "counter", "state", "epoch", "start", "limit", "strict", "shards", "runway",
    ],
    "properties": {
        "counter": {"type": "string"},
        "state": {"type": "string"},
        "epoch": {"type": "integer"},
        "start": NUMBER,
        "limit": NUMBER,
        "strict": {"type": "boolean"},
        "shards": {"type": "integer"},
        "runway": {"type": "number"},
        "adopted": {"type": "object"},
        "moved_to": {"type": "string", "description": "The store it was moved to."},
        "arrived": {"type": "boolean", "description": "Whether it is known to be there."},
        "home": {"type": "object", "description": "Where it was adopted from, and stays."},
        "change": {"type": "string", "description": "The change under way, if any."},
        "next": {**NUMBER, "description": "The lowest number that nobody reserved."},
        "next_by_shard": {"type": "array", "items": NUMBER},
        "ids_in_memory": {"type": "integer"},
        "runway_seconds": {"type": ["number", "null"]},
    },
}  # fmt: skip
WISH: Schema = {
    "type": "object",
    "additionalProperties": False,
    "anyOf": [
        {"properties": {"strict": {"const": False}}},
        {"properties": {"shards": {"const": 1}}},
    ],
    "properties": {
        "start": {**WISHED, "default": 0},
        "limit": {"anyOf": [WISHED, {"type": "null"}]},
        "strict": {"type": "boolean", "default": False},
        "shards": {"type": "integer", "minimum": 1, "maximum": SHARDS_MAX, "default": 1},
        "runway": {
            "anyOf": [
                {"type": "number", "minimum": RUNWAY_MIN_S, "maximum": RUNWAY_MAX_S},
                {"type": "null"},
            ]
        },
    },
}
REASON = {
    "type": "string",
    "maxLength": REASON_MAX,
    "pattern": "^[ -~]*$",
    "description": "Why; logged with who and what.",
}
PATCH = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "state": {"enum": ["active", "suspended", None]},
        "limit": {"anyOf": [WISHED, {"type": "null"}]},
        "runway": WISH["properties"]["runway"],
        "reason": REASON,
    },
    "anyOf": [
        {"required": ["state"], "properties": {"state": {"type": "string"}}},
        {"required": ["limit"], "properties": {"limit": WISHED}},
        {"required": ["runway"], "properties": {"runway": {"type": "number"}}},
    ],
}
DELETION = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"reason": REASON},
}
SET = {
    "type": "object",
    "additionalProperties": False,
    "required": ["next"],
    "properties": {
        "next": WISHED,
        "allow_lower": {
            "type": "boolean",
            "default": False,
            "description": "Go below ids in use, which repeats them.",
        },
        "force": {
            "type": "boolean",
            "default": False,
            "description": f"Skip more than {JUMP_MAX} ids.",
        },
        "reason": REASON,
    },
}
ONE = {
    "type": "object",
    "required": ["counter", "id"],
    "properties": {"counter": {"type": "string"}, "id": NUMBER},
}
BATCH = {
    "type": "object",
    "required": ["counter", "count", "ids"],
    "properties": {
        "counter": {"type": "string"},
        "count": {"type": "integer"},
        "ids": {"type": "array", "items": NUMBER},
    },
}
RANGES = {
    "type": "object",
    "required": ["counter", "count", "epoch", "mode", "ranges"],
    "properties": {
        "counter": {"type": "string"},
        "count": {"type": "integer"},
        "epoch": {"type": "integer"},
        "mode": {"enum": ["block", "strict"]},
        "nonce": {"type": "string"},
        "ranges": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["first", "step", "count"],
                "properties": {
                    "first": NUMBER,
                    "step": {"type": "integer", "minimum": 1},
                    "count": {"type": "integer", "minimum": 1},
                },
            },
        },
    },
}

_, STATUS = msgspec.json.schema_components([Status], ref_template="#/components/schemas/{name}")
SCHEMAS: Schema = {
    **STATUS,
    "Problem": PROBLEM,
    "Counter": COUNTER,
    "Wish": WISH,
    "Patch": PATCH,
    "Deletion": DELETION,
    "SetTo": SET,
    "One": ONE,
    "Batch": BATCH,
    "Ranges": RANGES,
}
