"""The power cut under tallies: what a program was told of them, and what a disk must still have.

Both or neither: a sum is what its records make, wherever the power is cut. An add that was told is
in both (T2), and one that was begun is decided by its record alone (T1).
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from idservice.core.tally import (
    AddRecord,
    Tally,
    TallyChange,
    TallyState,
    Wanted,
    changed,
    planned,
)
from idservice.stores.sqlite import tallies as sqlite_tallies
from idservice.stores.sqlite.store import SQLiteStore
from idservice.stores.tally_store import TallyStore
from idservice.tallies.audit import audited
from tests.simulation.checker import Violation

NAMES = ("gifts", "seats")
ALONE = "only=tallies"  # beside pragmas: the program uses no counters
SPLIT = "commit=split"  # beside pragmas, a planted fault: two transactions in place of one


class TallyProgram:
    """Adds to two tallies, and sometimes suspends one."""

    def __init__(self, told: Callable[..., None], rng: Random) -> None:
        self.told = told
        self.rng = rng
        self.number = 0

    async def use(self, path: str, steps: int) -> None:
        async with SQLiteStore(path) as store:
            sums = store.tallies
            for name in NAMES:
                await sums.create(Tally(name, floor=-5, ceiling=40))
                self.told("tally_created", name)
            for _ in range(steps):
                do = self.rng.choice((self.add,) * 6 + (self.change,))
                await do(sums, self.rng.choice(NAMES))

    async def add(self, sums: TallyStore, name: str) -> None:
        tally = await sums.tally(name)
        assert tally is not None
        many = self.rng.randint(1, 3)
        keys = [f"k{self.number + at}" for at in range(many)]
        self.number += many - (self.rng.random() < 0.3)  # sometimes a key comes again
        wanted = [Wanted(key, self.rng.randint(-3, 9)) for key in keys]
        self.told("tally_adds", name, keys={one.key: one.amount for one in wanted})
        commit = planned(tally, wanted, now=tally.at + 1)
        beaten = await sums.commit(commit)
        records = commit.records if beaten is None else beaten.records.values()
        self.told("tally_added", name, records=[msgspec.to_builtins(one) for one in records])

    async def change(self, sums: TallyStore, name: str) -> None:
        for state in (TallyState.SUSPENDED, TallyState.ACTIVE):
            before = await sums.tally(name)
            assert before is not None
            self.told("tally_changes", name)
            assert await sums.rewrite(before, in_state(before, state))
            self.told("tally_changed", name, state=state.value)


def in_state(tally: Tally, state: TallyState) -> Tally:
    change = TallyChange("change", "me", tally.at)
    return changed(tally, state=state, floor=tally.floor, ceiling=tally.ceiling, change=change)


def split_commits() -> None:
    """From now on the sum is committed before the records of its adds."""

    class Split:
        def __init__(self, database: sqlite3.Connection) -> None:
            self._database = database

        def execute(self, *what: Any) -> sqlite3.Cursor:
            return self._database.execute(*what)

        def executemany(self, *what: Any) -> sqlite3.Cursor:
            self._database.execute("COMMIT")
            self._database.execute("BEGIN IMMEDIATE")
            return self._database.executemany(*what)

    whole: Any = sqlite_tallies._commit
    sqlite_tallies._commit = lambda database, commit: whole(Split(database), commit)


# --- what is known when the power goes ------------------------------------------------------------


@dataclass
class KnownTally:
    """What was told of one tally."""

    records: dict[str, AddRecord] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)  # amounts by key
    state: TallyState = TallyState.ACTIVE
    changing: bool = False


@dataclass
class KnownTallies:
    """What was told of all of them."""

    by_name: dict[str, KnownTally] = field(default_factory=dict)

    @property
    def told(self) -> int:
        """How many records the program was told of."""
        return sum(len(one.records) for one in self.by_name.values())

    def learn(self, line: Mapping[str, Any]) -> bool:
        """Take note of a line of the program; False if it is not about tallies."""
        if not line["what"].startswith("tally_"):
            return False
        known = self.by_name.setdefault(line["name"], KnownTally())
        match line["what"]:
            case "tally_adds":
                known.begun |= {key: line["keys"][key] for key in line["keys"].keys() - known.begun}
            case "tally_added":
                for one in line["records"]:
                    record = msgspec.convert(one, AddRecord)
                    known.records[record.key] = record
            case "tally_changes":
                known.changing = True
            case "tally_changed":
                known.changing, known.state = False, TallyState(line["state"])
        return True

    async def check(self, sums: TallyStore, when: str) -> None:
        """Hold a disk against it. Raises Violation."""
        for name, known in self.by_name.items():
            tally = await sums.tally(name)
            if tally is None:
                raise Violation("lost", f"tally {name} {when}")
            if tally.state is not known.state and not known.changing:
                raise Violation("lost", f"state {known.state} of {name} {when}")
            await _check_records(sums, tally, known, when)
            await _go_on(sums, tally, known, when)


async def _check_records(sums: TallyStore, tally: Tally, known: KnownTally, when: str) -> None:
    records = {record.key: record async for record in sums.every_record(tally.name, tally.inc)}
    for key, record in known.records.items():
        if records.get(key) != record:
            raise Violation("lost", f"{record}, found {records.get(key)} {when}")
    if not records.keys() <= known.begun.keys():
        raise Violation("sum", f"keys of nobody in {tally.name} {when}")
    audit = await audited(sums, tally)
    if not audit.agrees:
        raise Violation("sum", f"{audit} {when}")


async def _go_on(sums: TallyStore, tally: Tally, known: KnownTally, when: str) -> None:
    """Send everything again, and a new add: only what has no record is counted."""
    if tally.state is TallyState.SUSPENDED:
        active = in_state(tally, TallyState.ACTIVE)
        assert await sums.rewrite(tally, active)
        tally = active
    there = await sums.records(tally, [*known.begun])
    left = {key: amount for key, amount in known.begun.items() if key not in there}
    wanted = [Wanted(key, amount) for key, amount in {**left, "new": 1}.items()]
    beaten = await sums.commit(planned(tally, wanted, now=tally.at))
    found = await sums.tally(tally.name)
    assert found is not None
    if beaten is not None or not (await audited(sums, found)).agrees:
        raise Violation("sum", f"{beaten}, {found} after all adds were sent again {when}")
