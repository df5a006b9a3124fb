"""The fast lane beside aiohttp alone: the same answers to the same bytes, and the same ids used."""

import asyncio
from contextlib import suppress
from functools import cache
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idservice.allocation.service import Service
from idservice.catalogue.changes import Configure, Delete
from idservice.catalogue.counters import new_counter
from idservice.catalogue.renewals import CreateAgain
from idservice.web.fast_lane.parser import END, HEAD_MAX
from tests.web.fast_lane.hand import empty
from tests.web.fast_lane.pair import (
    GET,
    HOST,
    LAST,
    NEXT,
    H,
    Pair,
    head,
    said,
    traced,
    turns,
    until_silent,
    without_date,
)
from tests.web.rows import Rows
from tests.web.test_battery import FINE, MALFORMED
from tests.web.wire import connected


async def test_the_battery_is_answered_alike(pairs: Rows[Pair]) -> None:
    for name in [*MALFORMED, *FINE]:
        async with pairs.row(name) as pair:
            sent = MALFORMED.get(name) or FINE[name].sent
            await pair.alike(
                sent,
                last=b"" if name in MALFORMED or FINE[name].closes else LAST,
                endless=name in ENDLESS,
            )


JAVA = (b"Connection: Upgrade, HTTP2-Settings", H, b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAA")
ODD = {
    "unusual case": head(GET, b"hOsT: x", b"aCCEPT: application/json"),
    "lower case": head(GET, b"host: x", b"accept: application/json", b"connection: Keep-Alive"),
    "two accepts, text first": head(GET, H, b"Accept: text/plain", b"Accept: application/json"),
    "two accepts, json first": head(GET, H, b"Accept: application/json", b"Accept: text/plain"),
    "empty accept": head(GET, H, b"Accept:"),
    "empty header": head(GET, H, b"X-Empty:", b"Accept: application/json"),
    "empty header before host": head(GET, b"X-Empty:", H),
    "spaces": head(GET, H, b"Accept: \t application/json \t "),
    "accept in Latin-1": head(GET, H, b"Accept: \xe9"),
    "two cookies": head(GET, H, b"Cookie: a=b", b"Cookie: c=d"),
    "two hosts": head(GET, H, H),
    "two hosts, other case": head(GET, H, b"host: x"),
    "empty host": head(GET, b"Host:"),
    "no host": head(GET, b"X: y"),
    "no headers": head(GET),
    "connection: close": head(GET, H, b"Connection: close"),
    "connection: Close": head(GET, H, b"connection: Close"),
    "connection: a list": head(GET, H, b"Connection: keep-alive, close"),
    "proxy-connection: close": head(GET, H, b"Proxy-Connection: close"),
    "1.0 kept alive": head(b"GET /next HTTP/1.0", b"Connection: keep-alive"),
    "absolute": head(b"GET http://x/next HTTP/1.1", H),
    "bare line feed": b"GET /next HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
    "line feed in the target": head(b"GET /next?count=9&a=\nX:1 HTTP/1.1", H),
    "line feed in the target, kept alive": head(
        b"GET /next?a=\nX:1 HTTP/1.1", H, b"Connection: keep-alive"
    ),
    "bare carriage return": b"GET /next HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "folded": head(GET, H, b"X: a", b" b"),
    "expect": head(b"POST /next HTTP/1.1", H, b"Expect: 100-continue", b"Content-Length: 0"),
    "expect other": head(GET, H, b"Expect: 200-ok"),
    "content-length 0": head(b"POST /next HTTP/1.1", H, b"Content-Length: 0"),
    "content-length 00": head(b"POST /next HTTP/1.1", H, b"Content-Length: 00"),
    "GET with content-length 0": head(GET, H, b"content-length: 0") * 3,
    "two content-lengths": head(b"POST /next HTTP/1.1", H, *[b"Content-Length: 0"] * 2),
    "body": head(b"POST /next HTTP/1.1", H, b"cOntent-length: 2") + b"{}",
    "body on an old path": head(b"POST /old HTTP/1.1", H, b"cOntent-length: 3") + b"abc",
    "body that is not read": head(b"POST /next HTTP/1.1", H, b"Content-Length: 3") + b"abc",
    "key that is not read": head(b"GET /next?n=3 HTTP/1.1", H)
    + head(b"GET /old?n=3 HTTP/1.1", H) + head(b"GET /next?r=3 HTTP/1.1", H),
    **{
        f"fetch {site} {mode}": head(
            GET, H, b"Sec-Fetch-Site: " + site, b"Sec-Fetch-Mode: " + mode
        ) * 3
        for site in (b"cross-site", b"same-origin", b"none", b"Cross-Site", b"", b"x, cross-site")
        for mode in (b"cors", b"navigate")
    },
    "fetch, two sites": head(GET, H, b"Sec-Fetch-Site: none", b"Sec-Fetch-Site: cross-site"),
    "Java": head(GET, *JAVA) * 3,
    "Java, POST": head(b"POST /next HTTP/1.1", *JAVA, b"Content-Length: 0") * 2 + NEXT,
    "h2c, no settings": head(GET, H, b"Connection: Upgrade", b"Upgrade: h2c") + NEXT,
    "h2c, one more option": head(GET, H, b"Connection: Upgrade, HTTP2-Settings, close",
                                 b"Upgrade: h2c", b"HTTP2-Settings: AA"),
    "websocket": head(GET, H, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: websocket"),
    "chunked": head(b"POST /next HTTP/1.1", H, b"transfer-encoding: chunked") + b"0\r\n\r\n",
    "chunked body": head(b"POST /next HTTP/1.1", H, b"transfer-encoding: chunked")
    + b"1\r\na\r\n0\r\n\r\n",
    "prefetch": head(GET, H, b"sec-purpose: prefetch"),
    "purpose": head(GET, H, b"Purpose: prefetch"),
    "x-purpose": head(GET, H, b"x-PURPOSE: preview"),
    "x-moz": head(GET, H, b"x-moz: prefetch"),
    **{
        f"{name} {case}": head(GET, H, case(name).encode() + b": x")
        for name in ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since",
                     "If-Range", "Range")
        for case in (str, str.lower, str.swapcase)
    },
    "upgrade": head(GET, H, b"Connection: Upgrade", b"Upgrade: h2c"),
    "old websocket": head(GET, H, b"Sec-WebSocket-Key1: x"),
    "upgrade alone": head(GET, H, b"Upgrade: h2c"),
    "trailer": head(GET, H, b"Trailer: X"),
    "lower-case method": head(b"get /next HTTP/1.1", H),
    "two spaces": head(b"GET  /next HTTP/1.1", H),
    "fragment": head(b"GET /next#x HTTP/1.1", H),
    "fragment in the query": head(b"GET /next?count=2#x HTTP/1.1", H),
    "escaped": head(b"GET /v1/counters/%63/next HTTP/1.1", H),
    "double slash": head(b"GET //next HTTP/1.1", H),
    "slash at the end": head(b"GET /next/ HTTP/1.1", H),
    "other counter": head(b"GET /v1/counters/c/next HTTP/1.1", H),
    "unknown counter": head(b"GET /v1/counters/nope/next HTTP/1.1", H),
    "bad counter": head(b"GET /v1/counters/-/next HTTP/1.1", H),
    "no counter": head(b"GET /v1/counters//next HTTP/1.1", H),
    "counter with a slash": head(b"GET /v1/counters/c/x/next HTTP/1.1", H),
    "old path": head(b"POST /old?count=3 HTTP/1.1", H),
    "strings": head(b"GET /v1/counters/wide/next?format=json HTTP/1.1", H),
    "strings, batch": head(
        b"GET /v1/counters/wide/next?count=2 HTTP/1.1", H, b"Accept: application/json"
    ),
    "beyond the limit": head(b"GET /old?count=31 HTTP/1.1", H),
    "up to the limit": head(b"GET /old?count=30 HTTP/1.1", H),
    "exhausted": head(b"GET /old?count=31 HTTP/1.1", H) * 2
    + head(b"GET /old?count=31&format=json HTTP/1.1", H),
    "strict waits": head(b"GET /v1/counters/strict/next HTTP/1.1", H) * 3,
    "strict batch": head(b"GET /v1/counters/strict/next?count=5&format=ranges HTTP/1.1", H),
    "a batch that pauses writing": head(b"GET /next?count=10000 HTTP/1.1", H) * 3 + NEXT,
    "few ids": head(b"GET /next?count=10 HTTP/1.1", H) * 9,
    "few ids as JSON": head(b"GET /next?count=64&format=json HTTP/1.1", H) * 4,
    "few as strings": head(b"GET /v1/counters/wide/next?count=9&format=json HTTP/1.1", H) * 4,
    "more than few": head(b"GET /next?count=65 HTTP/1.1", H) * 4,
    "ranges": head(b"GET /next?format=ranges&count=5&nonce=n HTTP/1.1", H),
    "bad count": head(b"GET /next?count=0 HTTP/1.1", H),
    "most": head(b"GET /next?count=10000 HTTP/1.1", H),
    "more than most": head(b"GET /next?count=10001 HTTP/1.1", H),
    "empty query": head(b"GET /next? HTTP/1.1", H),
    "not UTF-8": head(b"GET /next?x=%ff HTTP/1.1", H),
    "raw bytes": head(b"GET /next?x=\xc3\xa9 HTTP/1.1", H),
    "HEAD": head(b"PUT /next HTTP/1.1", H),
    "health between": NEXT + head(b"GET /livez HTTP/1.1", H) + NEXT,
    "plain, then a body": NEXT * 2
    + head(b"POST /next HTTP/1.1", H, b"Content-Length: 4") + b"\r\n\r\n" + NEXT,
    "empty lines between": NEXT + b"\r\n" + NEXT + b"\r\n\r\n" + NEXT,
    "long": head(GET, H, b"X: " + b"a" * HEAD_MAX),
    "too long": head(GET, H, b"X: " + b"a" * 9000),
    "65 headers": head(GET, H, *(b"X%d: y" % number for number in range(64))),
    "200 headers": head(GET, H, *(b"X%d: y" % number for number in range(200))),
    "pipelined, many": NEXT * 300,
}  # fmt: skip
BREAKS = {  # the server closes, and what is sent behind may reset the connection
    "connection: close", "connection: Close", "connection: a list", "proxy-connection: close",
    "two hosts", "two hosts, other case", "no host", "no headers", "bare line feed",
    "line feed in the target", "line feed in the target, kept alive",
    "bare carriage return", "folded", "lower-case method",
    "too long", "200 headers", "old websocket",
}  # fmt: skip
ENDLESS = {"h2c upgrade", "upgrade"}  # aiohttp takes what follows for another protocol


SPENDS = ("beyond the limit", "up to the limit", "exhausted")  # all that `c` has


@pytest.mark.long
async def test_what_is_odd_is_answered_alike(pairs: Rows[Pair]) -> None:
    for name in (name for name in ODD if name not in SPENDS):
        async with pairs.row(name) as pair:
            last = b"" if name in BREAKS else LAST
            await pair.alike(ODD[name], last=last, endless=name in ENDLESS)


@pytest.mark.parametrize("name", SPENDS)
async def test_the_limit_of_a_counter_is_answered_alike(pair: Pair, name: str) -> None:
    await pair.alike(ODD[name])


@pytest.mark.parametrize("name", ["two accepts, json first", "body", "chunked", "other counter"])
async def test_it_may_be_split_at_every_byte(pair: Pair, name: str) -> None:
    sent = NEXT + ODD[name]
    async with connected(pair.fast.port) as beside:
        for cut in range(1, len(sent)):
            async with connected(pair.fast.port) as wire:
                await wire.send(sent[:cut])
                await turns(beside, 1)
                await wire.send(sent[cut:])
                first, second = await wire.answer(), await wire.answer()
                assert (first.status, second.status) == (200, 200)
                assert not wire.reader._buffer  # type: ignore[attr-defined]
            if cut == 15 and name == "other counter":
                break  # it is used up soon


LINES = st.sampled_from(
    [b"GET /next HTTP/1.1", b"POST /next HTTP/1.1", b"GET /next?count=2 HTTP/1.1",
     b"GET /v1/counters/default/next?format=json HTTP/1.1", b"HEAD /next HTTP/1.1",
     b"GET /nope HTTP/1.1", b"GET /next HTTP/1.0", b"GET /next?count=x HTTP/1.1"]
)  # fmt: skip
NAMES = st.sampled_from(
    [b"Accept", b"accept", b"Connection", b"Range", b"X-A", b"X-B", b"Purpose", b"Expect",
     b"Content-Length", b"Transfer-Encoding", b"User-Agent", b"Upgrade", b"If-Match", b"Host"]
)  # fmt: skip
VALUES = st.sampled_from(
    [b"", b"0", b"2", b"*/*", b"application/json", b"keep-alive", b"close", b"chunked", b"a b",
     b"prefetch", b"\xff", b"x\x00y", b"a\rb", b"100-continue"]
)  # fmt: skip
LAST_CHUNK = b"0\r\n\r\n"
EMPTY_ENCODING = b"Transfer-Encoding: \r\n"
CHUNKED = b"Transfer-Encoding: chunked"
HEADER = st.builds(lambda name, value: name + b": " + value, NAMES, VALUES)
REQUEST = st.builds(
    lambda line, first, headers, tail: head(line, first, *headers) + tail,
    LINES,
    st.sampled_from([H, H, H, b"host: y", b"X-C: y"]),
    st.lists(HEADER, max_size=4),
    st.sampled_from([b"", b"", b"", b"ab", LAST_CHUNK]),
)


@cache
def generated() -> list[tuple[list[bytes], int]]:
    """Requests, and where what is sent of them is cut: the same for both loops."""
    sent: list[tuple[list[bytes], int]] = []

    @settings(
        max_examples=400, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(REQUEST, min_size=1, max_size=3), st.integers(0, 400))
    def collect(requests: list[bytes], cut: int) -> None:
        sent.append((requests, cut))

    collect()
    return sent


def one_by_one(requests: list[bytes], cut: int) -> list[list[bytes]]:
    """Steps in which aiohttp is sent them.

    It refuses whole requests together with what is malformed in the same piece. The lane answers
    them first, as aiohttp does if it gets each alone. A body that breaks is an exception: whether
    its request is answered before depends on the cut, for both.
    """
    steps: list[list[bytes]] = []
    for number, request in enumerate(requests):
        start, end, tail = request.partition(END)
        if CHUNKED in start and tail != LAST_CHUNK:
            rest = b"".join(requests[number:])
            return [*steps, [rest[: max(0, cut)], rest[max(0, cut) :]]]
        steps += [[start + end], [tail]] if tail else [[start + end]]
        cut -= len(request)
    return steps


@pytest.mark.long
@pytest.mark.xdist_group("generated requests")  # which takes one second
async def test_generated_requests_are_answered_alike(pair: Pair) -> None:
    answered = 0
    async with connected(pair.fast.port) as beside_fast, connected(pair.slow.port) as beside_slow:
        for requests, cut in await asyncio.to_thread(generated):
            data = b"".join(requests)
            if EMPTY_ENCODING in data:  # the lane's parser refuses it and aiohttp's does not
                cut = 0  # aiohttp would keep a connection on which such a head is cut
            fast = await until_silent(pair.fast, beside_fast, [data[:cut], data[cut:]])
            slow = await until_silent(pair.slow, beside_slow, *one_by_one(requests, cut))
            answered += fast.count(b"HTTP/1.1 200")
            assert fast == slow, data
            assert fast.count(b"HTTP/1.0 400") <= 1, data
            issued = [one.service.local_counters["default"].allocator.issued_ids
                      for one in (pair.fast, pair.slow)]  # fmt: skip
            assert issued[0] == issued[1], data
    assert answered > 50, "most were refused: these requests show little"


MIXED = (  # requests of the lane, and of aiohttp
    NEXT, NEXT, NEXT, head(GET, H, b"X-Id: 1"), head(GET, H, b"X-Id: 2"),
    head(b"GET /next?count=3&format=json HTTP/1.1", H), head(b"POST /old HTTP/1.1", H),
    head(b"GET /next?count=0 HTTP/1.1", H), head(b"GET /next?format=x HTTP/1.1", H),
    head(b"GET /v1/counters/nope/next HTTP/1.1", H), head(b"GET /v1/counters/-/next HTTP/1.1", H),
    head(b"GET /v1/counters/late/next HTTP/1.1", H), head(b"GET /readyz HTTP/1.1", H),
    head(b"GET /livez HTTP/1.1", H),
    head(b"GET /v1/counters HTTP/1.1", H), head(b"GET /nope HTTP/1.1", H),
    head(b"HEAD /next HTTP/1.1", H), head(GET, H, b"Range: bytes=0-1"),
    head(b"POST /next HTTP/1.1", H, b"Content-Length: 7") + b"GET /ne",
    head(b"GET /livez HTTP/1.1", H, b"Content-Length: 4") + b"\r\n\r\n",
    head(b"POST /next HTTP/1.1", H, b"Transfer-Encoding: chunked")
    + b"4;a=b\r\nGET \r\n2\r\n\n\r\r\n0\r\nX: y\r\n\r\n",
    head(b"PUT /v1/counters/c HTTP/1.1", H, b"Content-Length: 9") + b"{\"x\": 1}\n",
    head(b"POST /nope HTTP/1.1", H, b"Content-Length: 5000") + b"x" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
async def test_connections_that_alternate_are_answered_alike(pair: Pair, seed: int) -> None:
    """Requests of the lane and of aiohttp in turns, pipelined, in pieces that end anywhere."""
    random = Random(seed)
    for one in (pair.fast, pair.slow):
        await one.create("late", start=7)
    for _ in range(4):
        data = b"".join(random.choices(MIXED, k=random.randint(2, 25)))
        cuts = sorted(random.randrange(len(data)) for _ in range(random.randint(0, 8)))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        answers = await pair.alike(*pieces)
        assert answers.endswith(b"live")


async def level(pair: Pair) -> None:
    """Use as many ids of the one that used fewer."""
    fast, slow = (one.service.local_counters["default"] for one in (pair.fast, pair.slow))
    missing = fast.allocator.issued_ids - slow.allocator.issued_ids
    assert missing >= 0
    for _ in range(missing):
        await slow.next_id()


async def test_while_draining_they_are_alike_too(pair: Pair) -> None:
    assert (await pair.alike(NEXT, NEXT)).count(b"Connection: close") == 1, "of the last alone"
    for one in (pair.fast, pair.slow):
        one.drain()
    for sent in (NEXT, NEXT * 3, ODD["old path"], ODD["beyond the limit"], ODD["strings"]):
        found = await pair.alike(sent, last=b"")
        assert found.count(b"Connection: close") == 1


CLOSE = b"Connection: close"
CLOSING = {
    "one id": head(GET, H, CLOSE),
    "JSON": head(GET, H, CLOSE, b"Accept: application/json"),
    "a batch": head(b"GET /next?count=3 HTTP/1.1", H, CLOSE),
    "a long batch": head(b"GET /next?count=9000 HTTP/1.1", H, CLOSE),
    "a refusal": head(b"GET /next?count=0 HTTP/1.1", H, CLOSE),
    "a POST": head(b"POST /old HTTP/1.1", H, b"Content-Length: 0", CLOSE),
    "health": head(b"GET /readyz HTTP/1.1", H, CLOSE),
    "an unknown counter": head(b"GET /v1/counters/nope/next HTTP/1.1", H, CLOSE),
    "a strict counter, which waits": head(b"GET /v1/counters/strict/next HTTP/1.1", H, CLOSE),
    "HTTP/1.0": head(b"GET /next HTTP/1.0", H, CLOSE),
    "after others": NEXT * 2 + head(GET, H, b"X-Id: 1") + head(GET, H, CLOSE),
}


async def test_a_request_that_closes_is_answered_alike(pairs: Rows[Pair]) -> None:
    """Also the second time, when its bytes are known, and on the next connection."""
    for name, sent in CLOSING.items():
        async with pairs.row(name) as pair:
            for _ in range(3):
                found = await pair.alike(sent, last=b"")
                assert found.count(b"Connection: close") == (name != "HTTP/1.0")
            assert (await pair.alike(NEXT, NEXT)).count(b"200 OK") == 3


async def test_what_comes_behind_a_request_that_closes_takes_no_id(pair: Pair) -> None:
    for _ in range(2):
        issued = pair.fast.service.local_counters["default"].allocator.issued_ids
        with suppress(ConnectionError):
            await said(pair.fast.port, [head(GET, H, CLOSE) + NEXT, NEXT])
        assert pair.fast.service.local_counters["default"].allocator.issued_ids == issued + 1


async def test_known_bytes_of_a_counter_that_is_gone_are_judged_anew(pair: Pair) -> None:
    for _ in range(2):
        await pair.alike(head(b"GET /v1/counters/c/next HTTP/1.1", H, CLOSE), last=b"")
    for one in (pair.fast, pair.slow):
        await one.catalogue.change("c", Delete())
    for _ in range(2):
        found = await pair.alike(head(b"GET /v1/counters/c/next HTTP/1.1", H, CLOSE), last=b"")
        assert b" 404 " in found.partition(b"\r\n")[0]


HOSTILE = {
    "a range": traced(3)[:-2] + b"Range: bytes=0-1\r\n\r\n",
    "a line end in a value": traced(3).replace(b"00-0003-01", b"00\r\nRange"),
    "a line feed in a value": traced(3).replace(b"00-0003-01", b"00\nRange:x"),
    "a carriage return in a value": traced(3).replace(b"00-0003-01", b"00-0\r03-01"),
    "NUL in a value": traced(3).replace(b"00-0003-01", b"00-0\x0003-01"),
    "beyond ASCII in a value": traced(3).replace(b"00-0003-01", b"00-0\xe903-01"),
    "a tab in a value": traced(3).replace(b"00-0003-01", b"00-0\t03-01"),
    "blanks for a value": traced(3).replace(b"00-0003-01", b" " * 10),
    "another name": traced(3).replace(b"traceparent", b"if-none-mat"),
    "a colon less": traced(3).replace(b"x-id:", b"x-id "),
    "another target": traced(3).replace(b"/next", b"/nexu"),
    "another version": traced(3).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "cut short": traced(3)[:-1] + b"x",
    "two at once": traced(3) + traced(4),
    "JSON": traced(3, also=b"accept: application/json"),
}


async def test_what_differs_in_more_than_values_is_answered_alike(pairs: Rows[Pair]) -> None:
    """Behind requests that taught the lane a form."""
    for name, sent in HOSTILE.items():
        async with pairs.row(name) as pair:
            found = []
            for one in (pair.fast, pair.slow):
                async with connected(one.port) as wire, connected(one.port) as beside:
                    for number in range(3):
                        await wire.send(traced(number))
                        assert (await wire.answer()).status == 200
                    await wire.send(sent)
                    await turns(beside)  # alone
                    with suppress(ConnectionError):
                        await wire.send(LAST)
                    with suppress(ConnectionError):
                        async with asyncio.timeout(60):
                            found.append(without_date(await wire.reader.read()))
            assert found[0] == found[1]
            await pair.alike(NEXT)


async def test_a_request_that_waits_too_long_is_refused_as_by_aiohttp(pair: Pair) -> None:
    answers = []
    for serving in (pair.fast, pair.slow):
        service: Service = serving.service
        await empty(serving)
        object.__setattr__(service.limits, "wait", 0.05)
        async with connected(serving.port) as wire:
            await wire.send(NEXT + NEXT)
            answers.append([await wire.answer(), await wire.answer()])
    for fast, slow in zip(*answers, strict=True):
        assert fast.status == slow.status == 503
        told = [
            {**one.json, "detail": one.json["detail"].partition(":")[0]} for one in (fast, slow)
        ]
        assert told[0] == told[1]
        assert list(fast.headers) == list(slow.headers)


async def test_a_counter_that_is_closed_is_refused_alike_and_comes_back_alike(pair: Pair) -> None:
    lines = (b"/v1/counters/c/next", b"/old?count=2", b"/v1/counters/c/next?format=json")
    asked = [b"GET %s HTTP/1.1\r\n%s\r\n" % (line, HOST) for line in lines]
    await pair.alike(*asked)  # the lane remembers what was asked, and of whom
    for wish, status in (
        (Configure(state="suspended"), b"423 Locked"),
        (Delete(), b"404 Not Found"),
        (CreateAgain(wanted=new_counter("c", Random(5), limit=1020)), b"200 OK"),
    ):
        for serving in (pair.fast, pair.slow):
            if not isinstance(wish, CreateAgain):
                await serving.catalogue.change("c", wish)
            else:
                await serving.catalogue.create(wish.wanted)
                await serving.service.local_counters["c"].fill()
        answers = await pair.alike(*asked, *asked)
        assert answers.count(b"HTTP/1.1 " + status) >= 2 * len(lines), answers
        for serving in (pair.fast, pair.slow):
            async with connected(serving.port) as wire:  # known again on one connection
                for _ in range(3):
                    await wire.send(asked[0])
                    assert b"%d" % (await wire.answer()).status == status[:3]
