"""What a client sent before its connection is accepted, compared with what aiohttp answers."""

import asyncio
import socket

import pytest

from idservice.server.listener import Listener
from tests.web.conftest import Serving
from tests.web.fast_lane.pair import GET, NEXT, H, Pair, head, without_date
from tests.web.fast_lane.test_half_close import AT, CLOSE, SENT
from tests.web.rows import Rows
from tests.web.wire import Wire

LAST = head(GET, H, CLOSE)
# Of a long body, half of which is missing, either is told: that depends on when its end is seen.
ALIKE = [name for name in SENT if name != "half a long body"]


class Crowd:
    """Clients that send before the service accepts any."""

    def __init__(self, serving: Serving) -> None:
        assert serving.listener is not None
        self.serving = serving
        self.listener: Listener = serving.listener
        self.listener._pause()

    async def client(self, sent: bytes, *, ends: bool = False) -> Wire:
        """A client that has sent this, and sends no more if it `ends`."""
        client = socket.create_connection(("127.0.0.1", self.serving.port))
        client.setblocking(False)
        wire = Wire(*await asyncio.open_connection(sock=client))
        wire.writer.write(sent)
        assert not wire.writer.transport.get_write_buffer_size(), "it is with the other side"
        if ends:
            wire.writer.write_eof()
        return wire

    def is_accepted(self) -> None:
        self.listener._resume()


async def answered(serving: Serving, sent: bytes, *, ends: bool = False) -> bytes:
    """All that is answered to what is sent before the connection is accepted."""
    crowd = Crowd(serving)
    wire = await crowd.client(sent, ends=ends)
    crowd.is_accepted()
    async with asyncio.timeout(60):
        said = await wire.reader.read()
    wire.writer.close()
    return AT.sub(b"", without_date(said))


async def test_a_client_is_answered_alike_whenever_it_is_accepted(pairs: Rows[Pair]) -> None:
    for name in ALIKE:
        sent, count = SENT[name]
        async with pairs.row(name) as pair:
            for _ in range(2):  # as it comes for the first time, and known
                fast = await answered(pair.fast, sent, ends=True)
                assert fast == await answered(pair.slow, sent, ends=True)
                assert fast.count(b"HTTP/1.") == count


@pytest.mark.parametrize("sent", [LAST, LAST.replace(b"/next", b"/livez")])
async def test_who_wants_one_answer_that_is_known_needs_no_transport(
    pair: Pair, sent: bytes
) -> None:
    await answered(pair.fast, sent)
    crowd = Crowd(pair.fast)
    clients = [await crowd.client(sent) for _ in range(3)]
    crowd.listener._readable()
    assert not crowd.listener._opening
    for client in clients:
        async with asyncio.timeout(60):
            assert b"200 OK" in await client.reader.read()
        client.writer.close()


async def test_who_was_answered_on_arrival_goes_on_as_all_others(pair: Pair) -> None:
    await answered(pair.fast, NEXT, ends=True)
    crowd = Crowd(pair.fast)
    client = await crowd.client(NEXT)
    crowd.listener._readable()
    ids = []
    for _ in range(3):
        ids.append(int((await client.answer()).body))
        await client.send(NEXT)
    await client.answer()
    assert ids == [ids[0], ids[0] + 1, ids[0] + 2]
    assert len(pair.fast.gate.connections) == 1
    client.writer.close()


async def test_at_the_end_who_is_answered_on_arrival_is_told_to_go(pair: Pair) -> None:
    await answered(pair.fast, NEXT, ends=True)
    pair.fast.drain()
    await answered(pair.fast, NEXT)
    said = await answered(pair.fast, NEXT)
    assert b"\r\nConnection: close\r\n" in said


async def test_a_client_that_left_before_it_was_accepted_takes_no_id(pair: Pair) -> None:
    await answered(pair.fast, NEXT, ends=True)
    crowd = Crowd(pair.fast)
    issued = pair.fast.service.local_counters["default"].allocator.issued_ids
    client = await crowd.client(b"")
    client.writer.close()
    await client.writer.wait_closed()
    crowd.listener._readable()
    assert not crowd.listener._opening
    assert pair.fast.service.local_counters["default"].allocator.issued_ids == issued


async def test_above_the_limit_nobody_is_answered_on_arrival(pair: Pair) -> None:
    await answered(pair.fast, NEXT, ends=True)
    while pair.fast.gate.connections:
        await asyncio.sleep(0)
    pair.fast.gate.most = 0
    assert b"too_many_connections" in await answered(pair.fast, NEXT)


async def test_no_more_than_the_limit_are_open_of_clients_that_come_at_once(pair: Pair) -> None:
    """Those on their way in are not counted yet."""
    gate = pair.fast.gate
    while gate.connections:
        await asyncio.sleep(0)
    gate.most, most_open = 5, 0
    crowd = Crowd(pair.fast)
    clients = [await crowd.client(b"") for _ in range(10)]
    crowd.is_accepted()
    async with asyncio.timeout(60):
        while len(gate.connections) + gate.refused < len(clients):
            await asyncio.sleep(0)
            most_open = max(most_open, len(gate.connections))
    assert most_open == 5
    for client in clients:
        client.writer.close()


async def test_while_the_last_are_accepted_nobody_is_answered_on_arrival(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answered client would come again, and the loop that accepts the last never end."""

    def answers(*_: object) -> None:
        raise AssertionError("answered on arrival")

    await answered(pair.fast, LAST)
    crowd = Crowd(pair.fast)
    client = await crowd.client(LAST)
    monkeypatch.setattr("idservice.server.listener.answer_on_arrival", answers)
    await crowd.listener.stop_accepting()
    async with asyncio.timeout(60):
        assert b"200 OK" in await client.reader.read()
    client.writer.close()
