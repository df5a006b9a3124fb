"""A counter with several shards, on every store: created whole, reserved from side by side, and
resharded while it is in use."""

import asyncio
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.allocation import give_back
from idservice.catalogue import rules
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Delete, Reshard
from idservice.catalogue.counters import new_counter, positions_of
from idservice.catalogue.renewals import CreateAgain
from idservice.core.epoch import sealed
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import SHARDS_MAX, Counter, Grant, Position
from tests.stores.backends import Backend
from tests.stores.conftest import one_engine

random = Random()


async def made(store: CatalogueStore, shards: int, **settings: Any) -> Counter:
    return await store.create(new_counter("orders", random, shards=shards, **settings))


async def reserve(
    store: CatalogueStore, counter: Counter, shard: int, count: int, *, seen: int = 0
) -> Grant:
    room = counter.layout(shard).end - count
    granted = await store.reserve(counter, count=count, seen=seen, room=room, shard=shard)
    assert isinstance(granted, Grant)
    return granted


async def ids(store: CatalogueStore, counter: Counter, shard: int, count: int) -> range:
    return counter.layout(shard).ids((await reserve(store, counter, shard, count)).indices)


async def reshard(store: CatalogueStore, shards: int) -> Counter:
    changer = EpochChanger(store, random=random, stale_s=0.0)
    _, after = await changer.change("orders", Reshard(shards=shards))
    return after


async def test_a_counter_is_created_with_all_of_its_shards(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, 5, start=100)
    assert await other.counter("orders") == counter
    assert await positions_of(other, counter) == [Position(0, 0, 0, counter.epoch)] * 5
    firsts = [(await ids(store, counter, shard, 1)).start for shard in range(5)]
    assert firsts == [100, 101, 102, 103, 104]
    assert await other.shard_state(counter, 5) is None


@one_engine
async def test_as_many_shards_as_there_may_be_are_created_and_changed(
    store: CatalogueStore,
) -> None:
    counter = await made(store, SHARDS_MAX)
    assert (await ids(store, counter, SHARDS_MAX - 1, 2)) == range(63, 191, 64)
    assert (await reshard(store, 1)).shards == 1
    counter = await reshard(store, SHARDS_MAX)
    assert len(await positions_of(store, counter)) == SHARDS_MAX


async def test_creating_it_again_finds_it_and_changes_no_shard(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, 3)
    await reserve(store, counter, 2, 10)
    before = await positions_of(store, counter)
    assert await other.create(new_counter("orders", random, shards=3)) == counter
    assert await other.create(new_counter("orders", random, shards=8)) == counter
    assert await positions_of(store, counter) == before


async def test_shards_are_reserved_from_side_by_side_and_share_no_id(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, 4)

    async def ask(number: int) -> list[int]:
        got: list[int] = []
        while len(got) < 3:
            try:
                got += await ids((store, other)[number % 2], counter, number % 4, 3)
            except errors.NotApplied as error:  # SQLite's lock is not fair to who waits for it
                if "locked" not in str(error):
                    raise
        return got

    answers = await asyncio.gather(*(ask(number) for number in range(24)))
    together = sorted(id for answer in answers for id in answer)
    assert together == list(range(72))


async def test_a_write_to_one_shard_touches_no_other(store: CatalogueStore) -> None:
    counter = await made(store, 3)
    before = await positions_of(store, counter)
    grant = await reserve(store, counter, 1, 20)
    found = await store.position(counter, 1)
    assert found is not None
    assert await store.give_back(counter, found, next=15, returned=(range(2, 4),), shard=1)
    assert await store.claim(counter, grant.rev + 1, 1) == (range(2, 4),)
    await store.close_gone_back(counter, counter.epoch, 1)
    after = await positions_of(store, counter)
    assert (after[0], after[2]) == (before[0], before[2])
    assert (after[1].next, after[1].mark, after[1].epoch) == (15, 15, "gone-back:1")


@one_engine
async def test_where_one_shard_ended_is_no_condition_on_another(store: CatalogueStore) -> None:
    counter = await made(store, 2)
    await reserve(store, counter, 0, 50)
    assert (await reserve(store, counter, 1, 5)).indices == range(5)
    with pytest.raises(errors.WentBack):
        await reserve(store, counter, 1, 5, seen=50)


@one_engine
async def test_the_limit_is_that_of_each_shard_and_used_up_to_the_last_id(
    store: CatalogueStore,
) -> None:
    counter = await made(store, 3, start=10, limit=20)
    ends = [counter.layout(shard).end for shard in range(3)]
    assert ends == [4, 4, 3]
    got = [id for shard in range(3) for id in await ids(store, counter, shard, ends[shard])]
    assert sorted(got) == list(range(10, 21))
    for shard in range(3):
        with pytest.raises(errors.NoRoom):
            await reserve(store, counter, shard, 1)


@one_engine
async def test_what_is_given_back_to_a_shard_is_claimed_from_that_one(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, 3)
    first = await reserve(store, counter, 2, 10)
    between = await reserve(other, counter, 2, 5)
    blocks = [counter.layout(2).ids(range(4, 10))]
    plan = await give_back.give_back(
        store, counter, blocks, rev=first.rev, end=first.indices.stop, shard=2
    )
    assert plan.returned == (range(4, 10),)
    assert (await reserve(other, counter, 1, 1)).returned == ()
    grant = await reserve(other, counter, 2, 5)
    assert grant.returned == (range(4, 10),)
    assert await give_back.claim(other, counter, grant, shard=2) == [range(14, 32, 3)]
    assert between.indices == range(10, 15)


async def test_ids_of_another_shard_are_not_given_back_to_this_one(store: CatalogueStore) -> None:
    counter = await made(store, 2)
    grant = await reserve(store, counter, 0, 10)
    await reserve(store, counter, 1, 10)
    blocks = [counter.layout(1).ids(range(4, 10))]
    plan = await give_back.give_back(store, counter, blocks, rev=grant.rev, end=10, shard=0)
    assert (plan.count, plan.too_many) == (0, 0)
    assert [each.next for each in await positions_of(store, counter)] == [10, 10]


# --- reshard --------------------------------------------------------------------------------------


@one_engine
async def test_more_and_fewer_shards_go_on_above_every_id(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, 1)
    highest = -1
    for shards in (8, 2, 3, 1, 8):
        old, counter = counter, await reshard(store, shards)
        assert await other.counter("orders") == counter
        assert counter.base > highest
        for shard in range(old.shards):
            with pytest.raises(errors.EpochChanged):
                await reserve(other, old, shard, 1)
        for shard in range(shards):
            highest = max(highest, *await ids(other, counter, shard, 1 + shard))
    assert counter.ordinal == 6


@one_engine
async def test_shards_that_are_not_used_any_more_stay_sealed(store: CatalogueStore) -> None:
    eight = await made(store, 8)
    two = await reshard(store, 2)
    for shard in range(2, 8):
        found = await store.shard_state(two, shard)
        assert found is not None
        assert found.epoch == sealed(two.epoch)
        with pytest.raises(errors.EpochChanged):
            await reserve(store, eight, shard, 1)


@one_engine
async def test_the_highest_of_all_shards_decides_where_the_next_epoch_begins(
    store: CatalogueStore, backend: Backend
) -> None:
    counter = await made(store, 3, start=7)
    highest = max(await ids(store, counter, 1, 40))
    backend.push(counter, next=2, mark=2)
    assert (await reshard(store, 2)).base > highest


@one_engine
async def test_a_reshard_stopped_anywhere_is_finished_by_the_next_operator(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, 2)
    await reserve(store, counter, 1, 9)
    found = [await store.shard_state(counter, shard) for shard in range(5)]
    begun = rules.begun(counter, Reshard(shards=5), found, random)
    assert begun.intent is not None
    assert await store.rewrite(counter, begun)
    for shard in (1, 3):  # and died
        await store.seal(begun, shard, found[shard], sealed(begun.intent.epoch))
    done = await EpochChanger(other, random=random, stale_s=0.0).carry_out("orders")
    assert (done.shards, done.epoch) == (5, begun.intent.epoch)
    assert {each.epoch for each in await positions_of(other, done)} == {done.epoch}


@one_engine
async def test_a_leftover_shard_of_a_later_epoch_than_the_entry_s_is_passed_by(
    store: CatalogueStore,
) -> None:
    """The entry alone was restored, say."""
    counter = await made(store, 1)
    await store.seal(counter, 1, None, sealed("7.later"))
    assert (await reshard(store, 2)).ordinal == 8


@one_engine
async def test_a_deleted_name_comes_again_with_another_number_of_shards(
    store: CatalogueStore,
) -> None:
    counter = await made(store, 3)
    highest = max(await ids(store, counter, 2, 9))
    changer = EpochChanger(store, random=random, stale_s=0.0)
    await changer.change("orders", Delete())
    wanted = new_counter("orders", random, shards=4)
    _, again = await changer.change("orders", CreateAgain(wanted=wanted))
    assert again.shards == 4
    for shard in range(4):
        assert min(await ids(store, again, shard, 2)) > highest


@one_engine
async def test_operators_who_reshard_at_once_each_get_their_change_done(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    await made(store, 2)
    done = await asyncio.gather(*(reshard((store, other)[n % 2], n) for n in (3, 5, 4, 6)))
    entry = await store.entry("orders")
    assert entry in done
    assert entry is not None
    assert {each.epoch for each in await positions_of(store, entry)} == {entry.epoch}
    for shard in range(entry.shards, 6):
        assert (await store.shard_state(entry, shard)).epoch.startswith("sealed:")  # type: ignore[union-attr]
