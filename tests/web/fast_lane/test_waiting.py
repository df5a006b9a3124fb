"""Requests of a fast connection that wait for ids, and the client that goes away meanwhile."""

import asyncio

import pytest

from idservice import errors
from idservice.core.gap_causes import GapCause
from tests.web.conftest import Serve
from tests.web.fast_lane.hand import OTHER, Hand, answered, empty, turns
from tests.web.fast_lane.pair import (
    LAST,
    NEXT,
    traced,
)
from tests.web.wire import connected, request


async def test_a_request_that_waits_keeps_its_place_and_delays_no_other(serve: Serve) -> None:
    serving = await serve()
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


async def test_a_fault_behind_a_request_that_waited_harms_no_other(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refiller answers the waiting requests one by one, and ends the service if it fails."""
    serving = await serve()
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
    assert transport.done == ["abort"]
    await lanes.close()


async def test_a_client_that_went_away_waits_no_longer(serve: Serve) -> None:
    serving = await serve()
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


async def test_a_client_that_goes_away_as_it_is_refused_gets_nothing(serve: Serve) -> None:
    serving = await serve()
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
    serving = await serve()
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


async def test_a_client_is_recognised_after_a_wait(
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


async def test_fast_connections_and_others_are_counted_together(serve: Serve) -> None:
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
