"""Sidecars whose store is a service: several centrals behind one address, and a faulty hop.

The centrals are services over the simulated store; what is said between is what is said over HTTP,
rendered and read by the real code, and lost, delayed, repeated or cached on its way.
"""

import asyncio
import json
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, Self

from idservice import errors
from idservice.allocation.context import Limits
from idservice.catalogue.changes import Reshard
from idservice.client.address import ServiceAddress
from idservice.client.http_async import AsyncTransport
from idservice.client.protocol import NoUsableAnswer, Reply
from idservice.stores.chained import ChainedStore
from idservice.web.ids import several
from idservice.web.problems import problem
from idservice.web.request import WebLimits, read_id_request
from tests.simulation import checker
from tests.simulation.checker import Violation
from tests.simulation.loop import elapse, run
from tests.simulation.operators import operate
from tests.simulation.scenarios import NAME, Instance, Parts, World
from tests.simulation.store import HANG_S, Faults

URL = "http://central:8080"


@dataclass(slots=True)
class Heard:
    """Ids in an answer that a sidecar got, be it that it believed it or not."""

    sidecar: str
    at: float  # when the request was sent,
    until: float  # and the answer came
    ordinal: int
    blocks: list[range]


class Hop(AsyncTransport):
    """One sidecar's way to the centrals of a world."""

    def __init__(self, world: "Chain", random: Random, sidecar: str) -> None:
        super().__init__(ServiceAddress(URL, host="central", port=8080))
        self._world, self._rng, self._sidecar = world, random, sidecar

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    async def send(self, method: str, target: str, body: bytes = b"") -> Reply:
        """As `SimStore` sends a request, but that an answer may also come from a cache."""
        world, rng, loop = self._world, self._rng, asyncio.get_running_loop()
        fate = world.hop.fate(rng, loop.time())
        going, coming = (rng.uniform(*world.hop.latency_s) / 2 for _ in range(2))
        sent_at = loop.time()
        if fate == "throttled":
            await asyncio.sleep(going + coming)
            return Reply(503, "text/html", b"<h1>Service Unavailable</h1>")
        if fate == "late_request":
            going += rng.uniform(1.0, 12.0)
        if fate == "late_answer":
            coming += rng.uniform(1.0, 12.0)
        if world.cached and rng.random() < world.caching:
            await asyncio.sleep(going + coming)
            return rng.choice(world.cached)
        answer: asyncio.Future[Reply] = loop.create_future()

        async def arrive(after: float, copy: bool) -> None:
            await asyncio.sleep(after)
            reply = await world.answer(rng, method, target)
            if copy or fate == "lost_after":
                return
            await asyncio.sleep(coming)
            if not answer.done():
                answer.set_result(reply)

        if fate != "lost_before":
            world.send(arrive(going, False))
            if rng.random() < world.hop.repeated:
                world.send(arrive(going + rng.uniform(0.0, 10.0), True))
        if fate in ("lost_before", "lost_after"):
            await asyncio.sleep(going + coming if rng.random() < 0.5 else HANG_S)
            raise NoUsableAnswer(url=URL, why="connection reset")
        reply = await answer
        if reply.status == 200:
            world.heard.append(heard(self._sidecar, sent_at, loop.time(), reply))
            world.cached.append(reply)
        return reply


def heard(sidecar: str, at: float, until: float, reply: Reply) -> Heard:
    """What is in an answer, read as simply as can be."""
    body = json.loads(reply.body)
    blocks = [
        range(one["first"], one["first"] + one["step"] * one["count"], one["step"])
        for one in body["ranges"]
    ]
    return Heard(sidecar, at, until, body["epoch"], blocks)


class Chain(World):
    """Centrals are the world's instances; clients ask the sidecars."""

    store: type[ChainedStore] = ChainedStore

    def __init__(self, seed: int, *args: Any) -> None:
        super().__init__(seed, *args)
        self.sidecars: list[Instance] = []
        self.heard: list[Heard] = []
        self.cached: list[Reply] = []
        self.caching = self.rng.choice((0.0, 0.1))
        self.hop = Faults.swarm(self.rng)
        self.hold_s = self.rng.choice((2.0, 10.0))
        self._flying: set[asyncio.Task[None]] = set()

    def send(self, way: Any) -> None:
        """Something on its way, which nobody can take back."""
        task = asyncio.ensure_future(way)
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)

    async def answer(self, rng: Random, method: str, target: str) -> Reply:
        """One of the centrals answers, as over HTTP."""
        serving = [one for one in self.instances if one.serves]
        path = target.partition("?")[0]
        if method != "POST" or not serving:
            error: errors.IdserviceError = errors.UnknownPath(path=path)
            return _refusal(error if serving else errors.Stopped())
        central = rng.choice(serving)
        asked = read_id_request(target, "", WebLimits())
        try:
            supply = await central.service.local_counter(path.split("/")[3])
            blocks = await supply.next_batch(asked.count or 1)
        except errors.IdserviceError as error:
            return _refusal(error)
        content_type, body = several(supply.counter, asked, blocks)
        return Reply(200, content_type, body)

    async def attach(self) -> Instance:
        """A sidecar begins."""
        name = f"s{len(self.sidecars)}"
        hop = Hop(self, Random(self.rng.getrandbits(64)), name)
        numbers = Random(self.rng.getrandbits(64))
        store = self.store(hop, hold_s=self.hold_s, nonce=lambda: f"{numbers.getrandbits(64):016x}")
        sidecar = Instance(name, store)  # type: ignore[arg-type]
        self.sidecars.append(sidecar)
        sidecar.task = asyncio.create_task(self._live(sidecar))
        await sidecar.up.wait()
        return sidecar

    async def end(self) -> None:
        """Faults end; everybody must be served again by itself; all stop."""
        self.hop.heal()
        self.faults.heal()
        self.caching = 0.0
        serving = [one for one in self.sidecars if one.serves]
        async with asyncio.TaskGroup() as group:
            for sidecar in serving:
                group.create_task(self._served_again(sidecar))
        for one in (*serving, *self.serving):
            await self.stop(one)
        for one in (*self.sidecars, *self.instances):
            await one.task
        while self._flying:
            await elapse(1.0)

    def check_chain(self) -> None:
        """What is promised of ids that came over a sidecar."""
        checker.check_unique(self.history, rising=self.strict)
        if self.strict:
            checker.check_strict(self.history)
        self._check_loans()
        self._check_epochs()

    def _check_loans(self) -> None:
        """Each id was in an answer that this sidecar got, which is no older than `hold_s`."""
        lent = {(one.sidecar, id): one.at for one in self.heard for b in one.blocks for id in b}
        for op in checker.answered(self.history):
            for id in (id for block in op.ids for id in block):
                at = lent.get((op.instance, id))
                if at is None:
                    raise Violation("grants", f"{id} was never lent to {op.instance}: {op}")
                if op.ended - at > self.hold_s + 1e-6:
                    raise Violation("expired", f"{id} was lent at {at:.3f}: {op}")

    def _check_epochs(self) -> None:
        """A sidecar that was told of an epoch gives out no id of an older one from then on."""
        epochs = {id: one.ordinal for one in self.heard for block in one.blocks for id in block}
        for op in checker.answered(self.history):
            told = [h for h in self.heard if h.sidecar == op.instance and h.until < op.began]
            newest = max((h.ordinal for h in told), default=0)
            if min(epochs[id] for block in op.ids for id in block) < newest:
                raise Violation("epoch", f"{newest} was told of before {op}")


def _refusal(error: errors.IdserviceError) -> Reply:
    response = problem(error)
    assert isinstance(response.body, bytes)
    return Reply(response.status, response.content_type, response.body)


async def chained(world: Chain) -> None:
    """Sidecars over two centrals; one of each crashes; an operator opens a new epoch meanwhile."""
    rng = world.rng
    # What is lost between the centrals and the store is shown by the other scenarios.
    world.faults.heal()
    world.limits = Limits(runway=rng.choice((4.0, 30.0)), wait=2.0)
    strict = rng.random() < 0.3
    world.create(strict=strict, shards=1 if strict else rng.choice((1, 1, 3)))
    for _ in range(2):
        await world.begin()
    for _ in range(rng.randint(2, 3)):
        await world.attach()
    upsets = [asyncio.create_task(_upsets(world))]
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(_client(world, f"c{number}"))
    for task in upsets:
        await task
    await world.end()
    world.check_chain()


async def _client(world: Chain, name: str) -> None:
    rng = world.rng
    pause = rng.choice((0.05, 0.5, 3.0))
    for _ in range(24):
        serving = [one for one in world.sidecars if one.serves]
        await world.ask(name, rng.choice(serving), count=rng.choice((1, 1, 1, 4)))
        await elapse(rng.uniform(0.0, pause))


async def _upsets(world: Chain) -> None:
    rng = world.rng
    await elapse(rng.uniform(0.5, 3.0))
    if rng.random() < 0.5:
        world.crash(world.sidecars[0])
        await world.attach()
    if rng.random() < 0.5:
        world.crash(world.instances[0])
        await world.begin()
    if rng.random() < 0.8:
        await elapse(rng.uniform(0.0, 1.0))
        if world.table.entries[NAME].shards > 1:
            wishes = [Reshard(shards=rng.choice((1, 2, 5)))]
            await operate(world, changes=1, wishes=wishes, lasting=True)
        else:
            world.table.repair(NAME, "opened")


def chain(seed: int, store: type[ChainedStore] = ChainedStore) -> Chain:
    """Run the scenario with one seed, and check it. Raises Violation."""

    async def main() -> Chain:
        world = Chain(seed, Parts())
        world.store = store
        await chained(world)
        return world

    return run(main(), seed=seed)
