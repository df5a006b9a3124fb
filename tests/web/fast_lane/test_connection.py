"""The fast lane beside aiohttp alone: the same answers to the same bytes, and the same ids used."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idservice import errors
from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.catalogue.changes import Configure, CreateAgain, Delete
from idservice.catalogue.counters import new_counter
from idservice.core.gap_causes import GapCause
from idservice.server.workers.pool_view import PoolView
from idservice.stores.sqlite.store import SQLiteStore
from idservice.web.connection import ConnectionLimit
from idservice.web.fast_lane.connection import (
    BUFFER_MAX,
    SILENT_MAX,
    TEMPLATES_MAX,
    FastConnection,
    FastConnections,
)
from idservice.web.fast_lane.parser import HEAD_MAX
from idservice.web.fast_lane.responses import Responder
from idservice.web.fast_lane.template import template_of
from tests.web.conftest import Serve, Serving
from tests.web.test_battery import FINE, MALFORMED
from tests.web.wire import connected, request

HOST = b"Host: 127.0.0.1\r\n"
NEXT = request()
LAST = request("/livez", headers={"Connection": "close"})


@pytest.fixture
def lane() -> bool:
    return True


# --- both, side by side ---------------------------------------------------------------------------


async def said(port: int, pieces: list[bytes], patience: float) -> bytes:
    """All that is answered until the server closes; the last request asks for that."""
    async with connected(port) as wire:
        with suppress(ConnectionError):
            for piece in pieces:
                await wire.send(piece)
                await asyncio.sleep(0)
        found = b""
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(patience):
                while chunk := await wire.reader.read(65536):
                    found += chunk
        return found


def without_date(answers: bytes) -> bytes:
    return b"\r\n".join(
        line for line in answers.split(b"\r\n") if not line.startswith((b"Date: ", b"\r\nDate: "))
    )


class Pair:
    """Two services alike, one with the lane and one without."""

    def __init__(self, fast: Serving, slow: Serving) -> None:
        self.fast, self.slow = fast, slow

    async def alike(self, *pieces: bytes, last: bytes = LAST, endless: bool = False) -> bytes:
        """Send the same to both: the same bytes come back, and the counters stand alike.

        `endless` where aiohttp may take what follows an upgrade for another protocol, though it
        does not upgrade: the lane answers the last request all the same.
        """
        fast = without_date(await said(self.fast.port, [*pieces, last], 5))
        slow = without_date(await said(self.slow.port, [*pieces, last], 0.5 if endless else 5))
        if endless and not slow.endswith(b"live"):
            slow += without_date(await said(self.slow.port, [last], 5))
        assert fast == slow, pieces
        for name, supply in self.slow.service.local_counters.items():
            other = self.fast.service.local_counters.get(name)
            assert other is not None, name
            assert other.allocator.issued_ids == supply.allocator.issued_ids, pieces
            assert other.stats.refusals == supply.stats.refusals
        return fast


@pytest.fixture
async def pair(serve: Serve, tmp_path: Any) -> Pair:
    fast = await serve(routes={"/old": "c"})
    slow = await serve(
        store=SQLiteStore(str(tmp_path / "other.db")), routes={"/old": "c"}, lane=False
    )
    for one in (fast, slow):
        await one.create("c", start=990, limit=1020)
        await one.create("wide", start=2**53, limit=2**63 - 2)
        await one.create("strict", strict=True)
        for name in ("c", "wide", "strict"):
            await one.service.local_counter(name)
        await one.service.warm()
        for name in ("c", "wide"):
            await one.service.local_counters[name].fill()
    return Pair(fast, slow)


@pytest.mark.parametrize("name", [*MALFORMED, *FINE])
async def test_the_battery_is_answered_alike(pair: Pair, name: str) -> None:
    sent = MALFORMED.get(name) or FINE[name].sent
    await pair.alike(
        sent,
        last=b"" if name in MALFORMED or FINE[name].closes else LAST,
        endless=name in ENDLESS,
    )


def head(line: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([line, *headers]) + b"\r\n\r\n"


GET = b"GET /next HTTP/1.1"
H = b"Host: 127.0.0.1"
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
    "bare carriage return": b"GET /next HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "folded": head(GET, H, b"X: a", b" b"),
    "expect": head(b"POST /next HTTP/1.1", H, b"Expect: 100-continue", b"Content-Length: 0"),
    "expect other": head(GET, H, b"Expect: 200-ok"),
    "content-length 0": head(b"POST /next HTTP/1.1", H, b"Content-Length: 0"),
    "body": head(b"POST /next HTTP/1.1", H, b"cOntent-length: 3") + b"abc",
    "chunked": head(b"POST /next HTTP/1.1", H, b"transfer-encoding: chunked") + b"0\r\n\r\n",
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
    "bare carriage return", "folded", "lower-case method",
    "too long", "200 headers", "old websocket",
}  # fmt: skip
ENDLESS = {"h2c upgrade", "upgrade"}  # aiohttp takes what follows for another protocol


@pytest.mark.parametrize("name", ODD)
async def test_what_is_odd_is_answered_alike(pair: Pair, name: str) -> None:
    await pair.alike(ODD[name], last=b"" if name in BREAKS else LAST, endless=name in ENDLESS)


@pytest.mark.parametrize("name", ["two accepts, json first", "body", "chunked", "other counter"])
async def test_it_may_be_split_at_every_byte(pair: Pair, name: str) -> None:
    sent = NEXT + ODD[name]
    for cut in range(1, len(sent)):
        async with connected(pair.fast.port) as wire:
            await wire.send(sent[:cut])
            await pair.fast.ask("/livez")  # a turn for the server
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
HEADER = st.builds(lambda name, value: name + b": " + value, NAMES, VALUES)
REQUEST = st.builds(
    lambda line, first, headers, tail: head(line, first, *headers) + tail,
    LINES,
    st.sampled_from([H, H, H, b"host: y", b"X-C: y"]),
    st.lists(HEADER, max_size=4),
    st.sampled_from([b"", b"", b"", b"ab", b"0\r\n\r\n"]),
)


async def test_generated_requests_are_answered_alike(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    sent: list[tuple[list[bytes], int]] = []

    @settings(
        max_examples=400, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(REQUEST, min_size=1, max_size=3), st.integers(0, 400))
    def collect(requests: list[bytes], cut: int) -> None:
        sent.append((requests, cut))

    await loop.run_in_executor(None, collect)
    answered = 0
    for requests, cut in sent:
        data = b"".join(requests)
        # The second half is sent at once, and the end of the client's sending ends it all.
        fast = await until_silent(pair.fast, data, cut)
        slow = await until_silent(pair.slow, data, cut)
        answered += fast.count(b"HTTP/1.1 200")
        if b"Data after `Connection: close`" in slow:
            # The lane answers the request that closes, and drops what is behind it.
            told = fast.count(b"HTTP/1.") - fast.count(b" 100 Continue")
            slow = await until_silent(pair.slow, b"".join(requests[:told]), cut)
            assert slow == fast, data
            await level(pair)
            continue
        if slow.startswith(b"HTTP/1.0 400"):
            # aiohttp refuses whole requests together with a malformed one in the same piece; the
            # lane has answered them by then. Both refuse the same, once, and close.
            assert fast.endswith(slow), data
            assert fast.count(b"HTTP/1.0 400") == 1, data
            await level(pair)
            continue
        assert fast == slow, data
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


async def until_silent(serving: Serving, data: bytes, cut: int) -> bytes:
    """What is answered before the server closes or has nothing more to say."""
    async with connected(serving.port) as wire:
        found = b""
        with suppress(ConnectionError, TimeoutError):
            await wire.send(data[:cut])
            await asyncio.sleep(0)
            await wire.send(data[cut:])
            async with asyncio.timeout(5):
                for _ in range(3):
                    await serving.ask("/livez")
                while not wire.reader.at_eof():
                    found += bytes(wire.reader._buffer)  # type: ignore[attr-defined]
                    wire.reader._buffer.clear()  # type: ignore[attr-defined]
                    before = len(found)
                    for _ in range(3):
                        await serving.ask("/livez")
                    if not wire.reader._buffer and len(found) == before:  # type: ignore[attr-defined]
                        break
        return without_date(found)


async def test_while_draining_they_are_alike_too(pair: Pair) -> None:
    assert (await pair.alike(NEXT, NEXT)).count(b"Connection: close") == 1, "of the last alone"
    for one in (pair.fast, pair.slow):
        one.drain()
    for sent in (NEXT, NEXT * 3, ODD["old path"], ODD["beyond the limit"], ODD["strings"]):
        found = await pair.alike(sent, last=b"")
        assert found.count(b"Connection: close") == 1


# --- one lane, in the hand ------------------------------------------------------------------------


class Transport(asyncio.Transport):
    """Keeps what is written, and what is done to it. Its socket takes nothing: everything is
    written to the transport."""

    def __init__(self) -> None:
        super().__init__()
        self.socket, other = socket.socketpair()
        other.close()
        self.written = b""
        self.size = 0
        self.done: list[str] = []
        self.full_after: int | None = None
        self.lane: Any = None

    def write(self, data: Any) -> None:
        self.written += data
        if self.full_after is not None and len(self.written) > self.full_after:
            self.lane.pause_writing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def get_write_buffer_size(self) -> int:
        return self.size

    def is_closing(self) -> bool:
        return "close" in self.done or "abort" in self.done

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def pause_reading(self) -> None:
        self.done.append("pause")

    def resume_reading(self) -> None:
        self.done.append("resume")


class Hand:
    """Lanes over a service of the fixture, without sockets. Aiohttp answers "taken"; `taken` is
    what it was asked for, with the body."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.limit = ConnectionLimit(100)
        self.now = 1_700_000_000.25
        self.taken: list[tuple[str, bytes]] = []
        self.transports: list[Transport] = []
        responder = Responder(
            serving.service,
            PoolView(serving.service),
            paths={"/next": "default"},
            batch_max=10_000,
            range_max=1_000_000,
            clock=lambda: self.now,
        )
        self.go_on = asyncio.Event()  # what aiohttp waits for before it answers
        self.go_on.set()
        self.server = web.Server(self._take)
        self.lanes = FastConnections(responder, self.limit, lambda: self.server)

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        self.taken.append((f"{request.method} {request.raw_path}", await request.read()))
        await self.go_on.wait()
        return web.Response(text="taken")

    def lane(self) -> tuple[FastConnection, Transport]:
        lane, transport = FastConnection(self.lanes), Transport()
        self.transports.append(transport)
        lane.connection_made(transport)
        transport.lane = lane
        return lane, transport

    async def stocked(self) -> None:
        """Wait until no request of a test needs to wait."""
        supply = self.serving.service.local_counters["default"]
        while supply.allocator.held < 8:
            if supply.take() is None:
                await supply.next_batch(1)

    async def close(self) -> None:
        self.lanes.close()
        await self.server.shutdown(0)
        for transport in self.transports:
            transport.socket.close()

    @property
    def issued(self) -> int:
        return self.serving.service.local_counters["default"].allocator.issued_ids


@pytest.fixture
async def hand(serving: Serving) -> Any:
    await serving.service.warm()
    hand = Hand(serving)
    yield hand
    await hand.close()


OTHER = head(b"GET /other HTTP/1.1", H)


BODY = head(b"POST /body HTTP/1.1", H, b"Content-Length: 5") + b"ab\r\nc"
CHUNKED = head(b"POST /body HTTP/1.1", H, b"Transfer-Encoding: chunked") + (
    b"3;x=y\r\nab\r\r\n2\r\n\nc\r\n0\r\nX: y\r\n\r\n"
)


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("tail", [b"", b"GET /ne", NEXT])
@pytest.mark.parametrize("other", [OTHER, BODY, CHUNKED])
async def test_aiohttp_gets_exactly_one_request_and_the_lane_the_rest(
    hand: Hand, before: int, tail: bytes, other: bytes
) -> None:
    sent = NEXT * before + other + tail
    body = {OTHER: b"", BODY: b"ab\r\nc", CHUNKED: b"ab\r\nc"}[other]
    path = other.partition(b" HTTP")[0].decode()
    for cut in range(len(sent)):
        await hand.stocked()
        lane, transport = hand.lane()
        lane.data_received(sent[:cut])
        lane.data_received(sent[cut:])
        await answered(transport, before + 1 + (tail == NEXT))
        assert hand.taken.pop() == (path, body)
        assert not hand.taken
        assert lane._buffer == (tail if tail != NEXT else b""), cut
        ids = transport.written.split(b"taken")
        assert [part.count(b"200 OK") for part in ids] == [before + 1, int(tail == NEXT)]
        assert not lane.is_busy()
        assert lane in hand.limit.connections
        lane.connection_lost(None)


async def answered(transport: Transport, count: int) -> None:
    """Wait for that many answers."""
    async with asyncio.timeout(5):
        while transport.written.count(b"HTTP/1.") < count:
            await asyncio.sleep(0)
    await turns()
    assert transport.written.count(b"HTTP/1.") == count


async def test_no_id_is_taken_while_the_client_does_not_read(hand: Hand) -> None:
    lane, transport = hand.lane()
    transport.full_after = 0
    issued = hand.issued
    lane.data_received(NEXT * 3 + OTHER)
    assert hand.issued == issued + 1
    lane.data_received(NEXT)
    assert hand.issued == issued + 1
    await turns()
    assert not hand.taken, "an earlier answer is not written yet"
    transport.full_after = None
    lane.resume_writing()
    assert hand.issued == issued + 3
    await answered(transport, 5)
    assert hand.taken == [("GET /other", b"")]
    assert hand.issued == issued + 4


async def test_what_is_kept_is_bounded(hand: Hand) -> None:
    lane, transport = hand.lane()
    lane.pause_writing()
    for _ in range(BUFFER_MAX // len(NEXT) + 1):
        assert "pause" not in transport.done
        lane.data_received(NEXT)
    assert transport.done == ["pause"]
    lane.resume_writing()
    assert transport.done == ["pause", "resume"]


async def test_no_id_is_taken_on_a_connection_that_closes(hand: Hand) -> None:
    lane, transport = hand.lane()
    hand.lanes.responder.drain()
    issued = hand.issued
    lane.data_received(NEXT * 3)
    assert hand.issued == issued + 1
    assert transport.done == ["close"]
    assert transport.written.count(b"Connection: close") == 1


TRACED = (b"authorization: Bearer abc", b"traceparent: 00-%04d-01", b"x-id:%03d")


def traced(number: int, *, of: bytes = b"/next", also: bytes = b"") -> bytes:
    """A request whose headers vary with `number`."""
    varied = [line % number if b"%" in line else line for line in TRACED]
    return head(b"GET " + of + b" HTTP/1.1", H, *varied, *([also] if also else []))


async def test_what_a_client_repeats_is_not_parsed_again(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    plain = hand.lanes.parser.plain
    monkeypatch.setattr(
        hand.lanes.parser, "plain", lambda head: (parsed.append(head), plain(head))[1]
    )
    lane, transport = hand.lane()
    for _ in range(3):
        await hand.stocked()
        lane.data_received(NEXT)
    assert parsed == [NEXT]
    await hand.stocked()
    lane.data_received(traced(1))
    lane.data_received(traced(2))
    assert parsed == [NEXT, traced(1), traced(2)]
    for number in range(3, 30):
        await hand.stocked()
        lane.data_received(traced(number))
    assert len(parsed) == 3
    assert transport.written.count(b"200 OK") == 32
    assert not hand.taken


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


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_differs_in_more_than_values_is_answered_alike(pair: Pair, name: str) -> None:
    """Behind requests that taught the lane a form."""
    found = []
    for one in (pair.fast, pair.slow):
        async with connected(one.port) as wire:
            for number in range(3):
                await wire.send(traced(number))
                assert (await wire.answer()).status == 200
            await wire.send(HOSTILE[name])
            for _ in range(3):  # alone: turns for the server
                await one.ask("/livez")
            with suppress(ConnectionError):
                await wire.send(LAST)
            with suppress(ConnectionError):
                async with asyncio.timeout(5):
                    found.append(without_date(await wire.reader.read()))
    assert found[0] == found[1]
    await pair.alike(NEXT)


@pytest.mark.parametrize("name", [b"Accept: ", b"aCCEPT: ", b"accept: "])
async def test_an_accept_header_that_varies_is_read_each_time(hand: Hand, name: bytes) -> None:
    lane, transport = hand.lane()
    for value in (b"text/plain      ", b"text/plain;q=0.5", b"application/json"):
        await hand.stocked()
        lane.data_received(head(GET, H, name + value))
    assert transport.written.count(b"text/plain; charset") == 2
    assert transport.written.endswith(b"}")


@pytest.mark.parametrize("name", [b"Connection: ", b"connection: "])
async def test_a_connection_header_that_varies_is_read_each_time(hand: Hand, name: bytes) -> None:
    lane, transport = hand.lane()
    for value in (b"keep-alive", b"Keep-Alive", b"close     "):
        await hand.stocked()
        lane.data_received(head(GET, H, name + value))
    assert transport.written.count(b"200 OK") == 2
    await answered(transport, 3)
    assert hand.taken == [("GET /next", b"")]
    assert transport.done == ["close"]


async def test_forms_are_learnt_for_as_long_as_they_fit_now_and_then(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[bytes] = []
    monkeypatch.setattr(
        "idservice.web.fast_lane.connection.template_of",
        lambda one, other: (learnt.append(other), template_of(one, other))[1],
    )
    lane, _ = hand.lane()
    for token in range(3 * TEMPLATES_MAX):  # a token that is renewed, and has another length
        for number in range(4):
            await hand.stocked()
            lane.data_received(traced(number, also=b"y: " + b"t" * token))
    assert len(learnt) == 6 * TEMPLATES_MAX - 1
    learnt.clear()
    for number in range(3 * TEMPLATES_MAX):  # never two of one length
        await hand.stocked()
        lane.data_received(head(GET, H, b"y: " + b"t" * number))
    assert len(learnt) == TEMPLATES_MAX
    assert not hand.taken


@pytest.mark.parametrize("before", range(TEMPLATES_MAX + 2))
async def test_a_form_is_that_of_the_last_request_or_of_none(hand: Hand, before: int) -> None:
    """Also where the form of an earlier one was the last that was tried for."""
    lane, transport = hand.lane()
    for number in range(before):  # never two of one length
        await hand.stocked()
        lane.data_received(head(GET, H, b"y: " + b"t" * number))
    for asked in (traced(1), traced(2), traced(3, of=b"/next?count=2")):
        await hand.stocked()
        lane.data_received(asked)
    assert transport.written.endswith(b"\n")
    await hand.stocked()
    lane.data_received(traced(4))
    assert transport.written[-1:].isdigit()
    assert not hand.taken


async def test_what_the_socket_does_not_take_goes_behind_in_order(hand: Hand) -> None:
    lane, transport = hand.lane()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for one in (ours, theirs):
            one.setblocking(False)
        lane._descriptor = ours.fileno()

        def received() -> bytes:
            found = b""
            with suppress(BlockingIOError):
                while chunk := theirs.recv(65536):
                    found += chunk
            return found

        await hand.stocked()
        lane.data_received(NEXT)
        assert received().count(b"200 OK") == 1
        assert transport.written == b""

        await hand.serving.service.local_counters["default"].next_batch(5)
        lane.data_received(head(b"GET /next?count=5000 HTTP/1.1", H))
        while not lane.is_busy() and not transport.written:
            await asyncio.sleep(0)
        while lane._waiting is not None:
            await asyncio.sleep(0)
        first = received()
        whole = first + transport.written
        body = whole.partition(b"\r\n\r\n")[2]
        assert first
        assert transport.written
        assert f"Content-Length: {len(body)}\r\n".encode() in whole
        assert body.count(b"\n") == 5000

        transport.written, transport.size = b"", 10  # the socket would take it, but not yet
        await hand.stocked()
        lane.data_received(NEXT)
        assert transport.written.count(b"200 OK") == 1
        assert received() == b""
        transport.written, transport.size = b"", 0
        lane.data_received(NEXT)
        assert transport.written == b""
        assert received().count(b"200 OK") == 1


async def test_a_client_that_reads_again_does_not_overtake_its_request_that_waits(
    hand: Hand,
) -> None:
    lane, transport = hand.lane()
    go_on = await empty(hand.serving)
    lane.data_received(NEXT + request("/next?count=2"))
    lane.pause_writing()
    lane.resume_writing()
    assert hand.serving.service.local_counters["default"].reading().waiting <= 1
    await turns()
    assert hand.serving.service.local_counters["default"].reading().waiting == 1
    go_on()
    while transport.written.count(b"200 OK") < 2:
        await asyncio.sleep(0)
    ids = transport.written.split(b"\r\n\r\n")
    assert int(ids[1].partition(b"HTTP")[0]) < int(ids[2].split()[0])


async def test_who_waits_is_answered_before_what_is_known_already(hand: Hand) -> None:
    lane, transport = hand.lane()
    lane.data_received(NEXT)
    go_on = await empty(hand.serving)
    issued = hand.issued
    for _ in range(3):
        lane.data_received(NEXT)
    assert hand.issued == issued
    assert transport.written.count(b"200 OK") == 1
    go_on()
    while transport.written.count(b"200 OK") < 4:
        await asyncio.sleep(0)
    ids = [int(part.partition(b"HTTP")[0]) for part in transport.written.split(b"\r\n\r\n")[1:]]
    assert ids == sorted(set(ids))


async def test_an_unfinished_request_is_not_taken_for_a_known_one(hand: Hand) -> None:
    lane, transport = hand.lane()
    lane.data_received(NEXT)
    lane.data_received(b"GET /next?x=")
    lane.data_received(NEXT)  # goes on: the target has a blank in it
    await answered(transport, 2)
    assert transport.written.count(b"200 OK") == 1
    assert transport.written.count(b"400 Bad Request") == 1


async def test_a_fault_in_a_parser_callback_surfaces(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(hand.lanes.parser, "on_message_complete", broken, raising=False)
    hand.lanes.parser._new_parser()
    lane, _ = hand.lane()
    with pytest.raises(ZeroDivisionError, match="ours"):
        lane.data_received(NEXT)
    assert not hand.taken
    monkeypatch.undo()
    hand.lanes.parser._new_parser()
    lane, transport = hand.lane()
    lane.data_received(NEXT)
    assert transport.written.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_silent_and_dripping_connections_are_closed_and_those_served_are_not(
    hand: Hand,
) -> None:
    (silent, one), (dripping, two), (served, three), (stuck, four) = (hand.lane() for _ in range(4))
    stuck.pause_writing()
    for sweep in range(SILENT_MAX + 1):
        await hand.stocked()
        assert one.done == two.done == four.done == [], sweep
        dripping.data_received(NEXT[sweep : sweep + 1])
        served.data_received(NEXT)
        hand.lanes._sweep()
    assert (one.done, two.done, three.done, four.done) == (["close"], ["close"], [], ["abort"])
    assert silent.is_busy() is False


async def test_one_timer_serves_all_lanes_and_none_runs_without(hand: Hand) -> None:
    assert hand.lanes._timer is None
    (one, _), (two, _) = hand.lane(), hand.lane()
    timer = hand.lanes._timer
    assert timer is not None
    for lane in (one, two):
        lane.connection_lost(None)
    hand.lanes._sweep()
    assert hand.lanes._timer is None
    timer.cancel()


async def test_the_date_follows_the_clock(hand: Hand) -> None:
    lane, transport = hand.lane()
    lane.data_received(NEXT)
    assert b"Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n" in transport.written
    hand.now += 1
    hand.lanes.responder._end_second()  # what the timer calls
    transport.written = b""
    lane.data_received(NEXT)
    assert b"Date: Tue, 14 Nov 2023 22:13:21 GMT\r\n" in transport.written


# --- waiting --------------------------------------------------------------------------------------


async def empty(serving: Serving) -> Callable[[], None]:
    """Hold the store up, and use up what is in memory; answers what lets it go on."""
    supply = serving.service.local_counters["default"]
    open_again = asyncio.Event()
    reserve = serving.store.reserve

    async def held_up(*arguments: Any, **keywords: Any) -> range:
        await open_again.wait()
        return await reserve(*arguments, **keywords)

    serving.store.reserve = held_up  # type: ignore[method-assign]
    while supply.take() is not None:
        pass
    return open_again.set


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_waits_keeps_its_place_and_holds_nobody_up(serve: Serve) -> None:
    serving = await serve(limits=Limits(wait=5))
    await serving.create("other", start=500)
    await serving.service.warm()
    await serving.ask("/v1/counters/other/next")
    go_on = await empty(serving)
    async with connected(serving.port) as wire, connected(serving.port) as second:
        await wire.send(NEXT + request("/v1/counters/other/next") + NEXT + LAST)
        await serving.ask("/livez")
        await second.send(NEXT)
        assert (await serving.ask("/v1/counters/other/next")).body == b"501"
        assert serving.service.local_counters["default"].reading().waiting == 2
        assert not wire.reader._buffer  # type: ignore[attr-defined]
        go_on()
        answers = [await wire.answer() for _ in range(4)]
        assert [answer.body for answer in answers][1::2] == [b"502", b"live"]
        first, third = int(answers[0].body), int(answers[2].body)
        assert int((await second.answer()).body) == first + 1
        assert third > first


async def test_a_fault_behind_a_request_that_waited_harms_nobody_else(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refiller answers the waiting requests one by one, and ends the service if it fails."""
    serving = await serve(limits=Limits(wait=5))
    await serving.service.warm()
    go_on = await empty(serving)
    lanes = Hand(serving)
    (lane, transport), (other, unharmed) = lanes.lane(), lanes.lane()
    monkeypatch.setattr(lanes.lanes, "server", lambda: 1 // 0)
    lane.data_received(NEXT + OTHER)
    other.data_received(NEXT)
    go_on()
    await answered(unharmed, 1)
    assert transport.written.count(b"200 OK") == 1
    assert transport.done == ["resume", "abort"]
    await lanes.close()


async def test_who_went_away_stands_in_line_no_longer(serve: Serve) -> None:
    serving = await serve(limits=Limits(wait=5))
    await serving.service.warm()
    go_on = await empty(serving)
    supply = serving.service.local_counters["default"]
    lanes = Hand(serving)
    (lane, transport), (other, answered) = lanes.lane(), lanes.lane()
    lane.data_received(NEXT + NEXT)
    other.data_received(NEXT)
    assert supply.reading().waiting == 2
    assert lane.is_busy()
    lane.connection_lost(None)
    assert supply.reading().waiting == 1
    issued = supply.allocator.issued_ids
    go_on()
    while not answered.written:
        await asyncio.sleep(0)
    assert transport.written == b""
    assert supply.allocator.issued_ids == issued + 1
    assert not supply.allocator.gaps
    await lanes.close()


async def test_who_goes_away_as_it_is_refused_is_told_nothing(serve: Serve) -> None:
    serving = await serve(limits=Limits(wait=5))
    await serving.service.warm()
    await empty(serving)
    lanes = Hand(serving)
    lane, transport = lanes.lane()
    lane.data_received(NEXT)
    serving.service.local_counters["default"].stop(errors.Stopped(), cause=GapCause.STOP)
    lane.connection_lost(None)
    await turns()
    assert transport.written == b""
    await lanes.close()


async def test_a_counter_that_went_missing_is_looked_up_anew(hand: Hand) -> None:
    lane, transport = hand.lane()
    other, _ = hand.lane()
    lane.data_received(NEXT)
    other.data_received(NEXT)
    supply = hand.serving.service.local_counters.pop("default")
    supply.stop(errors.UnknownCounter(name="default"), cause=GapCause.EPOCH)
    lane.data_received(NEXT)
    assert transport.written.count(b"404 Not Found") == 1
    assert b'"code":"unknown_counter"' in transport.written
    lane.data_received(NEXT)  # it is loaded anew, and found
    await answered(transport, 3)
    assert transport.written.count(b"200 OK") == 2
    assert hand.serving.service.local_counters["default"] is not supply
    assert not hand.taken


async def test_no_id_is_taken_behind_an_answer_that_closes(serve: Serve) -> None:
    serving = await serve(limits=Limits(wait=5))
    await serving.service.warm()
    go_on = await empty(serving)
    lanes = Hand(serving)
    lane, transport = lanes.lane()
    lane.data_received(NEXT + NEXT)
    issued = lanes.issued
    lanes.lanes.responder.drain()
    go_on()
    while not transport.written:
        await asyncio.sleep(0)
    await turns()
    assert lanes.issued == issued + 1
    assert transport.done == ["close"]
    await lanes.close()


async def test_what_is_known_of_a_client_is_known_after_a_wait(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, transport = hand.lane()
    lane.data_received(traced(1))
    lane.data_received(traced(2))
    go_on = await empty(hand.serving)
    lane.data_received(traced(3))
    go_on()
    while transport.written.count(b"200 OK") < 3:
        await asyncio.sleep(0)
    monkeypatch.setattr(hand.lanes.parser, "plain", lambda head: pytest.fail("parsed again"))
    lane.data_received(traced(4))
    assert transport.written.count(b"200 OK") == 4


async def test_who_waits_too_long_is_told_as_by_aiohttp(pair: Pair) -> None:
    answers = []
    for serving in (pair.fast, pair.slow):
        service: Service = serving.service
        object.__setattr__(service.limits, "wait", 0.05)
        await empty(serving)
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


async def test_lanes_and_the_rest_are_counted_together(serve: Serve) -> None:
    serving = await serve(connections_max=2)
    async with connected(serving.port) as one, connected(serving.port) as two:
        await one.send(NEXT)
        assert (await one.answer()).status == 200
        await two.send(OTHER)
        assert (await two.answer()).status == 404
        assert len(serving.gate.connections) == 2
        assert (await serving.ask()).status == 503
        await one.send(OTHER)  # a handover needs no second place
        assert (await one.answer()).status == 404
        assert len(serving.gate.connections) == 2
