"""Any byte at any position of a head: the lane and aiohttp answer alike. No head harms the next."""

import asyncio
from collections.abc import Coroutine, Iterator
from itertools import islice
from random import Random

import pytest
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser

from idservice.web.fast_lane.parser import END, RequestParser
from idservice.web.fast_lane.target import Target
from tests.simulation.store import SimStore, Table
from tests.web.conftest import Serve
from tests.web.fast_lane.hand import Hand
from tests.web.fast_lane.pair import GET, NEXT, H, Pair, head
from tests.web.fast_lane.test_alike import level
from tests.web.fast_lane.test_half_close import answers
from tests.web.wire import connected

HEADS = (
    head(b"GET /next?count=9&a=X:1 HTTP/1.1", b"Host: x"),
    head(b"GET /next?a=X:1 HTTP/1.1", b"Host: x", b"Connection: keep-alive"),
    head(b"GET /v1/counters/default/next HTTP/1.1", b"Host: x", b"Accept: application/json"),
    head(b"POST /next?format=json HTTP/1.1", b"Host: x", b"Connection: keep-alive"),
    head(b"GET /next HTTP/1.0", b"Host: x", b"Connection: keep-alive"),
)
ALL = bytes(range(256))
TELLING = b'\n\r\0 \t\x0b\x0c\x1f\x7f\x80\xa0\xff":;,/\\?#%&=+aZ019-_'
EVERY = 23  # the part of them that is sent over sockets


def inserted(of: bytes) -> Iterator[bytes]:
    """Each head with each byte at each position."""
    for whole in HEADS:
        for at in range(len(whole)):
            for byte in of:
                yield whole[:at] + bytes([byte]) + whole[at:]


def as_aiohttp_reads(data: bytes) -> RawRequestMessage | None:
    parser = HttpRequestParser(None, asyncio.get_running_loop(), 65536)  # type: ignore[arg-type]
    try:
        messages, _, _ = parser.feed_data(data)
    except HttpProcessingError:
        return None
    ((message, _),) = messages
    return message


@pytest.mark.long
@pytest.mark.asyncio(loop_factories=["asyncio"])  # no socket is used: loops differ in nothing
async def test_what_is_plain_is_the_same_request_to_aiohttp(hand: Hand) -> None:
    parser, responder = RequestParser(), hand.lanes.responder
    served = 0
    for data in inserted(ALL):
        one = data[: data.find(END) + 4]
        accept = parser.plain(one)
        line = one[: one.find(b"\r")]
        found = None if accept is None else responder.find(line, accept, parser.authorization)
        if isinstance(found, Coroutine):
            found.close()
        if not isinstance(found, Target | bytes):
            continue
        served += 1
        message = as_aiohttp_reads(one)
        assert message is not None, data
        assert (message.path, message.version) == (line.split(b" ")[1].decode(), (1, 1)), data
        assert (message.should_close, message.upgrade) == (False, False), data
        read = message.headers.get("Accept", "").encode("utf-8", "surrogateescape")
        assert read == (accept or b"").strip(b" \t"), data
        read = message.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        assert read == parser.authorization, data
    assert served > 5_000


@pytest.mark.long
async def test_an_inserted_byte_is_answered_alike(serve: Serve) -> None:
    pair = Pair(
        *[
            await serve(store=SimStore(Random(1), Table()), control=False, lane=lane)
            for lane in (True, False)
        ]
    )
    statuses = set()
    async with connected(pair.fast.port) as beside_fast, connected(pair.slow.port) as beside_slow:
        for data in islice(inserted(TELLING), 0, None, EVERY):
            fast = await answers(pair.fast, beside_fast, data)
            assert fast == await answers(pair.slow, beside_slow, data), data
            await level(pair)
            statuses.add(fast[9:12])
    assert {b"200", b"400", b"404"} <= statuses


@pytest.mark.parametrize("accept", [b"\xa0application/json", b"\xc2\xa0application/json", b"\xff"])
async def test_accept_beyond_ascii_is_answered_alike(pair: Pair, accept: bytes) -> None:
    await pair.alike(head(GET, H, b"Accept: " + accept))


@pytest.mark.parametrize("data", [
    head(b"GET /livez HTTP/1.0", H),
    head(b"GET /livez HTTP/1.0", H, b"Connection: keep-alive"),
    head(b"GET /livez HTTP/2.0", H),
    head(GET, H, b"Connection: close"),
    head(GET, H, b"Connection: a, close"),
    head(GET, H, b"Connection: Upgrade", b"Upgrade: h2c"),
    head(b"POST /next HTTP/1.1", H, b"Content-Length: 9"),
    head(b"POST /next HTTP/1.1", H, b"Transfer-Encoding: chunked"),
    head(b"GET /next?a=\nX:1 HTTP/1.1", H),
    head(b"CONNECT x:1 HTTP/1.1", H),
    head(b"PRI * HTTP/2.0"),
    b"GET /next HTTP/1.1\r\nHost: x\r\nX\r\n\r\n",
])  # fmt: skip
def test_no_head_harms_the_next_of_another_client(data: bytes) -> None:
    parser = RequestParser()
    parser.plain(data)
    for _ in range(3):
        assert parser.plain(NEXT) == b""
