"""A store of tallies in memory whose calls take a set time, and instances on it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from random import Random

from idservice.core.tally import AddRecord, Commit, Tally, TallyState
from idservice.observability.store_health import StoreHealth
from idservice.stores.tally_store import Beaten
from idservice.tallies.context import TallyContext
from idservice.tallies.own import OwnTallies

NAME = "sum"
WAY = 0.2  # the part of a call for the way to the store, and the same for the way back
WAIT_S = 10.0  # for which an add waits at most

Pause = Callable[[float], Awaitable[None]]


async def slept(seconds: float) -> None:
    """Pause on a thread: the timers of a loop are in whole milliseconds."""
    await asyncio.to_thread(time.sleep, seconds)


class SlowTallies:
    """A `TallyStore` with one tally, whose calls take `call_s`, by `pause`.

    `commits` counts commits by result, `commit_s` is their time, `reads` counts reads of the tally.
    """

    def __init__(self, call_s: float, pause: Pause = slept) -> None:
        self.commits = {"done": 0, "beaten": 0, "conflict": 0}
        self.commit_s = 0.0
        self.reads = 0
        self.made: dict[str, AddRecord] = {}
        self._tally = Tally(NAME)
        self._call_s = call_s
        self._pause = pause

    @property
    def sum(self) -> int:
        """Return the sum."""
        return self._tally.sum

    async def tally(self, name: str) -> Tally | None:
        """Return the tally as it is when the read begins."""
        self.reads += 1
        found = self._tally
        await self._pause(self._call_s)
        return found

    async def commit(self, commit: Commit) -> Beaten | None:
        """Write the tally and its records."""
        began = time.perf_counter()
        beaten = await self._commit(commit)
        self.commits[_result(beaten)] += 1
        self.commit_s += time.perf_counter() - began
        return beaten

    async def _commit(self, commit: Commit) -> Beaten | None:
        beaten = self._judged(commit)
        await self._pause(self._call_s)
        return beaten

    def _judged(self, commit: Commit) -> Beaten | None:
        there = {one.key: self.made[one.key] for one in commit.records if one.key in self.made}
        found, before = self._tally, commit.before
        wanted = (before.rev, before.inc, TallyState.ACTIVE)
        same = (found.rev, found.inc, found.state) == wanted
        if there or not same:
            return Beaten(tally=None if same else found, records=there)
        self._tally = commit.after
        self.made |= {one.key: one for one in commit.records}
        return None

    async def records(self, tally: Tally, keys: Sequence[str]) -> dict[str, AddRecord]:
        """Return the records of these keys."""
        return {key: self.made[key] for key in keys if key in self.made}

    async def tallies(self) -> list[Tally]:
        """Return the only one."""
        return [self._tally]

    async def create(self, tally: Tally) -> Tally:
        """Return the only one: it exists already."""
        return self._tally

    async def rewrite(self, before: Tally, after: Tally) -> bool:
        """Refuse, because no tally is changed here."""
        return False

    async def every_record(self, name: str, inc: int) -> AsyncIterator[AddRecord]:
        """Yield the records."""
        for record in self.made.values():
            yield record


class ContendedTallies(SlowTallies):
    """The same for instances that commit at the same time. Calls differ by up to a fifth, so that
    none are in step. A transaction that meets another one is cancelled with a conflict, and without
    the tally, as on DynamoDB."""

    def __init__(self, call_s: float) -> None:
        self._random = Random(1)
        self._busy = False
        super().__init__(call_s, lambda s: asyncio.sleep(s * self._random.uniform(0.8, 1.2)))

    async def _commit(self, commit: Commit) -> Beaten | None:
        await self._pause(self._call_s * WAY)
        beaten: Beaten | None = Beaten(conflict=True)
        if not self._busy:
            beaten = self._judged(commit)
            self._busy = beaten is None
            await self._pause(self._call_s * (1 - 2 * WAY))
            if beaten is None:
                self._busy = False
        await self._pause(self._call_s * WAY)
        return beaten


def _result(beaten: Beaten | None) -> str:
    if beaten is None:
        return "done"
    return "conflict" if beaten.conflict else "beaten"


@asynccontextmanager
async def instances(store: SlowTallies, count: int) -> AsyncIterator[list[OwnTallies]]:
    """Yield the tallies of `count` instances on one store."""
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def own(seed: int) -> OwnTallies:
        context = TallyContext(
            store, "memory:", StoreHealth(), spawn, Random(seed), time.time, WAIT_S, 10_000
        )  # fmt: skip
        return OwnTallies(context)

    yield [own(seed) for seed in range(count)]
    for task in tasks:
        task.cancel()
