"""What the document cannot say, told to the fuzzer (it loads this as its hooks)."""

import re
from typing import Any

import schemathesis

WHOLE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A counter's start is not above its limit: JSON Schema cannot compare two fields."""
    body = case.body
    if not isinstance(body, dict) or not {"start", "limit"} <= set(body):
        return
    wished = (body["start"], body["limit"])
    if all(is_whole(value) for value in wished):
        body["start"], body["limit"] = sorted(wished, key=int)


def is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return type(value) in (int, str) and WHOLE.fullmatch(str(value)) is not None
