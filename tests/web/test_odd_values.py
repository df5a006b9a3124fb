"""Values that are odd in headers, queries and bodies: bounded, or refused in the same words."""

import pytest

from idservice.web.request import ESCAPES_MAX, KINDS_MAX, prefers_json
from tests.web.conftest import Serving
from tests.web.wire import connected, request

FILLED = b"a/b," * (KINDS_MAX - 1)


@pytest.mark.parametrize("path", ["/nope", "/next", "/livez", "/v1/counters/default"])
@pytest.mark.parametrize("value", [b"\xff", b"x", b"100-continue\xe9"])
async def test_an_unknown_expectation_is_refused(serving: Serving, path: str, value: bytes) -> None:
    async with connected(serving.port) as wire:
        await wire.send(request(path)[:-2] + b"Expect: " + value + b"\r\n\r\n")
        assert (await wire.answer()).status == 417


@pytest.mark.parametrize("escapes", [ESCAPES_MAX, ESCAPES_MAX + 1])
@pytest.mark.parametrize("escaped", ["%41", "%"])
async def test_a_query_has_a_bounded_number_of_escapes(
    serving: Serving, escaped: str, escapes: int
) -> None:
    await serving.service.warm()
    answer = await serving.ask(f"/next?a={escaped * escapes}")
    assert answer.status == (200 if escapes == ESCAPES_MAX else 400)


def test_the_first_kinds_of_an_accept_header_are_read() -> None:
    assert prefers_json(FILLED.decode() + "application/json,text/plain")
    assert not prefers_json("a/b," + FILLED.decode() + "application/json")
    assert not prefers_json("text/plain, application/json;q=0.5" + ",," * 2000)


@pytest.mark.parametrize("field", ["start", "limit", "shards"])
@pytest.mark.parametrize("value", ["-0.0", "-0e9", "-1", "-1.0"])
async def test_a_number_below_zero_is_refused(serving: Serving, field: str, value: str) -> None:
    body = f'{{"{field}":{value}}}'.encode()
    answer = await serving.ask("/v1/counters/new", "PUT", body=body)
    assert (answer.status, answer.json["code"]) == (400, "bad_configuration")


@pytest.mark.parametrize(("path", "method"), [
    ("/v1/counters/default", "PUT"), ("/v1/counters/default", "PATCH"),
    ("/v1/counters/default", "DELETE"), ("/v1/counters/default/set", "POST"),
])  # fmt: skip
async def test_a_key_that_is_given_twice_is_refused(
    serving: Serving, path: str, method: str
) -> None:
    key = (
        b'"start":1,' if method == "PUT" else b'"next":900,' if "set" in path else b'"reason":"a",'
    )
    answer = await serving.ask(path, method, body=b"{" + key * 2 + key[:-1] + b"}")
    assert (answer.status, answer.json["code"]) == (400, "bad_configuration")
    assert "twice" in answer.json["detail"]
