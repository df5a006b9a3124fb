"""A client that stops sending behind its requests, as `nc -N` does: it gets all its answers."""

import asyncio
import re
from contextlib import suppress
from itertools import product

import pytest

from idservice.web import connection
from tests.web.conftest import Serve, Serving
from tests.web.fast_lane.hand import empty
from tests.web.fast_lane.pair import GET, NEXT, H, Pair, head, turns, without_date
from tests.web.rows import Rows
from tests.web.wire import Wire, connected, request

CLOSE = b"Connection: close"
PUT = request("/v1/counters/new", "PUT", body=b"{}")
STRICT = request("/v1/counters/strict/next")
AT = re.compile(rb'"at":"[^"]+"')  # when a counter was created: a second may begin between two
SENT = {  # and the number of answers
    "an id": (NEXT, 1),
    "connection: close": (head(GET, H, CLOSE), 1),
    "1.0": (head(b"GET /next HTTP/1.0", H), 1),
    "1.0 kept alive": (head(b"GET /next HTTP/1.0", H, b"Connection: keep-alive"), 1),
    "a body": (head(b"POST /next HTTP/1.1", H, b"Content-Length: 2") + b"{}", 1),
    "a chunked body": (
        head(b"POST /next HTTP/1.1", H, b"Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        1,
    ),
    "a new counter": (PUT, 1),
    "a strict counter": (STRICT, 1),
    "strict ones, pipelined": (STRICT * 3, 3),
    "a long answer": (request("/next?count=10000") * 2, 2),
    "many": (NEXT * 200, 200),
    "all sorts": (NEXT + PUT + STRICT + request("/nope") + NEXT + request("/readyz"), 6),
    "an upgrade": (head(GET, H, b"Connection: upgrade", b"Upgrade: h2c"), 1),
    "malformed": (b"GET /next HTTP/1.1\r\nX\r\n\r\n", 1),
    "half a request": (NEXT + b"GET /ne", 1),
    "half a body": (NEXT + head(b"POST /next HTTP/1.1", H, b"Content-Length: 3") + b"{}", 2),
    "half a body of a change": (request("/v1/counters/new", "PUT", body=b"{}")[:-1], 1),
    "half a chunk": (head(b"POST /next HTTP/1.1", H, b"Transfer-Encoding: chunked") + b"9\r\n{", 1),
    "half a long body": (
        head(b"POST /next HTTP/1.1", H, b"Content-Length: 99999") + b"x" * 70000,
        1,
    ),
    "nothing": (b"", 0),
}


async def answers(serving: Serving, beside: Wire, *pieces: bytes) -> bytes:
    """What is answered to a client that sends this and no more, until the server closes. It reads
    meanwhile: a server that has waited long enough for a body resets the connection."""
    found = b""

    async def read(wire: Wire) -> None:
        nonlocal found
        with suppress(ConnectionError):
            while chunk := await wire.reader.read(65_536):
                found += chunk

    async with connected(serving.port) as wire, asyncio.timeout(60):
        reading = asyncio.create_task(read(wire))
        with suppress(ConnectionError):
            for piece in pieces:
                await wire.send(piece)
                await turns(beside, 1)
            wire.writer.write_eof()
        await reading
    return AT.sub(b"", without_date(found))


async def test_all_is_answered_and_then_closed(
    pairs: Rows[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGERING_S", 0.1)  # for bodies of which half never comes
    for split, (name, (sent, count)) in product((False, True), SENT.items()):
        pieces = [sent[: len(sent) // 2], sent[len(sent) // 2 :]] if split else [sent]
        async with pairs.row(name, "split" if split else "whole") as pair:
            found = []
            for one in (pair.fast, pair.slow):
                async with connected(one.port) as beside:
                    found.append(await answers(one, beside, *pieces))
                async with asyncio.timeout(60):
                    while one.gate.connections:
                        await asyncio.sleep(0)
            assert found[0] == found[1]
            assert found[0].count(b"HTTP/1.") == count


@pytest.mark.parametrize("lane", [True, False])
async def test_a_client_that_waits_for_ids_is_answered(serve: Serve, lane: bool) -> None:
    serving = await serve(lane=lane)
    await serving.service.warm()
    go_on = await empty(serving)
    async with connected(serving.port) as wire:
        await wire.send(NEXT * 3)
        wire.writer.write_eof()
        await serving.ask("/livez")
        go_on()
        async with asyncio.timeout(60):
            assert (await wire.reader.read()).count(b"200 OK") == 3
