"""Requests of a fast connection that aiohttp answers."""

import asyncio

import pytest

from idservice.web.fast_lane.connection import BUFFER_MAX
from idservice.web.fast_lane.connections import UNREAD_MAX
from idservice.web.fast_lane.parser import HEAD_MAX
from idservice.web.problems import BODY_MAX
from tests.web.conftest import Serve
from tests.web.fast_lane.hand import OTHER, Hand, answered, turns
from tests.web.fast_lane.pair import (
    NEXT,
    H,
    head,
)
from tests.web.wire import connected, request

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


async def test_a_body_may_come_later_than_its_head(hand: Hand) -> None:
    lane, transport = hand.lane()
    expects = head(b"POST /body HTTP/1.1", H, b"Content-Length: 5", b"Expect: 100-continue")
    lane.data_received(expects + b"ab")
    await turns()
    assert not hand.taken
    assert lane.is_busy()
    lane.data_received(b"\r\n")
    lane.data_received(b"c" + NEXT)
    await answered(transport, 2)
    assert hand.taken == [("POST /body", b"ab\r\nc")]
    assert transport.written.count(b"200 OK") == 2
    assert not lane.handover


async def test_a_body_that_is_not_read_is_passed_over(hand: Hand) -> None:
    hand.reads = False
    lane, transport = hand.lane()
    lane.data_received(BODY[:-3])
    await answered(transport, 1)
    assert lane.handover
    lane.data_received(BODY[-3:] + NEXT)
    await answered(transport, 2)
    assert not lane.handover
    assert transport.written.rpartition(b"\r\n")[2].isdigit()


@pytest.mark.parametrize(
    "sent",
    [
        head(b"POST /body HTTP/1.1", H, b"Content-Length: %d" % (BODY_MAX + 1)) + b"x" * BODY_MAX,
        head(b"GET /x HTTP/1.1", H, b"Connection: Upgrade", b"Upgrade: websocket"),
        b"\r\n\r\n" + NEXT,
        head(b"GET /x HTTP/1.1", H, b"X: " + b"a" * HEAD_MAX)[:-1],
    ],
    ids=["long body", "upgrade", "empty lines", "long head in pieces"],
)
async def test_aiohttp_keeps_a_connection_whose_request_has_no_clear_end(
    hand: Hand, sent: bytes
) -> None:
    lane, _ = hand.lane()
    lane.data_received(sent)
    await turns()
    assert lane.handover
    lane.data_received(NEXT)
    await turns()
    assert lane._buffer == b"", "it has all bytes"
    lane.connection_lost(None)


async def test_many_small_chunks_close_the_connection(hand: Hand) -> None:
    lane, transport = hand.lane()
    issued = hand.issued
    small = b"1\r\na\r\n" * BODY_MAX
    lane.data_received(head(b"POST /b HTTP/1.1", H, b"Transfer-Encoding: chunked") + small + NEXT)
    await turns()
    lane.data_received(NEXT)
    assert transport.done == ["close"]
    assert hand.issued == issued


async def test_a_request_that_fails_closes_the_connection(hand: Hand) -> None:
    hand.fails = True
    lane, transport = hand.lane()
    issued = hand.issued
    lane.data_received(OTHER + NEXT)
    await answered(transport, 1)
    assert b"500 Internal Server Error" in transport.written
    assert transport.done == ["close"]
    assert hand.issued == issued


async def test_requests_wait_while_aiohttp_answers(hand: Hand) -> None:
    lane, transport = hand.lane()
    hand.go_on.clear()
    issued = hand.issued
    lane.data_received(OTHER)
    lane.data_received(NEXT)
    await turns()
    assert (hand.issued, transport.written, lane.is_busy()) == (issued, b"", True)
    lane.data_received(b"x" * BUFFER_MAX)
    assert transport.done == ["pause"]
    hand.go_on.set()
    await answered(transport, 3)
    assert "resume" in transport.done
    assert transport.written.count(b"200 OK") == 2
    assert transport.written.count(b"400 Bad Request") == 1


async def test_a_client_that_does_not_read_holds_aiohttp_up(hand: Hand) -> None:
    lane, transport = hand.lane()
    hand.go_on.clear()
    lane.data_received(OTHER + NEXT)
    await turns()
    lane.pause_writing()
    hand.go_on.set()
    await turns()
    assert lane.handover
    issued = hand.issued
    lane.resume_writing()
    await answered(transport, 2)
    assert hand.issued == issued + 1


async def test_no_id_is_taken_after_a_handover_until_the_client_reads(hand: Hand) -> None:
    lane, transport = hand.lane()
    transport.full_after = 0
    issued = hand.issued
    lane.data_received(OTHER + NEXT)
    await answered(transport, 1)
    assert hand.issued == issued
    transport.full_after = None
    lane.resume_writing()
    await answered(transport, 2)
    assert hand.issued == issued + 1


async def test_a_client_that_goes_away_ends_its_handover(hand: Hand) -> None:
    lane, transport = hand.lane()
    hand.go_on.clear()
    lane.data_received(OTHER + NEXT)
    await turns()
    assert hand.server.connections
    lane.connection_lost(None)
    hand.go_on.set()
    await turns()
    assert not hand.server.connections
    assert not hand.limit.connections
    assert transport.written == b""


async def test_a_handover_leaves_no_timer_and_no_connection_behind(hand: Hand) -> None:
    loop = asyncio.get_running_loop()
    lane, transport = hand.lane()
    for count in range(1, 4):
        lane.data_received(OTHER)
        await answered(transport, count)
    assert not hand.server.connections
    assert len(hand.limit.connections) == 1
    if isinstance(loop, asyncio.BaseEventLoop):
        timers = [one for one in loop._scheduled if not one.cancelled()]  # type: ignore[attr-defined]
        assert not [one for one in timers if "_process_keepalive" in repr(one)]


async def test_a_stop_lets_aiohttp_finish_and_closes_then(hand: Hand) -> None:
    lane, transport = hand.lane()
    hand.go_on.clear()
    lane.data_received(OTHER + NEXT)
    await turns()
    hand.lanes.close()
    assert transport.done == []
    hand.go_on.set()
    await answered(transport, 1)
    assert transport.done == ["close"]


async def test_a_silent_connection_is_left_to_aiohttp_during_a_handover(hand: Hand) -> None:
    lane, transport = hand.lane()
    hand.go_on.clear()
    lane.data_received(OTHER)
    for _ in range(UNREAD_MAX + 2):
        hand.lanes._sweep()
    assert transport.done == []
    hand.go_on.set()
    await answered(transport, 1)
    hand.lanes._sweep()
    assert transport.done == []


async def test_a_counter_is_loaded_while_its_first_request_waits(serve: Serve) -> None:
    serving = await serve()
    await serving.create("late", start=70)
    late = request("/v1/counters/late/next")
    async with connected(serving.port) as wire:
        await wire.send(late * 2 + NEXT + request("/readyz") + NEXT)
        bodies = [(await wire.answer()).body for _ in range(5)]
    assert bodies[:2] == [b"70", b"71"]
    assert bodies[3] == b"ready"
    assert int(bodies[4]) == int(bodies[2]) + 1


async def test_a_client_that_goes_away_while_a_counter_loads_uses_no_id(hand: Hand) -> None:
    await hand.serving.create("late", start=70)
    lane, transport = hand.lane()
    for wait in (0, 1, 3):
        lane, transport = hand.lane()
        lane.data_received(request("/v1/counters/late/next"))
        await turns(wait)
        lane.connection_lost(None)
    await turns()
    assert transport.written == b""
    counter = await hand.serving.service.local_counter("late")
    assert counter.allocator.issued_ids == 0
