"""The end of an adoption: one write takes the position over and stops the old endpoint."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError
from msgspec.structs import replace

from idservice import errors
from idservice.catalogue import rules
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import (
    Change,
    Configure,
    Delete,
    Fence,
    FinishAdoption,
    Reshard,
    SetNext,
)
from idservice.catalogue.counters import ensure, new_counter
from idservice.catalogue.renewals import CreateAgain
from idservice.core.epoch import sealed
from idservice.stores.dynamodb import DynamoStore
from idservice.stores.dynamodb.client import DynamoClient
from idservice.stores.records import Counter, Grant, Position
from tests.engines import by_hand
from tests.stores.backends import ENGINE, Dynamo, of_engine
from tests.stores.test_dynamodb_adopt import KEYS, Legacy, client, ids_of, legacy, wanted

__all__ = ["client", "legacy"]  # fixtures, used by name

random = Random()
FINISH = FinishAdoption()


@pytest.fixture(params=[ENGINE])
def backend(request: pytest.FixtureRequest) -> Dynamo:
    return of_engine(request)


@pytest.fixture
async def store(backend: Dynamo) -> AsyncIterator[DynamoStore]:
    async with backend.open() as store:
        await backend.init(store)
        yield store


def changer(store: DynamoStore) -> EpochChanger:
    return EpochChanger(store, random=random, stale_s=0.0)


async def change(store: DynamoStore, wanted: Change) -> Counter:
    _, after = await changer(store).change("donations", wanted)
    return after


async def sealed_for_good(store: DynamoStore, counter: Counter) -> Counter:
    """The entry with a finish under way whose base is written, and the item sealed."""
    begun = rules.begun(counter, FINISH, [await store.shard_state(counter, 0)], random)
    assert begun.intent is not None
    assert await store.rewrite(counter, begun)
    found = await store.shard_state(counter, 0)
    await store.seal(counter, 0, found, sealed(begun.intent.epoch))
    based = rules.based(begun, [found], None)
    assert await store.rewrite(begun, based)
    return based


async def opened(store: DynamoStore, based: Counter) -> None:
    intent = based.intent
    assert intent is not None
    assert intent.base is not None
    seal = sealed(intent.epoch)
    await store.finish_adoption(based, seal, intent.epoch, first=intent.base)


def refused(legacy: Legacy, how: str = "set #v = #v + :num") -> str:
    with pytest.raises(ClientError) as raised:
        legacy.client.update_item(
            TableName=legacy.table,
            Key=legacy.typed,
            UpdateExpression=how,
            ExpressionAttributeNames={"#v": legacy.value},
            ExpressionAttributeValues={":num": {"N": "1"}},
        )
    code: str = raised.value.response["Error"]["Code"]
    return code


@pytest.mark.parametrize("returns", ["old", "new"])
@pytest.mark.parametrize("keys", KEYS)
async def test_the_service_goes_on_where_the_old_endpoint_ended(
    store: DynamoStore, client: Any, returns: str, keys: str
) -> None:
    legacy = Legacy(client, KEYS[keys])
    legacy.put(counterValue=40, other="kept")
    counter = await store.create(await wanted(store, legacy, returns))
    got = [legacy.next(returns)]
    got += await ids_of(store, counter, 3)
    got += [legacy.next(returns)]
    after = await change(store, FinishAdoption())
    assert (after.adopted, after.home, after.base) == (None, counter.adopted, 0)
    assert after == await store.counter("donations")
    got += await ids_of(store, after, 3)
    assert got == list(range(got[0], got[0] + 8)), "not one lost, not one twice"
    with pytest.raises(errors.EpochChanged):
        await ids_of(store, counter, 1)
    item = legacy.item()
    assert set(item) == {*legacy.key, "counterValue", "other", "epoch", "mark", "next", "rev"}
    assert item["next"] == item["mark"] == {"N": str(got[-1] + 1)}
    assert "idservice" in item["counterValue"]["S"]


@pytest.mark.needs_engine
async def test_a_forgotten_increment_fails_for_good(dynoxide_url: str) -> None:
    """Also after every change that is possible from then on; moto answers 500 to all of these."""
    ways = ["set #v = #v + :num", "add #v :num", "set #v = if_not_exists(#v, :num) + :num"]
    async with Dynamo(dynoxide_url).open() as store:
        await store.init(new_counter("default", random))
        with by_hand(dynoxide_url) as client:
            legacy = Legacy(client, KEYS["two"])
            legacy.put(counterValue=40)
            await store.create(await wanted(store, legacy))
            for each in (FinishAdoption(), *EVERYTHING):
                await change(store, each)
                for how in ways:
                    assert refused(legacy, how) == "ValidationException", (each.kind, how)
            legacy.client.delete_item(TableName=legacy.table, Key=legacy.typed)
            await change(store, Fence(past=9000))
            for how in ways:
                assert refused(legacy, how) == "ValidationException", ("created anew", how)


EVERYTHING: list[Change] = [
    SetNext(next=500),
    Configure(state="suspended"),
    Configure(state="active"),
    Configure(limit=5000),
    SetNext(next=300, lower=True),
    Configure(runway=12.0),
    Delete(),
    CreateAgain(wanted=new_counter("donations", random, strict=True)),
    Fence(past=700),
]


async def test_everything_that_was_refused_is_possible_afterwards(
    store: DynamoStore, legacy: Legacy
) -> None:
    legacy.put(counterValue=40, other="kept")
    counter = await store.create(await wanted(store, legacy))
    for each in EVERYTHING[:4]:
        if each.kind != "resume":  # it is active
            with pytest.raises(errors.ChangeRefused, match="adopt --finish donations"):
                await change(store, each)
    await change(store, FinishAdoption())
    at = []
    for each in EVERYTHING:
        after = await change(store, each)
        if after.state == "active":
            at.append((await ids_of(store, after, 2))[0])
        assert after.home == counter.adopted
    assert at == [500, 502, 504, 300, 302, 304, 701]
    assert legacy.item()["other"] == {"S": "kept"}, "what is none of ours stays"
    position = await store.position(after)
    assert position is not None
    assert position.next == 2


async def test_it_is_given_shards_of_which_the_first_stays_in_its_item(
    store: DynamoStore, legacy: Legacy
) -> None:
    legacy.put(counterValue=40)
    await store.create(await wanted(store, legacy))
    await change(store, FinishAdoption())
    got: list[int] = []
    for shards in (3, 2, 4, 1):
        after = await change(store, Reshard(shards=shards))
        assert after.base > max(got, default=39)
        for shard in range(shards):
            layout = after.layout(shard)
            room = layout.end - 2
            grant = await store.reserve(after, count=2, seen=0, room=room, shard=shard)
            assert isinstance(grant, Grant)
            got += layout.ids(grant.indices)
        assert len(set(got)) == len(got)
        assert legacy.item()["epoch"] == {"S": after.epoch}
    with pytest.raises(errors.EpochChanged):
        await store.reserve(replace(after, shards=4), count=1, seen=0, room=9, shard=3)


async def test_finishing_again_changes_nothing(store: DynamoStore, legacy: Legacy) -> None:
    await store.create(await wanted(store, legacy))
    after = await change(store, FinishAdoption())
    item = legacy.item()
    before, again = await changer(store).change("donations", FINISH)
    assert before is again
    assert again == after
    assert legacy.item() == item


async def test_a_counter_of_our_own_has_nothing_to_finish(store: DynamoStore) -> None:
    with pytest.raises(errors.ChangeRefused, match="not adopted"):
        await changer(store).change("default", FINISH)


async def test_a_value_called_next_cannot_be_made_a_text(store: DynamoStore, client: Any) -> None:
    legacy = Legacy(client, {"pk": "donations"}, value="next")
    legacy.put(next=7)
    counter = await store.create(await wanted(store, legacy))
    with pytest.raises(errors.ChangeRefused, match="'next', which the position itself needs"):
        await change(store, FinishAdoption())
    assert await store.entry("donations") == counter
    assert legacy.next("old") == 7


# --- step by step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("returns", ["old", "new"])
async def test_ids_the_old_endpoint_took_after_the_base_are_not_repeated(
    store: DynamoStore, legacy: Legacy, returns: str
) -> None:
    counter = await store.create(await wanted(store, legacy, returns))
    based = await sealed_for_good(store, counter)
    last = [legacy.next(returns) for _ in range(5)][-1]
    await opened(store, based)
    done = await changer(store).carry_out("donations")
    assert await ids_of(store, done, 1) == [last + 1]


async def test_a_value_that_a_hand_moved_back_does_not_lower_the_position(
    store: DynamoStore, legacy: Legacy
) -> None:
    counter = await store.create(await wanted(store, legacy))
    await ids_of(store, counter, 100)
    based = await sealed_for_good(store, counter)
    legacy.client.update_item(
        TableName=legacy.table, Key=legacy.typed, UpdateExpression="SET counterValue = :v",
        ExpressionAttributeValues={":v": {"N": "3"}},
    )  # fmt: skip
    await opened(store, based)
    done = await changer(store).carry_out("donations")
    assert await ids_of(store, done, 1) == [141]


async def test_a_late_copy_of_the_opening_does_nothing(store: DynamoStore, legacy: Legacy) -> None:
    counter = await store.create(await wanted(store, legacy))
    based = await sealed_for_good(store, counter)
    await opened(store, based)
    done = await changer(store).carry_out("donations")
    await ids_of(store, done, 5)
    item = legacy.item()
    await opened(store, based)
    assert legacy.item() == item
    later = await change(store, SetNext(next=900))
    await opened(store, based)
    assert await ids_of(store, later, 1) == [900]


async def test_between_the_opening_and_the_end_it_can_be_looked_at_and_finished(
    store: DynamoStore, legacy: Legacy
) -> None:
    counter = await store.create(await wanted(store, legacy, "new"))
    await ids_of(store, counter, 9)
    based = await sealed_for_good(store, counter)
    await opened(store, based)
    assert based.intent is not None
    assert await store.position(based) == Position(51, 51, 3, based.intent.epoch)
    with pytest.raises(errors.EpochChanged):
        await ids_of(store, counter, 1)
    assert await ids_of(store, await changer(store).carry_out("donations"), 1) == [51]


class Died(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("after", [False, True], ids=["unsent", "unheard"])
@pytest.mark.parametrize("step", range(7))
async def test_whoever_died_at_any_step_leaves_what_the_next_one_finishes(
    backend: Dynamo, store: DynamoStore, legacy: Legacy, monkeypatch: pytest.MonkeyPatch,
    step: int, after: bool,
) -> None:  # fmt: skip
    """Beside an old endpoint that counts before and after every step."""
    got: list[int] = []
    counter = await store.create(await wanted(store, legacy))
    got += await ids_of(store, counter, 3)
    writes = 0
    real = DynamoClient.call

    async def dies(self: DynamoClient, operation: str, *rest: Any, **request: Any) -> Any:
        nonlocal writes
        if operation not in ("UpdateItem", "TransactWriteItems"):
            return await real(self, operation, *rest, **request)
        number, writes = writes, writes + 1
        still_on = "N" in legacy.item()["counterValue"]
        got.extend([legacy.next("old")] if still_on else [])
        if number == step and not after:
            raise Died
        try:
            return await real(self, operation, *rest, **request)
        finally:
            if number == step:
                raise Died

    with monkeypatch.context() as patched:
        patched.setattr(DynamoClient, "call", dies)
        with pytest.raises(Died):
            await change(store, FinishAdoption())
    async with backend.open() as other:
        done = await change(other, FinishAdoption())
        assert done.home == counter.adopted
        got += await ids_of(other, done, 4)
    assert sorted(got) == list(range(41, 41 + len(got))), "not one lost, not one twice"
    assert legacy.item()["counterValue"].keys() == {"S"}


async def test_two_operators_at_once_finish_it_once(
    backend: Dynamo, store: DynamoStore, legacy: Legacy
) -> None:
    await store.create(await wanted(store, legacy))
    async with backend.open() as other:
        both = await asyncio.gather(
            change(store, FinishAdoption()), change(other, FinishAdoption())
        )
    assert {entry.ordinal for entry in both} == {2}
    assert await ids_of(store, both[0], 1) == [41]


async def test_an_entry_that_an_earlier_version_wrote_is_read_and_finished(
    store: DynamoStore, legacy: Legacy
) -> None:
    """`home` is left out of an entry until there is one, so that earlier versions read it."""
    counter = await store.create(await wanted(store, legacy))
    assert "home" not in msgspec.json.decode(msgspec.json.encode(counter))
    after = await change(store, FinishAdoption())
    assert replace(after, home=None) != after


async def test_a_finished_counter_is_created_again_like_any_other(
    store: DynamoStore, legacy: Legacy
) -> None:
    await store.create(await wanted(store, legacy))
    await change(store, FinishAdoption())
    again = new_counter("donations", random, start=41)
    assert (await ensure(store, again, runway=30.0, random=random))[1] is False
    await change(store, Delete())
    created, new = await ensure(store, again, runway=30.0, random=random)
    assert new
    assert await ids_of(store, created, 1) == [41]
