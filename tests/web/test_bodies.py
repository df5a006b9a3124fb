"""A bad body is refused in words of our own: the value, the rule, and what may be sent instead."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from idservice.web import key_schemas, schemas, tally_schemas
from idservice.web.json_body import decoded
from idservice.web.key_schemas import KeyRequest

from .conftest import Serve

REQUESTS = sorted(
    {
        kind
        for module in (schemas, key_schemas, tally_schemas)
        for kind in vars(module).values()
        if isinstance(kind, msgspec.structs.StructMeta)
        and kind.__struct_config__.forbid_unknown_fields
        and not kind.__name__.endswith("Answer")
    },
    key=lambda kind: kind.__name__,
)
LIBRARYS = ("`", "$", "Expected", "Object", "Invalid", "malformed", "byte", "line 1")


def refusal(body: bytes, kind: type[msgspec.Struct]) -> str:
    with pytest.raises(ValueError) as refused:
        decoded(body, kind)
    said = str(refused.value)
    assert not [word for word in LIBRARYS if word in said], said
    return said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty"),
        (b'{"role":', "the body is not JSON from its character 9 on"),
        (b'{"role":"use"} x', "the body is not JSON from its character 16 on"),
        (b"\xff", "the body is not UTF-8"),
        (b"[1]", "the body is [1]; it must be a JSON object"),
        (b"[" * 4000, "the body is nested too deeply"),
        (b'{"note":' + b"[" * 2000 + b"]" * 2000 + b"}", "the body is nested too deeply"),
        (b'{"note":"\\ud800"}', "a string in the body is no text: it has half of a surrogate pair"),
        (b'{"note":NaN}', "it has NaN, which is no number of JSON"),
        (b'{"z":1,"b":2}', "it has a field 'z'; its fields are role, scopes, note, expires"),
        (b"{}", 'role is missing; it must be "admin" or "read" or "use"'),
        (b'{"role":"boss"}', 'role is "boss"; it must be "admin" or "read" or "use"'),
        (b'{"role":"use"}', "scopes is missing; it must be a list, each entry a string"),
        (b'{"role":"use","scopes":[5]}', "scopes is [5]; it must be a list, each entry a string"),
    ],
)
def test_a_body_that_is_no_request_for_a_key_is_refused_with_its_rule(
    body: bytes, said: str
) -> None:
    assert refusal(body, KeyRequest) == said


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_each_field_of_a_body_is_named_with_its_value_and_its_rule(
    kind: type[msgspec.Struct],
) -> None:
    fields = msgspec.structs.fields(kind)
    fine = {one.name: _fine(one.type) for one in fields if one.required}
    for field in fields:
        for value in ([[1]], {"a": 1}, True, "x", 5, None, 0.5):
            body = json.dumps({**fine, field.name: value}).encode()
            try:
                decoded(body, kind)
            except ValueError:
                said = refusal(body, kind)
                assert said.startswith(f"{field.name} is {json.dumps(value)}; it must be "), said


def _fine(known: object) -> object:
    """A value that a required field may have."""
    for value in ("use", 5, ["a"]):
        with suppress(msgspec.ValidationError):
            msgspec.json.decode(json.dumps(value), type=known)
            return value
    raise AssertionError(known)


@pytest.mark.parametrize("lane", [False], indirect=True)
async def test_bad_requests_for_a_key_say_what_is_wrong_and_what_is_right(serve: Serve) -> None:
    serving = await serve()
    fine = {"role": "use", "scopes": ["acme.*"]}
    bad: dict[str, dict[str, Any]] = {
        "role is 5; it must be": {**fine, "role": 5},
        "it has a field 'scope'; its fields are role, scopes": {**fine, "scope": "a"},
        "the scope 'acme*' is not allowed": {**fine, "scopes": ["acme*"]},
        "did you mean `acme.*`?": {**fine, "scopes": ["acme*"]},
        "or a day such as 2027-11-01": {**fine, "expires": "soon"},
        "it must be at most 200 printable characters": {**fine, "note": "x" * 201},
        "role is missing; it must be": {},
    }
    for words, body in bad.items():
        answer = await serving.ask(
            "/v1/keys", "POST", body=json.dumps(body).encode() if body else b"",
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        assert (answer.status, answer.json["code"]) == (400, "bad_access_key")
        assert words in answer.json["detail"]
    assert not (await serving.ask("/v1/keys")).json["keys"]
