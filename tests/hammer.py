"""Clients and faults against several processes on one store: is any id given twice?

For tests that are marked `pytest.mark.process`. Any store: `hammer` takes its address and the
environment that its engine needs; the store must be initialised.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import Serving, until
from tests.simulation.checker import Operation

ANSWER_S = 60.0
ENOUGH = 100  # answers with ids: with fewer a run proves nothing
BROKEN = (ConnectionError, asyncio.IncompleteReadError, TimeoutError, OSError)


@dataclass
class Report:
    """What happened: every id of every 200, and how the rest ended. `history` has each request."""

    seed: int
    history: list[Operation] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0  # requests without a whole answer, of a process that was killed
    torn: int = 0  # the same of any other process: there must be none
    refused: int = 0  # connections
    kills: int = 0
    terms: int = 0
    unclean: list[str] = field(default_factory=list)  # a SIGTERM that did not end with exit 0
    disorder: list[str] = field(default_factory=list)  # an id below an earlier one of an instance

    @property
    def duplicates(self) -> dict[int, int]:
        return {id: times for id, times in Counter(self.ids).items() if times > 1}

    def __str__(self) -> str:
        span = max(self.ids, default=-1) + 1
        return (
            f"seed {self.seed}: {len(self.ids)} ids, {len(self.duplicates)} duplicates,"
            f" {span - len(set(self.ids))} gaps up to {span}, statuses {dict(self.statuses)},"
            f" {self.broken} broken, {self.torn} torn, {self.kills} kills, {self.terms} terms"
        )


class Hammer:
    """Processes, clients and faults; `report` grows while it runs."""

    targets: tuple[tuple[str, str], ...] = (("default", "/next"),)  # counters, and where they are
    # How long a client waits between two requests, on average: what the tests need is requests at
    # all times, and many at the moment of a fault, before which no client waits.
    think_s = 0.1
    rush = 100  # answers without a wait, before a fault

    def __init__(
        self,
        folder: Path,
        store: str,
        *,
        env: Mapping[str, str] | None,
        arguments: tuple[str, ...],
        seed: int,
    ) -> None:
        self.report = Report(seed)
        self._folder = folder
        self._store = store
        self._env = env
        self._arguments = arguments
        self._random = random.Random(seed)
        self._instances: list[Serving] = []
        self._ports: dict[Serving, int] = {}
        self._killed: set[Serving] = set()
        self._over = False
        self._rushing = False
        self._event = 0

    async def run(self, *, processes: int, clients: int, faults: int, pause: float) -> Report:
        try:
            await asyncio.gather(*(self._start() for _ in range(processes)))
            async with asyncio.TaskGroup() as group:
                for number in range(clients):
                    group.create_task(self._client(random.Random(f"{self.report.seed}-{number}")))
                await self._faults(faults, pause)
                await until(lambda: self.report.statuses[200] >= ENOUGH, what="too few ids")
                self._over = True
        finally:
            for instance in self._instances:
                instance.__exit__()
        return self.report

    async def _start(self) -> None:
        instance = Serving(
            self._folder, "--store", self._store, "--drain", "0.3", *self._arguments, env=self._env
        )
        self._instances.append(instance)
        self._ports[instance] = await asyncio.to_thread(lambda: instance.port)

    async def _faults(self, faults: int, pause: float) -> None:
        """SIGKILL and SIGTERM in turns, one instance after the other, each started again."""
        for turn in range(faults):
            await self._rush_after(pause * self._random.uniform(0.5, 1.5))
            victim = self._random.choice(list(self._ports))
            restart = asyncio.create_task(self._start())
            if turn % 2:
                victim.terminate()
                self._rushing = False
                self.report.terms += 1
                code = await asyncio.to_thread(victim.end)
                if code != 0:
                    self.report.unclean.append(f"exit {code}: {victim.output[-500:]}")
            else:
                self._killed.add(victim)
                victim.kill()
                self._rushing = False
                self.report.kills += 1
                await asyncio.to_thread(victim.end)
            del self._ports[victim]
            await restart

    async def _rush_after(self, seconds: float) -> None:
        """Until `_rushing` ends every client asks as fast as it is answered."""
        await asyncio.sleep(seconds)
        self._rushing = True
        enough = self.report.statuses.total() + self.rush
        await until(lambda: self.report.statuses.total() >= enough, what="nobody answers")

    async def _answered(self, count: int, above: int = -1) -> None:
        """Wait until so many ids more were answered, of those above a number."""
        begun = len(self.report.ids)
        await until(lambda: sum(id > above for id in self.report.ids[begun:]) >= count)

    async def _client(self, rng: random.Random) -> None:
        """Ask whoever lives, on a connection that is kept while it works."""
        while not self._over:
            if not self._ports:
                await asyncio.sleep(0.01)
                continue
            instance, port = rng.choice(list(self._ports.items()))
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                self.report.refused += 1
                await asyncio.sleep(0.01)
                continue
            with suppress(*BROKEN):
                await self._ask_on(instance, reader, writer, rng)
            writer.close()
            with suppress(*BROKEN):
                await writer.wait_closed()

    def _asked(self, instance: Serving, connection: str, counter: str, count: int) -> Operation:
        """A request that begins now, in the history."""
        self._event += 1
        name = self._name(instance, connection)
        op = Operation(connection, name, counter, count, self._event, time.monotonic())
        self.report.history.append(op)
        return op

    def _name(self, instance: Serving, connection: str) -> str:
        """What the history calls the one that is asked."""
        return f"{instance.pid}"

    async def _ask_on(
        self,
        instance: Serving,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        rng: random.Random,
    ) -> None:
        last = {counter: -1 for counter, _ in self.targets}
        self._event += 1
        connection = f"{self._event}"
        for _ in range(200):
            if self._over:
                return
            if not self._rushing:
                await asyncio.sleep(rng.uniform(0.0, 2 * self.think_s))
            count = rng.choice((0, 0, 0, 0, 1, 3, 20))
            counter, path = rng.choice(self.targets)
            op = self._asked(instance, connection, counter, count or 1)
            target = f"{path}?count={count}" if count else path
            method = rng.choice(("GET", "POST"))
            writer.write(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            try:
                async with asyncio.timeout(ANSWER_S):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                    length = int(head.partition("content-length:")[2].split("\r\n")[0])
                    body = await reader.readexactly(length)
            except BROKEN:
                if instance in self._killed:
                    self.report.broken += 1
                else:
                    self.report.torn += 1
                raise
            self._event += 1
            op.complete, op.ended = self._event, time.monotonic()
            status = int(head.split()[1])
            self.report.statuses[status] += 1
            if status == 200:
                ids = [int(id) for id in body.split()]
                assert len(ids) == (count or 1), body
                op.outcome, op.ids = "ok", [range(id, id + 1) for id in ids]
                if ids != sorted(ids) or ids[0] <= last[counter]:
                    self.report.disorder.append(f"{instance.pid}: {last[counter]} then {ids}")
                last[counter] = ids[-1]
                self.report.ids += ids
            if "connection: close" in head:
                return


async def hammer(
    folder: Path,
    store: str,
    *,
    env: Mapping[str, str] | None = None,
    arguments: tuple[str, ...] = (),
    processes: int = 3,
    clients: int = 16,
    faults: int = 8,
    pause: float = 0.3,
    seed: int | None = None,
) -> Report:
    """About every `pause` seconds a process is ended and another begun, `faults` times in all."""
    seed = random.randrange(10**6) if seed is None else seed
    driver = Hammer(folder, store, env=env, arguments=arguments, seed=seed)
    return await driver.run(processes=processes, clients=clients, faults=faults, pause=pause)
