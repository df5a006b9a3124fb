"""Tallies in memory, and one instance's way to them over a network that is not kind.

`TallyTable` is what the store holds, and every operation on it happens at one instant. It notes
each write, so that a checker need not believe what services say.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, TypeVar

from idservice.core.tally import AddRecord, Commit, Tally, TallyState, is_as_it_was
from idservice.stores.tally_store import Beaten

T = TypeVar("T")

Call = Callable[[str, Callable[[bool], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Written:
    """One write as it was applied, at a moment in the order of everything that happened."""

    event: int
    before: Tally | None
    after: Tally
    inc: int  # of the records
    records: tuple[AddRecord, ...]


class TallyTable:
    """The tallies and their records, and all that was ever written of them."""

    def __init__(self) -> None:
        self.items: dict[str, Tally] = {}
        self.made: dict[tuple[str, int, str], AddRecord] = {}  # by name, incarnation and key
        self.log: list[Written] = []
        self.event: Callable[[], int] = count(1).__next__

    def tally(self, name: str) -> Tally | None:
        return self.items.get(name)

    def create(self, tally: Tally) -> Tally:
        found = self.items.get(tally.name)
        if found is None:
            self.write(tally, tally.inc, ())
        return found or tally

    def rewrite(self, before: Tally, after: Tally) -> bool:
        found = self.items.get(before.name)
        if found is None or not is_as_it_was(found, before):
            return False
        self.write(after, after.inc, ())
        return True

    def commit(self, commit: Commit) -> Beaten | None:
        beaten = self.judge(commit)
        if beaten is None:
            self.write(commit.after, commit.before.inc, commit.records)
        return beaten

    def judge(self, commit: Commit) -> Beaten | None:
        """Why a commit cannot be applied now; None if it can."""
        found = self.items.get(commit.before.name)
        if found is None:
            return Beaten(missing=True)
        there = self.records(commit.before, [one.key for one in commit.records])
        same = self.holds(found, commit.before)
        return Beaten(None if same else found, there) if there or not same else None

    def holds(self, found: Tally, before: Tally) -> bool:
        """Whether the condition on the tally holds."""
        wanted = (before.rev, before.inc, TallyState.ACTIVE, before.sum, before.adds, before.at)
        return (found.rev, found.inc, found.state, found.sum, found.adds, found.at) == wanted

    def write(self, after: Tally, inc: int, records: tuple[AddRecord, ...]) -> None:
        before = self.items.get(after.name)
        self.items[after.name] = after
        self.made |= {(after.name, inc, one.key): one for one in records}
        self.log.append(Written(self.event(), before, after, inc, records))

    def records(self, tally: Tally, keys: Sequence[str]) -> dict[str, AddRecord]:
        known = ((key, self.made.get((tally.name, tally.inc, key))) for key in keys)
        return {key: record for key, record in known if record is not None}

    def every_record(self, name: str, inc: int) -> list[AddRecord]:
        return [one for (of, its, _), one in self.made.items() if (of, its) == (name, inc)]


async def _at_once(action: str, apply: Callable[[bool], Any]) -> Any:
    return apply(False)


class SimTallies:
    """A `TallyStore` over a table. Each operation is a `call`; `conflicts` is the probability that
    another transaction is in the way of a commit."""

    def __init__(
        self,
        table: TallyTable | None = None,
        call: Call = _at_once,
        *,
        random: Random | None = None,
        conflicts: Callable[[], float] = float,
    ) -> None:
        self.table = table if table is not None else TallyTable()
        self.items, self.made = self.table.items, self.table.made
        self.call = call
        self._random = random or Random(0)
        self._conflicts = conflicts

    async def tally(self, name: str) -> Tally | None:
        found: Tally | None = await self.call("read", lambda _: self.table.tally(name))
        return found

    async def tallies(self) -> list[Tally]:
        return [self.items[name] for name in sorted(self.items)]

    async def create(self, tally: Tally) -> Tally:
        found: Tally = await self.call("create", lambda _: self.table.create(tally))
        return found

    async def rewrite(self, before: Tally, after: Tally) -> bool:
        done: bool = await self.call("rewrite", lambda _: self.table.rewrite(before, after))
        return done

    async def commit(self, commit: Commit) -> Beaten | None:
        def apply(copy: bool) -> Beaten | None:
            if self._random.random() < self._conflicts():
                return self._in_the_way(self.table.judge(commit))
            return self.table.commit(commit)

        beaten: Beaten | None = await self.call("commit", apply)
        return beaten

    def _in_the_way(self, judged: Beaten | None) -> Beaten:
        """A conflict alone, or with some of what else is in the way."""
        rng = self._random
        if judged is None or judged.missing or rng.random() < 0.3:
            return Beaten(conflict=True)
        keys = [key for key in judged.records if rng.random() < 0.7]
        tally = judged.tally if rng.random() < 0.5 else None
        return Beaten(tally, {key: judged.records[key] for key in keys}, conflict=True)

    async def records(self, tally: Tally, keys: Sequence[str]) -> dict[str, AddRecord]:
        found: dict[str, AddRecord] = await self.call(
            "read", lambda _: self.table.records(tally, keys)
        )
        return found

    async def every_record(self, name: str, inc: int) -> AsyncIterator[AddRecord]:
        for record in await self.call("read", lambda _: self.table.every_record(name, inc)):
            yield record
            await asyncio.sleep(0)
