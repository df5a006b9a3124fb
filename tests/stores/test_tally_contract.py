"""The contract of `TallyStore`, kept by every store alike."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from idservice.core.amounts import AMOUNT_MAX
from idservice.core.tally import (
    ADDS_MAX,
    AddFate,
    AddRecord,
    Commit,
    Tally,
    TallyChange,
    TallyState,
    Wanted,
    changed,
    planned,
    reborn,
)
from idservice.stores.dynamodb import tally_items
from idservice.stores.protocol import CatalogueStore
from idservice.stores.sqlite import tallies as sqlite_tallies
from idservice.stores.tally_store import Beaten, TallyStore

NOW = 1_800_000_000_000
LONG_NAME, LONG_KEY = "n" * 64, "~:k-" * 32


@pytest.fixture
def sums(store: CatalogueStore) -> TallyStore:
    return store.tallies


@pytest.fixture
def others(other: CatalogueStore) -> TallyStore:
    """The same tallies by another handle: an instance that remembers nothing."""
    return other.tallies


def plan(tally: Tally, *wanted: Wanted | str, now: int = NOW) -> Commit:
    """The commit of these requests; a text is the key of an add of 1."""
    asked = [Wanted(one, 1) if isinstance(one, str) else one for one in wanted]
    return planned(tally, asked, now=now)


async def done(sums: TallyStore, tally: Tally, *wanted: Wanted | str) -> Tally:
    """The tally after a commit that nothing is in the way of."""
    commit = plan(tally, *wanted)
    assert await sums.commit(commit) is None
    return commit.after


def with_state(tally: Tally, state: TallyState, reason: str = "") -> Tally:
    change = TallyChange("change", "me", NOW, reason)
    return changed(tally, state=state, floor=tally.floor, ceiling=tally.ceiling, change=change)


async def suspended(sums: TallyStore, tally: Tally) -> Tally:
    after = with_state(tally, TallyState.SUSPENDED)
    assert await sums.rewrite(tally, after)
    return after


async def every(sums: TallyStore, name: str, inc: int = 1) -> list[AddRecord]:
    found = [record async for record in sums.every_record(name, inc)]
    return sorted(found, key=lambda record: record.key)


# --- create and read ------------------------------------------------------------------------------

PLAIN = Tally("gifts")
FULL = Tally(
    "gifts", 9, -AMOUNT_MAX, AMOUNT_MAX, -1, -AMOUNT_MAX, AMOUNT_MAX, rev=7, inc=3,
    state=TallyState.SUSPENDED, at=NOW, adds=5, change=TallyChange("create", "me", NOW, "why: ü"),
)  # fmt: skip


@pytest.mark.parametrize("tally", [PLAIN, FULL], ids=["plain", "full"])
async def test_a_tally_is_read_back_as_it_was_created(
    sums: TallyStore, others: TallyStore, tally: Tally
) -> None:
    assert await sums.create(tally) is tally
    assert await others.tally("gifts") == tally
    assert await others.tallies() == [tally]


async def test_where_no_tally_is_nothing_is_found_or_written(sums: TallyStore) -> None:
    for name in ("gifts", LONG_NAME):  # the second time, another tally is there
        tally = Tally(name)
        assert await sums.tally(name) is None
        assert await sums.commit(plan(tally, "a")) == Beaten(missing=True)
        assert not await sums.rewrite(tally, with_state(tally, TallyState.SUSPENDED))
        assert await sums.records(tally, ["a"]) == {}
        assert await every(sums, name) == []
        assert await sums.tally(name) is None
        await sums.create(Tally("other"))
    assert await sums.tallies() == [Tally("other")]


@pytest.mark.parametrize("other", [{"sum": 4}, {"adds": 4}, {"inc": 2}, {"at": 4}])
async def test_a_sum_that_is_not_as_it_was_at_its_revision_is_not_written_over(
    sums: TallyStore, other: dict[str, int]
) -> None:
    """A store that was restored and written since has come to the same revision with it."""
    known = replace(PLAIN, rev=3, sum=3, adds=3)
    there = replace(known, **other)
    await sums.create(there)
    assert await sums.commit(plan(known, "a")) == Beaten(there)
    assert not await sums.rewrite(known, with_state(known, TallyState.SUSPENDED))
    assert await sums.tally("gifts") == there


async def test_who_creates_second_is_told_of_the_first(
    sums: TallyStore, others: TallyStore
) -> None:
    first = await sums.create(Tally("gifts", floor=0))
    assert await others.create(Tally("gifts", decimals=2)) == first
    assert await sums.create(first) == first  # once more, as after an unknown outcome
    assert await others.tally("gifts") == first
    later = await done(sums, first, "a")
    assert await others.create(first) == later


async def test_of_twenty_who_create_one_does(sums: TallyStore, others: TallyStore) -> None:
    wishes = [Tally("gifts", start=start, sum=start) for start in range(20)]
    told = await asyncio.gather(
        *((sums, others)[wish.start % 2].create(wish) for wish in wishes)
    )  # fmt: skip
    assert set(told) == {await sums.tally("gifts")}
    assert sum(one is wish for one, wish in zip(told, wishes, strict=True)) == 1


async def test_tallies_are_listed_by_name(sums: TallyStore) -> None:
    made = [await sums.create(Tally(name)) for name in ("b", LONG_NAME, "a", "b.1")]
    await sums.create(Tally("c"))
    later = await suspended(sums, Tally("c"))
    await done(sums, made[0], "x")
    listed = await sums.tallies()
    assert [tally.name for tally in listed] == ["a", "b", "b.1", "c", LONG_NAME]
    assert listed[3] == later


# --- commit ---------------------------------------------------------------------------------------


async def test_a_commit_writes_the_tally_and_a_record_of_each_add(
    sums: TallyStore, others: TallyStore
) -> None:
    tally = await sums.create(replace(FULL, state=TallyState.ACTIVE, sum=0, floor=-10, ceiling=10))
    wanted = [
        Wanted("counted", 7), Wanted("refused", 4), Wanted(LONG_KEY, -3),
        Wanted("set", -10, sets=True, by="me: ü"), Wanted("set-refused", 11, sets=True, by="you"),
    ]  # fmt: skip
    commit = plan(tally, *wanted)
    fates = [record.fate for record in commit.records]
    assert fates == [*(AddFate(key.key) for key in wanted[:2]), AddFate.COUNTED, *list(AddFate)[2:]]
    assert await sums.commit(commit) is None
    assert await others.tally("gifts") == commit.after
    by_key = {record.key: record for record in commit.records}
    assert await others.records(tally, [*by_key, "absent"]) == by_key
    assert await every(others, "gifts", tally.inc) == sorted(
        commit.records, key=lambda record: record.key
    )


async def test_sums_and_differences_are_exact_from_bound_to_bound(sums: TallyStore) -> None:
    tally = await sums.create(Tally("gifts"))
    tally = await done(sums, tally, Wanted("up", AMOUNT_MAX), Wanted("over", 1))
    assert (tally.sum, await sums.tally("gifts")) == (AMOUNT_MAX, tally)
    tally = await done(sums, tally, Wanted("down", -AMOUNT_MAX, sets=True, by="me"))
    tally = await done(sums, tally, Wanted("under", -1), Wanted("one", 1))
    assert await sums.tally("gifts") == tally
    keys = ["up", "over", "down", "under", "one"]
    records = await sums.records(tally, keys)
    assert [(records[key].amount, records[key].sum) for key in keys] == [
        (AMOUNT_MAX, AMOUNT_MAX), (1, AMOUNT_MAX), (-2 * AMOUNT_MAX, -AMOUNT_MAX),
        (-1, -AMOUNT_MAX), (1, 1 - AMOUNT_MAX),
    ]  # fmt: skip


WRONG: dict[str, dict[str, Any]] = {
    "rev": {"rev": 4},
    "inc": {"inc": 2},
    "suspended": {"state": TallyState.SUSPENDED},
    "deleted": {"state": TallyState.DELETED},
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_commit_needs_the_tally_as_it_was_planned_from(sums: TallyStore, what: str) -> None:
    """Each condition by itself: the others hold."""
    believed = Tally("gifts", rev=3)
    found = await sums.create(replace(believed, **WRONG[what]))
    assert await sums.commit(plan(believed, "a", "b")) == Beaten(tally=found)
    assert await sums.tally("gifts") == found
    assert await sums.records(believed, ["a", "b"]) == await sums.records(found, ["a", "b"]) == {}


async def test_a_commit_with_a_record_that_is_there_writes_nothing_at_all(
    sums: TallyStore, others: TallyStore
) -> None:
    tally = await sums.create(Tally("gifts"))
    first = plan(tally, "a", "b")
    assert await sums.commit(first) is None
    second = plan(first.after, "new", Wanted("b", 5), "newer")
    assert await others.commit(second) == Beaten(records={"b": first.records[1]})
    assert await sums.tally("gifts") == first.after
    assert await sums.records(tally, ["new", "newer"]) == {}
    assert await every(sums, "gifts") == list(first.records)


async def test_a_commit_is_told_both_the_tally_and_the_records_in_its_way(
    sums: TallyStore,
) -> None:
    tally = await sums.create(Tally("gifts"))
    first = plan(tally, "a", "b")
    assert await sums.commit(first) is None
    found = await suspended(sums, first.after)
    told = await sums.commit(plan(tally, "new", "a", "b"))
    assert told == Beaten(found, {record.key: record for record in first.records})


async def test_a_commit_has_ninety_nine_adds_with_the_longest_names(sums: TallyStore) -> None:
    tally = await sums.create(Tally(LONG_NAME))
    keys = [f"{n:02}{LONG_KEY[2:]}" for n in range(ADDS_MAX)]
    commit = plan(tally, *(Wanted(key, AMOUNT_MAX - 98, sets=True, by="m" * 64) for key in keys))
    assert await sums.commit(commit) is None
    assert await sums.tally(LONG_NAME) == commit.after
    by_key = {record.key: record for record in commit.records}
    assert await sums.commit(commit) == Beaten(commit.after, by_key)


async def test_of_twenty_commits_at_once_one_is_done(sums: TallyStore, others: TallyStore) -> None:
    tally = await sums.create(Tally("gifts"))
    commits = [plan(tally, Wanted(f"k{n}", n), "shared") for n in range(20)]
    told = await asyncio.gather(
        *((sums, others)[n % 2].commit(commit) for n, commit in enumerate(commits))
    )
    [winner] = [commit for commit, beaten in zip(commits, told, strict=True) if beaten is None]
    assert await sums.tally("gifts") == winner.after
    assert await every(sums, "gifts") == list(winner.records)
    for beaten in told:
        assert beaten is None or beaten.conflict or beaten.tally == winner.after


# --- repeats and late copies ----------------------------------------------------------------------


async def test_a_late_copy_of_a_commit_does_nothing(sums: TallyStore) -> None:
    tally = await sums.create(Tally("gifts"))
    applied, lost = plan(tally, "a", "b"), plan(tally, "c")
    assert await sums.commit(applied) is None
    found = await done(sums, applied.after, "d")
    records = {record.key: record for record in applied.records}
    assert await sums.commit(applied) == Beaten(found, records)
    assert await sums.commit(lost) == Beaten(found)
    found = await suspended(sums, found)
    resumed = with_state(found, TallyState.ACTIVE)
    assert await sums.rewrite(found, resumed)
    assert await sums.commit(lost) == Beaten(resumed)
    assert await sums.commit(applied) == Beaten(resumed, records)
    assert await sums.tally("gifts") == resumed
    assert [record.key for record in await every(sums, "gifts")] == ["a", "b", "d"]


async def test_a_late_copy_of_a_change_does_nothing(sums: TallyStore) -> None:
    tally = await sums.create(Tally("gifts", floor=0))
    after = with_state(replace(tally, floor=None, ceiling=5), TallyState.SUSPENDED, "a test")
    assert await sums.rewrite(tally, after)
    assert await sums.tally("gifts") == after
    resumed = with_state(after, TallyState.ACTIVE)
    assert await sums.rewrite(after, resumed)
    assert not await sums.rewrite(tally, after)
    assert not await sums.rewrite(replace(resumed, inc=2), after)
    assert await sums.tally("gifts") == resumed


async def test_a_tally_that_is_made_again_counts_every_key_anew(sums: TallyStore) -> None:
    tally = await sums.create(Tally("gifts", decimals=2, ceiling=9))
    first = await done(sums, tally, Wanted("a", 3))
    deleted = with_state(first, TallyState.DELETED)
    assert await sums.rewrite(first, deleted)
    again = reborn(deleted, Tally("gifts", start=10, sum=10, at=NOW + 5))
    assert await sums.rewrite(deleted, again)
    assert await sums.tally("gifts") == again
    assert await sums.records(again, ["a"]) == {}
    last = await done(sums, again, Wanted("a", 5))
    assert (last.sum, last.inc) == (15, 2)
    assert [record.amount for record in await every(sums, "gifts", 1)] == [3]
    assert [record.amount for record in await every(sums, "gifts", 2)] == [5]


# --- all records ----------------------------------------------------------------------------------


async def test_every_record_comes_once_whatever_the_pages(
    sums: TallyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_tallies, "PAGE", 10)
    scan = tally_items.scan
    monkeypatch.setattr(tally_items, "scan", lambda *of: {**scan(*of), "Limit": 10})
    made: dict[str, Sequence[AddRecord]] = {}
    for name in ("gift", "gifts", "gifts.1"):  # one is the beginning of another
        tally = await sums.create(Tally(name))
        commit = plan(tally, *(f"{name}{n:02}" for n in range(25)))
        assert await sums.commit(commit) is None
        made[name] = commit.records
    for name, records in made.items():
        assert await every(sums, name) == list(records)
    assert [tally.name for tally in await sums.tallies()] == list(made)
