"""Adds that are refused as they are: each has its code, and nothing is counted for it."""

from typing import Any

import pytest

from idservice.web import ids
from idservice.web.problems import BODY_MAX

from .conftest import Serve, Serving, alone
from .rows import Rows
from .test_battery import MALFORMED, POST, exchange
from .test_contract import assert_problem
from .test_tallies import GIFTS, add, send, sum_of
from .wire import Answer, connected, request

JSON = {"Content-Type": "application/json"}
ADD = f"{GIFTS}/add"
GOOD = b'{"amount":"12.50"}'

# What is sent as the JSON of an amount, to a tally with two decimals.
BAD_AMOUNTS = [
    '"1e2"', "1e2", "1E2", "0.30000000000000004", "0.001", '"0.001"', '""', '" 1"', '"1 "', '"+1"',
    '"1."', '".5"', '"01"', '"--1"', '"-"', '"1,5"', '"1_0"', '"0x10"', '"\\u0661"', '"1\\n"',
    '"NaN"', "NaN", "Infinity", "-Infinity", '"Infinity"', "true", "null", "[]", '["1"]', "{}",
    '{"amount":1}', "1" + "0" * 18, '"99999999999999999.99"', "9" * 400, "1.10e0",
    '"\\u0000"', '"1\\u0000"', "1.000",
]  # fmt: skip
# body of an add: its code
BAD_BODIES = {
    b"": "bad_body",
    b" ": "bad_body",
    b"{}": "bad_body",
    b"[]": "bad_body",
    b"12.50": "bad_body",
    b'"12.50"': "bad_body",
    b"null": "bad_body",
    b"amount=12.50": "bad_body",
    b'{"amount":12.50': "bad_body",
    b'{"amount":"12.50"} x': "bad_body",
    b'{"amount":01}': "bad_body",
    b'{"amount":1.}': "bad_body",
    b"{'amount':'1'}": "bad_body",
    b'{"Amount":"12.50"}': "bad_body",
    b'{"amount":"12.50","note":"x"}': "bad_body",
    b'{"amount":"12.50","amount":"12.50"}': "bad_body",
    b'{"amount":"12.50","\\u0061mount":"1"}': "bad_body",
    b'{"amount":"12.50","key":"a"}': "bad_body",
    b'{"amount":"\xff"}': "bad_amount",
    b'\xff\xfe{\x00"\x00': "bad_body",
    b'\xef\xbb\xbf{"amount":"1"}': "bad_body",
    b'{"amount":' + b"[" * 4000: "bad_body",
    b"[" * 4000: "bad_body",
    b'{"amount":' + b"[" * 2000 + b"]" * 2000 + b"}": "bad_body",
    b'{"amount":"\\ud800"}': "bad_body",
}  # fmt: skip
BAD_KEYS = [
    "", '"', '""', "a b", "a/b", "a,b", "é", "a\tb", "x" * 129, f'"{"x" * 129}"', '"a', 'a"',
    '"a";x=1', "'a'", "a\\", '"a\\"b"', "%61", "a;b", "k=1",
]  # fmt: skip
GOOD_KEYS = ["x" * 128, f'"{"x" * 128}"', "A.z_0:~-", "-", "0"]


async def sent(serving: Serving, body: bytes, key: str = "bad", **headers: str) -> Answer:
    named = {**JSON, "Idempotency-Key": key, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return await serving.ask(ADD, "POST", headers=named, body=body)


async def assert_nothing_counted(serving: Serving, *keys: str) -> None:
    """The sum stays, and no key of these has a record."""
    assert await sum_of(serving) == "0.00"
    for key in keys:
        assert (await serving.ask(f"{GIFTS}/adds/{key}")).json["code"] == "unknown_add", key


async def with_gifts(serving: Serving) -> Serving:
    """A service with an empty tally of two decimals."""
    assert (await send(serving, "PUT", GIFTS, decimals=2)).status == 201
    return serving


@pytest.fixture
async def gifts(serving: Serving) -> Serving:
    return await with_gifts(serving)


@pytest.fixture
def rows(serve: Serve, subtests: pytest.Subtests) -> Rows[Serving]:
    """The same for row after row."""

    async def made() -> Serving:
        return await with_gifts(await alone(serve))

    return Rows(subtests, made)


async def test_no_amount_is_rounded_or_guessed(gifts: Serving) -> None:
    for written in BAD_AMOUNTS:
        answer = await sent(gifts, b'{"amount":' + written.encode() + b"}")
        assert_problem(answer, 400, "bad_amount")
        assert not answer.json["retryable"]
    await assert_nothing_counted(gifts, "bad")


async def test_no_body_is_counted_that_is_not_one_amount(gifts: Serving) -> None:
    for body, code in BAD_BODIES.items():
        assert_problem(await sent(gifts, body), 400, code)
    await assert_nothing_counted(gifts, "bad")


async def test_a_key_is_taken_as_it_is_or_in_quotes_and_nothing_else(gifts: Serving) -> None:
    for key in BAD_KEYS:
        assert_problem(await sent(gifts, GOOD, key), 400, "bad_key")
    missing = await gifts.ask(ADD, "POST", headers=JSON, body=GOOD)
    assert_problem(missing, 400, "key_missing")
    async with connected(gifts.port) as wire:
        twice = request(ADD, "POST", headers={**JSON, "Idempotency-Key": "a"}, body=GOOD)
        line = b"Idempotency-Key: a\r\n"
        for other in (line, b"idempotency-key: b\r\n"):
            await wire.send(twice.replace(line, line + other))
            assert_problem(await wire.answer(), 400, "bad_key")
    await assert_nothing_counted(gifts, "a", "b")
    for key in GOOD_KEYS:
        answer = await sent(gifts, GOOD, key)
        assert (answer.status, answer.json["key"]) == (200, key.strip('"'))


OTHER_TYPES = [
    "", "text/plain", "application/x-www-form-urlencoded", "application/problem+json", "json",
    "text/json", "application/json, text/plain",
]  # fmt: skip


async def test_a_body_of_another_media_type_is_refused(rows: Rows[Serving]) -> None:
    for kind in OTHER_TYPES:
        async with rows.row(kind) as gifts:
            headers = {"Idempotency-Key": "bad", **({"Content-Type": kind} if kind else {})}
            answer = await gifts.ask(ADD, "POST", headers=headers, body=GOOD)
            assert_problem(answer, 415, "media_type_refused")
            await assert_nothing_counted(gifts, "bad")


async def test_the_media_type_may_have_other_letters_and_a_charset(gifts: Serving) -> None:
    for number, kind in enumerate(("Application/JSON", "application/json; charset=utf-8")):
        assert (await sent(gifts, GOOD, f"k{number}", Content_Type=kind)).status == 200


async def test_a_body_that_is_too_large_is_not_counted(gifts: Serving) -> None:
    for length in (BODY_MAX + 1, 2 * BODY_MAX, 100_000):
        large = GOOD + b" " * (length - len(GOOD))
        assert_problem(await sent(gifts, large), 413, "body_too_large")
    await assert_nothing_counted(gifts, "bad")
    whole = GOOD + b" " * (BODY_MAX - len(GOOD))
    assert (await sent(gifts, whole)).json["sum"] == "12.50"


CONDITIONS = [
    ({"Sec-Purpose": "prefetch"}, 403, "prefetch_refused"),
    ({"Sec-Fetch-Site": "cross-site"}, 403, "cross_site_refused"),
    ({"If-None-Match": "*"}, 412, "conditional_refused"),
    ({"If-Match": '"1"'}, 412, "conditional_refused"),
    ({"Range": "bytes=0-1"}, 416, "range_refused"),
]


async def test_what_uses_no_id_adds_nothing(rows: Rows[Serving]) -> None:
    for headers, status, code in CONDITIONS:
        async with rows.row(headers) as gifts:
            assert_problem(await sent(gifts, GOOD, **headers), status, code)
            await assert_nothing_counted(gifts, "bad")


METHODS = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]


async def test_only_a_post_adds(rows: Rows[Serving]) -> None:
    for method in METHODS:
        async with rows.row(method) as gifts:
            headers = {**JSON, "Idempotency-Key": "bad"}
            answer = await gifts.ask(ADD, method, headers=headers, body=GOOD)
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
            await assert_nothing_counted(gifts, "bad")


async def test_a_name_that_is_none_and_a_tally_that_is_none_add_nothing(gifts: Serving) -> None:
    for path, status, code in (
        ("/v1/tallies/-x/add", 400, "bad_name"),
        ("/v1/tallies/a%2Fb/add", 400, "bad_name"),
        ("/v1/tallies/Gifts/add", 404, "unknown_tally"),
        ("/v1/tallies/default/add", 404, "unknown_tally"),
    ):
        answer = await send(gifts, "POST", path, key="bad", amount="1")
        assert_problem(answer, status, code)
    await assert_nothing_counted(gifts, "bad")


# --- broken bytes ---------------------------------------------------------------------------------

BROKEN = {name: sent for name, sent in MALFORMED.items() if sent.startswith(POST)}
HEAD = POST.replace(b"/next", ADD.encode()) + (
    b"Content-Type: application/json\r\nIdempotency-Key: bad\r\n"
)


async def test_an_add_that_is_malformed_is_refused_and_counts_nothing(rows: Rows[Serving]) -> None:
    for name in BROKEN:
        async with rows.row(name) as gifts:
            sent = BROKEN[name].replace(POST, HEAD).replace(b"12345", b"12.50")
            assert await exchange(gifts.port, sent) == [400]
            await assert_nothing_counted(gifts, "bad")


async def test_a_body_that_breaks_off_counts_nothing(gifts: Serving) -> None:
    """What came of it may look whole."""
    for rest in (
        b"Content-Length: %d\r\n\r\n%s" % (len(GOOD) + 1, GOOD),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(GOOD), GOOD),
    ):
        for half_close in (True, False):
            async with connected(gifts.port) as wire:
                await wire.send(HEAD + rest)
                assert (await gifts.ask("/livez")).status == 200
                if half_close:
                    wire.writer.write_eof()
                    # An earlier copy of the add may have been counted (T3).
                    assert_problem(await wire.answer(), 400, "bad_request", "unknown")
            assert (await gifts.ask("/livez")).status == 200
    await assert_nothing_counted(gifts, "bad")


@pytest.mark.parametrize("what", ["add", "set"])
async def test_an_add_whose_body_does_not_come_is_unknown_if_it_was_sent_before(
    gifts: Serving, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "BODY_TIMEOUT_S", 0.01)
    async with connected(gifts.port) as wire:
        await wire.send(HEAD.replace(b"/add", b"/" + what.encode()) + b"Content-Length: 9\r\n\r\n")
        assert_problem(await wire.answer(), 408, "request_timeout", "unknown")


async def test_an_add_may_come_in_pieces_and_in_chunks(gifts: Serving) -> None:
    length = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(GOOD), GOOD)
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (
        len(GOOD), GOOD,
    )  # fmt: skip
    async with connected(gifts.port) as wire, connected(gifts.port) as other:
        for sent in (length, chunked):
            for cut in range(len(HEAD) - 5, len(sent), 3):
                await wire.send(sent[:cut])
                await other.send(request("/livez"))  # a turn for the server
                assert (await other.answer()).status == 200
                await wire.send(sent[cut:])
                assert (await wire.answer()).json["sum"] == "12.50"
    assert await sum_of(gifts) == "12.50"


# --- what changes a tally -------------------------------------------------------------------------

BAD_CHANGES: list[tuple[str, str, bytes, str]] = [
    ("PUT", "/v1/tallies/new", b'{"decimals":10}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"decimals":-1}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"decimals":"2"}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"decimals":true}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"decimals":2,"decimals":2}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"floor":"0.5"}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"floor":""}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"floor":1e1}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"floor":true}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"floor":1,"start":0}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"only":"0"}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"floor":2,"ceiling":1,"start":1}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"ceiling":1000000000000000000}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b'{"sum":"0"}', "bad_tally"),
    ("PUT", "/v1/tallies/new", b"[]", "bad_tally"),
    ("PUT", "/v1/tallies/-new", b"{}", "bad_name"),
    ("PATCH", GIFTS, b"", "bad_tally"),
    ("PATCH", GIFTS, b"{}", "bad_tally"),
    ("PATCH", GIFTS, b'{"reason":"none"}', "bad_tally"),
    ("PATCH", GIFTS, b'{"state":"deleted"}', "bad_tally"),
    ("PATCH", GIFTS, b'{"state":"active","reason":"two\\nlines"}', "bad_tally"),
    ("PATCH", GIFTS, b'{"decimals":3}', "bad_tally"),
    ("PATCH", GIFTS, b'{"floor":"x"}', "bad_tally"),
    ("PATCH", GIFTS, b'{"floor":"0.001"}', "bad_tally"),
    ("PATCH", GIFTS, b'{"floor":"1"}', "tally_not_changed"),
    ("DELETE", GIFTS, b'{"why":"x"}', "bad_tally"),
    ("DELETE", GIFTS, b'{"reason":"' + b"x" * 201 + b'"}', "bad_tally"),
    ("POST", f"{GIFTS}/set", b"", "bad_body"),
    ("POST", f"{GIFTS}/set", b'{"reason":"x"}', "bad_body"),
    ("POST", f"{GIFTS}/set", b'{"sum":"0","sum":"0"}', "bad_body"),
    ("POST", f"{GIFTS}/set", b'{"sum":NaN}', "bad_amount"),
    ("POST", f"{GIFTS}/set", b'{"sum":"1e2"}', "bad_amount"),
    ("POST", f"{GIFTS}/set", b'{"sum":1.001}', "bad_amount"),
    ("POST", f"{GIFTS}/set", b'{"sum":"1","reason":"two\\nlines"}', "bad_tally"),
]


async def listed(serving: Serving) -> Any:
    return (await serving.ask("/v1/tallies")).json


async def test_a_change_that_is_not_understood_changes_nothing(gifts: Serving) -> None:
    before = await listed(gifts)
    for method, path, body, code in BAD_CHANGES:
        answer = await gifts.ask(path, method, headers={"Idempotency-Key": "bad"}, body=body)
        assert_problem(answer, 409 if code == "tally_not_changed" else 400, code)
    assert await listed(gifts) == before
    await assert_nothing_counted(gifts, "bad")


CHANGES = [
    ("PUT", "/v1/tallies/new", b"{}"),
    ("PATCH", GIFTS, b'{"state":"suspended"}'),
    ("DELETE", GIFTS, b""),
    ("POST", f"{GIFTS}/set", b'{"sum":"500"}'),
]


async def test_who_may_not_change_a_counter_may_not_change_a_tally(rows: Rows[Serving]) -> None:
    for method, path, body in CHANGES:
        async with rows.row(method, path) as gifts:
            before = await listed(gifts)
            for headers in (
                {"Host": "ids.example.com"},
                {"Origin": "https://evil.example.com"},
                {"Sec-Fetch-Site": "cross-site"},
                {"X-Forwarded-For": "192.0.2.1"},
                {"Content-Type": "text/plain"},
            ):
                named = {"Idempotency-Key": "bad", **headers}
                answer = await gifts.ask(path, method, headers=named, body=body)
                outcome = "unknown" if path.endswith("/set") else "not_applied"
                assert_problem(answer, 403, "write_refused", outcome)
            assert await listed(gifts) == before


async def test_a_listener_without_leave_names_the_commands_of_tallies(serve: Serve) -> None:
    serving = await serve(writable=False)
    for method, path, body in CHANGES:
        answer = await serving.ask(path, method, headers={"Idempotency-Key": "bad"}, body=body)
        # An earlier set with this key may have been let through, before a restart.
        outcome = "unknown" if path.endswith("/set") else "not_applied"
        assert_problem(answer, 403, "write_refused", outcome)
        assert "`idservice tally " in answer.json["detail"]


async def test_the_control_plane_reads_tallies_and_adds_nothing(serve: Serve) -> None:
    serving = await serve(data=False)
    assert (await send(serving, "PUT", GIFTS, decimals=2)).status == 201
    assert await sum_of(serving) == "0.00"
    assert_problem(await add(serving, "a", "1"), 404, "unknown_path")
    assert_problem(
        await serving.ask(f"{GIFTS}/adds/a"), 404, "unknown_add", members=("key", "as_of")
    )
    for path in (GIFTS, f"{GIFTS}/adds/a", "/v1/tallies"):
        elsewhere = await serving.ask(path, headers={"Host": "evil.example.com"})
        assert_problem(elsewhere, 403, "host_refused")


async def test_a_listener_for_ids_alone_changes_and_lists_no_tallies(serve: Serve) -> None:
    serving = await serve(control=False)
    assert_problem(await serving.ask("/v1/tallies"), 404, "unknown_path")
    answer = await send(serving, "PUT", GIFTS)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert_problem(await add(serving, "a", "1"), 404, "unknown_tally")


async def test_digits_beyond_any_decimals_are_told_the_rule_that_they_break(gifts: Serving) -> None:
    told = (await sent(gifts, b'{"amount":0.30000000000000004}')).json["detail"]
    assert "at most 18 digits before the point and 9 after it" in told
