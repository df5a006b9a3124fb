"""The hop in front of the engines does to requests what it says, and knows who heard an answer."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from aiohttp import web

from tests import hop as hops
from tests.hop import Exchange, Hop
from tests.simulation.store import Faults

pytestmark = [pytest.mark.process]


class Server:
    """Counts requests; answers with how many there were."""

    def __init__(self) -> None:
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(text=f"{self.asked}")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"  # type: ignore[attr-defined]
    yield made
    await runner.cleanup()


@pytest.fixture
async def hop(server: Server) -> AsyncIterator[Hop]:
    made = Hop([server.url], random.Random(1))  # type: ignore[attr-defined]
    async with made.listening():
        yield made


@pytest.fixture
async def exchanges(hop: Hop) -> list[Exchange]:
    seen: list[Exchange] = []
    hop.on_exchange = seen.append
    return seen


async def ask(hop: Hop) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{hop.url}/any", data=b"x", headers={"X-Amz-Target": "D.GetItem"}) as answer,
    ):
        return answer.status, await answer.text()


async def ask_and_give_up(hop: Hop, until: Callable[[], bool]) -> None:
    """Ask, and leave without an answer as soon as something is seen."""
    asking = asyncio.create_task(ask(hop))
    while not until():
        await asyncio.sleep(0)
    assert not asking.done()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


def always(**kinds: float) -> Faults:
    return Faults(latency_s=(0.0, 0.0), **kinds)


async def test_without_faults_everything_passes_and_is_heard(
    hop: Hop, exchanges: list[Exchange]
) -> None:
    assert await ask(hop) == (200, "1")
    assert await ask(hop) == (200, "2")
    assert [(one.target, one.heard, one.copy) for one in exchanges] == [
        ("GetItem", True, False)
    ] * 2


@pytest.mark.parametrize("silent", [0.0, 1.0], ids=["reset", "silence"])
@pytest.mark.parametrize(("kind", "arrives"), [("lost_before", 0), ("lost_after", 1)])
async def test_what_is_lost_is_answered_by_nobody(
    hop: Hop, server: Server, exchanges: list[Exchange], kind: str, arrives: int, silent: float
) -> None:
    hop.misbehave(always(**{kind: 1.0}))
    hop.silent = silent
    if silent:
        await ask_and_give_up(hop, lambda: hop.silences == 1)
    else:
        with pytest.raises(aiohttp.ClientError):
            await ask(hop)
    assert server.asked == arrives
    assert [one.heard for one in exchanges] == [False] * arrives


@pytest.mark.parametrize("kind", ["late_request", "late_answer"])
async def test_what_is_late_is_applied_and_heard_by_who_waits(
    hop: Hop, server: Server, exchanges: list[Exchange], kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hop.misbehave(always(**{kind: 1.0}))
    monkeypatch.setattr(hops, "LATE_S", (0.2, 0.2))
    await ask_and_give_up(hop, lambda: hop.fates[kind] == 1)
    while not hop.idle:
        await asyncio.sleep(0)
    assert server.asked == 1
    assert await ask(hop) == (200, "2")
    assert [one.heard for one in exchanges] == [False, True]


async def test_what_is_sent_again_reaches_the_server_twice_and_the_second_answer_is_heard(
    hop: Hop, exchanges: list[Exchange]
) -> None:
    hop.misbehave(always(resent=1.0))
    assert await ask(hop) == (200, "2")
    assert [(one.copy, one.heard) for one in exchanges] == [(True, False), (False, True)]


async def test_what_is_repeated_reaches_the_server_again_later(
    hop: Hop, server: Server, exchanges: list[Exchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hops, "REPEATED_S", (0.05, 0.05))
    hop.misbehave(always(repeated=1.0))
    assert await ask(hop) == (200, "1")
    while not hop.idle:
        await asyncio.sleep(0)
    assert server.asked == 2
    assert [(one.copy, one.heard) for one in exchanges] == [(False, True), (True, False)]


async def test_a_throttled_request_reaches_nobody_and_is_told_so_as_dynamodb_does(
    hop: Hop, server: Server
) -> None:
    hop.misbehave(always(throttled=1.0))
    status, text = await ask(hop)
    assert status == 400
    assert "Thro" in text
    assert server.asked == 0


async def test_an_outage_counts_from_when_the_faults_began(hop: Hop, server: Server) -> None:
    hop.misbehave(Faults(latency_s=(0.0, 0.0), outages=[(0.0, 60.0)]))
    hop.silent = 0.0
    with pytest.raises(aiohttp.ClientError):
        await ask(hop)
    assert server.asked == 0


async def test_a_server_that_is_gone_ends_the_connection(hop: Hop) -> None:
    hop.servers[0] = "http://127.0.0.1:1"
    with pytest.raises(aiohttp.ClientError):
        await ask(hop)
