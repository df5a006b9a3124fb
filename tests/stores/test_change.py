"""The steps of a change of epoch, on every store: each condition, and copies that come late."""

import asyncio
from datetime import UTC, datetime
from random import Random

import msgspec
import pytest
from msgspec.structs import replace

from idservice import errors
from idservice.catalogue import rules
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Change, Configure, Delete, Fence, SetNext
from idservice.catalogue.counters import new_counter
from idservice.catalogue.renewals import CreateAgain
from idservice.core.epoch import gone_back, sealed
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import (
    Counter,
    Grant,
    LastChange,
    Position,
    ShardState,
    decoded,
    encoded,
)
from tests.stores.backends import Backend
from tests.stores.conftest import one_engine

random = Random()
NEXT, LATER = "2.b", "3.c"


async def made(store: CatalogueStore, **settings: int) -> Counter:
    return await store.create(new_counter("orders", random, **settings))


async def reserve(store: CatalogueStore, counter: Counter, count: int) -> range:
    room = counter.layout().end - count
    answer = await store.reserve(counter, count=count, seen=0, room=room)
    assert isinstance(answer, Grant)
    return answer.indices


async def position_of(store: CatalogueStore, counter: Counter) -> Position:
    position = await store.position(counter)
    assert position is not None
    return position


# --- entries --------------------------------------------------------------------------------------


@one_engine
async def test_an_entry_is_rewritten_whole_and_moves_the_revision(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    before = await made(store)
    revision = await other.revision()
    after = replace(before, runway=12.5, state="suspended", revoked=1, high=9, rev=1)
    assert await store.rewrite(before, after)
    assert await other.entry("orders") == after
    assert await other.counter("orders") == after
    assert await other.revision() == revision + 1


async def test_the_last_change_is_written_beside_its_entry(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    """Earlier versions refuse an entry with a field that they do not know: it has none."""
    at = datetime(2026, 11, 30, 2, 10, 4, tzinfo=UTC)
    change = LastChange("suspend", "1.a", by="ann@desk", at=at, reason="a break")
    created = replace(new_counter("orders", random), epoch="1.a", last_change=change)
    assert await store.create(created) == created
    assert await other.entry("orders") == created
    second = replace(change, what="configure", until=at)
    after = replace(created, runway=9.0, rev=1, last_change=second)
    assert await store.rewrite(created, after)
    assert await other.entry("orders") == after
    assert after in await other.counters()
    by_an_earlier_version = replace(after, epoch="2.b", rev=2, last_change=None)
    assert await store.rewrite(after, by_an_earlier_version)
    assert await other.entry("orders") == by_an_earlier_version, "it is not of that epoch"


def test_an_entry_is_written_as_earlier_versions_wrote_it() -> None:
    counter = new_counter("orders", random)
    change = LastChange("set", counter.epoch, by="ann@desk")
    config, written = encoded(replace(counter, last_change=change))
    assert config == encoded(counter)[0] == msgspec.json.encode(counter).decode()
    assert decoded(config, written).last_change == change
    assert decoded(config, None) == decoded(config, "[]") == counter


@one_engine
async def test_bounds_are_written_beside_an_entry(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    wanted = replace(new_counter("orders", random, request_max=9, rate_max=2.5), epoch="1.a")
    assert await store.create(wanted) == wanted
    assert await other.entry("orders") == wanted
    change = LastChange("configure", "1.a", by="ann@desk")
    after = replace(wanted, rev=1, request_max=4, rate_max=None, last_change=change)
    assert await store.rewrite(wanted, after)
    assert await other.entry("orders") == after


def test_bounds_outlive_what_an_earlier_version_writes() -> None:
    """That serves the counter without them, and leaves alone what is beside its entry."""
    counter = new_counter("orders", random, request_max=9, rate_max=2.5)
    config, beside = encoded(counter)
    assert "max" not in config
    assert decoded(config, beside) == counter
    later = replace(counter, epoch="2.b", rev=1, request_max=None, rate_max=None)
    assert decoded(encoded(later)[0], beside) == replace(counter, epoch="2.b", rev=1)


@one_engine
async def test_an_entry_that_somebody_wrote_since_is_left_alone(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    before = await made(store)
    ours, theirs = replace(before, runway=5.0, rev=1), replace(before, runway=6.0, rev=1)
    assert await store.rewrite(before, ours)
    revision = await store.revision()
    for handle in (other, store):
        assert not await handle.rewrite(before, theirs)
    assert await store.entry("orders") == ours
    assert await store.revision() == revision


@one_engine
async def test_a_late_copy_of_a_rewrite_does_nothing_even_after_it_was_undone(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    first = await made(store)
    second = replace(first, runway=5.0, rev=1)
    third = replace(first, rev=2)  # the same again, but for the revision
    assert await store.rewrite(first, second)
    assert await store.rewrite(second, third)
    assert not await other.rewrite(first, second)
    assert await store.entry("orders") == third


async def test_of_many_rewrites_at_once_one_succeeds(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    before = await made(store)
    wrote = await asyncio.gather(
        *(
            (store, other)[i % 2].rewrite(before, replace(before, runway=1.0 + i, rev=1))
            for i in range(8)
        )
    )
    assert sum(wrote) == 1
    entry = await store.entry("orders")
    assert entry is not None
    assert entry.runway == 1.0 + wrote.index(True)


@one_engine
async def test_creating_a_counter_moves_the_revision(store: CatalogueStore) -> None:
    before = await store.revision()
    await made(store)
    assert await store.revision() == before + 1
    await made(store)
    assert await store.revision() == before + 1


async def test_a_counter_that_is_created_closed_is_granted_to_nobody(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    """Its entry may say soon that it is on its way to be in use; the position does not yet."""
    closed = await store.create(replace(new_counter("orders", random), state="deleted"))
    assert await other.shard_state(closed, 0) == ShardState(sealed(closed.epoch), 0, 0)
    with pytest.raises(errors.EpochChanged):
        await reserve(other, closed, 1)
    opened = await change(store, CreateAgain(wanted=new_counter("orders", random, start=7)))
    assert opened.layout().ids(await reserve(other, opened, 1)) == range(7, 8)


# --- shards ---------------------------------------------------------------------------------------


@one_engine
async def test_a_sealed_shard_grants_nothing_and_keeps_where_it_stood(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 10)
    found = await store.shard_state(counter, 0)
    assert found == ShardState(counter.epoch, 10, 10)
    await store.seal(counter, 0, found, sealed(NEXT))
    for handle in (store, other):
        with pytest.raises(errors.EpochChanged):
            await reserve(handle, counter, 1)
    assert await position_of(other, counter) == Position(10, 10, 2, sealed(NEXT))


async def test_a_seal_replaces_exactly_the_epoch_that_was_read(
    backend: Backend, store: CatalogueStore
) -> None:
    counter = await made(store)
    for there in (counter.epoch, gone_back(counter.epoch), sealed("1.old"), "nonsense"):
        backend.push(counter, epoch=there)
        before = await position_of(store, counter)
        for wrong in ("1.another", sealed(NEXT), None):
            stand = None if wrong is None else ShardState(wrong, 0, 0)
            await store.seal(counter, 0, stand, sealed(NEXT))
            assert await position_of(store, counter) == before
        await store.seal(counter, 0, ShardState(there, 0, 0), sealed(NEXT))
        assert (await position_of(store, counter)).epoch == sealed(NEXT)


async def test_what_was_given_back_is_gone_once_another_epoch_began(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 10)
    found = await position_of(store, counter)
    assert await store.give_back(counter, found, next=10, returned=(range(2, 5),))
    before = await position_of(store, counter)
    assert before.returned == (range(2, 5),)
    await store.seal(counter, 0, await store.shard_state(counter, 0), sealed(NEXT))
    assert await other.claim(counter, before.rev) == (), "it is closed"
    assert not await other.give_back(counter, before, next=8, returned=())
    await store.open_shard(counter, 0, sealed(NEXT), NEXT, value=0)
    opened = await position_of(store, counter)
    assert (opened.next, opened.mark, opened.returned) == (0, 0, ())
    assert await other.claim(counter, before.rev) == ()
    assert not await other.give_back(counter, before, next=8, returned=(range(2, 5),))
    assert await position_of(store, counter) == opened


@one_engine
async def test_a_late_copy_of_a_seal_does_not_close_what_was_opened_since(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    found = await store.shard_state(counter, 0)
    await store.seal(counter, 0, found, sealed(NEXT))
    await other.seal(counter, 0, found, sealed(NEXT))
    await store.open_shard(counter, 0, sealed(NEXT), NEXT, value=0)
    opened = await position_of(store, counter)
    await other.seal(counter, 0, found, sealed(NEXT))
    await other.seal(counter, 0, None, sealed(NEXT))
    assert await position_of(store, counter) == opened
    assert await reserve(store, replace(counter, epoch=NEXT), 2) == range(2)


async def test_a_missing_shard_is_created_closed_and_only_while_it_is_missing(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = replace(await made(store), shards=2)
    assert await store.shard_state(counter, 1) is None
    await store.seal(counter, 1, ShardState(counter.epoch, 0, 0), sealed(NEXT))
    assert await store.shard_state(counter, 1) is None
    await store.seal(counter, 1, None, sealed(NEXT))
    assert await store.shard_state(counter, 1) == ShardState(sealed(NEXT), 0, 0)
    with pytest.raises(errors.EpochChanged):
        await store.reserve(counter, count=1, seen=0, room=100, shard=1)
    await other.seal(counter, 1, None, sealed(LATER))
    assert await store.shard_state(counter, 1) == ShardState(sealed(NEXT), 0, 0)
    await store.open_shard(counter, 1, sealed(NEXT), NEXT, value=0)
    opened = replace(counter, epoch=NEXT)
    answer = await store.reserve(opened, count=3, seen=0, room=100, shard=1)
    assert isinstance(answer, Grant)
    assert answer.indices == range(3)
    assert await store.shard_state(counter, 0) == ShardState(counter.epoch, 0, 0)


@one_engine
async def test_a_shard_opens_at_zero_and_only_from_the_seal_of_this_change(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, start=40)
    await reserve(store, counter, 10)
    await store.open_shard(counter, 0, sealed(NEXT), NEXT, value=0)
    assert (await position_of(store, counter)).epoch == counter.epoch
    await store.seal(counter, 0, await store.shard_state(counter, 0), sealed(NEXT))
    await store.open_shard(counter, 0, sealed(LATER), LATER, value=0)
    assert (await position_of(store, counter)).epoch == sealed(NEXT)
    await store.open_shard(counter, 0, sealed(NEXT), NEXT, value=0)
    assert await position_of(other, counter) == Position(0, 0, 3, NEXT)


@one_engine
async def test_a_late_copy_of_an_opening_does_not_reset_the_position(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await store.seal(counter, 0, await store.shard_state(counter, 0), sealed(NEXT))
    await store.open_shard(counter, 0, sealed(NEXT), NEXT, value=0)
    await reserve(store, replace(counter, epoch=NEXT), 7)
    await other.open_shard(counter, 0, sealed(NEXT), NEXT, value=0)
    assert (await position_of(store, counter)).next == 7
    await store.seal(counter, 0, await store.shard_state(counter, 0), sealed(LATER))
    await other.open_shard(counter, 0, sealed(NEXT), NEXT, value=0)
    assert await store.shard_state(counter, 0) == ShardState(sealed(LATER), 7, 7)


async def test_opening_a_missing_shard_does_not_create_it(
    backend: Backend, store: CatalogueStore
) -> None:
    counter = await made(store)
    backend.delete(counter)
    await store.open_shard(counter, 0, sealed(NEXT), NEXT, value=0)
    assert await store.shard_state(counter, 0) is None


# --- the whole ------------------------------------------------------------------------------------


async def change(store: CatalogueStore, wanted: Change) -> Counter:
    changer = EpochChanger(store, random=random, stale_s=0.0)
    _, after = await changer.change("orders", wanted)
    return after


@one_engine
async def test_a_set_moves_on_and_the_old_epoch_grants_nothing(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    old = await made(store)
    await reserve(store, old, 10)
    new = await change(store, SetNext(next=500))
    assert new == await other.counter("orders")
    with pytest.raises(errors.EpochChanged):
        await reserve(other, old, 1)
    assert new.layout().ids(await reserve(other, new, 3)) == range(500, 503)


@one_engine
async def test_suspend_resume_delete_and_create_again_go_on_above(store: CatalogueStore) -> None:
    counter = await made(store)
    free = 0
    suspend, resume = Configure(state="suspended"), Configure(state="active")
    create = CreateAgain(wanted=new_counter("orders", random, start=3))
    for wanted in (suspend, resume, Delete(), create, suspend, Delete(), create):
        if counter.state == "active":
            ids = counter.layout().ids(await reserve(store, counter, 10))
            assert ids.start >= free
            free = ids.stop
        before, counter = counter, await change(store, wanted)
        with pytest.raises(errors.EpochChanged):
            await reserve(store, before, 1)
    assert counter.layout().ids(await reserve(store, counter, 1)) == range(free, free + 1)


@one_engine
async def test_several_operators_at_once_each_get_their_change_done(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    await made(store)
    done = await asyncio.gather(
        *(change((store, other)[i % 2], SetNext(next=1000 * (i + 1), lower=True)) for i in range(4))
    )
    entry = await store.entry("orders")
    assert entry is not None
    assert entry.intent is None
    assert entry.ordinal == 5
    assert entry in done


@one_engine
async def test_a_position_that_went_back_is_repaired_by_a_fence(
    backend: Backend, store: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 100)
    backend.push(counter, next=60)
    await store.close_gone_back(counter, counter.epoch)
    repaired = await change(store, Fence(ahead=5))
    assert repaired.layout().ids(await reserve(store, repaired, 1)) == range(105, 106)


@one_engine
async def test_a_lost_position_is_repaired_only_by_who_names_a_number(
    backend: Backend, store: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 100)
    backend.delete(counter)
    for wanted in (Fence(ahead=1000), SetNext(next=500), Configure(state="suspended")):
        with pytest.raises(errors.PositionMissing):
            await change(store, wanted)
    assert await store.counter("orders") == counter
    repaired = await change(store, Fence(past=499))
    assert repaired.layout().ids(await reserve(store, repaired, 1)) == range(500, 501)


@one_engine
async def test_a_change_that_met_a_lost_position_opens_above_the_number_too(
    backend: Backend, store: CatalogueStore
) -> None:
    """It is finished before the fence that names the number: ids are granted in between."""
    counter = await made(store)
    await reserve(store, counter, 100)
    changer = EpochChanger(store, random=random, stale_s=0.0)
    await changer.begin("orders", SetNext(next=200))
    backend.delete(counter)
    done = await changer.carry_out("orders", past=499)
    assert done.layout().ids(await reserve(store, done, 1)) == range(500, 501)


async def test_an_unreadable_position_is_repaired_only_with_a_number(
    backend: Backend, store: CatalogueStore
) -> None:
    if 41.5 in backend.cannot:
        pytest.skip(backend.cannot[41.5])
    counter = await made(store)
    for attribute in ("next", "mark"):
        backend.push(counter, **{attribute: 41.5})
        with pytest.raises(errors.PositionIllFormed):
            await change(store, SetNext(next=500))
        counter = await change(store, Fence(past=499))
        assert counter.layout().ids(await reserve(store, counter, 1)).start >= 500


@one_engine
async def test_a_change_that_stands_still_is_finished_by_the_next_who_comes(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 10)
    begun = rules.begun(counter, SetNext(next=500), [await store.shard_state(counter, 0)], random)
    assert await store.rewrite(counter, begun)
    changer = EpochChanger(other, random=random, stale_s=0.0)
    done = await changer.carry_out("orders")
    assert done.base == 500
    assert await store.entry("orders") == done
    assert await changer.carry_out("orders") == done


@one_engine
async def test_the_identity_is_recorded_anew_only_when_told(
    backend: Backend, store: CatalogueStore
) -> None:
    await store.verify()
    await store.accept_identity()
    await store.verify()
