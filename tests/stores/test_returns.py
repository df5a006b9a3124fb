"""Giving back and claiming, on every store: each condition, and copies that come late."""

import asyncio
import sqlite3
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from idservice import errors
from idservice.allocation import give_back
from idservice.catalogue.counters import new_counter
from idservice.stores.dynamodb import DynamoStore
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import Counter, Grant, Position
from idservice.stores.sqlite.store import SQLiteStore
from tests.engines import by_hand
from tests.stores import backends
from tests.stores.answers import error, serving, success
from tests.stores.backends import ENGINES, Backend, Dynamo
from tests.stores.conftest import one_engine
from tests.stores.test_dynamodb import COUNTER, item, store_at
from tests.stores.test_dynamodb_adopt import KEYS, Legacy, wanted

random = Random()


async def made(store: CatalogueStore, **settings: int) -> Counter:
    return await store.create(new_counter("orders", random, **settings))


async def reserve(store: CatalogueStore, counter: Counter, count: int) -> Grant:
    room = counter.layout().end - count
    granted = await store.reserve(counter, count=count, seen=0, room=room)
    assert isinstance(granted, Grant)
    return granted


async def stands(store: CatalogueStore, counter: Counter) -> Position:
    position = await store.position(counter)
    assert position is not None
    return position


# --- giving back ----------------------------------------------------------------------------------


@one_engine
async def test_a_grant_tells_the_revision_that_it_wrote(store: CatalogueStore) -> None:
    counter = await made(store)
    for count in (3, 4):
        grant = await reserve(store, counter, count)
        found = await stands(store, counter)
        assert (found.next, found.mark, found.rev) == (grant.indices.stop, found.next, grant.rev)
        assert grant.returned == found.returned == ()


async def test_position_and_mark_go_back_together_and_are_continued(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, start=5)
    await reserve(store, counter, 20)
    found = await stands(store, counter)
    assert await store.give_back(counter, found, next=12, returned=())
    after = await stands(other, counter)
    assert after == Position(12, 12, found.rev + 1, counter.epoch)
    assert (await reserve(other, counter, 3)).indices == range(12, 15)


@one_engine
async def test_returned_ranges_are_in_every_grant_until_they_are_claimed(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 100)
    ranges = (range(10, 20), range(40, 41), range(2**52, 2**52 + 1))
    found = await stands(store, counter)
    assert await store.give_back(counter, found, next=100, returned=ranges)
    assert await stands(other, counter) == Position(100, 100, found.rev + 1, counter.epoch, ranges)
    assert (await reserve(store, counter, 1)).returned == ranges
    grant = await reserve(other, counter, 1)
    assert grant.returned == ranges
    assert await other.claim(counter, grant.rev) == ranges
    after = await stands(store, counter)
    assert after == Position(102, 102, grant.rev + 1, counter.epoch)
    assert (await reserve(store, counter, 1)).returned == ()


async def test_who_is_refused_for_the_limit_is_told_what_was_given_back(
    store: CatalogueStore,
) -> None:
    counter = await made(store, limit=19)
    await reserve(store, counter, 20)
    ranges = (range(3, 5),)
    assert await store.give_back(counter, await stands(store, counter), next=20, returned=ranges)
    with pytest.raises(errors.NoRoom) as refused:
        await reserve(store, counter, 1)
    assert refused.value.returned == ranges
    assert await store.claim(counter, refused.value.rev) == ranges


@pytest.mark.parametrize("between", ["reserve", "claim", "give back", "epoch", "by hand"])
async def test_a_give_back_is_refused_once_anything_was_written_since_its_read(
    backend: Backend, store: CatalogueStore, other: CatalogueStore, between: str
) -> None:
    counter = await made(store)
    await reserve(store, counter, 20)
    found = await stands(store, counter)
    match between:
        case "reserve":
            await reserve(other, counter, 5)
        case "claim":
            await other.claim(counter, found.rev)
        case "give back":
            assert await other.give_back(counter, found, next=20, returned=())
        case "epoch":
            backend.push(counter, epoch="sealed:2.b")
        case "by hand":  # or by an old endpoint: it moves the value and no revision
            backend.push(counter, next=21)
    before = await stands(store, counter)
    assert not await store.give_back(counter, found, next=12, returned=(range(3),))
    assert await stands(store, counter) == before


@one_engine
async def test_a_late_copy_after_the_tail_was_reserved_again_does_nothing(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    """Its value alone stands where it stood: what a condition on the value would take for its
    own."""
    counter = await made(store)
    await reserve(store, counter, 20)
    found = await stands(store, counter)
    assert await store.give_back(counter, found, next=12, returned=())
    assert (await reserve(other, counter, 8)).indices == range(12, 20)
    before = await stands(store, counter)
    assert (before.next, before.mark) == (found.next, found.mark)
    assert not await store.give_back(counter, found, next=12, returned=())
    assert await stands(store, counter) == before


@one_engine
async def test_of_two_clean_stops_at_once_the_second_is_refused(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 20)
    await reserve(other, counter, 20)
    found = await stands(store, counter), await stands(other, counter)
    assert await other.give_back(counter, found[1], next=25, returned=())
    assert not await store.give_back(counter, found[0], next=40, returned=(range(3, 20),))
    assert (await stands(store, counter)).returned == ()


@one_engine
async def test_a_position_that_is_missing_takes_nothing_back_and_stays_missing(
    backend: Backend, store: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 20)
    found = await stands(store, counter)
    backend.delete(counter)
    assert not await store.give_back(counter, found, next=12, returned=(range(3),))
    assert await store.claim(counter, found.rev) == ()
    assert await store.position(counter) is None


# --- claiming -------------------------------------------------------------------------------------


async def returned(store: CatalogueStore, counter: Counter, *ranges: range) -> int:
    """Reserve up to 100 and return these; the revision after it."""
    await reserve(store, counter, 100)
    found = await stands(store, counter)
    assert await store.give_back(counter, found, next=100, returned=ranges)
    return found.rev + 1


@pytest.mark.parametrize("between", ["reserve", "claim", "give back", "epoch"])
async def test_a_claim_takes_nothing_once_anything_was_written(
    backend: Backend, store: CatalogueStore, other: CatalogueStore, between: str
) -> None:
    counter = await made(store)
    rev = await returned(store, counter, range(3, 5))
    match between:
        case "reserve":
            await reserve(other, counter, 5)
        case "claim":
            assert await other.claim(counter, rev) == (range(3, 5),)
        case "give back":
            found = await stands(other, counter)
            assert await other.give_back(counter, found, next=90, returned=found.returned)
        case "epoch":
            backend.push(counter, epoch="sealed:2.b")
    before = await stands(store, counter)
    assert await store.claim(counter, rev) == ()
    assert await stands(store, counter) == before


async def test_twenty_who_claim_at_once_get_every_range_once(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    rev = await returned(store, counter, range(3, 5), range(7, 9))
    answers = await asyncio.gather(*((store, other)[i % 2].claim(counter, rev) for i in range(20)))
    assert sum(answers, ()) == (range(3, 5), range(7, 9))


# --- both, as a service does them -----------------------------------------------------------------


@one_engine
async def test_what_one_gives_back_the_next_one_claims_and_hands_out_first(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, start=1000)
    mine = await reserve(store, counter, 20)
    newer = await reserve(other, counter, 20)
    layout = counter.layout()
    plan = await give_back.give_back(
        store, counter, [layout.ids(range(1010, 1020))], rev=mine.rev, end=mine.indices.stop
    )
    assert (plan.count, plan.next) == (10, 1040)
    plan = await give_back.give_back(
        other, counter, [layout.ids(range(1030, 1040))], rev=newer.rev, end=newer.indices.stop
    )
    assert plan.next == 1040, "somebody wrote in between, so that nobody can tell whose end it is"
    grant = await reserve(store, counter, 5)
    blocks = await give_back.claim(store, counter, grant)
    assert blocks == [range(1010, 1020), range(1030, 1040)]
    assert await give_back.claim(other, counter, grant) == []


@one_engine
async def test_the_unused_end_of_the_last_reservation_goes_back_to_the_position(
    store: CatalogueStore,
) -> None:
    counter = await made(store)
    first, second = await reserve(store, counter, 10), await reserve(store, counter, 10)
    plan = await give_back.give_back(
        store, counter, [range(7, 20)], rev=second.rev, end=second.indices.stop
    )
    assert (plan.next, plan.returned, first.indices.stop) == (7, (), 10)
    assert (await reserve(store, counter, 3)).indices == range(7, 10)


@one_engine
@pytest.mark.parametrize(
    ("by_hand", "why"),
    [
        ({"epoch": "gone-back:1"}, errors.EpochChanged),
        ({"next": 19}, errors.WentBack),
        ({"next": 19, "mark": 19}, errors.WentBack),
        (None, errors.PositionMissing),
    ],
)
async def test_nothing_goes_back_to_a_position_that_is_not_as_we_left_it(
    backend: Backend, store: CatalogueStore, by_hand: dict[str, Any] | None, why: type[Exception]
) -> None:
    counter = await made(store)
    mine = await reserve(store, counter, 20)
    if by_hand is None:
        backend.delete(counter)
    else:
        backend.push(counter, **by_hand)
    before = await store.position(counter)
    with pytest.raises(why):
        await give_back.give_back(store, counter, [range(7, 20)], rev=mine.rev, end=20)
    assert await store.position(counter) == before


@one_engine
async def test_ids_of_an_epoch_that_is_over_do_not_go_back(store: CatalogueStore) -> None:
    counter = await made(store)
    mine = await reserve(store, counter, 20)
    later = replace(counter, base=1000)
    plan = await give_back.give_back(
        store, later, [range(500, 510), range(1015, 1020)], rev=mine.rev, end=20
    )
    assert (plan.count, plan.next) == (5, 15)


# --- DynamoDB only --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        {"S": "text"},
        {"L": [{"N": "3"}, {"N": "5"}]},
        {"L": [{"L": [{"N": "5"}, {"N": "3"}]}]},
        {"L": [{"L": [{"N": "3"}, {"N": "4.5"}]}]},
        {"L": [{"L": [{"N": "3"}, {"N": "4"}, {"N": "5"}]}]},
        {"M": {}},
    ],
)
async def test_an_unreadable_list_grants_nothing_and_stops_no_reservation(
    moto_url: str, written: dict[str, Any]
) -> None:
    backend = backends.moto(moto_url)
    async with backend.open() as store:
        await store.init(new_counter("default", random))
        counter = await made(store)
        with by_hand(backend.url) as client:
            client.update_item(
                TableName=backend.table,
                Key=backend.key(counter),
                UpdateExpression="SET returned = :r",
                ExpressionAttributeValues={":r": written},
            )
        grant = await reserve(store, counter, 20)
        assert (grant.indices, grant.returned) == (range(20), ())
        with pytest.raises(errors.PositionIllFormed, match="returned"):
            await give_back.give_back(store, counter, [range(7, 20)], rev=grant.rev, end=20)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("returns_", ["old", "new"])
async def test_an_old_endpoint_s_increment_between_read_and_write_is_not_undone(
    request: pytest.FixtureRequest, engine: str, returns_: str
) -> None:
    backend: Dynamo = getattr(backends, engine)(request.getfixturevalue(f"{engine}_url"))
    async with backend.open() as store:
        with by_hand(backend.url) as client:
            await store.init(new_counter("default", random))
            legacy = Legacy(client, KEYS["two"])
            legacy.put(counterValue=41)
            counter = await store.create(await wanted(store, legacy, returns_))
            await adopted_item_shared(store, counter, legacy, returns_)


async def adopted_item_shared(
    store: DynamoStore, counter: Counter, legacy: Legacy, returns_: str
) -> None:
    layout = counter.layout()
    mine = await reserve(store, counter, 10)
    assert mine.indices == range(41, 51)
    unused = [layout.ids(range(45, 51))]
    read = store.position
    taken: list[int] = []

    async def read_and_increment(counter: Counter, shard: int = 0) -> Position | None:
        found = await read(counter, shard)
        taken.append(legacy.next(returns_))
        return found

    store.position = read_and_increment  # type: ignore[method-assign]
    with pytest.raises(errors.NotApplied):
        await give_back.give_back(store, counter, unused, rev=mine.rev, end=51)
    store.position = read  # type: ignore[method-assign]
    assert taken == [layout.id(51)]
    plan = await give_back.give_back(store, counter, unused, rev=mine.rev, end=51)
    assert (plan.next, plan.returned) == (52, (range(45, 51),)), "the end is another's now"
    assert legacy.next(returns_) == layout.id(52)
    grant = await reserve(store, counter, 2)
    assert [layout.ids(range(45, 51))] == await give_back.claim(store, counter, grant)
    plan = await give_back.give_back(
        store, counter, [layout.ids(grant.indices)], rev=grant.rev + 1, end=grant.indices.stop
    )
    assert plan.next == 53, "its value goes back"
    assert legacy.next(returns_) == layout.id(53)


async def test_an_answer_to_a_claim_that_is_none_is_unknown() -> None:
    for old in (item(rev=8), item(rev=7, returned="text"), {}):
        answer = success(Attributes=old)
        async with serving(UpdateItem=answer) as server, store_at(server.url) as store:
            with pytest.raises(errors.OutcomeUnknown):
                await store.claim(COUNTER, 7)


async def test_a_give_back_is_sent_once_whatever_the_answer() -> None:
    found = Position(110, 110, 8, COUNTER.epoch)
    for answer in (error("InternalServerError", 500), error("ThrottlingException")):
        async with serving(UpdateItem=answer) as server, store_at(server.url) as store:
            with pytest.raises(errors.StoreError):
                await store.give_back(COUNTER, found, next=104, returned=())
            assert server.operations.count("UpdateItem") == 1


# --- SQLite only ----------------------------------------------------------------------------------

SCHEMA_OF_0_1 = """
CREATE TABLE identity (id TEXT NOT NULL, inode INTEGER NOT NULL, schema INTEGER NOT NULL) STRICT;
CREATE TABLE catalogue (revision INTEGER NOT NULL) STRICT;
CREATE TABLE entry (
    name TEXT PRIMARY KEY, epoch TEXT NOT NULL, state TEXT NOT NULL, config TEXT NOT NULL
) STRICT;
CREATE TABLE position (
    counter TEXT NOT NULL, shard INTEGER NOT NULL, next INTEGER NOT NULL, mark INTEGER NOT NULL,
    rev INTEGER NOT NULL, epoch TEXT NOT NULL, PRIMARY KEY (counter, shard)
) STRICT;
INSERT INTO identity VALUES ('a', 0, 1);
INSERT INTO catalogue VALUES (1);
INSERT INTO entry VALUES ('orders', '1.a', 'active', '{"name":"orders","epoch":"1.a"}');
INSERT INTO position VALUES ('orders', 0, 100, 100, 4, '1.a');
"""


async def test_a_file_of_the_first_schema_is_opened_goes_on_and_takes_back(tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    database = sqlite3.connect(path)
    database.executescript(SCHEMA_OF_0_1)
    database.close()
    async with SQLiteStore(str(path)) as store, SQLiteStore(str(path)) as other:
        await asyncio.gather(store.verify(), other.verify())
        counter = await store.counter("orders")
        assert counter is not None
        grant = await reserve(store, counter, 10)
        assert (grant.indices, grant.rev) == (range(100, 110), 5)
        found = await stands(store, counter)
        assert await store.give_back(counter, found, next=106, returned=(range(50, 60),))
        grant = await reserve(other, counter, 10)
        assert await other.claim(counter, grant.rev) == (range(50, 60),)
        await store.verify()
    database = sqlite3.connect(path)
    try:  # what the version before does to it still works
        database.execute("INSERT INTO position VALUES ('tickets', 0, 0, 0, 0, '1.b')")
        database.execute("UPDATE position SET next = next + 1, mark = next + 1, rev = rev + 1")
    finally:
        database.close()
