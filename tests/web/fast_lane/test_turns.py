"""Requests that come many at once or ask for much: the lane gives others their turn."""

import asyncio
import re

import pytest

from idservice.web.turns import TURN_MAX
from tests.web.conftest import Serve
from tests.web.fast_lane.hand import OTHER, Hand, Transport, answered, empty, turns
from tests.web.fast_lane.pair import GET, NEXT, H, head, traced
from tests.web.wire import connected, request

LONG = request("/next?count=10000")


async def stocked(hand: Hand, count: int) -> None:
    """Hold that many ids in memory."""
    supply = hand.serving.service.local_counters["default"]
    while supply.allocator.held < count:
        await supply.next_batch(count)
        await turns()


def answers(transport: Transport) -> int:
    return transport.written.count(b"HTTP/1.1 ")


def ids_of(transport: Transport) -> list[int]:
    return [int(id) for id in re.findall(rb"\r\n\r\n([0-9]+)", transport.written)]


@pytest.mark.parametrize("sent", [NEXT, request("/livez"), request("/next?count=2"), traced(1)])
async def test_a_turn_answers_a_bounded_number_of_pipelined_requests(
    hand: Hand, sent: bytes
) -> None:
    (lane, transport), (other, beside) = hand.lane(), hand.lane()
    await stocked(hand, 2_000)
    lane.data_received(sent * 500)
    assert 0 < answers(transport) <= TURN_MAX
    other.data_received(NEXT)
    assert answers(beside) == 1, "a single request waits for nobody"
    before = answers(transport)
    await asyncio.sleep(0)
    assert before < answers(transport) <= before + 2 * TURN_MAX
    await answered(transport, 500)
    found = ids_of(transport)
    assert found == sorted(set(found))
    assert lane.is_busy() is False


async def test_all_connections_share_the_bound_of_a_turn(hand: Hand) -> None:
    lanes = [hand.lane() for _ in range(10)]
    await stocked(hand, 2_000)
    for lane, _ in lanes:
        lane.data_received(NEXT * 100)
    assert sum(answers(transport) for _, transport in lanes) <= TURN_MAX + len(lanes)
    for _, transport in lanes:
        await answered(transport, 100)
    ids = [id for _, transport in lanes for id in ids_of(transport)]
    assert len(set(ids)) == 1_000


async def test_long_heads_count_for_more(hand: Hand) -> None:
    lane, transport = hand.lane()
    await stocked(hand, 500)
    lane.data_received(head(GET, H, b"X: " + b"x" * 4000) * 100)
    assert 0 < answers(transport) <= TURN_MAX // 4
    await answered(transport, 100)


async def test_reading_pauses_while_much_waits_for_its_turn(hand: Hand) -> None:
    lane, transport = hand.lane()
    await stocked(hand, 5_000)
    lane.data_received(NEXT * 4_000)
    assert transport.done == ["pause"]
    await answered(transport, 4_000)
    assert transport.done[-1] == "resume"


async def test_what_arrives_before_the_turn_is_answered_behind(hand: Hand) -> None:
    lane, transport = hand.lane()
    await stocked(hand, 500)
    lane.data_received(NEXT * 100)
    for _ in range(3):
        lane.data_received(NEXT)
    lane.data_received(OTHER)
    assert answers(transport) <= TURN_MAX
    await answered(transport, 104)
    assert hand.taken == [("GET /other", b"")]
    assert transport.written.endswith(b"taken")
    found = ids_of(transport)
    assert found == sorted(set(found))


async def test_no_id_is_taken_for_a_client_gone_before_its_turn(hand: Hand) -> None:
    lane, transport = hand.lane()
    await stocked(hand, 500)
    issued = hand.issued
    lane.data_received(NEXT * 200)
    assert lane.is_busy()
    lane.connection_lost(None)
    await turns()
    assert hand.issued == issued + answers(transport) <= issued + TURN_MAX


async def test_no_id_is_taken_in_a_turn_until_the_client_reads(hand: Hand) -> None:
    lane, transport = hand.lane()
    await stocked(hand, 500)
    transport.full_after = 100 * 150  # in a later turn
    lane.data_received(NEXT * 300)
    await turns()
    stuck = answers(transport)
    assert TURN_MAX < stuck < 300
    transport.full_after = None
    lane.resume_writing()
    await answered(transport, 300)


@pytest.mark.parametrize("ids", ["in memory", "awaited"])
async def test_a_long_answer_is_one_of_its_turn(serve: Serve, ids: str) -> None:
    serving = await serve()
    await serving.service.warm()
    hand = Hand(serving)
    await stocked(hand, 100_000)
    go_on = await empty(serving) if ids == "awaited" else None
    lanes = [hand.lane() for _ in range(8)]
    if go_on is None:
        for lane, _ in lanes:  # known from here on
            lane.data_received(LONG)
            await turns()
    before = sum(answers(transport) for _, transport in lanes)
    for lane, _ in lanes:
        lane.data_received(LONG)
    if go_on is not None:
        go_on()
    seen = before
    async with asyncio.timeout(60):
        while seen < before + len(lanes):
            await asyncio.sleep(0)
            now = sum(answers(transport) for _, transport in lanes)
            assert now <= seen + 2
            seen = now
    await hand.close()


async def test_a_client_gone_before_its_long_answer_gets_nothing(hand: Hand) -> None:
    (one, first), (other, second) = hand.lane(), hand.lane()
    await stocked(hand, 30_000)
    one.data_received(LONG)
    other.data_received(LONG)
    assert (answers(first), answers(second)) == (1, 0)
    other.connection_lost(None)
    await turns()
    assert second.written == b""


async def test_ids_of_a_client_gone_before_its_turn_are_counted_as_lost(serve: Serve) -> None:
    serving = await serve()
    await serving.service.warm()
    hand = Hand(serving)
    await stocked(hand, 100_000)
    go_on = await empty(serving)
    supply = serving.service.local_counters["default"]
    before, lost_before = hand.issued, dict(supply.reading().gaps)
    lanes = [hand.lane() for _ in range(8)]
    for lane, _ in lanes:
        lane.data_received(LONG)
    go_on()
    async with asyncio.timeout(60):
        while not sum(answers(transport) for _, transport in lanes):
            await asyncio.sleep(0)
    gone = [lane for lane, transport in lanes if not answers(transport)]
    assert gone
    for lane in gone:
        lane.connection_lost(None)
    await turns()
    lost = sum(supply.reading().gaps.values()) - sum(lost_before.values())
    answered_ids = 10_000 * sum(answers(transport) for _, transport in lanes)
    assert hand.issued - before == answered_ids
    assert lost == 10_000 * len(gone)
    await hand.close()


async def test_aiohttp_gives_turns_as_the_lane_does(serve: Serve) -> None:
    serving = await serve(lane=False)
    await serving.service.warm()
    supply = serving.service.local_counters["default"]
    while supply.allocator.held < 100_000:
        await supply.next_batch(10_000)
        await turns()
    async with connected(serving.port) as wire, connected(serving.port) as beside:
        await wire.send(LONG * 8 + NEXT * 200)
        await beside.send(NEXT)
        await beside.answer()
        assert wire.reader._buffer.count(b"HTTP/1.1 200") < 100  # type: ignore[attr-defined]
        for _ in range(208):
            assert (await wire.answer()).status == 200
