"""A committer on virtual time, over a store that a test lets wait, fail or answer otherwise."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

from idservice import errors
from idservice.core.tally import AddRecord, Commit, Tally
from idservice.observability.store_health import StoreHealth
from idservice.stores.tally_store import Beaten
from idservice.tallies.context import TallyContext
from idservice.tallies.own import OwnTallies
from tests.simulation.tally_store import SimTallies

NAME, WAIT_S = "gifts", 2.0

Hook = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    """Lets an operation go on."""


class Watched(SimTallies):
    """Notes what it is asked. A test puts hooks before or behind an operation."""

    def __init__(self, *tallies: Tally) -> None:
        super().__init__()
        self.items |= {tally.name: tally for tally in tallies}
        self.asked: list[str] = []
        self.before: dict[str, Hook] = {}
        self.behind: dict[str, Hook] = {}

    async def tally(self, name: str) -> Tally | None:
        self.asked.append("tally")
        await self.before.get("tally", _nothing)()
        found = await super().tally(name)
        await self.behind.get("tally", _nothing)()
        return found

    async def commit(self, commit: Commit) -> Beaten | None:
        self.asked.append("commit")
        await self.before.get("commit", _nothing)()
        beaten = await super().commit(commit)
        await self.behind.get("commit", _nothing)()
        return beaten

    async def records(self, tally: Tally, keys: Sequence[str]) -> dict[str, AddRecord]:
        found = await super().records(tally, keys)
        await self.behind.get("records", _nothing)()
        return found


class Once:
    """A hook that works at its first call alone."""

    def __init__(self, hook: Callable[[], Awaitable[object] | None]) -> None:
        self._hook = hook
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.calls == 1 and (more := self._hook()) is not None:
            await more


def unknown() -> errors.OutcomeUnknown:
    """What a store says whose answer was lost."""
    return errors.OutcomeUnknown(store="sim:", action="counting", why="connection reset")


async def lost() -> None:
    """Loses an answer."""
    raise unknown()


@asynccontextmanager
async def instance(
    store: SimTallies, *, wait_s: float = WAIT_S, waiting_max: int = 10_000
) -> AsyncIterator[OwnTallies]:
    """The tallies of an instance, which ends with the block."""
    tasks: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as group:

        def spawn(work: object) -> asyncio.Task[None]:
            task: asyncio.Task[None] = group.create_task(work)  # type: ignore[arg-type]
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task

        loop = asyncio.get_running_loop()
        health = StoreHealth()
        yield OwnTallies(
            TallyContext(store, "sim:", health, spawn, Random(1), loop.time, wait_s, waiting_max)
        )
        for task in tasks:
            task.cancel()


async def soon(times: int = 20) -> None:
    """Let everybody go on as far as they can without time."""
    for _ in range(times):
        await asyncio.sleep(0)
