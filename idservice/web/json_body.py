"""Reads a body of JSON as a record, strictly."""

import json
from typing import TypeVar

import msgspec

Body = TypeVar("Body", bound=msgspec.Struct)


def decoded(body: bytes, kind: type[Body]) -> Body:
    """Return a body as a record.

    Raises ValueError with the reason if it is not JSON, has a field that the record does not have,
    or has one twice.
    """
    try:
        found = msgspec.json.decode(body, type=kind)
        if body.count(b":") > 1:  # else it has one field at most
            json.loads(body, object_pairs_hook=_once)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error) if body else "it is empty") from None
    return found


def _once(pairs: list[tuple[str, object]]) -> None:
    for key in (keys := [key for key, _ in pairs]):
        if keys.count(key) > 1:
            raise ValueError(f"it has the key {key} twice")


def no_number(body: bytes) -> str:
    """Return NaN or Infinity if a body has one of them and else is JSON; empty if not. Some
    clients write what JSON has no number for."""
    seen: list[str] = []
    try:
        json.loads(body, parse_constant=seen.append)
    except (ValueError, RecursionError):
        return ""
    return seen[0] if seen else ""
