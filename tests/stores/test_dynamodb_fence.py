"""Fencing on DynamoDB: an adopted item is never lowered, and a recreated table is accepted last."""

from typing import Any

import pytest
from botocore.exceptions import ClientError
from msgspec.structs import replace

from idservice import errors
from idservice.catalogue import rules
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Change, Configure, Delete, Fence, FinishAdoption, SetNext
from idservice.catalogue.counters import new_counter
from idservice.core.epoch import sealed
from idservice.stores.dynamodb import DynamoStore
from idservice.stores.records import Counter
from tests.engines import by_hand, recreate
from tests.stores.backends import ENGINE, Dynamo, of_engine
from tests.stores.test_dynamodb_adopt import (
    Legacy,
    client,
    ids_of,
    legacy,
    random,
    store,
    wanted,
)

__all__ = ["client", "legacy", "store"]  # fixtures, used by name


@pytest.fixture(params=[ENGINE])
def backend(request: pytest.FixtureRequest) -> Dynamo:
    return of_engine(request)


async def change(store: DynamoStore, name: str, wanted: Change) -> Counter:
    _, after = await EpochChanger(store, random=random, stale_s=0.0).change(name, wanted)
    return after


@pytest.mark.parametrize("returns", ["old", "new"])
async def test_a_fence_raises_an_adopted_item_and_both_go_on_above(
    store: DynamoStore, legacy: Legacy, returns: str
) -> None:
    old = await store.create(await wanted(store, legacy, returns))
    assert await ids_of(store, old, 2) == ([41, 42] if returns == "old" else [42, 43])
    found = await store.position(old)
    assert found is not None
    assert await store.give_back(old, found, next=found.next, returned=(range(42, 43),))
    new = await change(store, "donations", Fence(past=499))
    opened = await store.position(new)
    assert opened is not None
    assert opened.returned == (), "who knows who has them, after what a fence is for"
    with pytest.raises(errors.EpochChanged):
        await ids_of(store, old, 1)
    assert await ids_of(store, new, 2) == [500, 501]
    assert legacy.next(returns) == 502
    assert await ids_of(store, new, 1) == [503]


async def test_a_fence_never_lowers_an_adopted_item(store: DynamoStore, legacy: Legacy) -> None:
    await store.create(await wanted(store, legacy))
    legacy.put(counterValue=41, epoch="1.a", mark=41, rev=0)
    for _ in range(20):
        legacy.next("old")
    new = await change(store, "donations", Fence(past=50))
    assert await ids_of(store, new, 1) == [61]


async def test_the_old_endpoint_may_count_between_any_two_steps_of_a_fence(
    store: DynamoStore, legacy: Legacy
) -> None:
    counter = await store.create(await wanted(store, legacy))
    got = await ids_of(store, counter, 3)
    await store.seal(counter, 0, await store.shard_state(counter, 0), sealed("2.b"))
    got += [legacy.next("old") for _ in range(3)]
    await store.open_shard(counter, 0, sealed("2.b"), "2.b", value=45)  # by now it is at 47
    new = replace(counter, epoch="2.b")
    got += await ids_of(store, new, 1)
    await store.open_shard(counter, 0, sealed("2.b"), "2.b", value=1000)  # a late copy
    got += [legacy.next("old"), *await ids_of(store, new, 1)]
    assert got == list(range(41, 50))


async def test_an_adopted_item_that_was_set_back_is_repaired_by_a_fence(
    store: DynamoStore, legacy: Legacy
) -> None:
    counter = await store.create(await wanted(store, legacy))
    await ids_of(store, counter, 10)
    legacy.put(counterValue=45, mark=51, rev=1, epoch=counter.epoch)
    with pytest.raises(errors.WentBack):
        await ids_of(store, counter, 1)
    await store.close_gone_back(counter, counter.epoch)
    fenced = await change(store, "donations", Fence(ahead=0))
    assert await ids_of(store, fenced, 1) == [51]


@pytest.mark.parametrize(
    "refused",
    [SetNext(next=900), Configure(state="suspended"), Delete(), Configure(limit=5000)],
    ids=lambda refused: refused.kind,
)
async def test_what_an_old_endpoint_would_ignore_is_refused_and_changes_nothing(
    store: DynamoStore, legacy: Legacy, refused: Change
) -> None:
    counter = await store.create(await wanted(store, legacy))
    before = legacy.item()
    with pytest.raises(errors.ChangeRefused, match="old endpoint"):
        await change(store, "donations", refused)
    assert legacy.item() == before
    assert await store.entry("donations") == counter


async def test_a_missing_adopted_item_is_not_created_by_a_fence(
    store: DynamoStore, legacy: Legacy
) -> None:
    await store.create(await wanted(store, legacy))
    legacy.client.delete_item(TableName=legacy.table, Key=legacy.typed)
    with pytest.raises(errors.PositionMissing):
        await change(store, "donations", Fence(past=1000))


# --- an adopted counter of which only a part was restored -----------------------------------------


def entry_of(client: Any, table: str) -> Any:
    key = {"pk": {"S": "entry:donations"}}
    return client.get_item(TableName=table, Key=key, ConsistentRead=True)["Item"]


def old_endpoint_is_off(legacy: Legacy) -> bool:
    with pytest.raises(ClientError):
        legacy.next("old")
    return legacy.item()[legacy.value].keys() == {"S"}


@pytest.mark.parametrize(("fence", "first"), [(Fence(past=999), 1000), (Fence(ahead=7), 53)])
@pytest.mark.parametrize("returns", ["old", "new"])
async def test_a_fence_ends_an_adoption_that_a_restored_entry_does_not_know_ended(
    backend: Dynamo, store: DynamoStore, legacy: Legacy, returns: str, fence: Fence, first: int
) -> None:
    await store.create(await wanted(store, legacy, returns))
    copy = entry_of(legacy.client, backend.table)
    finished = await change(store, "donations", FinishAdoption())
    got = await ids_of(store, finished, 5)
    legacy.client.put_item(TableName=backend.table, Item=copy)
    before = await store.counter("donations")
    assert before is not None
    with pytest.raises(errors.EpochChanged, match="fence donations --past N"):
        await ids_of(store, before, 1)
    fenced = await change(store, "donations", fence)
    assert fenced.home == before.adopted
    [id] = await ids_of(store, fenced, 1)
    assert id == (first if fence.past else first + before.base + (returns == "new"))
    assert id > got[-1]
    assert old_endpoint_is_off(legacy)
    assert await change(store, "donations", FinishAdoption()) == fenced


@pytest.mark.parametrize(
    "spoilt",
    [
        {"counterValue": "41"},
        {},
        {"counterValue": 41},
        {"counterValue": 41, "mark": 41, "rev": 0},
        {"counterValue": 41, "mark": "41", "rev": 0, "epoch": "1.a"},
    ],
    ids=["a text", "no value", "put back by hand", "no epoch", "ill-formed mark"],
)
async def test_the_command_that_an_unreadable_adopted_item_advises_repairs_it(
    store: DynamoStore, legacy: Legacy, spoilt: dict[str, Any]
) -> None:
    await store.create(await wanted(store, legacy))
    legacy.put(**spoilt)
    fenced = await change(store, "donations", Fence(past=999))
    assert await ids_of(store, fenced, 1) == [1000]
    if fenced.home is not None:
        assert old_endpoint_is_off(legacy)
    else:
        assert legacy.next("old") == 1001


async def test_an_operator_who_died_in_such_a_fence_leaves_what_an_instance_finishes(
    store: DynamoStore, legacy: Legacy
) -> None:
    counter = await store.create(await wanted(store, legacy))
    legacy.put(counterValue="spoilt")
    found = [await store.shard_state(counter, 0)]
    begun = rules.begun(counter, Fence(past=999), found, random)
    assert await store.rewrite(counter, begun)
    done = await EpochChanger(store, random=random, stale_s=0.0).carry_out("donations")
    assert await ids_of(store, done, 1) == [1000]


async def test_an_older_copy_of_a_finished_item_stays_off_after_a_fence(
    store: DynamoStore, legacy: Legacy
) -> None:
    await store.create(await wanted(store, legacy))
    copy = legacy.item()
    await change(store, "donations", FinishAdoption())
    legacy.client.put_item(TableName=legacy.table, Item=copy)
    assert legacy.next("old") == 41, "until it is fenced"
    fenced = await change(store, "donations", Fence(past=999))
    assert await ids_of(store, fenced, 1) == [1000]
    assert old_endpoint_is_off(legacy)


async def test_a_fence_without_an_item_says_what_to_do_and_not_to_run_itself(
    store: DynamoStore, legacy: Legacy
) -> None:
    await store.create(await wanted(store, legacy))
    legacy.client.delete_item(TableName=legacy.table, Key=legacy.typed)
    with pytest.raises(errors.ItemUnusable, match="Put it right in that table") as raised:
        await change(store, "donations", Fence(past=1000))
    assert "idservice fence" not in str(raised.value)


@pytest.fixture
def engine(dynoxide_url: str) -> Dynamo:
    """One whose tables have identities."""
    return Dynamo(dynoxide_url)


@pytest.mark.needs_engine
async def test_a_recreated_table_is_accepted_when_told_and_watched_over_again(
    engine: Dynamo,
) -> None:
    async with engine.open() as store:
        await store.init(new_counter("default", random))
        with by_hand(engine.url) as client:
            recreate(client, engine.table)
            with pytest.raises(errors.StoreReplaced):
                await store.verify()
            await change(store, "default", Fence(past=99))
            with pytest.raises(errors.StoreReplaced):
                await store.verify()
            await store.accept_identity()
            await store.verify()
            await store.accept_identity()
            recreate(client, engine.table)
            with pytest.raises(errors.StoreReplaced):
                await store.verify()


@pytest.mark.needs_engine
@pytest.mark.parametrize("known", [True, False])
async def test_a_table_that_was_replaced_while_it_was_fenced_is_not_accepted(
    engine: Dynamo, known: bool
) -> None:
    """Its counters are those of another copy, below ids in use."""
    async with engine.open() as first, engine.open() as store:
        await first.init(new_counter("default", random))
        with by_hand(engine.url) as client:
            if known:
                await store.verify()
            else:
                recreate(client, engine.table)
                with pytest.raises(errors.StoreReplaced):
                    await store.verify()
            copy = client.scan(TableName=engine.table)["Items"]
            await change(store, "default", Fence(past=99))
            recreate(client, engine.table)
            for item in copy:
                client.put_item(TableName=engine.table, Item=item)
            with pytest.raises(errors.StoreReplaced, match="while this process ran"):
                await store.accept_identity()
            async with engine.open() as instance:
                with pytest.raises(errors.StoreReplaced):
                    await instance.verify()


@pytest.mark.needs_engine
async def test_a_recreated_table_of_an_adopted_counter_is_accepted_by_its_fence(
    engine: Dynamo,
) -> None:
    async with engine.open() as store:
        await store.init(new_counter("default", random))
        with by_hand(engine.url) as client:
            legacy = Legacy(client, {"pk": "donations"})
            legacy.put(counterValue=41)
            await store.create(await wanted(store, legacy))
            recreate(client, legacy.table)
            with pytest.raises(errors.NotApplied, match="recreated"):
                await store.counter("donations")
            await change(store, "donations", Fence(past=99))
            fenced = await store.counter("donations")
            assert fenced is not None
            assert await ids_of(store, fenced, 1) == [100]
