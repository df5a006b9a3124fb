"""Tallies in a file: an older copy of it is noticed, and nothing is written in part."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.catalogue.counters import new_counter
from idservice.core.tally import Tally, Wanted, planned
from idservice.stores.sqlite.store import SQLiteStore
from idservice.stores.tally_store import TallyStore

GIFTS = Tally("gifts")
FIRST = planned(GIFTS, [Wanted("a", 5)], now=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ids.db"


@pytest.fixture
async def sums(path: Path) -> AsyncIterator[TallyStore]:
    """A file with a tally and one add."""
    async with SQLiteStore(str(path)) as store:
        await store.init(new_counter("default", Random(1)))
        await store.tallies.create(GIFTS)
        assert await store.tallies.commit(FIRST) is None
        yield store.tallies


def by_hand(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        found = database.execute(statement).fetchall()
        database.commit()
        return found


async def written(sums: TallyStore, what: str) -> None:
    match what:
        case "create":
            await sums.create(Tally("seats"))
        case "commit":
            assert await sums.commit(planned(FIRST.after, [Wanted("b", 1)], now=2)) is None
        case "rewrite":
            assert await sums.rewrite(FIRST.after, replace(FIRST.after, rev=2))


@pytest.mark.parametrize("what", ["create", "commit", "rewrite"])
async def test_an_older_copy_is_noticed_after_each_write(
    path: Path, sums: TallyStore, what: str
) -> None:
    """Its inode stays, and so does its birth: `cp old.db ids.db`."""
    older = path.read_bytes()
    await written(sums, what)
    with path.open("r+b") as file:
        file.write(older)
    for asked in (
        lambda: sums.tally("gifts"),
        lambda: sums.commit(FIRST),
        lambda: sums.records(GIFTS, ["a"]),
        lambda: sums.create(GIFTS),
    ):
        with pytest.raises(errors.NotApplied, match="replaced"):
            await asked()


async def test_what_is_refused_or_there_already_counts_no_write_of_its_own(
    path: Path, sums: TallyStore
) -> None:
    count = "SELECT writes FROM file"
    before = by_hand(path, count)
    await sums.create(GIFTS)
    assert not await sums.rewrite(GIFTS, replace(GIFTS, rev=1))
    assert await sums.commit(planned(GIFTS, [Wanted("b", 1)], now=2)) is not None
    await sums.tally("gifts")
    assert by_hand(path, count) == before
    # A record that is told is made sure by a write after it.
    assert list(await sums.records(GIFTS, ["a"])) == ["a"]
    assert by_hand(path, count) == [(before[0][0] + 1,)]


@pytest.mark.parametrize("table", ["tally", "tally_add"])
async def test_a_commit_that_fails_half_way_writes_neither_sum_nor_record(
    path: Path, sums: TallyStore, table: str
) -> None:
    when = "AFTER UPDATE" if table == "tally" else "AFTER INSERT"
    boom = f"CREATE TRIGGER boom {when} ON {table} BEGIN SELECT RAISE(ABORT, 'boom'); END"
    by_hand(path, boom)
    commit = planned(FIRST.after, [Wanted("b", 1), Wanted("c", 1)], now=2)
    with pytest.raises(errors.NotApplied, match="boom"):
        await sums.commit(commit)
    by_hand(path, "DROP TRIGGER boom")
    assert await sums.tally("gifts") == FIRST.after
    assert [one.key async for one in sums.every_record("gifts", 1)] == ["a"]
    assert await sums.commit(commit) is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE tally SET state = 'odd'", "tally 'gifts' has the state 'odd'"),
        ("UPDATE tally_add SET kind = 'odd'", "key 'a' has the fate 'odd'"),
    ],
)
async def test_a_row_that_cannot_be_read_is_named_and_not_guessed(
    path: Path, sums: TallyStore, change: str, named: str
) -> None:
    by_hand(path, change)
    asked: list[Any] = [sums.commit(planned(FIRST.after, [Wanted("a", 5)], now=2))]
    if "state" in change:
        asked += [sums.tally("gifts"), sums.tallies(), sums.rewrite(FIRST.after, GIFTS)]
    else:
        asked += [sums.records(GIFTS, ["a"]), anext(sums.every_record("gifts", 1))]
    for each in asked:
        with pytest.raises(errors.NotApplied, match=named):
            await each
