"""Reads a body of JSON as a record, strictly, and words what is wrong with it."""

import json
from collections.abc import Iterator
from typing import TypeVar, get_type_hints

import msgspec
from msgspec import inspect

Body = TypeVar("Body", bound=msgspec.Struct)

SHOWN_MAX = 80  # characters of what was sent
# In the order of a rule.
WORDS: dict[type[inspect.Type], str] = {
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "a string",
    inspect.BoolType: "true or false",
    inspect.NoneType: "null",
}


def decoded(body: bytes, kind: type[Body]) -> Body:
    """Return a body as a record.

    Raises ValueError with the reason if it is not JSON, has a field that the record does not have,
    or has one twice.
    """
    try:
        found = msgspec.json.decode(body, type=kind)
        if body.count(b":") > 1:  # else it has one field at most
            json.loads(body, object_pairs_hook=_once)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(_trouble(body, kind)) from None
    return found


def _once(pairs: list[tuple[str, object]]) -> None:
    for key in (keys := [key for key, _ in pairs]):
        if keys.count(key) > 1:
            raise ValueError(f"it has the key {key[:SHOWN_MAX]} twice")


def no_number(body: bytes) -> str:
    """Return NaN or Infinity if a body has one of them and else is JSON; empty if not. Some
    clients write what JSON has no number for."""
    seen: list[str] = []
    try:
        json.loads(body, parse_constant=seen.append)
    except (ValueError, RecursionError):
        return ""
    return seen[0] if seen else ""


# --- what is wrong --------------------------------------------------------------------------------


def _trouble(body: bytes, kind: type[msgspec.Struct]) -> str:
    """Return why a body is none of a kind: the first field that is wrong, and its rule."""
    if not body.strip():
        return "the body is empty"
    try:
        sent = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _no_object(body)
    fields = get_type_hints(kind, include_extras=True)
    for name in (one for one in sent if one not in fields):
        return f"it has a field {name[:SHOWN_MAX]!r}; its fields are {', '.join(fields)}"
    required = {one.name for one in msgspec.structs.fields(kind) if one.required}
    for name, annotation in fields.items():
        rule = "; it must be " + " or ".join(_rules(inspect.type_info(annotation)))
        if name in required - sent.keys():
            return f"{name} is missing{rule}"
        if name in sent and not _is(sent[name], annotation):
            shown = bytes(sent[name]).decode(errors="replace")[:SHOWN_MAX]
            return f"{name} is {shown}{rule}"
    return "the body is nested too deeply"


def _no_object(body: bytes) -> str:
    if constant := no_number(body):
        return f"it has {constant}, which is no number of JSON"
    try:
        found = json.loads(body)
    except RecursionError:
        return "the body is nested too deeply"
    except UnicodeDecodeError:
        return "the body is not UTF-8"
    except json.JSONDecodeError as error:
        return f"the body is not JSON from its character {error.pos + 1} on"
    if isinstance(found, dict):  # which the one decoder takes, and the other does not
        return "a string in the body is no text: it has half of a surrogate pair"
    shown = body.decode(errors="replace").strip()[:SHOWN_MAX]
    return f"the body is {shown}; it must be a JSON object"


def _is(sent: msgspec.Raw, annotation: object) -> bool:
    try:
        msgspec.json.decode(sent, type=annotation)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _rules(known: inspect.Type) -> Iterator[str]:
    """Yield the words for what a field may be."""
    match known:
        case inspect.Metadata(type=inner):
            yield from _rules(inner)
        case inspect.UnionType(types=types):
            rules = {rule for one in types for rule in _rules(one)}
            if WORDS[inspect.IntType] in rules:  # then handlers refuse fractions, in their words
                rules.discard(WORDS[inspect.FloatType])
            order = list(WORDS.values())
            yield from sorted(rules, key=lambda rule: order.index(rule) if rule in order else -1)
        case inspect.LiteralType(values=values):
            yield " or ".join(json.dumps(value) for value in values)
        case inspect.ListType(item_type=item):
            yield f"a list, each entry {' or '.join(_rules(item))}"
        case _:
            yield WORDS.get(type(known), "a number as a string")  # an amount: `msgspec.Raw`
