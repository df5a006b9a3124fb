"""The program whose disk loses power: it uses the real SQLite store, and writes down in the same
folder what it was told, as it is told it.

    python -m tests.prove.power_run FOLDER SEED STEPS [PRAGMA=VALUE]...

With pragmas the store, once created, believes in its own settings and has these: planted faults.
Two more words are those of `power_tallies`.
"""

import asyncio
import json
import logging
import os
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from idservice.allocation import give_back
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Configure, Fence, SetNext
from idservice.catalogue.counters import new_counter
from idservice.stores.records import ACTIVE, SUSPENDED, Counter, Grant
from idservice.stores.sqlite import store as sqlite
from tests.prove.power_tallies import ALONE, SPLIT, TallyProgram, split_commits

DATABASE, TOLD = "ids.db", "told"  # files in the folder
NAMES = ("default", "orders")


class Told:
    """One line per thing that the program knows from then on."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / TOLD, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, what: str, name: str = "", **rest: object) -> None:
        line = json.dumps({"what": what, "name": name, **rest})
        os.write(self._file, line.encode() + b"\n")


class Program:
    """One instance after the other on one file, and an operator beside them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = Random(seed)
        self.told = Told(folder)
        self.path = str(folder / DATABASE)
        self.last: dict[str, tuple[Counter, Grant]] = {}
        self.held: dict[str, list[range]] = {}

    async def create(self) -> None:
        async with sqlite.SQLiteStore(self.path) as store:
            await store.init(new_counter(NAMES[0], self.rng))
            self.told("created", NAMES[0])
            await store.create(new_counter(NAMES[1], self.rng, start=1000))
            self.told("created", NAMES[1])

    async def use(self, steps: int) -> None:
        async with sqlite.SQLiteStore(self.path) as store:
            for _ in range(steps):
                do = self.rng.choice((self.reserve,) * 6 + (self.stop,) * 2 + (self.change,))
                await do(store, self.rng.choice(NAMES))

    async def reserve(self, store: sqlite.SQLiteStore, name: str) -> None:
        counter = await store.counter(name)
        assert counter is not None
        begins = name not in self.last or self.last[name][0].epoch != counter.epoch
        seen = 0 if begins else self.last[name][1].indices.stop
        count = self.rng.choice((1, 5, 40))
        end = counter.layout().end
        grant = await store.reserve(counter, count=count, seen=seen, room=end - count)
        ids = [counter.layout().ids(grant.indices)]
        self.told("holds", name, ranges=[[block.start, block.stop] for block in ids])
        if begins and grant.returned:
            claimed = await give_back.claim(store, counter, grant)
            self.told("holds", name, ranges=[[block.start, block.stop] for block in claimed])
            ids += claimed
        self.last[name] = counter, grant
        self.held[name] = ids

    async def stop(self, store: sqlite.SQLiteStore, name: str) -> None:
        """Some ids are used, the rest goes back; whoever comes next may claim it."""
        if name not in self.last:
            return
        counter, grant = self.last.pop(name)
        entry = await store.counter(name)
        unused = [block[self.rng.randint(0, len(block)) :] for block in self.held.pop(name)]
        if entry is None or entry.epoch != counter.epoch or not any(unused):
            return
        self.told("lets_go", name, ranges=[[block.start, block.stop] for block in unused if block])
        await give_back.give_back(
            store, counter, [block for block in unused if block], rev=grant.rev,
            end=grant.indices.stop,
        )  # fmt: skip

    async def change(self, store: sqlite.SQLiteStore, name: str) -> None:
        changer = EpochChanger(store, random=self.rng, stale_s=0.0)
        for wish in self.rng.choice(
            (
                [SetNext(next=self.rng.randint(2000, 3000))],
                [Configure(state=SUSPENDED), Configure(state=ACTIVE)],
                [Fence(ahead=self.rng.randint(0, 9))],
            )
        ):
            entry = await store.counter(name)
            assert entry is not None
            if isinstance(wish, SetNext):  # above whatever there is
                found = await store.position(entry)
                assert found is not None
                wish = SetNext(next=entry.base + found.next + wish.next)
            self.told("begins", name)
            _, after = await changer.change(name, wish)
            self.told("changed", name, ordinal=after.ordinal, state=after.state)


def weakened(pragmas: Mapping[str, str]) -> type[sqlite3.Connection]:
    """Connections that have other settings than they say."""

    class Weakened(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            words, _, value = statement.partition("=")
            pragma = words.removeprefix("PRAGMA ").lower()
            if words.startswith("PRAGMA") and pragma in pragmas:
                if value:
                    super().execute(f"PRAGMA {pragma}={pragmas[pragma]}")
                    self.said = {**getattr(self, "said", {}), pragma: value}
                    return super().execute("SELECT 1")
                said = self.said[pragma].lower()
                return super().execute("SELECT ?", (3 if said == "extra" else said,))
            return super().execute(statement, *arguments)

    return Weakened


def main() -> None:
    folder, seed, steps, *pragmas = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    program = Program(Path(folder), int(seed))
    asyncio.run(program.create())
    if pragmas:
        connect, kind = sqlite3.connect, weakened(dict(pragma.split("=") for pragma in pragmas))
        sqlite3.connect = lambda *a, **b: connect(*a, factory=kind, **b)  # type: ignore[assignment]
    if SPLIT in pragmas:
        split_commits()
    adds = int(steps)
    if ALONE not in pragmas:
        asyncio.run(program.use(int(steps)))
        adds //= 2
    asyncio.run(TallyProgram(program.told, program.rng).use(program.path, adds))


if __name__ == "__main__":
    main()
