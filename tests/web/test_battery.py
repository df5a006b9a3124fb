"""Bytes that are no HTTP, or hardly, on a raw socket: refused and closed, and no id is used up."""

import asyncio
import io
import json
import logging
import socket
import ssl
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import pytest

from idservice.client.tls import NOT_SPOKEN, why_no_handshake
from idservice.observability import logs
from idservice.web import connection
from idservice.web.above_limit import answer_above_limit
from idservice.web.connection import _first_line

from .conftest import Serve, Serving
from .rows import Rows
from .wire import Wire, connected, request

HOST = b"Host: 127.0.0.1\r\n"
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /next HTTP/1.1\r\n" + HOST
SMUGGLED = b"GET /next?count=9 HTTP/1.1\r\n" + HOST + b"\r\n"

# name: what is sent. All are refused with 400, and the connection is closed.
MALFORMED = {
    "content-length and transfer-encoding": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "transfer-encoding and content-length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two content-lengths": POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n12345",
    "the same content-length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345",
    "content-length +0": POST + b"Content-Length: +0\r\n\r\n",
    "content-length -1": POST + b"Content-Length: -1\r\n\r\n",
    "content-length 0, 0": POST + b"Content-Length: 0, 0\r\n\r\n",
    "content-length 0x5": POST + b"Content-Length: 0x5\r\n\r\n12345",
    "content-length 1_0": POST + b"Content-Length: 1_0\r\n\r\n1234567890",
    "content-length of 30 digits": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "empty content-length": POST + b"Content-Length:\r\n\r\n",
    "transfer-encoding xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding chunked, identity": POST
    + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "transfer-encoding with a vertical tab": POST
    + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "space before the colon": b"GET /next HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    "folded header": b"GET /next HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
    "bare line feeds": b"GET /next HTTP/1.1\nHost: 127.0.0.1\n\n",
    "bare line feed in the headers": b"GET /next HTTP/1.1\r\nHost: 127.0.0.1\nX: y\r\n\r\n",
    "bare carriage return": b"GET /next HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n",
    "NUL in a header": b"GET /next HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    "NUL in the path": b"GET /ne\x00xt HTTP/1.1\r\n" + HOST + b"\r\n",
    "target that is not a URL": b"OPTIONS ws://[]@ HTTP/1.1\r\n" + HOST + b"\r\n",
    "space in the path": b"GET /next x HTTP/1.1\r\n" + HOST + b"\r\n",
    "no host": b"GET /next HTTP/1.1\r\nX: y\r\n\r\n",
    "two hosts": b"GET /next HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "header without a name": b"GET /next HTTP/1.1\r\n" + HOST + b": x\r\n\r\n",
    "header without a colon": b"GET /next HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n",
    "version 1.11": b"GET /next HTTP/1.11\r\n" + HOST + b"\r\n",
    "version 2.0": b"GET /next HTTP/2.0\r\n" + HOST + b"\r\n",
    "no version": b"GET /next\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32,
    "lower-case method": b"get /next HTTP/1.1\r\n" + HOST + b"\r\n",
    "no method": b"/next HTTP/1.1\r\n" + HOST + b"\r\n",
    "chunk extension with a bare line feed": POST
    + b"Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n4c\r\n0\r\n\r\n" + SMUGGLED,
    "chunk size 0x5": POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\n12345\r\n0\r\n\r\n",
    "chunk size -1": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n0\r\n\r\n",
    "chunk longer than it says": POST
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcdef\r\n0\r\n\r\n",
    "trailer with a content-length": POST
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n" + NEXT,
    "CONNECT": b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "path of 9 KiB": b"GET /next?" + b"a" * 9216 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "header of 9 KiB": b"GET /next HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 9216 + b"\r\n\r\n",
    "1000 headers": b"GET /next HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 1000 + b"\r\n",
    "50000 headers": b"GET /next HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 50_000 + b"\r\n",
}  # fmt: skip


@dataclass(frozen=True)
class Fine:
    """A request that is odd but right: the answers and how many ids it uses."""

    sent: bytes
    statuses: tuple[int, ...]
    uses: int
    closes: bool = False


FINE = {
    "HTTP/1.0": Fine(b"GET /next HTTP/1.0\r\n\r\n", (200,), 1, closes=True),
    "transfer-encoding on HTTP/1.0": Fine(
        b"POST /next HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        (200,), 1, closes=True,
    ),
    "absolute form": Fine(
        b"GET http://example.com/next?count=2 HTTP/1.1\r\n" + HOST + b"\r\n", (200,), 2
    ),
    "GET with a body": Fine(
        b"GET /next HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED)
        + SMUGGLED, (400,), 0,
    ),
    "chunked body": Fine(
        POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(SMUGGLED) + SMUGGLED
        + b"\r\n0\r\n\r\n", (400,), 0,
    ),
    "a body nobody reads": Fine(
        b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED)
        + SMUGGLED, (405,), 0,
    ),
    "a refused request with a body": Fine(
        POST + b"Sec-Purpose: prefetch\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        (403,), 0,
    ),
    "pipelined": Fine(NEXT * 3, (200,) * 3, 3),
    "h2c upgrade": Fine(
        b"GET /next HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", (200,), 1,
    ),
    "websocket upgrade": Fine(
        b"GET /next HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        (200,), 1,
    ),
    "dot segments, escaped": Fine(
        b"GET /v1/counters/%2e%2e/next HTTP/1.1\r\n" + HOST + b"\r\n", (400,), 0
    ),
    "dot segments": Fine(b"GET /v1/../next HTTP/1.1\r\n" + HOST + b"\r\n", (404,), 0),
    "OPTIONS *": Fine(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", (404,), 0),
    "empty lines first": Fine(b"\r\n\r\n" + NEXT, (200,), 1),
}  # fmt: skip


LAST = b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


async def exchange(port: int, sent: bytes, *, expected: int = 0) -> list[int]:
    """The statuses of all answers to some bytes, until the server closes.

    After `expected` answers one more request is sent, which asks for that.
    """
    statuses: list[int] = []
    async with connected(port) as wire:
        with suppress(ConnectionError):  # closed in the middle: what it answered can be read
            await wire.send(sent)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                answer = await wire.answer()
                statuses.append(answer.status)
                assert answer.headers["cache-control"] == "no-store"
                assert answer.status == 200 or answer.json["code"]
                if len(statuses) == expected:
                    await wire.send(LAST)
    return statuses


TOO_LONG = {"path of 9 KiB": 414, "header of 9 KiB": 431, "1000 headers": 431, "50000 headers": 431}


async def test_what_is_malformed_is_refused_and_closed_and_uses_no_id(rows: Rows[Serving]) -> None:
    for name in MALFORMED:
        async with rows.row(name) as serving, serving.using_no_id():
            assert await exchange(serving.port, MALFORMED[name]) == [TOO_LONG.get(name, 400)]


OTHER_PROTOCOLS = [
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "it is HTTP/2, and only HTTP/1.1 is spoken here"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "Received HTTPS traffic on an HTTP port"),
]


async def test_another_protocol_is_told_by_its_name(rows: Rows[Serving]) -> None:
    for sent, words in OTHER_PROTOCOLS:
        async with rows.row(words) as serving:
            async with connected(serving.port) as wire:
                await wire.send(sent)
                answer = await wire.answer()
            assert answer.status == 400
            assert words in answer.json["detail"]


async def test_what_is_odd_but_right_is_served(rows: Rows[Serving]) -> None:
    for name in FINE:
        async with rows.row(name) as serving:
            fine = FINE[name]
            before = await serving.one()
            expected = 0 if fine.closes else len(fine.statuses)
            statuses = await exchange(serving.port, fine.sent, expected=expected)
            assert tuple(statuses) == fine.statuses + (() if fine.closes else (200,))
            assert await serving.one() == before + fine.uses + 1


SHORT = [name for name, sent in MALFORMED.items() if len(sent) < 1000]


async def test_what_is_malformed_may_come_in_pieces(rows: Rows[Serving]) -> None:
    """A part of it may look right for as long as the rest is missing."""
    for name in SHORT:
        async with rows.row(name) as serving:
            sent = MALFORMED[name]
            head = sent.find(b"\r\n\r\n") + 4
            if head < 4 or head == len(sent):
                head = len(sent) // 2
            async with serving.using_no_id(), connected(serving.port) as wire:
                statuses = []
                await wire.send(sent[:head])
                await serving.ask("/livez")  # the server sees the first piece alone
                try:
                    await wire.send(sent[head:])
                    while True:
                        statuses.append((await wire.answer()).status)
                except (asyncio.IncompleteReadError, ConnectionError):
                    pass
            assert set(statuses) <= {400}


async def test_a_request_may_be_split_at_every_byte(serving: Serving) -> None:
    body = POST + b"Content-Length: 3\r\n\r\n {}"
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\n{} \r\n0\r\n\r\n"
    expected = 0
    async with connected(serving.port) as wire, connected(serving.port) as other:
        for sent in (NEXT, body, chunked):
            for cut in range(1, len(sent)):
                await wire.send(sent[:cut])
                await other.send(request("/livez"))  # a turn for the server
                assert (await other.answer()).status == 200
                await wire.send(sent[cut:])
                answer = await wire.answer()
                assert (answer.status, answer.body) == (200, b"%d" % expected)
                expected += 1
        for byte in NEXT:
            await wire.send(bytes([byte]))
        assert (await wire.answer()).body == b"%d" % expected


async def test_pipelined_requests_are_answered_in_order(serving: Serving) -> None:
    await serving.create("c", start=500)
    batch = b"".join(
        request(target, method)
        for target, method in [
            ("/next", "GET"), ("/v1/counters/c/next", "GET"), ("/nope", "GET"),
            ("/next?count=2", "POST"), ("/next", "PUT"), ("/next", "GET"),
        ]
    )  # fmt: skip
    async with connected(serving.port) as wire:
        await wire.send(batch * 20)
        for _ in range(20):
            answers = [await wire.answer() for _ in range(6)]
            assert [answer.status for answer in answers] == [200, 200, 404, 200, 405, 200]
            first = int(answers[0].body)
            assert answers[3].body == b"%d\n%d\n" % (first + 1, first + 2)
            assert answers[5].body == b"%d" % (first + 3)
    assert await serving.one() == 80


async def test_a_malformed_request_does_not_undo_those_before_it(serving: Serving) -> None:
    async with connected(serving.port) as wire:
        await wire.send(NEXT)
        assert (await wire.answer()).body == b"0"
        await wire.send(NEXT + b"get /next\r\n\r\n" + NEXT)
        statuses = []
        try:
            while True:
                statuses.append((await wire.answer()).status)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
    # The one before it was whole: it may be answered, or refused together with the rest; what
    # comes behind it is not read.
    assert statuses in ([200, 400], [400])
    assert await serving.one() <= 2


async def test_unfinished_requests_disturb_nobody(serving: Serving) -> None:
    pieces = [
        b"", b"G", b"GET /next HTTP/1.1\r\n", b"GET /next HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
        POST + b"Content-Length: 100\r\n\r\nabc",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ]  # fmt: skip
    async with AsyncExitStack() as stack:
        for number in range(100):
            wire = await stack.enter_async_context(connected(serving.port))
            await wire.send(pieces[number % len(pieces)])
        for expected in range(50):
            assert await serving.one() == expected


async def test_a_fresh_request_is_answered_beside_500_idle_connections(serving: Serving) -> None:
    idle: list[socket.socket] = []
    try:
        for number in range(500):
            idle.append(socket.create_connection(("127.0.0.1", serving.port)))
            if number % 50 == 0:
                await asyncio.sleep(0)
        assert await serving.one() == 0
        assert await serving.one() == 1
        assert len(serving.gate.connections) >= 500
    finally:
        for connection in idle:
            connection.close()


def test_the_outcome_beyond_the_cap_does_not_depend_on_where_a_request_is_cut() -> None:
    add = NEXT.replace(b"GET /next", b"POST /v1/tallies/sum/add")
    for at in range(len(add)):
        assert b'"outcome":"unknown"' in answer_above_limit(add[:at]), add[:at]
    for other in (b"GET /next", b"POST /next", b"POST /v1/counters/orders/next", b"P\0"):
        assert b'"outcome":"not_applied"' in answer_above_limit(other)
    assert answer_above_limit(b"GET /livez HTTP/1.1").endswith(b"live")


async def test_connections_beyond_the_cap_are_told_so_and_it_recovers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = await serve(connections_max=3)
    async with AsyncExitStack() as stack:
        held: list[Wire] = []
        for expected in range(3):
            wire = await stack.enter_async_context(connected(serving.port))
            await wire.send(NEXT)
            assert (await wire.answer()).body == b"%d" % expected
            held.append(wire)
        # Those who speak at once and those who wait are both told.
        added = NEXT.replace(b"GET /next", b"POST /v1/tallies/sum/add")
        for sent in (NEXT, b"", NEXT * 50, added) * 10:
            monkeypatch.setattr(connection, "REFUSED_S", 60.0 if sent else 0.01)
            async with connected(serving.port) as wire:
                if sent:
                    await wire.send(sent)
                answer = await wire.answer()
                assert (answer.status, answer.closes) == (503, True)
                assert answer.json["code"] == "too_many_connections"
                # What nobody sent yet may be an add, of which an earlier copy may be counted.
                assert (answer.json["outcome"] == "unknown") == (sent in (added, b""))
                assert answer.headers["cache-control"] == "no-store"
                assert answer.headers["retry-after"] == "1"
                assert answer.headers["content-type"] == "application/problem+json"
                assert await wire.is_closed()
        monkeypatch.setattr(connection, "REFUSED_S", 60.0)
        async with connected(serving.port) as wire:
            await wire.send(NEXT.replace(b"/next", b"/livez"))
            assert (await wire.answer()).body == b"live", "a full house is no reason to restart it"
        for number, wire in enumerate(held):
            await wire.send(NEXT)
            assert (await wire.answer()).body == b"%d" % (3 + number), "those inside are served"
    async with asyncio.timeout(60):
        while serving.gate.connections:
            await asyncio.sleep(0)
    assert await serving.one() == 6


async def test_many_malformed_requests_are_one_clean_line_of_the_log(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "INTERVAL_S", 3600.0)  # however long they all take
    monkeypatch.setattr(connection._malformed, "_next", 0.0)
    stream = io.StringIO()
    logging.getLogger().handlers[:] = []  # `set_up` would close those of pytest
    logs.set_up("json", stream)
    for _ in range(5):
        for name, sent in MALFORMED.items():
            if len(sent) < 20_000:
                assert await exchange(serving.port, sent) == [TOO_LONG.get(name, 400)]
    for line in (b"GET /\x1b[31mred\x07 HTTP/1.1\r\n", b"\x1b]0;title\x07 / HTTP/1.1\r\n"):
        monkeypatch.setattr(connection._malformed, "_next", 0.0)  # a while later
        await exchange(serving.port, line + HOST + b"\r\n")
    text = stream.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 3, "sampled: one a second"
    assert {line["action"] for line in lines} == {"malformed_request"}
    assert "Traceback" not in text
    assert all(" " <= character <= "~" or character == "\n" for character in text)
    assert max(map(len, text.splitlines())) < 500


def test_a_complaint_of_the_parser_is_short_and_has_no_control_bytes() -> None:
    assert _first_line("Bad \x1b[31m\x07 é\r\n:\n\n  GET ^") == "Bad \\x1b[31m\\x07 \\xe9"
    assert _first_line("a" * 1000) == "a" * 120
    assert _first_line("") == "bad request"


async def test_tls_on_a_port_without_it_is_told_as_such(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ssl.SSLError) as refused:
        await asyncio.open_connection("127.0.0.1", serving.port, ssl=ssl.create_default_context())
    assert why_no_handshake(refused.value) == NOT_SPOKEN
    assert "malformed request from 127.0.0.1: Received HTTPS traffic on an HTTP port" in caplog.text
