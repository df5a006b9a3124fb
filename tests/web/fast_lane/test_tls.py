"""The lane over TLS: the same answers, and what a transport that encrypts does otherwise."""

import asyncio
import logging

import pytest

from idservice.web.fast_lane.connection import FastConnection
from idservice.web.fast_lane.tls_connection import TlsConnection
from tests.certificates import Files
from tests.web.conftest import Serve
from tests.web.fast_lane.hand import Hand, empty
from tests.web.fast_lane.pair import GET, LAST, NEXT, H, Pair, head, traced
from tests.web.rows import Rows
from tests.web.wire import connected, request

CLOSE = b"Connection: close"
SENT = {
    "an id": NEXT,
    "many": NEXT * 200,
    "a batch": request("/next?count=3"),
    "a long batch": request("/next?count=10000") * 2,
    "JSON": request("/next?format=json"),
    "a strict counter": request("/v1/counters/strict/next"),
    "an old path": request("/old"),
    "headers that vary": b"".join(traced(number) for number in range(5)),
    "a body": head(b"POST /next HTTP/1.1", H, b"Content-Length: 2") + b"{}",
    "a chunked body": head(b"POST /next HTTP/1.1", H, b"Transfer-Encoding: chunked")
    + b"2\r\n{}\r\n0\r\n\r\n",
    "all sorts": NEXT + request("/nope") + NEXT + request("/readyz") + request("/v1/counters"),
    "malformed": b"GET /next HTTP/1.1\r\nX\r\n\r\n",
    "the last": head(GET, H, CLOSE),
}


async def test_it_is_answered_as_by_aiohttp(tls_pairs: Rows[Pair]) -> None:
    for name, sent in SENT.items():
        last = b"" if CLOSE in sent else LAST
        async with tls_pairs.row(name) as pair:
            assert await pair.alike(sent, last=last)
            assert await pair.alike(sent[: len(sent) // 2], sent[len(sent) // 2 :], last=last)
    for name, sent in SENT.items():
        async with tls_pairs.row(name, "draining") as pair:
            for one in (pair.fast, pair.slow):
                one.drain()
            last = b"" if CLOSE in sent else LAST
            assert b"Connection: close" in await pair.alike(sent, last=last)


async def test_ids_take_the_lane_over_tls(serve: Serve, certificate: Files) -> None:
    serving = await serve(certificate=certificate)
    async with connected(serving.port, serving.trust) as wire:
        for _ in range(2):
            await wire.send(NEXT)
            assert (await wire.answer()).status == 200
        (lane,) = serving.gate.connections
        assert type(lane) is TlsConnection
        assert lane._target is not None
        assert not lane.is_handed_over


async def test_a_client_that_ends_its_side_is_gone(
    serve: Serve, certificate: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS as the loops speak it has no half of a connection: nobody waits in vain, and no loop
    complains in the log."""
    for lane in (True, False):
        serving = await serve(lane=lane, certificate=certificate)
        await serving.service.warm()
        go_on = await empty(serving)
        counter = serving.service.local_counters["default"]
        with caplog.at_level(logging.WARNING):
            async with connected(serving.port, serving.trust) as wire:
                await wire.send(NEXT)
                async with asyncio.timeout(60):
                    while not counter.stats.waits:
                        await asyncio.sleep(0)
            async with asyncio.timeout(60):
                while serving.gate.connections:
                    await asyncio.sleep(0)
        go_on()
        assert not caplog.messages


async def test_no_id_is_taken_for_a_client_that_does_not_read_over_tls(
    serve: Serve, certificate: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = asyncio.Event()
    pause = FastConnection.pause_writing

    def told(self: FastConnection) -> None:
        paused.set()
        pause(self)

    monkeypatch.setattr(TlsConnection, "pause_writing", told)
    serving = await serve(certificate=certificate)
    long = request("/next?count=10000")
    async with connected(serving.port, serving.trust) as wire:
        wire.writer.transport.pause_reading()
        wire.reader._limit = 1  # type: ignore[attr-defined]
        wire.writer.write(long * 400)
        async with asyncio.timeout(60):
            await paused.wait()
        allocator, before = serving.service.local_counters["default"].allocator, -1
        while before != allocator.issued_ids:  # the kernel may take some more after a pause
            before = allocator.issued_ids
            for _ in range(20):
                await serving.ask("/livez")
        assert before < 400 * 10_000, "all was taken"
        (lane,) = [one for one in serving.gate.connections if isinstance(one, TlsConnection)]
        assert lane._transport is not None
        assert lane._transport.get_write_buffer_size() < 300_000


async def test_what_comes_after_a_close_takes_no_id(hand: Hand) -> None:
    """The transport of asyncio passes on what it has read but not deciphered."""
    await hand.stocked()
    lane, transport = hand.lane(TlsConnection)
    lane.data_received(NEXT)
    issued = hand.issued
    hand.lanes.close()
    for sent in (NEXT, request("/next?count=2")):
        lane.data_received(sent)
    assert transport.written.count(b"HTTP/1.1") == 1
    assert hand.issued == issued


async def test_nothing_is_answered_behind_an_answer_that_closes(
    serve: Serve, certificate: Files
) -> None:
    serving = await serve(certificate=certificate)
    first = await serving.one()
    async with connected(serving.port, serving.trust) as wire:
        await wire.send(head(GET, H, CLOSE))
        await wire.send(NEXT * 3)
        assert (await wire.answer()).body == b"%d" % (first + 1)
        assert await wire.is_closed()
    assert await serving.one() == first + 2
