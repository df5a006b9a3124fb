"""Runs of several instances that add to one tally over a faulty store, each decided by a seed.

Clients keep the key of what they want counted, and ask other instances again with it; some share
keys, some reuse one for another amount, and proxies repeat requests. Operators set, suspend and
resume the sum, change its bounds, and delete it and create it again with other decimals.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import TypeVar

from idservice import errors
from idservice.core.amounts import written
from idservice.core.tally import TallyState
from idservice.observability.store_health import StoreHealth
from idservice.stores.tally_source import Told
from idservice.tallies.changes import TallyPatch, new_tally
from idservice.tallies.service import Tallies
from tests.prove.tally_history import Asked, Entry
from tests.simulation.checker import Violation
from tests.simulation.loop import elapse
from tests.simulation.scenarios import LANDED_S
from tests.simulation.store import Faults, SimStore, Table
from tests.simulation.tally_store import TallyTable

T = TypeVar("T")

NAME = "gifts"
SETTLED_S = 20.0  # after faults end: the longest call, its pauses, and what then waits in line
AMOUNTS = ("1", "2", "5", "-1", "-3", "0.5", "0.29", "1.15", "-2.25", "8.2", "0", "0.001")
WAIT_S = 2.0
EPOCH_S = 1_000_000.0


@dataclass(frozen=True, slots=True)
class TallyParts:
    """What a run is built of; a planted fault replaces one of these."""

    table: type[TallyTable] = TallyTable
    key_of_try: Callable[[str, int], str] = lambda key, attempt: key


HONEST = TallyParts()


@dataclass(slots=True)
class Intent:
    """Something to be counted once, and each key that was sent for it."""

    key: str
    amount: str
    keys: set[str] = field(default_factory=set)
    shared: bool = False  # others send this key too


class Summing:
    """One process: the tallies of an instance over its own way to the store."""

    def __init__(self, name: str, store: SimStore, rng: Random) -> None:
        self.name, self.store = name, store
        self.skew = rng.choice((0.0, 0.0, -3.0, 40.0))
        self.stopping = self.crashed = False
        self.up, self.over = asyncio.Event(), asyncio.Event()
        self.tallies: Tallies
        self.task: asyncio.Task[None]
        self._rng = rng

    def check_open(self) -> None:
        if self.stopping:
            raise errors.Stopped

    async def live(self) -> None:
        loop = asyncio.get_running_loop()
        tasks: dict[asyncio.Task[None], None] = {}
        async with asyncio.TaskGroup() as group:

            def spawn(work: Coroutine[object, object, None]) -> asyncio.Task[None]:
                task = group.create_task(work)
                tasks[task] = None
                task.add_done_callback(tasks.pop)
                return task

            self.tallies = Tallies(
                self.store, wait_s=WAIT_S, waiting_max=1000, health=StoreHealth(), spawn=spawn,
                random=self._rng, clock=lambda: EPOCH_S + loop.time() + self.skew,
                check_open=self.check_open,
            )  # fmt: skip
            self.up.set()
            await self.over.wait()
            self.stopping = True
            for task in tasks:
                task.cancel()


class SumWorld:
    """A table, the instances over it, and the history of what everybody saw."""

    def __init__(self, seed: int, parts: TallyParts) -> None:
        self.rng = Random(seed)
        self.parts = parts
        self.faults = Faults.swarm(self.rng)
        self.faults.conflicts = self.rng.choice((0.0, 0.1, 0.4))
        self.data = Table()
        self.table = self.data.tallies = parts.table()
        self.event = self.table.event
        self.history: list[Asked] = []
        self.intents: dict[str, Intent] = {}
        self.instances: list[Summing] = []
        self.results = Counter[str]()  # of commits
        self.flying: set[asyncio.Task[object]] = set()
        self.first = new_tally(
            NAME,
            decimals=2,
            floor=self.rng.choice((None, "0", "-2")),
            ceiling=self.rng.choice((None, "9", "40")),
            start=self.rng.choice(("0", "3.5")),
        )
        self._numbers = iter(range(10**6))

    # --- instances -------------------------------------------------------------------------------

    async def begin(self) -> Summing:
        store = SimStore(Random(self.rng.getrandbits(64)), self.data, self.faults)
        instance = Summing(f"i{len(self.instances)}", store, Random(self.rng.getrandbits(64)))
        self.instances.append(instance)
        instance.task = asyncio.create_task(instance.live())
        await instance.up.wait()
        return instance

    def end(self, instance: Summing, *, crashed: bool) -> None:
        """From now on nobody hears of one that crashed; what it had sent may still arrive."""
        instance.crashed = crashed
        instance.over.set()

    @property
    def serving(self) -> list[Summing]:
        return [one for one in self.instances if not one.over.is_set()]

    def any_instance(self) -> Summing:
        return self.rng.choice(self.serving)

    # --- requests --------------------------------------------------------------------------------

    async def ask(
        self,
        client: str,
        kind: str,
        key: str = "",
        amount: str = "",
        *,
        patience: float | None = None,
        instance: Summing | None = None,
    ) -> Asked:
        """One request to an instance, given up by the client after `patience` seconds."""
        instance = instance or self.any_instance()
        asked = Asked(client, kind, key, amount, self.event(), instance=instance.name)
        self.history.append(asked)
        answer = Asked(client, kind, key, amount)
        try:
            async with asyncio.timeout(patience):
                await self._answered(instance.tallies, answer)
        except TimeoutError:
            answer.code = "gave up"
        except errors.IdserviceError as error:
            _refused(answer, error)
        if not instance.crashed:
            for name in ("outcome", "code", "entry", "first", "sum", "rev", "at", "replayed"):
                setattr(asked, name, getattr(answer, name))
        asked.complete = self.event()
        return asked

    async def _answered(self, tallies: Tallies, asked: Asked) -> None:
        if asked.kind == "read":
            found = await tallies.value(NAME)
            asked.sum = Decimal(written(found.sum, found.decimals))
            asked.rev, asked.at = found.rev, found.at
        elif asked.kind in ("add", "set", "lookup"):
            if asked.kind == "add":
                told = await tallies.add(NAME, asked.key, asked.amount)
            elif asked.kind == "set":
                told = await tallies.set(NAME, asked.key, asked.amount, by="me")
            else:
                told = await tallies.recorded(NAME, asked.key)
            asked.entry, asked.replayed = _entry(told), told.replayed
        else:
            state = TallyState.SUSPENDED if asked.kind == "suspend" else TallyState.ACTIVE
            tally = await tallies.change(NAME, TallyPatch(state=state), asked.kind)
            asked.rev, asked.at = tally.rev, tally.at
        asked.outcome = "ok"

    def fly(self, way: Coroutine[object, object, object]) -> None:
        """Something on its way, which nobody can take back."""
        task: asyncio.Task[object] = asyncio.ensure_future(way)
        self.flying.add(task)
        task.add_done_callback(self.flying.discard)

    async def watch(self) -> None:
        """Somebody looks at the sum all the time."""
        while True:
            await self.ask("watcher", "read", patience=5.0)
            await elapse(self.rng.uniform(0.0, 0.3))

    async def _late(self, asked: Asked) -> None:
        """A proxy sends a request again, and nobody hears the answer."""
        await elapse(self.rng.uniform(0.1, 15.0))
        if self.serving:
            late = await self.ask("proxy", asked.kind, asked.key, asked.amount)
            late.outcome, late.entry, late.complete = "unknown", None, float("inf")

    # --- clients ---------------------------------------------------------------------------------

    async def client(self, name: str, wishes: int) -> None:
        rng = self.rng
        pause = rng.choice((0.02, 0.5, 2.0))
        for _ in range(wishes):
            drawn = rng.random()
            if drawn < 0.15:
                await self.ask(name, "read")
            elif drawn < 0.25 and self.intents:
                await self.ask(name, "lookup", rng.choice(list(self.intents)))
            elif drawn < 0.35 and self.intents:
                key = rng.choice(list(self.intents)[-rng.choice((3, 99)) :])
                intent = self.intents[key]
                intent.shared = True
                await self.ask(name, "add", key, rng.choice((intent.amount, "5", "0.001")))
            else:
                some = rng.choice((1, 1, 2, 5))
                await asyncio.gather(*(self._count(name, self._intent()) for _ in range(some)))
            await elapse(rng.uniform(0.0, pause))

    def _intent(self) -> Intent:
        key = f"k{next(self._numbers)}"
        intent = self.intents[key] = Intent(key, self.rng.choice(AMOUNTS))
        return intent

    async def _count(self, client: str, intent: Intent) -> None:
        """Have something counted: ask until somebody tells what became of it."""
        rng = self.rng
        for attempt in range(rng.randint(1, 5)):
            key = self.parts.key_of_try(intent.key, attempt)
            intent.keys.add(key)
            patience = rng.choice((None, None, 0.3, 1.0))
            asked = await self.ask(client, "add", key, intent.amount, patience=patience)
            if rng.random() < 0.1:
                self.fly(self._late(asked))
            if asked.outcome != "unknown":
                if rng.random() < 0.2:
                    await self.ask(client, "add", key, intent.amount)
                if rng.random() < 0.3:
                    await self.ask(client, "read")
                return
            await elapse(rng.uniform(0.0, 1.0))

    # --- the end ---------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Faults end; everything must be settled soon; each key is looked up."""
        while self.flying:
            await elapse(1.0)
        self.faults.heal()
        await elapse(LANDED_S)  # a change that is on its way may yet be made
        tally = self.table.items[NAME]
        if tally.state is not TallyState.ACTIVE:
            if tally.state is TallyState.DELETED:
                await self._settled(self.any_instance().tallies.create(self.first))
            else:
                await self.ask("operator", "resume")
        for instance in self.serving:
            await self._settled(self._served_again(instance))
        keys = {one.key for one in self.history if one.kind in ("add", "set")}
        await asyncio.gather(*(self._told("lookup", key) for key in sorted(keys)))
        await self._told("read")

    async def stop(self) -> None:
        """All stop."""
        for instance in self.serving:
            self.end(instance, crashed=False)
        for instance in self.instances:
            await instance.task
            for sample in instance.tallies.samples():
                self.results.update(sample.stats.commits)

    async def _told(self, kind: str, key: str = "") -> None:
        while (await self.ask("last", kind, key)).outcome == "unknown":
            pass

    async def _served_again(self, instance: Summing) -> None:
        asked = Asked("last", "add")
        while asked.outcome == "unknown":
            asked = await self.ask("last", "add", instance.name, "0", instance=instance)
        if asked.outcome != "ok":
            raise Violation("stuck", f"after all faults ended: {asked}")

    async def _settled(self, call: Coroutine[object, object, T]) -> T:
        try:
            async with asyncio.timeout(SETTLED_S):
                return await call
        except TimeoutError:
            raise Violation("stuck", "after all faults ended nothing was settled") from None


def _refused(asked: Asked, error: errors.IdserviceError) -> None:
    asked.code = error.code
    fields = error.fields
    if isinstance(error, errors.OutOfBounds):
        asked.outcome = "refused"
        amount, sum = Decimal(str(fields["amount"])), Decimal(str(fields["sum"]))
        rev, at = fields["rev"], fields["at"]
        assert isinstance(rev, int) and isinstance(at, int)  # noqa: PT018
        asked.entry = Entry(asked.key, False, amount, sum, rev, at)
        asked.replayed = bool(fields["replayed"])
    elif isinstance(error, errors.KeyReused):
        asked.outcome, asked.first = "reused", Decimal(str(fields["amount"]))
    elif isinstance(error, errors.UnknownAdd):
        asked.outcome = "absent"
    elif error.outcome == errors.NOT_APPLIED and not isinstance(error, errors.StoreError):
        asked.outcome = "not_applied"


def _entry(told: Told) -> Entry:
    record = told.record
    amount, sum = (Decimal(written(one, told.decimals)) for one in (record.amount, record.sum))
    return Entry(record.key, record.fate.counts, amount, sum, record.rev, record.at)
