"""The HTTP contract, to the byte: what each request is answered, and that refusals use up no id."""

import asyncio
import json
import logging
import re
from collections.abc import Collection
from itertools import product
from typing import Any

import pytest

from idservice import errors
from idservice.allocation.context import Limits
from idservice.core.gap_causes import GapCause
from idservice.stores.records import LIMIT_DEFAULT, Counter, Grant
from idservice.stores.sqlite.store import SQLiteStore
from idservice.web.request import WebLimits

from .conftest import OLD, Serve, Serving
from .rows import Rows
from .wire import Answer, connected, request

PROBLEM_KEYS = {"type", "title", "status", "detail", "code", "retryable", "outcome"}
TEXT = "text/plain; charset=utf-8"
JSON = {"Accept": "application/json"}


def assert_problem(
    answer: Answer,
    status: int,
    code: str,
    outcome: str = "not_applied",
    members: Collection[str] = (),
) -> None:
    """A refusal in the one form that all have, and with these fields of its own."""
    assert answer.status == status, answer
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["server"] == "idservice"
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    problem = answer.json
    assert set(problem) == {*PROBLEM_KEYS, *members}
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == f"urn:idservice:problem:{code}"
    assert problem["outcome"] == outcome
    assert isinstance(problem["retryable"], bool)
    assert problem["title"]
    assert problem["detail"]


# --- ids ------------------------------------------------------------------------------------------


async def test_the_next_id_is_digits_and_nothing_else(serving: Serving) -> None:
    first, second = await serving.ask(), await serving.ask()
    assert (first.status, first.body) == (200, b"0")
    assert (second.status, second.body) == (200, b"1")
    assert first.headers["content-type"] == TEXT
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["content-length"] == "1"
    assert first.headers["server"] == "idservice"
    assert not {"etag", "last-modified", "expires", "age"} & set(first.headers)


async def test_a_count_gets_one_id_per_line_and_a_newline_after_each(serving: Serving) -> None:
    assert (await serving.ask("/next?count=3")).body == b"0\n1\n2\n"
    single = await serving.ask("/next?count=1")
    assert single.body == b"3\n"
    assert single.headers["content-type"] == TEXT
    many = await serving.ask("/next?count=10000")
    assert many.body == b"".join(b"%d\n" % id for id in range(4, 10_004))


async def test_json_names_the_counter(serving: Serving) -> None:
    by_accept = await serving.ask(headers=JSON)
    assert by_accept.body == b'{"counter":"default","id":0}'
    assert by_accept.headers["content-type"] == "application/json"
    assert by_accept.headers["cache-control"] == "no-store"
    assert (await serving.ask("/next?format=json")).body == b'{"counter":"default","id":1}'
    batch = await serving.ask("/next?format=json&count=3")
    assert batch.body == b'{"counter":"default","count":3,"ids":[2,3,4]}'
    one = await serving.ask("/next?format=json&count=1")
    assert one.body == b'{"counter":"default","count":1,"ids":[5]}'


async def test_ranges_are_whole_and_echo_the_nonce(serving: Serving) -> None:
    plain = await serving.ask("/next?format=ranges&count=1000000")
    assert plain.headers["cache-control"] == "no-store"
    assert plain.json == {
        "counter": "default",
        "count": 1_000_000,
        "epoch": 1,
        "mode": "block",
        "ranges": plain.json["ranges"],
    }
    stop = 0
    for part in sorted(plain.json["ranges"], key=lambda part: part["first"]):
        assert (part["first"], part["step"]) == (stop, 1)
        stop += part["count"]
    assert stop == 1_000_000
    echoed = await serving.ask("/next?format=ranges&nonce=a.B_9-")
    assert (echoed.json["nonce"], echoed.json["count"]) == ("a.B_9-", 1)
    assert "nonce" not in plain.json


async def test_a_format_beats_the_accept_header(serving: Serving) -> None:
    assert (await serving.ask("/next?format=text", headers=JSON)).body == b"0"
    assert (await serving.ask("/next?format=json", headers={"Accept": "text/plain"})).json[
        "id"
    ] == 1


async def test_post_is_a_twin_of_get(serving: Serving) -> None:
    await serving.create("orders", start=42)
    assert (await serving.ask(method="POST")).body == b"0"
    assert (await serving.ask("/next?count=2", "POST")).body == b"1\n2\n"
    assert (await serving.ask("/next?format=json", "POST", body=b"{}")).json["id"] == 3
    named = await serving.ask("/v1/counters/orders/next", "POST", headers=JSON)
    assert named.body == b'{"counter":"orders","id":42}'


async def test_a_named_counter_has_its_own_ids(serving: Serving) -> None:
    await serving.create("orders", start=42)
    assert (await serving.ask("/v1/counters/orders/next")).body == b"42"
    assert (await serving.ask("/v1/counters/orders/next?count=2")).body == b"43\n44\n"
    assert (await serving.ask("/v1/counters/default/next")).body == b"0"
    assert (await serving.ask()).body == b"1"


async def test_a_route_serves_a_counter_at_an_old_path(serve: Serve) -> None:
    serving = await serve(routes={"/donations/new-id": "donations", "/old": "default"})
    await serving.create("donations", start=7)
    assert (await serving.ask("/donations/new-id")).body == b"7"
    assert (await serving.ask("/donations/new-id?x=y&count=2", "POST")).body == b"8\n9\n"
    assert (await serving.ask("/old")).body == b"0"
    assert (await serving.ask()).body == b"1"


async def test_keys_that_mean_nothing_are_passed_over(serving: Serving) -> None:
    assert (await serving.ask("/next?cachebust=17&utm=&%C3%A9=%C3%A9")).body == b"0"


ACCEPTS = [
    ("", False),
    ("*/*", False),  # curl, requests, Go
    ("application/json, text/plain, */*", True),  # axios, Angular
    ("text/plain, application/json", False),
    ("text/plain;q=0.5, application/json;q=0.5", False),
    ("application/json;q=0.5, text/*;q=0.5", True),
    # a browser that is pointed at the address
    ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", False),
    ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", False),  # Java
    ("application/json", True),
    ("APPLICATION/JSON", True),
    ("application/json; charset=utf-8", True),
    ("application/json, */*;q=0.5", True),
    ("text/plain;q=0.5, application/json", True),
    ("application/json;q=0.5, text/plain", False),
    ("application/json;q=0", False),
    ("application/json;q=x", False),
    ("application/json;q=nan", False),
    ("application/xml", False),
]


async def test_accept_gets_json_only_where_it_is_preferred_to_text(rows: Rows[Serving]) -> None:
    for accept, is_json in ACCEPTS:
        async with rows.row(accept) as serving:
            next = await serving.one() + 1
            answer = await serving.ask(headers={"Accept": accept})
            assert answer.text == (f'{{"counter":"default","id":{next}}}' if is_json else f"{next}")


# --- what uses up no id ---------------------------------------------------------------------------


METHODS = ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PURGE"]
PATHS = ["/next", "/v1/counters/default/next", OLD]


async def test_other_methods_are_refused(rows: Rows[Serving]) -> None:
    for method, path in product(METHODS, PATHS):
        async with rows.row(method, path) as serving:
            async with serving.using_no_id():
                answer = await serving.ask(path, method)
            assert answer.status == 405
            assert answer.headers["allow"] == "GET, POST"
            assert answer.headers["cache-control"] == "no-store"
            if method != "HEAD":
                assert_problem(answer, 405, "method_not_allowed")


ASKING = ["GET", "POST"]
PREFETCHES = [
    ("Sec-Purpose", "prefetch"),
    ("Sec-Purpose", "prefetch;prerender"),
    ("Sec-Purpose", "Prefetch"),
    ("Purpose", "prefetch"),
    ("X-Purpose", "preview"),
    ("X-Moz", "prefetch"),
    ("Sec-Purpose", "nothing\r\nSec-Purpose: prefetch"),
]


async def test_a_prefetch_uses_no_id(rows: Rows[Serving]) -> None:
    for method, header in product(ASKING, PREFETCHES):
        async with rows.row(method, header) as serving:
            async with serving.using_no_id():
                answer = await serving.ask(method=method, headers=dict([header]))
            assert_problem(answer, 403, "prefetch_refused")


CONDITIONS = [
    ({"If-None-Match": "*"}, 412, "conditional_refused"),
    ({"If-None-Match": '"abc"'}, 412, "conditional_refused"),
    ({"If-Match": '"abc"'}, 412, "conditional_refused"),
    ({"If-Modified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}, 412, "conditional_refused"),
    ({"If-Unmodified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}, 412, "conditional_refused"),
    ({"If-Range": '"abc"', "Range": "bytes=0-1"}, 412, "conditional_refused"),
    ({"Range": "bytes=0-0"}, 416, "range_refused"),
]


async def test_a_conditional_or_partial_request_uses_no_id(rows: Rows[Serving]) -> None:
    for header, status, code in CONDITIONS:
        async with rows.row(header) as serving:
            async with serving.using_no_id():
                answer = await serving.ask(headers=header)
            assert_problem(answer, status, code)


BAD_QUERIES = [
    *((f"count={value}", "bad_count") for value in (
        "", "0", "-1", "+5", "%2B5", "00", "05", "1_0", "%2010", "10%20", "10%0a", "1.0", "1e3",
        "0x10", "%D9%A1", "%EF%BC%91", "%C2%B2", "a", "10001", "9999999999", "99999999999",
        "9" * 30, "9" * 300, "true", "null", "1%00", "%0b1",
    )),
    ("count=1&count=1000", "repeated_key"),
    ("count=1&count=1", "repeated_key"),
    ("count=1&c%6Funt=1", "repeated_key"),
    ("count=&count=1", "repeated_key"),
    ("a=1&a=1", "repeated_key"),
    ("format=text&format=json", "repeated_key"),
    ("format=", "bad_format"),
    ("format=xml", "bad_format"),
    ("format=JSON", "bad_format"),
    ("format=ranges&nonce=", "bad_nonce"),
    ("format=ranges&nonce=a%20b", "bad_nonce"),
    ("format=ranges&nonce=" + "a" * 65, "bad_nonce"),
    ("nonce=%0d%0aX:1", "bad_nonce"),
    ("format=ranges&count=1000001", "bad_count"),
    ("x=%FF", "bad_request"),
    ("%FF=x", "bad_request"),
    ("count=%FF", "bad_request"),
    ("&".join(f"k{number}=" for number in range(33)), "bad_request"),
]  # fmt: skip


async def test_a_query_is_read_strictly(rows: Rows[Serving]) -> None:
    for query, code in BAD_QUERIES:
        async with rows.row(query) as serving:
            async with serving.using_no_id():
                answer = await serving.ask(f"/next?{query}")
                twin = await serving.ask(f"/next?{query}", "POST")
            assert_problem(answer, 400, code)
            assert_problem(twin, 400, code)
            assert len(answer.body) < 1000


async def test_32_keys_are_read(serving: Serving) -> None:
    query = "&".join(f"k{number}=" for number in range(31))
    assert (await serving.ask(f"/next?{query}&count=1")).body == b"0\n"


async def test_the_bounds_on_counts_are_settings(serve: Serve) -> None:
    serving = await serve(web_limits=WebLimits(batch_max=5, range_max=20))
    async with serving.using_no_id():
        assert_problem(await serving.ask("/next?count=6"), 400, "bad_count")
        assert_problem(await serving.ask("/next?format=ranges&count=21"), 400, "bad_count")
    assert (await serving.ask("/next?count=5")).body.count(b"\n") == 5
    assert (await serving.ask("/next?format=ranges&count=20")).json["count"] == 20


BAD_NAMES = [
    "-a", ".a", "_a", "a%20b", "a%2Fb", "%2e%2e", "a%00", "a%0a", "%C3%A9", "a" * 65, "%25",
]  # fmt: skip


async def test_a_name_is_letters_digits_and_three_marks(rows: Rows[Serving]) -> None:
    for name in BAD_NAMES:
        async with rows.row(name) as serving:
            assert_problem(await serving.ask(f"/v1/counters/{name}/next"), 400, "bad_name")
            assert_problem(await serving.ask(f"/v1/counters/{name}"), 400, "bad_name")
            assert_problem(await serving.ask(f"/v1/counters/{name}", "PUT"), 400, "bad_name")


async def test_names_of_every_permitted_form_are_served(serving: Serving) -> None:
    for name in ("a", "A", "9", "a.b_c-d", "a" * 64, "default2"):
        assert (await serving.ask(f"/v1/counters/{name}", "PUT")).status == 201
        assert (await serving.ask(f"/v1/counters/{name}/next")).body == b"0"
    assert (await serving.ask("/v1/counters/%61%2Eb_c-d/next")).body == b"1"  # the same, escaped
    assert_problem(await serving.ask("/v1/counters/DEFAULT/next"), 404, "unknown_counter")


async def test_reading_an_unknown_counter_never_creates_it(serving: Serving) -> None:
    for method in ("GET", "POST"):
        answer = await serving.ask("/v1/counters/ghost/next?count=2", method)
        assert_problem(answer, 404, "unknown_counter")
        assert answer.json["retryable"] is False
    assert_problem(await serving.ask("/v1/counters/ghost"), 404, "unknown_counter")
    assert await serving.store.counter("ghost") is None
    assert [counter.name for counter in await serving.store.counters()] == ["default"]


# --- counters -------------------------------------------------------------------------------------


ORDERS = {
    "counter": "orders",
    "state": "active",
    "epoch": 1,
    "start": 1000,
    "limit": 2**53 - 1,
    "strict": False,
    "shards": 1,
    "runway": 30.0,
}


def told(answer: Answer) -> dict[str, Any]:
    """What is shown of a counter, but for its last change: that has a time of its own."""
    assert answer.json["last_change"]["what"] == "create"
    return {key: value for key, value in answer.json.items() if key != "last_change"}


async def test_a_counter_is_created_once(serving: Serving) -> None:
    wish = b'{"start":1000}'
    created = await serving.ask("/v1/counters/orders", "PUT", body=wish)
    assert (created.status, told(created)) == (201, ORDERS)
    assert created.headers["cache-control"] == "no-store"
    assert created.headers["content-type"] == "application/json"
    again = await serving.ask("/v1/counters/orders", "PUT", body=wish)
    assert (again.status, told(again)) == (200, ORDERS)
    assert (await serving.ask("/v1/counters/orders/next")).body == b"1000"
    again = await serving.ask("/v1/counters/orders", "PUT", body=wish)
    assert (again.status, told(again)) == (200, ORDERS), "a counter in use is the same counter"
    other = await serving.ask("/v1/counters/orders", "PUT", body=b'{"start":1001}')
    assert_problem(other, 409, "counter_differs")
    assert "1000" in other.json["detail"]
    assert "1001" in other.json["detail"]
    assert (await serving.ask("/v1/counters/orders/next")).body == b"1001"


async def test_a_counter_is_created_with_all_it_was_wished(serving: Serving) -> None:
    wish = {"start": 5, "limit": 99, "strict": True, "shards": 1, "runway": 12.5}
    created = await serving.ask("/v1/counters/s", "PUT", body=json.dumps(wish).encode())
    assert created.status == 201
    assert told(created) == {"counter": "s", "state": "active", "epoch": 1, **wish}
    taken = await serving.ask("/v1/counters/s/next?format=ranges&count=3")
    assert taken.json == {
        "counter": "s",
        "count": 3,
        "epoch": 1,
        "mode": "strict",
        "ranges": [{"first": 5, "step": 1, "count": 3}],
    }


WHOLE = [
    ("/v1/counters/new", "PUT", "start"), ("/v1/counters/new", "PUT", "limit"),
    ("/v1/counters/new", "PUT", "shards"), ("/v1/counters/default", "PATCH", "limit"),
    ("/v1/counters/new", "PUT", "request_max"),
    ("/v1/counters/default/set", "POST", "next"),
]  # fmt: skip
ROUNDED = ["9007199254740991.5", "4503599627370497.2", "5.0", "9e1"]


async def test_a_whole_number_that_may_have_been_rounded_is_refused(rows: Rows[Serving]) -> None:
    for (path, method, field), number in product(WHOLE, ROUNDED):
        async with rows.row(path, field, number) as serving:
            answer = await serving.ask(path, method, body=f'{{"{field}":{number}}}'.encode())
            assert_problem(answer, 400, "bad_configuration")
            assert "plain digits" in answer.json["detail"]
            assert await serving.store.counter("new") is None


async def test_an_empty_wish_is_the_default_counter(serving: Serving) -> None:
    for number, body in enumerate((b"", b"{}")):
        created = await serving.ask(f"/v1/counters/c{number}", "PUT", body=body)
        assert told(created) == {**ORDERS, "counter": f"c{number}", "start": 0}
        assert created.json["limit"] == 9007199254740991


BAD_WISHES = [
    b"[]", b"null", b"1", b'"x"', b"{", b"\xff", b"{}{}", b'{"name":"x"}', b'{"epoch":"x"}',
    b'{"start":-1}', b'{"start":1.5}', b'{"start":true}', b'{"start":null}', b'{"start":"x"}',
    b'{"start":"01"}', b'{"start":"\xd9\xa1"}', b'{"start":1e3000}',
    b'{"start":9223372036854775807}', b'{"start":' + b"9" * 4000 + b"}",
    b'{"start":5,"limit":4}', b'{"limit":9223372036854775807}', b'{"limit":"-1"}',
    b'{"strict":"yes"}', b'{"strict":1}', b'{"shards":0}', b'{"shards":65}', b'{"shards":"1"}',
    b'{"shards":1.5}', b'{"shards":2,"strict":true}',
    b'{"runway":0}', b'{"runway":-1}', b'{"runway":1e300}', b'{"runway":NaN}',
    b'{"runway":"30"}', b'{"state":"suspended"}',
]  # fmt: skip


async def test_a_wish_is_read_strictly(rows: Rows[Serving]) -> None:
    for body in BAD_WISHES:
        async with rows.row(body) as serving:
            answer = await serving.ask("/v1/counters/new", "PUT", body=body)
            assert_problem(answer, 400, "bad_configuration")
            assert await serving.store.counter("new") is None


async def test_counters_are_listed_and_shown_and_that_uses_no_id(serving: Serving) -> None:
    await serving.ask("/v1/counters/orders", "PUT", body=b'{"start":1000}')
    default = {**ORDERS, "counter": "default", "start": 0}
    async with serving.using_no_id():
        listed = await serving.ask("/v1/counters")
        first, second = listed.json["counters"]
        assert second.pop("last_change")["what"] == "create"
        assert (listed.status, first, second) == (200, default, ORDERS)
        assert listed.headers["cache-control"] == "no-store"
        shown = await serving.ask("/v1/counters/orders")
        assert told(shown) == {
            **ORDERS,
            "next": 1000,
            "ids_in_memory": 0,
            "gaps": {},
            "runway_seconds": 0.0,
        }
        assert shown.headers["cache-control"] == "no-store"
    await serving.ask("/v1/counters/orders/next")
    shown = await serving.ask("/v1/counters/orders")
    # `next` is the store's: above it nothing is reserved, so between lie the ids in memory.
    assert shown.json["ids_in_memory"] > 0
    assert shown.json["next"] == 1001 + shown.json["ids_in_memory"]


OTHER_METHODS = ["HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"]
ALLOWED = [
    ("/v1/counters", "GET, HEAD"),
    ("/v1/counters/default", "DELETE, GET, HEAD, PATCH, PUT"),
    ("/v1/counters/default/set", "POST"),
    ("/metrics", "GET, HEAD"),
    ("/livez", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/openapi.json", "GET, HEAD"),
    ("/", "GET, HEAD"),
    ("/v1/status", "GET, HEAD"),
]


async def test_other_methods_on_other_paths_are_refused(rows: Rows[Serving]) -> None:
    for method, (path, allow) in product(OTHER_METHODS, ALLOWED):
        if method in allow.split(", ") and method not in ("HEAD", "PUT"):
            continue  # it changes something: see test_change.py
        async with rows.row(method, path) as serving:
            answer = await serving.ask(path, method)
            if method in allow.split(", "):
                assert answer.status == 200
                continue
            assert (answer.status, answer.headers["allow"]) == (405, allow)
            assert answer.headers["cache-control"] == "no-store"
            if method != "HEAD":
                assert_problem(answer, 405, "method_not_allowed")


# --- numbers --------------------------------------------------------------------------------------


async def test_ids_up_to_the_default_limit_are_json_numbers(serving: Serving) -> None:
    await serving.create("n", start=2**53 - 3)
    path = "/v1/counters/n/next?format=json"
    assert (await serving.ask(path)).body == b'{"counter":"n","id":9007199254740989}'
    assert (await serving.ask(path + "&count=2")).body == (
        b'{"counter":"n","count":2,"ids":[9007199254740990,9007199254740991]}'
    )
    assert_problem(await serving.ask(path), 410, "exhausted")


async def test_a_larger_limit_makes_every_id_a_string(serving: Serving) -> None:
    body = b'{"start":"7","limit":"9007199254740992"}'
    created = await serving.ask("/v1/counters/big", "PUT", body=body)
    assert created.status == 201
    assert (created.json["start"], created.json["limit"]) == ("7", "9007199254740992")
    path = "/v1/counters/big/next"
    assert (await serving.ask(path)).body == b"7"
    assert (await serving.ask(path, headers=JSON)).body == b'{"counter":"big","id":"8"}'
    batch = await serving.ask(path + "?format=json&count=2")
    assert batch.body == b'{"counter":"big","count":2,"ids":["9","10"]}'
    ranges = await serving.ask(path + "?format=ranges&count=2")
    assert ranges.json["ranges"] == [{"first": "11", "step": 1, "count": 2}]
    assert isinstance((await serving.ask("/v1/counters/big")).json["next"], str)
    listed = (await serving.ask("/v1/counters")).json["counters"]
    assert [counter["limit"] for counter in listed] == ["9007199254740992", LIMIT_DEFAULT]


async def test_the_highest_ids_of_all_are_exact(serving: Serving) -> None:
    top = 2**63 - 2
    await serving.create("top", start=top - 2, limit=top)
    path = "/v1/counters/top/next"
    assert (await serving.ask(path)).text == str(top - 2)
    assert (await serving.ask(path + "?format=json&count=2")).json["ids"] == [
        str(top - 1),
        str(top),
    ]
    assert_problem(await serving.ask(path), 410, "exhausted")


async def test_a_batch_is_whole_or_refused(serving: Serving) -> None:
    await serving.create("few", limit=9)
    path = "/v1/counters/few/next"
    assert (await serving.ask(path + "?count=4")).text.split() == ["0", "1", "2", "3"]
    for form in ("text", "json", "ranges"):
        answer = await serving.ask(f"{path}?count=7&format={form}")
        assert_problem(answer, 410, "exhausted")
        assert answer.json["retryable"] is False
    assert (await serving.ask(path + "?count=6")).text.split() == ["4", "5", "6", "7", "8", "9"]
    assert_problem(await serving.ask(path), 410, "exhausted")
    assert_problem(await serving.ask(path, "POST"), 410, "exhausted")


# --- refusals have one form -----------------------------------------------------------------------


async def test_what_the_router_refuses_has_the_form_of_a_problem(serving: Serving) -> None:
    for path in (
        "/nope",
        "/next/",
        "/NEXT",
        "//next",
        "/v1",
        "/v1/counters/",
        "/v1/counters/a/b",
    ):
        assert_problem(await serving.ask(path), 404, "unknown_path")
    assert_problem(await serving.ask("/v1/counters/a/next", "PUT"), 405, "method_not_allowed")


async def test_a_long_body_is_refused(rows: Rows[Serving]) -> None:
    for method, path in (("POST", "/next"), ("PUT", "/v1/counters/c")):
        async with rows.row(path) as serving:
            async with serving.using_no_id():
                answer = await serving.ask(path, method, body=b" " * 5000)
            assert_problem(answer, 413, "body_too_large")


async def test_an_expectation_other_than_continue_is_refused(serving: Serving) -> None:
    async with serving.using_no_id():
        answer = await serving.ask(method="POST", headers={"Expect": "the-unexpected"})
    assert_problem(answer, 417, "bad_request")


async def test_expect_continue_is_answered_and_served(serving: Serving) -> None:
    async with connected(serving.port) as wire:
        await wire.send(
            request(
                "/v1/counters/c", "PUT", headers={"Expect": "100-continue", "Content-Length": "2"}
            )
        )
        assert (await wire.answer()).status == 100
        await wire.send(b"{}")
        assert (await wire.answer()).status == 201


async def test_what_is_no_http_is_refused_in_the_same_form(rows: Rows[Serving]) -> None:
    for host in (b"Host : 127.0.0.1\r\n", b""):
        async with (
            rows.row(host) as serving, serving.using_no_id(), connected(serving.port) as wire
        ):  # fmt: skip
            await wire.send(b"GET /next HTTP/1.1\r\n" + host + b"\r\n")
            answer = await wire.answer()
            assert_problem(answer, 400, "bad_request")
            assert not answer.json["detail"].endswith("..")
            assert answer.closes
            assert await wire.is_closed()


async def test_a_crash_is_a_problem_and_one_log_entry(
    serving: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("idservice.observability.logs.INTERVAL_S", 3600.0)
    monkeypatch.setattr("idservice.web.problems._crashes._next", 0.0)
    supply = await serving.service.local_counter("default")
    monkeypatch.setattr(type(supply), "take", crash)
    for _ in range(5):
        answer = await serving.ask()
        assert_problem(answer, 500, "internal", outcome="unknown")
        assert answer.json["retryable"] is False
        assert b"secret" not in answer.body
        assert b"Zero" not in answer.body
    mine = [record for record in caplog.records if getattr(record, "action", "") == "request_bug"]
    assert len(mine) == 1, "one line for many"
    monkeypatch.undo()
    assert (await serving.ask()).body == b"0", "and the service goes on"


# --- the store is away ----------------------------------------------------------------------------


class Away(SQLiteStore):
    """A store that can be told not to serve."""

    away = False
    unknown = False

    async def reserve(self, counter: Counter, **more: Any) -> Grant:
        if self.unknown:
            await super().reserve(counter, **more)
            raise errors.OutcomeUnknown(store=self.address, action="a test", why="lost")
        if self.away:
            raise errors.NotApplied(store=self.address, action="a test", why="away")
        return await super().reserve(counter, **more)

    async def counter(self, name: str) -> Counter | None:
        if self.away:
            raise errors.NotApplied(store=self.address, action="a test", why="away")
        return await super().counter(name)

    async def verify(self) -> None:
        if self.away:
            raise errors.StoreUnready(store=self.address, why="away", waiting_helps=True)


@pytest.fixture
def away(tmp_path: Any) -> Away:
    return Away(str(tmp_path / "ids.db"))


async def test_without_the_store_a_request_is_answered_503_with_retry_after(
    serve: Serve, away: Away
) -> None:
    serving = await serve(store=away, limits=Limits(wait=0.3))
    await serving.service.warm()
    away.away = True
    answers = [await serving.ask() for _ in range(12)]
    assert [answer.status for answer in answers] == [200] * 10 + [503] * 2
    for answer in answers[10:]:
        assert_problem(answer, 503, "waited_too_long")
        assert answer.headers["retry-after"] == "1"
        assert answer.json["retryable"] is True
    assert_problem(await serving.ask("/v1/counters/other/next"), 503, "store_unavailable")
    assert_problem(await serving.ask("/readyz"), 503, "not_ready")
    away.away = False
    later = await serving.ask()
    while later.status == 503:  # each try takes `wait`
        later = await serving.ask()
    assert later.body == b"10"


async def test_ids_of_a_lost_answer_are_never_handed_out(serve: Serve, away: Away) -> None:
    serving = await serve(store=away, limits=Limits(wait=0.3))
    away.unknown = True
    assert_problem(await serving.ask(), 503, "waited_too_long")
    stands = await away.position((await serving.service.local_counter("default")).counter)
    assert stands is not None
    away.unknown = False
    answer = await serving.ask()
    while answer.status == 503:
        answer = await serving.ask()
    assert int(answer.body) >= stands.next > 0
    shown = await serving.ask("/v1/counters/default")
    (cause,) = shown.json["gaps"].items()
    assert cause == ("unknown", {"ids": cause[1]["ids"], "why": GapCause.UNKNOWN.text})
    assert cause[1]["ids"] >= stands.next


async def test_health_answers_whatever_the_store_does(serve: Serve, away: Away) -> None:
    serving = await serve(store=away)
    await serving.service.warm()
    for path, body in (("/livez", b"live"), ("/readyz", b"ready")):
        answer = await serving.ask(path)
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["cache-control"] == "no-store"
    away.away = True
    await serving.ask("/v1/counters/other/next")  # it learns
    assert (await serving.ask("/livez")).status == 200
    degraded = await serving.ask("/readyz")
    assert degraded.status == 200, "there are ids in memory"
    assert b"degraded" in degraded.body


async def test_a_draining_instance_says_so_and_goes_on_answering(serving: Serving) -> None:
    async with connected(serving.port) as wire:
        await wire.send(request())
        assert not (await wire.answer()).closes
        serving.drain()
        await wire.send(request())
        answer = await wire.answer()
        assert (answer.status, answer.closes) == (200, True)
        assert await wire.is_closed()
    assert_problem(await serving.ask("/readyz"), 503, "not_ready")
    assert (await serving.ask("/livez")).closes
    assert (await serving.ask("/nope")).closes


async def test_a_client_that_goes_leaves_the_line(serve: Serve, away: Away) -> None:
    serving = await serve(store=away, limits=Limits(wait=0.2))
    away.away = True
    supply_wanted = asyncio.gather(*(serving.ask() for _ in range(3)))
    async with connected(serving.port) as wire:
        await wire.send(request())
    answers = await supply_wanted
    assert {answer.status for answer in answers} == {503}
    assert (await serving.ask("/livez")).status == 200


# --- where the control plane is -------------------------------------------------------------------


CONTROL = ["/v1/counters", "/v1/counters/default", "/metrics"]
HEALTH = ["/livez", "/readyz", "/openapi.json"]


async def test_a_listener_reachable_from_outside_serves_ids_and_health_alone(serve: Serve) -> None:
    serving = await serve(control=False, writable=False)
    for path in CONTROL:
        refused = await serving.ask(path)
        assert_problem(refused, 404, "unknown_path")
        assert "--admin-listen" in refused.json["detail"]
    assert_problem(await serving.ask("/v1/counters/x", "PUT"), 404, "unknown_path")
    for path in ("/next", "/v1/counters/default/next", *HEALTH):
        assert (await serving.ask(path)).status == 200


async def test_an_admin_listener_serves_no_ids(serve: Serve) -> None:
    serving = await serve(data=False)
    for path in ("/next", "/v1/counters/default/next"):
        refused = await serving.ask(path)
        assert_problem(refused, 404, "unknown_path")
        assert (
            "/v1/counters/NAME/next) and adds (/v1/tallies/NAME/add) are at the --listen address"
            in refused.json["detail"]
        )
        assert_problem(await serving.ask(path, "POST"), 404, "unknown_path")
    for path in (*CONTROL, *HEALTH):
        assert (await serving.ask(path)).status == 200


async def test_a_remote_admin_listener_changes_nothing(serve: Serve) -> None:
    serving = await serve(data=False, writable=False)
    answer = await serving.ask("/v1/counters/x", "PUT")
    assert_problem(answer, 403, "write_refused")
    assert await serving.store.counter("x") is None
    assert (await serving.ask("/v1/counters/default")).status == 200


FROM_ELSEWHERE = [
    {"Host": "ids.example.com"},
    {"Host": "127.0.0.1.example.com"},
    {"Host": "localhost.example.com:8080"},
    {"Host": "10.0.0.1"},
    {"Host": "0.0.0.0"},
    {"Host": "2130706433"},
    {"Host": ""},
    {"Host": "[::2]:80"},
    {"Origin": "https://evil.example.com"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost.example.com"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "http://127.0.0.1:8080", "Host": "127.0.0.1:8081"},
    {"Origin": "http://localhost:8080", "Host": "127.0.0.1:8080"},
    {"Sec-Fetch-Site": "same-site"},
    {"Via": "1.1 cache"},
    {"Content-Type": "text/plain"},
    {"Content-Type": "text/plain;charset=application/json"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "Cross-Site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Host": "localhost/.evil.example.com"},
    {"Host": "evil@localhost"},
    {"X-Forwarded-For": "192.0.2.1"},
    {"Forwarded": "for=192.0.2.1"},
    {"Accept": "*/*\r\nOrigin: http://localhost\r\nOrigin: https://evil.example.com"},
]


async def test_a_page_of_another_site_changes_no_counter(rows: Rows[Serving]) -> None:
    for headers in FROM_ELSEWHERE:
        async with rows.row(headers) as serving:
            answer = await serving.ask("/v1/counters/x", "PUT", headers=headers)
            assert_problem(answer, 403, "write_refused")
            assert await serving.store.counter("x") is None


FROM_HERE = [
    {"Host": "localhost:8080"},
    {"Host": "LOCALHOST"},
    {"Host": "127.0.0.1:1"},
    {"Host": "127.9.9.9"},
    {"Host": "[::1]:8080"},
    {"Host": "localhost:3000", "Origin": "http://LOCALHOST:3000"},
    {"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080",
     "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Content-Type": "application/json; charset=utf-8"},
]  # fmt: skip


async def test_who_is_on_this_machine_may_change_counters(rows: Rows[Serving]) -> None:
    for number, headers in enumerate(FROM_HERE):
        async with rows.row(headers) as serving:
            path = f"/v1/counters/x{number}"
            assert (await serving.ask(path, "PUT", headers=headers)).status == 201


async def test_on_loopback_a_foreign_host_reads_no_control_plane(rows: Rows[Serving]) -> None:
    """A name that leads a browser here would let any page read (DNS rebinding)."""
    for host in ("ids.example.com", "127.0.0.1.example.com", "10.0.0.1", ""):
        async with rows.row(host) as serving:
            for path in ("/", "/v1/status", *CONTROL):
                refused = await serving.ask(path, headers={"Host": host})
                assert_problem(refused, 403, "host_refused")
                assert "--admin-listen" in refused.json["detail"]
                assert (await serving.ask(path, headers={"Host": "localhost:1"})).status == 200
            for path in ("/next", "/v1/counters/default/next", *HEALTH):
                assert (await serving.ask(path, headers={"Host": host})).status == 200


# --- metrics, logs --------------------------------------------------------------------------------


async def test_metrics_count_what_was_handed_out_and_refused(serving: Serving) -> None:
    await serving.ask("/next?count=7")
    await serving.ask()
    await serving.create("few", limit=1)
    await serving.ask("/v1/counters/few/next?count=3")
    page = await serving.ask("/metrics")
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["content-type"].startswith("text/plain")
    assert 'idservice_ids_issued_total{counter="default"} 8.0' in page.text
    assert 'idservice_refusals_total{code="exhausted",counter="few"} 1.0' in page.text
    assert "idservice_store_up 1.0" in page.text
    assert 'idservice_limit_used_ratio{counter="default"} ' in page.text


async def test_metrics_tell_for_how_long_the_catalogue_was_not_heard_of(serving: Serving) -> None:
    page = await serving.ask("/metrics")
    assert "\nidservice_catalogue_age_limit_seconds 60.0\n" in page.text
    assert re.search(r"\nidservice_catalogue_age_seconds [0-9.e-]+\n", page.text)


async def test_metrics_tell_that_it_was_told_to_stop(serving: Serving) -> None:
    assert "\nidservice_draining 0.0\n" in (await serving.ask("/metrics")).text
    serving.service.stop_by = asyncio.get_running_loop().time() + 9
    assert "\nidservice_draining 1.0\n" in (await serving.ask("/metrics")).text


async def test_names_that_do_not_exist_leave_no_trace(serving: Serving) -> None:
    before = len((await serving.ask("/metrics")).text.splitlines())
    for number in range(50):
        await serving.ask(f"/v1/counters/ghost{number}/next")
    assert len((await serving.ask("/metrics")).text.splitlines()) == before
    assert set(serving.service.local_counters) <= {"default"}


async def test_the_access_log_is_written_only_when_asked(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    logging.getLogger("idservice.access").setLevel(logging.WARNING)
    await serving.ask()
    assert not [r for r in caplog.records if r.name == "idservice.access"]
    logging.getLogger("idservice.access").setLevel(logging.INFO)
    await serving.ask()
    assert len([r for r in caplog.records if r.name == "idservice.access"]) == 1
