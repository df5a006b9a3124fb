"""Values that are odd in headers, queries and bodies: bounded, or refused in the same words."""

import asyncio
from itertools import product

import pytest

from idservice.web.connection import CHUNKED_MAX
from idservice.web.request import ESCAPES_MAX, KINDS_MAX, prefers_json
from tests.web.conftest import Serve, Serving
from tests.web.rows import Rows
from tests.web.wire import connected, request

FILLED = b"a/b," * (KINDS_MAX - 1)


ANY_PATH = ["/nope", "/next", "/livez", "/v1/counters/default"]
EXPECTATIONS = [b"\xff", b"x", b"100-continue\xe9"]


async def test_an_unknown_expectation_is_refused(rows: Rows[Serving]) -> None:
    for path, value in product(ANY_PATH, EXPECTATIONS):
        async with rows.row(path, value) as serving, connected(serving.port) as wire:
            await wire.send(request(path)[:-2] + b"Expect: " + value + b"\r\n\r\n")
            assert (await wire.answer()).status == 417


ESCAPES = [ESCAPES_MAX, ESCAPES_MAX + 1]
ESCAPED = ["%41", "%"]


async def test_a_query_has_a_bounded_number_of_escapes(rows: Rows[Serving]) -> None:
    for escapes, escaped in product(ESCAPES, ESCAPED):
        async with rows.row(escaped, escapes) as serving:
            await serving.service.warm()
            answer = await serving.ask(f"/next?a={escaped * escapes}")
            assert answer.status == (200 if escapes == ESCAPES_MAX else 400)


def test_the_first_kinds_of_an_accept_header_are_read() -> None:
    assert prefers_json(FILLED.decode() + "application/json,text/plain")
    assert not prefers_json("a/b," + FILLED.decode() + "application/json")
    assert not prefers_json("text/plain, application/json;q=0.5" + ",," * 2000)


FIELDS = ["start", "limit", "shards"]
BELOW = ["-0.0", "-0e9", "-1", "-1.0"]


async def test_a_number_below_zero_is_refused(rows: Rows[Serving]) -> None:
    for field, value in product(FIELDS, BELOW):
        async with rows.row(field, value) as serving:
            body = f'{{"{field}":{value}}}'.encode()
            answer = await serving.ask("/v1/counters/new", "PUT", body=body)
            assert (answer.status, answer.json["code"]) == (400, "bad_configuration")


CHANGES = [
    ("PUT", "/v1/counters/default", b'"start":1,'),
    ("PATCH", "/v1/counters/default", b'"reason":"a",'),
    ("DELETE", "/v1/counters/default", b'"reason":"a",'),
    ("POST", "/v1/counters/default/set", b'"next":900,'),
]


async def test_a_key_that_is_given_twice_is_refused(rows: Rows[Serving]) -> None:
    for method, path, key in CHANGES:
        async with rows.row(method, path) as serving:
            answer = await serving.ask(path, method, body=b"{" + key * 2 + key[:-1] + b"}")
            assert (answer.status, answer.json["code"]) == (400, "bad_configuration")
            assert "twice" in answer.json["detail"]


async def test_a_body_of_a_thousand_lists_is_refused(serving: Serving) -> None:
    """It was called a defect of the service."""
    answer = await serving.ask("/v1/counters/new", "PUT", body=b'{"start":' + b"[" * 4000)
    assert (answer.status, answer.json["code"]) == (400, "bad_configuration")


# --- what is not read -----------------------------------------------------------------------------


ASKING = ["GET", "POST"]
SEEMING = ["n=3", "num=10", "Count=2", "size=1000000", "fmt=json", "f=TEXT"]


async def test_a_key_that_seems_to_ask_for_something_is_refused(rows: Rows[Serving]) -> None:
    for method, key in product(ASKING, SEEMING):
        async with rows.row(method, key) as serving:
            async with serving.using_no_id():
                answer = await serving.ask(f"/next?{key}", method)
            assert (answer.status, answer.json["code"]) == (400, "not_read")
            assert repr(key.partition("=")[0]) in answer.json["detail"]
            assert "?count=N" in answer.json["detail"]


NOTHING_ASKED = [
    "r=17", "_=1764468000", "t=1", "no_cache=1", "cacheBuster=3", "a=b", "n=", "x=1764468000123",
    "user=alice", "n=0.5",
]  # fmt: skip


async def test_a_key_that_asks_for_nothing_is_passed_over(rows: Rows[Serving]) -> None:
    for query in NOTHING_ASKED:
        async with rows.row(query) as serving:
            next = await serving.one() + 1
            assert (await serving.ask(f"/next?{query}")).body == b"%d" % next


BODIES = [b'{"count":3}', b"count=3", b"3", b"[]", b"{} x"]


async def test_a_body_is_refused_for_it_is_not_read(rows: Rows[Serving]) -> None:
    for body, method in product(BODIES, ASKING):
        async with rows.row(method, body) as serving:
            async with serving.using_no_id():
                answer = await serving.ask("/next", method, body=body)
            assert (answer.status, answer.json["code"]) == (400, "not_read")
            assert "body" in answer.json["detail"]


EMPTY = [b"", b"{}", b" {} \n", b" "]


async def test_an_empty_body_asks_for_nothing(rows: Rows[Serving]) -> None:
    for body in EMPTY:
        async with rows.row(body) as serving:
            next = await serving.one() + 1
            assert (await serving.ask("/next", "POST", body=body)).body == b"%d" % next


async def test_callers_of_old_paths_send_what_they_like(serve: Serve) -> None:
    serving = await serve(routes={"/old": "default"})
    assert (await serving.ask("/old?n=3&limit=5", "POST", body=b'{"count":3}')).body == b"0"


# --- pages of other sites -------------------------------------------------------------------------

CROSS = "cross-site"


FETCHES = [
    (CROSS, "no-cors", "image", 403), (CROSS, "no-cors", "script", 403), (CROSS, "cors", "", 403),
    (CROSS, "", "", 403), ("Cross-Site", "no-cors", "empty", 403),
    (CROSS, "navigate", "iframe", 403), (CROSS, "navigate", "embed", 403),
    (CROSS, "navigate", "document", 200), (CROSS, "navigate", "", 200),
    ("same-origin", "cors", "empty", 200), ("same-site", "no-cors", "image", 200),
    ("none", "navigate", "document", 200), ("", "", "", 200), ("odd", "cors", "empty", 200),
]  # fmt: skip


async def test_a_page_of_another_site_uses_up_no_ids_unseen(rows: Rows[Serving]) -> None:
    for site, mode, dest, status in FETCHES:
        async with rows.row(site, mode, dest) as serving:
            before = await serving.one()
            values = {"Site": site, "Mode": mode, "Dest": dest}
            headers = {f"Sec-Fetch-{name}": value for name, value in values.items() if value}
            for target in ("/next", "/v1/counters/default/next?count=5"):
                answer = await serving.ask(target, headers=headers)
                assert answer.status == status
                if status == 403:
                    assert answer.json["code"] == "cross_site_refused"
            assert (await serving.ask("/livez", headers=headers)).status == 200
            if status == 403:
                assert await serving.one() == before + 1


# --- too long -------------------------------------------------------------------------------------


TOO_LONG = [
    (request("/" + "a" * 9000), 414, "uri_too_long"),
    (request("/next?a=" + "a" * 9000), 414, "uri_too_long"),
    (request(headers={"X-Long": "a" * 9000}), 431, "headers_too_long"),
    (request(headers={"X" * 9000: "a"}), 431, "headers_too_long"),
    (request(headers={f"X-{number}": "a" for number in range(200)}), 431, "headers_too_long"),
]  # fmt: skip


async def test_a_head_that_is_too_long_is_refused_in_words(rows: Rows[Serving]) -> None:
    for data, status, code in TOO_LONG:
        async with rows.row(data[:60]) as serving:
            async with connected(serving.port) as wire:
                await wire.send(data)
                answer = await wire.answer()
            assert (answer.status, answer.json["code"]) == (status, code)
            assert "b'" not in answer.json["detail"]
            assert answer.closes


@pytest.mark.parametrize("path", ["/next", "/v1/counters/default", "/nope"])
async def test_many_small_chunks_are_not_read_to_their_end(
    serving: Serving, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0

    def count(self: asyncio.StreamReader, data: bytes) -> None:
        nonlocal read
        read += 1
        feed(self, data)

    from aiohttp import StreamReader

    feed = StreamReader.feed_data
    monkeypatch.setattr(StreamReader, "feed_data", count)
    head = request(path, "POST" if path == "/next" else "PUT")[:-2]
    async with connected(serving.port) as wire:
        await wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 30_000)
        if path == "/next":
            assert (await wire.answer()).status == 413
        assert await wire.is_closed() or path != "/next"
    assert read <= CHUNKED_MAX
