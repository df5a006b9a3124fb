"""Makes the schemas of the OpenAPI document from the records, in forms that generators of clients
read alike: one named type for ids, numbers of 64 bits with their bounds, null beside one type.
"""

from typing import Any

import msgspec

from idservice import errors
from idservice.observability.status_records import Status
from idservice.stores.records import LIMIT_DEFAULT, LIMIT_MAX
from idservice.web import key_schemas, problems, schemas, tally_schemas, usage_schemas
from idservice.web.problems import Problem

Schema = dict[str, Any]

REF = "#/components/schemas/"
REQUESTS = (
    schemas.CounterConfiguration, schemas.Patch, schemas.Deletion, schemas.SetTo,
    tally_schemas.TallyConfiguration, tally_schemas.TallyPatchRequest, tally_schemas.TallyDeletion,
    tally_schemas.AddRequest, tally_schemas.SetSumRequest,
    key_schemas.KeyRequest, key_schemas.Revocation,
)  # fmt: skip
ANSWERS = (
    Problem, schemas.OneId, schemas.IdBatch, schemas.IdRanges, schemas.CounterAnswer,
    schemas.CounterList, Status,
    tally_schemas.AddAnswer, tally_schemas.SetSumAnswer, tally_schemas.RecordAnswer,
    tally_schemas.SumAnswer, tally_schemas.TallyAnswer, tally_schemas.TallyList,
    key_schemas.NewKey, key_schemas.KeyAnswer, key_schemas.KeyList,
    usage_schemas.UsageAnswer,
)  # fmt: skip
IDS = ("OneId", "IdBatch", "IdRanges")
NULL = {"type": "null"}
ID_NUMBER, WANTED_NUMBER = "IdNumber", "WantedNumber"
UNIONS = {("integer", "string"): ID_NUMBER, ("integer", "number", "string"): WANTED_NUMBER}
NUMBERS = {
    ID_NUMBER: (
        "A number; a string of digits if it, or the counter's limit, is above 2^53 - 1.",
        LIMIT_DEFAULT,
        19,
    ),
    WANTED_NUMBER: ("A number, or a string of its digits.", LIMIT_MAX, 18),
}


def ref(name: str) -> Schema:
    """Return a reference to a schema."""
    return {"$ref": REF + name}


def components() -> Schema:
    """Return the schemas of all bodies, by the names of their records."""
    _, made = msgspec.json.schema_components([*REQUESTS, *ANSWERS], ref_template=REF + "{name}")
    found = {name: _readable(schema) for name, schema in made.items()}
    for name in found.keys() - {record.__name__ for record in REQUESTS}:
        found[name].pop("additionalProperties", None)  # a later version may add a field
    # Null means that the field is left out, and is not a value of its own; and a number is no value
    # of the type that a generator makes of a number or a string.
    for record in REQUESTS:
        for field in found[record.__name__]["properties"].values():
            if "$ref" in field or field.get("default", "") is None:
                field.pop("default", None)
    found["Problem"]["properties"]["code"] = {"type": "string", "enum": list(codes())}
    found["Ids"] = _together([found.pop(name) for name in IDS])
    numbers = {name: _number(*about) for name, about in NUMBERS.items()}
    return {name: numbers.get(name) or found[name] for name in sorted({*found, *numbers})}


def _together(records: list[Schema]) -> Schema:
    """Return one schema for answers of several kinds. They have nothing that names the kind, and
    generated clients take one for the other where it is the choice of a union."""
    properties: Schema = {}
    for record in records:
        properties |= record["properties"]
    return {
        "title": "Ids",
        "description": "One id as `id`; with a count several, in order, as `ids` or as `ranges`.",
        "type": "object",
        "properties": properties,
        "required": ["counter"],
    }


def codes() -> tuple[str, ...]:
    """Return the codes of all errors that an answer may carry."""
    answered = {errors.IdserviceError.code, *OTHER_CODES}
    for kind in _below(errors.RequestRefused, errors.Unavailable):
        if kind.__module__.startswith((errors.__name__, problems.__name__)):
            answered.add(kind.code)
    return tuple(sorted(answered))


# Of errors that are beside what raises them.
OTHER_CODES = ("not_read", "not_ready", "parent_silent", "too_many_connections")


def _below(*kinds: type[errors.IdserviceError]) -> list[type[errors.IdserviceError]]:
    return [each for kind in kinds for each in (kind, *_below(*kind.__subclasses__()))]


def _number(description: str, most: int, digits: int) -> Schema:
    whole = _readable({"type": "integer", "maximum": most})
    text = {"type": "string", "pattern": f"^(0|[1-9][0-9]{{0,{digits - 1}}})$"}
    # Not oneOf: where a generated client reads a string of digits as a number, both would hold.
    return {"description": description, "anyOf": [whole, text]}


def _readable(schema: Schema) -> Schema:
    """Return a schema that says the same in the forms that generators read alike."""
    made = dict(schema)
    choices = made.pop("anyOf", [])
    if choices and "type" not in made:  # else the record says it in place of its Python types
        others = [each for each in choices if each != NULL]
        if len(others) == 1:
            one = _readable(others[0])
        else:
            one = ref(UNIONS[tuple(each["type"] for each in others)])
        made |= one if len(others) == len(choices) else _or_null(one)
    if made.get("type") == "integer":
        made = {"format": "int64", "minimum": 0, "maximum": LIMIT_MAX, **made}
    elif made.get("type") == "number":
        made["format"] = "double"
    elif "enum" in made:
        made.setdefault("type", "string")
    for inner in ("items", "additionalProperties"):
        if isinstance(made.get(inner), dict):
            made[inner] = _readable(made[inner])
    if "properties" in made:
        made["properties"] = {name: _readable(one) for name, one in made["properties"].items()}
    return made


def _or_null(schema: Schema) -> Schema:
    if "$ref" in schema:
        return {"oneOf": [schema, NULL]}
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return {**schema, "type": [schema["type"], "null"]}
