"""Adds and ids by turns on one connection: aiohttp answers the adds, and the lane the ids."""

from tests.web.conftest import Serve
from tests.web.fast_lane.hand import turns
from tests.web.fast_lane.pair import NEXT, Pair
from tests.web.wire import connected, request

GIFTS = "/v1/tallies/gifts"
JSON = {"Content-Type": "application/json"}
CREATE = request(GIFTS, "PUT", body=b'{"decimals":2,"floor":"0"}')
SUM = request(GIFTS, headers={"Accept": "text/plain"})


def add(key: str, amount: str) -> bytes:
    body = b'{"amount":"%s"}' % amount.encode()
    return request(f"{GIFTS}/add", "POST", headers={**JSON, "Idempotency-Key": key}, body=body)


async def test_adds_between_ids_are_answered_as_without_the_lane(pair: Pair) -> None:
    pieces = [CREATE]
    for number in range(5):
        pieces += [NEXT, add(f"k{number}", "1.5"), NEXT * 2, add("k0", "1.5"), SUM]
        pieces += [add("k0", "2"), add("below", "-99"), request(f"{GIFTS}/adds/k{number}")]
        pieces += [request(f"{GIFTS}/adds/none"), request(f"{GIFTS}/add"), NEXT]
    for sent in (pieces, [b"".join(pieces)]):
        said = await pair.alike(*sent)
        assert said.count(b'"replayed":true') >= 5
        assert said.count(b'"code":"key_reused"') == 5
        assert said.count(b'"code":"out_of_bounds"') == 5
        assert b"\r\n\r\n7.50HTTP/1.1" in said
    issued = pair.fast.service.local_counters["default"].allocator.issued_ids
    assert issued == 2 * 5 * 4


async def test_a_connection_comes_back_to_the_lane_after_each_add(serve: Serve) -> None:
    serving = await serve(lane=True)
    assert (await serving.ask(GIFTS, "PUT", body=b"{}")).status == 201
    assert serving.lanes is not None
    async with connected(serving.port) as wire:
        for number in range(20):
            await wire.send(add(f"k{number}", "2") + NEXT)
            assert (await wire.answer()).json["sum"] == str(2 * number + 2)
            assert (await wire.answer()).body == b"%d" % number
            await turns()
            (lane,) = serving.gate.connections
            assert not lane.handover  # type: ignore[attr-defined]
