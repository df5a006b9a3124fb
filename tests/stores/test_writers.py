"""The contract of `CatalogueStore` for strict counters: writers, and batches sent again."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from idservice import errors
from idservice.core.writer import Batch, Record
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import Counter, Grant, Writers
from idservice.stores.sqlite.store import SQLiteStore
from tests.stores import test_contract
from tests.stores.backends import Backend
from tests.stores.conftest import one_engine
from tests.stores.test_contract import made, next_of

store, other = test_contract.store, test_contract.other


async def strict(store: CatalogueStore, **settings: int) -> Counter:
    return await made(store, strict=True, **settings)


async def registered(store: CatalogueStore, counter: Counter, name: str = "w") -> str:
    found = await store.writers(counter)
    assert found is not None
    assert await store.register(counter, name, registrations=found.registrations)
    return name


async def send(store: CatalogueStore, counter: Counter, batch: Batch, *, seen: int = 0) -> range:
    room = counter.layout().end - batch.count
    answer = await store.reserve(counter, count=batch.count, seen=seen, room=room, batch=batch)
    assert isinstance(answer, Grant)
    return answer.indices


# --- writers --------------------------------------------------------------------------------------


@one_engine
async def test_a_new_position_has_no_writers_and_a_missing_one_has_none(
    store: CatalogueStore, backend: Backend
) -> None:
    counter = await strict(store)
    assert await store.writers(counter) == Writers(0, {})
    backend.delete(counter)
    assert await store.writers(counter) is None
    assert not await store.register(counter, "w", registrations=0)
    assert await store.writers(counter) is None


async def test_writers_register_one_after_another(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await strict(store)
    before = await store.position(counter)
    for number, name in enumerate(("-a_B9", "b", "c")):
        assert await store.register(counter, name, registrations=number)
    assert await other.writers(counter) == Writers(3, {"-a_B9": 0, "b": 0, "c": 0})
    after = await store.position(counter)
    assert before is not None
    assert after is not None
    assert (after.next, after.mark, after.rev) == (before.next, before.mark, before.rev + 3)


async def test_of_those_who_register_at_once_on_one_number_one_succeeds(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await strict(store)
    won = await asyncio.gather(
        *((store, other)[n % 2].register(counter, f"w{n}", registrations=0) for n in range(8))
    )
    assert won.count(True) == 1
    assert await store.writers(counter) == Writers(1, {f"w{won.index(True)}": 0})


async def test_a_late_copy_of_a_registration_does_nothing(store: CatalogueStore) -> None:
    counter = await strict(store)
    await registered(store, counter)
    await store.prune(counter, "w", 0)
    assert await store.writers(counter) == Writers(1, {})
    assert not await store.register(counter, "w", registrations=0)
    assert await store.writers(counter) == Writers(1, {})
    for number in (1, 2):
        assert await store.register(counter, f"v{number}", registrations=number)
    for late in (0, 1, 2, 4):
        assert not await store.register(counter, "late", registrations=late)
    assert await store.writers(counter) == Writers(3, {"v1": 0, "v2": 0})


@one_engine
async def test_nobody_registers_in_another_epoch(store: CatalogueStore, backend: Backend) -> None:
    counter = await strict(store)
    backend.push(counter, epoch="sealed:2.b")
    assert not await store.register(counter, "w", registrations=0)
    assert await store.writers(counter) == Writers(0, {})


async def test_a_writer_that_moved_is_not_pruned(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await strict(store)
    await registered(store, counter)
    await send(store, counter, Batch("w", 1, "a", 5))
    before = await store.position(counter)
    await other.prune(counter, "w", 0)
    await other.prune(counter, "nobody", 0)
    assert await store.writers(counter) == Writers(1, {"w": 1})
    assert await store.position(counter) == before
    await other.prune(counter, "w", 1)
    await other.prune(counter, "w", 1)
    assert await store.writers(counter) == Writers(1, {})


@one_engine
async def test_writers_of_one_counter_are_none_of_another(store: CatalogueStore) -> None:
    one = await made(store, "one", strict=True)
    two = await made(store, "two", strict=True)
    await registered(store, one)
    assert await store.writers(two) == Writers(0, {})
    with pytest.raises(errors.OutOfTurn):
        await send(store, two, Batch("w", 1, "a", 5))


# --- batches --------------------------------------------------------------------------------------


async def test_a_batch_that_is_sent_again_answers_what_it_got(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await strict(store, start=40)
    await registered(store, counter, "v")
    await registered(store, counter, "w")
    batch = Batch("w", 1, "a", 5)
    assert await send(store, counter, batch) == range(40, 45)
    for handle in (store, other):
        assert await send(handle, counter, batch) == range(40, 45)
    assert await send(other, counter, Batch("v", 1, "b", 7)) == range(45, 52)
    assert await send(store, counter, batch) == range(40, 45), "whoever moved on meanwhile"
    assert await next_of(store, counter) == 52
    assert await send(store, counter, Batch("w", 2, "c", 1), seen=45) == range(52, 53)


async def test_twenty_copies_at_once_are_applied_once(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await strict(store)
    await registered(store, counter)
    batch = Batch("w", 1, "a", 5)
    answers = await asyncio.gather(
        *(send((store, other)[n % 2], counter, batch) for n in range(20))
    )
    assert answers == [range(5)] * 20
    assert await next_of(store, counter) == 5


@one_engine
async def test_a_number_is_given_once_and_the_other_batch_is_told_whose_it_is(
    store: CatalogueStore,
) -> None:
    counter = await strict(store)
    await registered(store, counter)
    await send(store, counter, Batch("w", 1, "a", 5))
    for batch in (Batch("w", 1, "b", 3), Batch("w", 3, "c", 3), Batch("w", 1, "b", 5)):
        with pytest.raises(errors.OutOfTurn) as refused:
            await send(store, counter, batch)
        assert refused.value.record == Record(1, 5, "a")
        assert refused.value.outcome == errors.NOT_APPLIED
    assert await next_of(store, counter) == 5


async def test_a_late_copy_of_a_pruned_writer_s_batch_does_nothing(store: CatalogueStore) -> None:
    counter = await strict(store)
    await registered(store, counter)
    batch = Batch("w", 1, "a", 5)
    await send(store, counter, batch)
    await store.prune(counter, "w", 1)
    for late in (batch, Batch("w", 2, "b", 5)):
        with pytest.raises(errors.OutOfTurn) as refused:
            await send(store, counter, late)
        assert refused.value.record is None
    assert await next_of(store, counter) == 5


@one_engine
async def test_a_batch_of_a_writer_that_never_registered_does_nothing(
    store: CatalogueStore,
) -> None:
    counter = await strict(store)
    with pytest.raises(errors.OutOfTurn):
        await send(store, counter, Batch("w", 1, "a", 5))
    assert await next_of(store, counter) == 0


@one_engine
async def test_what_a_batch_got_in_an_epoch_that_is_over_is_burnt(
    store: CatalogueStore, backend: Backend
) -> None:
    counter = await strict(store)
    await registered(store, counter)
    batch = Batch("w", 1, "a", 5)
    await send(store, counter, batch)
    backend.push(counter, epoch="sealed:2.b")
    with pytest.raises(errors.BatchBurnt):
        await send(store, counter, batch)
    with pytest.raises(errors.EpochChanged) as refused:
        await send(store, counter, Batch("w", 2, "b", 5))
    assert not isinstance(refused.value, errors.BatchBurnt)
    assert await next_of(store, counter) == 5


async def test_an_epoch_begins_without_writers_despite_late_copies(
    store: CatalogueStore,
) -> None:
    before = await strict(store)
    await registered(store, before)
    batch = Batch("w", 1, "a", 5)
    await send(store, before, batch)
    await store.seal(before, 0, await store.shard_state(before, 0), "sealed:2.b")
    with pytest.raises(errors.BatchBurnt):
        await send(store, before, batch)
    assert not await store.register(before, "x", registrations=1)
    await store.open_shard(before, 0, "sealed:2.b", "2.b", value=0)
    after = replace(before, epoch="2.b", base=5)
    assert await store.writers(after) == Writers(0, {})
    for late in (batch, Batch("w", 2, "b", 5)):
        with pytest.raises(errors.EpochChanged):
            await send(store, before, late)
    assert not await store.register(before, "x", registrations=0)
    with pytest.raises(errors.OutOfTurn) as refused:
        await send(store, after, Batch("w", 2, "b", 5))
    assert refused.value.record is None
    await registered(store, after, "v")
    await store.prune(before, "w", 1)
    await store.open_shard(before, 0, "sealed:2.b", "2.b", value=0)
    assert await send(store, after, Batch("v", 1, "c", 2)) == range(2)
    assert await store.writers(after) == Writers(1, {"v": 1})


async def test_what_a_batch_got_is_not_believed_on_a_position_that_went_back(
    store: CatalogueStore, backend: Backend
) -> None:
    counter = await strict(store)
    await registered(store, counter)
    batch = Batch("w", 1, "a", 5)
    await send(store, counter, batch)
    for moved in ({"next": 3}, {"next": 4, "mark": 4}):
        backend.push(counter, **moved)
        with pytest.raises(errors.WentBack) as refused:
            await send(store, counter, batch)
        assert refused.value.applied
        with pytest.raises(errors.WentBack) as refused:
            await send(store, counter, Batch("w", 2, "b", 5), seen=5)
        assert not refused.value.applied


@one_engine
async def test_the_limit_holds_for_batches_and_refuses_no_copy(store: CatalogueStore) -> None:
    counter = await strict(store, limit=9)
    await registered(store, counter)
    batch = Batch("w", 1, "a", 8)
    assert await send(store, counter, batch) == range(8)
    assert await send(store, counter, batch) == range(8)
    with pytest.raises(errors.NoRoom) as refused:
        await send(store, counter, Batch("w", 2, "b", 3))
    assert refused.value.position == 8
    assert await send(store, counter, Batch("w", 2, "c", 2)) == range(8, 10)


async def test_instances_that_know_of_no_writers_share_the_position(store: CatalogueStore) -> None:
    """Of an earlier version, or without a place."""
    counter = await strict(store)
    await registered(store, counter)
    assert await send(store, counter, Batch("w", 1, "a", 5)) == range(5)
    room = counter.layout().end - 3
    plain = await store.reserve(counter, count=3, seen=0, room=room)
    assert isinstance(plain, Grant)
    assert plain.indices == range(5, 8)
    assert await send(store, counter, Batch("w", 2, "b", 2), seen=5) == range(8, 10)


# --- on each engine -------------------------------------------------------------------------------

# A file as `init` of the first version made it.
SCHEMA_1 = """
CREATE TABLE identity (id TEXT NOT NULL, inode INTEGER NOT NULL, schema INTEGER NOT NULL) STRICT;
CREATE TABLE catalogue (revision INTEGER NOT NULL) STRICT;
CREATE TABLE entry (
    name TEXT PRIMARY KEY, epoch TEXT NOT NULL, state TEXT NOT NULL, config TEXT NOT NULL
) STRICT;
CREATE TABLE position (
    counter TEXT NOT NULL, shard INTEGER NOT NULL, next INTEGER NOT NULL, mark INTEGER NOT NULL,
    rev INTEGER NOT NULL, epoch TEXT NOT NULL, PRIMARY KEY (counter, shard)
) STRICT;
INSERT INTO catalogue VALUES (2);
INSERT INTO entry VALUES
    ('orders', '1.a', 'active', '{"name":"orders","epoch":"1.a","strict":true}');
INSERT INTO position VALUES ('orders', 0, 57, 57, 9, '1.a');
"""


async def test_a_file_of_the_first_version_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    database = sqlite3.connect(path)
    database.executescript(SCHEMA_1)
    database.execute("INSERT INTO identity VALUES ('x', ?, 1)", (path.stat().st_ino,))
    database.commit()
    database.close()
    async with SQLiteStore(str(path)) as store:
        await store.verify()
        counter = await store.counter("orders")
        assert counter is not None
        assert await store.writers(counter) == Writers(0, {})
        await store.prune(counter, "nobody", 0)
        with pytest.raises(errors.OutOfTurn):
            await send(store, counter, Batch("w", 1, "a", 5))
        await registered(store, counter)
        assert await send(store, counter, Batch("w", 1, "a", 5)) == range(57, 62)
    database = sqlite3.connect(path)
    assert database.execute("SELECT schema FROM identity").fetchone() == (1,)
    assert database.execute("SELECT next, rev FROM position").fetchone() == (62, 11)
    database.close()
