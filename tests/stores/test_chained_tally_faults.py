"""Sidecars of two services over a network that loses, delays and repeats: each key counts once.

What is said between is rendered and read by the real code, in virtual time. Seeds can be replayed.
"""

import asyncio
from collections import defaultdict
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import pytest
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request

from idservice import errors
from idservice.client import tally_calls
from idservice.client.address import ServiceAddress
from idservice.client.http_async import AsyncTransport
from idservice.client.protocol import NoUsableAnswer, Reply
from idservice.client.tally_protocol import TallyAsk
from idservice.core.tally import AddFate, AddRecord, TallyState
from idservice.server.startup import build_instance
from idservice.stores.chained_tallies import ChainedTallies
from idservice.tallies.changes import TallyPatch, new_tally
from idservice.tallies.service import Tallies
from idservice.web.access import ControlAccess
from idservice.web.problems import guard
from idservice.web.tallies import TallyRoutes
from tests.simulation.loop import elapse, run
from tests.simulation.serving import table
from tests.simulation.store import HANG_S, Faults, SimStore

URL = "http://central:8080"
SEEDS = 12
KEYS, SIDECARS = 24, 3

Answer = AddRecord | tuple[str, str, int]  # a record; or a code, an outcome, and a revision


@cache
def _server() -> dict[str, Any]:
    """What a request comes to, made once: making these mocks takes longer than an answer."""
    made: Any = make_mocked_request("GET", "/")
    mocks = {"app": made.app, "protocol": made.protocol, "transport": made.transport}
    return mocks | {"writer": made.protocol.writer}


async def over_http(tallies: Tallies, method: str, target: str, body: bytes, key: str) -> Reply:
    """The answer of a service, as its web layer reads the request and renders it."""
    loop = asyncio.get_running_loop()
    routes = TallyRoutes(tallies, ControlAccess(False, loopback=False, unix=False, ids=True))
    content = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    content.feed_data(body)
    content.feed_eof()
    _, _, _, name, what, *record = [*target.split("/"), ""]
    named = {"name": name, **({"key": record[0]} if what == "adds" else {})}
    headers = {"Content-Type": "application/json", "Idempotency-Key": key, "Host": "central"}
    request = make_mocked_request(
        method, target, headers=headers, match_info=named, payload=content, loop=loop, **_server()
    )
    handler = {"add": routes.add, "adds": routes.record, "": routes.value}[what]
    response = await guard(request, handler)
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    return Reply(response.status, response.content_type, response.body)


class Hop(AsyncTransport):
    """One sidecar's way to the services behind one address."""

    def __init__(self, rng: Random, centrals: list[Tallies], faults: Faults) -> None:
        super().__init__(ServiceAddress.parse(URL))
        self.rng, self.centrals, self.faults = rng, centrals, faults
        self.flying: set[asyncio.Task[None]] = set()

    async def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        key: str = "",
        limit_s: float | None = None,
    ) -> Reply:
        try:
            async with asyncio.timeout(limit_s):
                return await self._send(method, target, body, key)
        except TimeoutError:
            raise NoUsableAnswer(url=URL, why="it took too long") from None

    async def _send(self, *request: Any) -> Reply:
        rng, loop = self.rng, asyncio.get_running_loop()
        fate = self.faults.fate(rng, loop.time())
        going, coming = (rng.uniform(*self.faults.latency_s) / 2 for _ in range(2))
        if fate == "throttled":
            await elapse(going)
            return Reply(503, "text/html", b"<h1>Service Unavailable</h1>")
        going += rng.uniform(1.0, 12.0) if fate == "late_request" else 0.0
        coming += rng.uniform(1.0, 12.0) if fate == "late_answer" else 0.0
        answer: asyncio.Future[Reply] = loop.create_future()

        async def arrive(after: float, copy: bool) -> None:
            await elapse(after)
            reply = await over_http(rng.choice(self.centrals), *request)
            await elapse(coming)
            if not (copy or fate == "lost_after" or answer.done()):
                answer.set_result(reply)

        if fate != "lost_before":
            self.launch(arrive(going, False))
        if fate == "resent" or rng.random() < self.faults.repeated:
            self.launch(arrive(going + rng.uniform(0.0, 10.0), True))
        if fate == "lost_before" and rng.random() < 0.5:
            raise NoUsableAnswer(url=URL, why="connection reset")
        async with asyncio.timeout(HANG_S):
            return await answer

    def launch(self, way: Any) -> None:
        """Something on its way, which nobody can take back."""
        task = asyncio.ensure_future(way)
        self.flying.add(task)
        task.add_done_callback(self.flying.discard)


class World:
    """Callers, sidecars, two services and an operator; and what the callers were told."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.faults = Faults.swarm(self.rng)
        self.operated = self.rng.random() < 0.5
        if self.operated:  # a copy of what was refused while it was closed counts when it is open
            self.faults.repeated = self.faults.resent = 0.0
        self.store = SimStore(Random(seed), table("default"))
        self.store.tallies.items["gifts"] = new_tally("gifts", decimals=2, floor="0", ceiling="50")
        self.told: dict[str, list[Answer]] = defaultdict(list)
        self.tries: dict[str, int] = defaultdict(int)

    async def run(self) -> None:
        first, _, one = build_instance(self.store, random=Random(1))
        second, _, other = build_instance(self.store, random=Random(2))
        async with first, second:
            hops = [Hop(self.rng, [one, other], self.faults) for _ in range(SIDECARS)]
            sidecars = [ChainedTallies(hop, random=self.rng) for hop in hops]
            callers = [self.call(f"k{number}", sidecars) for number in range(KEYS)]
            await asyncio.gather(*callers, self.operate(one))
            while flying := [task for hop in hops for task in hop.flying]:
                await asyncio.wait(flying)
            self.check()

    async def call(self, key: str, sidecars: list[ChainedTallies]) -> None:
        """Add under a key, and ask again elsewhere while the outcome is not known."""
        amount = f"{self.rng.randint(-900, 1000) / 100:.2f}"
        await elapse(self.rng.uniform(0.0, 6.0))
        for _ in range(self.rng.randint(1, 6)):
            told = await self.ask(key, amount, self.rng.choice(sidecars))
            self.told[key].append(told)
            unknown = isinstance(told, tuple) and told[1] == errors.UNKNOWN
            if not unknown and self.rng.random() < 0.7:
                break
            await elapse(self.rng.uniform(0.0, 3.0))

    async def ask(self, key: str, amount: str, sidecar: ChainedTallies) -> Answer:
        try:
            return (await sidecar.add("gifts", key, amount)).record
        except errors.OutOfBounds as error:
            return error.code, error.outcome, int(str(error.fields["rev"]))
        except errors.IdserviceError as error:
            return error.code, error.outcome, 0

    async def operate(self, tallies: Tallies) -> None:
        for state in (TallyState.SUSPENDED, TallyState.ACTIVE) * (2 if self.operated else 0):
            await elapse(self.rng.uniform(0.5, 3.0))
            await tallies.change("gifts", TallyPatch(state=state), "change")

    def check(self) -> None:
        """T1 to T5, by what was told and what is kept."""
        item = self.store.tallies.items["gifts"]
        records = {key: record for (_, _, key), record in self.store.tallies.made.items()}
        assert set(records) <= set(self.told), "a key that no caller has"
        counted = {key for key, record in records.items() if record.fate is AddFate.COUNTED}
        assert item.sum == sum(records[key].amount for key in counted)
        for key, answers in self.told.items():
            for told in answers:
                if isinstance(told, AddRecord):
                    assert records[key] == told
                elif told[0] == errors.OutOfBounds.code:
                    assert (records[key].fate, records[key].rev) == (AddFate.REFUSED, told[2])
            if all(isinstance(told, tuple) and told[1] != errors.UNKNOWN for told in answers):
                assert key not in counted, f"{key} counts, and all that was told is {answers}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_key_counts_once_and_every_answer_says_the_same(seed: int) -> None:
    run(World(seed).run(), seed=seed)


def found(seeds: int = SEEDS) -> bool:
    """True if a run finds a violation."""
    for seed in range(seeds):
        try:
            run(World(seed).run(), seed=seed)
        except (AssertionError, BaseExceptionGroup):
            return True
    return False


def test_a_new_key_for_each_try_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Random(1)

    def renamed(ask: TallyAsk, *, limit_s: float) -> TallyAsk:
        return replace(ask, key=f"{ask.key}.{keys.random()}", limit_s=limit_s)

    monkeypatch.setattr(tally_calls, "replace", renamed)
    assert found()


def test_an_unknown_outcome_told_as_not_applied_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors.AddUnsettled, "outcome", errors.NOT_APPLIED)
    assert found()
