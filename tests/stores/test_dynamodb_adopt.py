"""Adoption: an existing counter item is taken over while its old endpoint goes on counting."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from idservice import errors
from idservice.catalogue.counters import ensure, new_counter
from idservice.stores.address import DynamoAddress
from idservice.stores.dynamodb import DynamoStore
from idservice.stores.dynamodb import table as dynamodb_table
from idservice.stores.dynamodb.adopt import check_alone
from idservice.stores.dynamodb.client import CallNotSent, DynamoClient
from idservice.stores.records import DELETED, Adopted, Counter, Position
from tests.engines import attribute, by_hand
from tests.stores import answers
from tests.stores.backends import ENGINE, ENGINES, Dynamo, of_engine

random = Random()
# Each write of an adoption is seen on both; what is refused, or goes a longer way, on one.
on_both = pytest.mark.parametrize("backend", ENGINES, indirect=True)


@dataclass
class Legacy:
    """The table and item of an old counter, and its endpoint.

    `key` is as an operator names it; `kinds` are the types its attributes have.
    """

    client: Any
    key: dict[str, str]
    kinds: dict[str, str] = field(default_factory=dict)
    value: str = "counterValue"
    table: str = field(default_factory=lambda: f"donation-data-{uuid.uuid4().hex}")

    def __post_init__(self) -> None:
        kinds = {name: self.kinds.get(name, "S") for name in self.key}
        self.typed = {name: {kinds[name]: value} for name, value in self.key.items()}
        self.client.create_table(
            TableName=self.table,
            KeySchema=[
                {"AttributeName": name, "KeyType": kind}
                for name, kind in zip(self.key, ("HASH", "RANGE"), strict=False)
            ],
            AttributeDefinitions=[
                {"AttributeName": name, "AttributeType": kind} for name, kind in kinds.items()
            ],
            BillingMode="PAY_PER_REQUEST",
        )

    def put(self, **attributes: object) -> None:
        item = {name: attribute(value) for name, value in attributes.items()}
        self.client.put_item(TableName=self.table, Item=self.typed | item)

    def item(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get_item(
            TableName=self.table, Key=self.typed, ConsistentRead=True
        )["Item"]
        return found

    def next(self, returns: str) -> int:
        """What the old endpoint answers."""
        answer = self.client.update_item(
            TableName=self.table,
            Key=self.typed,
            UpdateExpression="set #v = #v + :num",
            ExpressionAttributeNames={"#v": self.value},
            ExpressionAttributeValues={":num": {"N": "1"}},
            ReturnValues={"old": "UPDATED_OLD", "new": "UPDATED_NEW"}[returns],
        )
        return int(answer["Attributes"][self.value]["N"])


KEYS: dict[str, dict[str, str]] = {
    "two": {"context": "atomicCounter", "id": "id"},
    "one": {"name": "donations"},
}


@pytest.fixture(params=[ENGINE])
def backend(request: pytest.FixtureRequest) -> Dynamo:
    return of_engine(request)


@pytest.fixture
async def store(backend: Dynamo) -> AsyncIterator[DynamoStore]:
    async with backend.open() as store:
        await backend.init(store)
        yield store


@pytest.fixture
def client(backend: Dynamo) -> Any:
    with by_hand(backend.url) as client:
        yield client


@pytest.fixture
def legacy(client: Any) -> Legacy:
    legacy = Legacy(client, KEYS["two"])
    legacy.put(counterValue=41)
    return legacy


async def wanted(store: DynamoStore, legacy: Legacy, returns: str = "old") -> Counter:
    adopted, value = await store.locate(legacy.table, legacy.key, legacy.value, returns)
    start = value + (1 if returns == "new" else 0)
    return new_counter("donations", random, start=start, adopted=adopted)


async def test_an_item_that_was_prepared_without_its_entry_is_not_told_as_untouched(
    store: DynamoStore, legacy: Legacy, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = await wanted(store, legacy)

    async def unreached(*_: object) -> None:
        raise CallNotSent(store="dynamodb:ids", action="creating", place="DynamoDB", cause="down")

    with monkeypatch.context() as cut:
        cut.setattr(store._client, "transact", unreached)
        with pytest.raises(errors.OutcomeUnknown, match="repeat the command"):
            await store.create(counter)
    assert "epoch" in legacy.item()
    assert (await store.create(counter)).start == 41


async def ids_of(store: DynamoStore, counter: Counter, count: int, seen: int = 0) -> list[int]:
    room = counter.layout().end - count
    indices = (await store.reserve(counter, count=count, seen=seen, room=room)).indices
    return list(counter.layout().ids(indices))


# --- taking over ----------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("returns", ["old", "new"])
@pytest.mark.parametrize("keys", KEYS)
async def test_old_endpoint_and_service_share_an_item_and_no_id(
    store: DynamoStore, client: Any, returns: str, keys: str
) -> None:
    legacy = Legacy(client, KEYS[keys])
    legacy.put(counterValue=40, other="kept")
    got = [legacy.next(returns)]
    assert got == [40 if returns == "old" else 41]

    counter = await store.create(await wanted(store, legacy, returns))
    assert counter.start == got[-1] + 1
    assert counter.base == (1 if returns == "new" else 0)
    for _ in range(3):
        got += await ids_of(store, counter, 10)
        got += [legacy.next(returns), legacy.next(returns)]
    got += await ids_of(store, counter, 1)
    first = got[0]
    assert got == list(range(first, first + len(got)))  # not one lost, not one twice
    item = legacy.item()
    assert item["other"] == {"S": "kept"}
    assert set(item) == {*legacy.key, "counterValue", "other", "epoch", "mark", "rev"}


@pytest.mark.parametrize("returns", ["old", "new"])
async def test_they_share_no_id_at_the_same_time_either(
    store: DynamoStore, backend: Dynamo, legacy: Legacy, returns: str
) -> None:
    counter = await store.create(await wanted(store, legacy, returns))

    def old_endpoint() -> list[int]:
        return [legacy.next(returns) for _ in range(60)]

    async def instance() -> list[int]:
        async with backend.open() as mine:
            got: list[int] = []
            seen = 0
            for count in range(1, 21):
                ids = await ids_of(mine, counter, count, seen)
                seen = ids[-1] - counter.base + 1
                got += ids
            return got

    answers = await asyncio.gather(asyncio.to_thread(old_endpoint), instance(), instance())
    got = sorted(id for answer in answers for id in answer)
    assert got == list(range(counter.start, counter.start + 60 + 2 * 210))


@on_both
async def test_an_adopted_item_moved_back_by_hand_is_refused(
    store: DynamoStore, legacy: Legacy
) -> None:
    counter = await store.create(await wanted(store, legacy))
    await ids_of(store, counter, 100)
    legacy.client.update_item(
        TableName=legacy.table,
        Key=legacy.typed,
        UpdateExpression="SET counterValue = :v",
        ExpressionAttributeValues={":v": {"N": "41"}},
    )
    with pytest.raises(errors.WentBack):
        await ids_of(store, counter, 1)
    await store.close_gone_back(counter, counter.epoch)
    legacy.next("old")  # the old endpoint is not stopped by that
    with pytest.raises(errors.EpochChanged):
        await ids_of(store, counter, 1)


async def test_an_item_moved_back_before_the_first_reservation_is_refused_too(
    store: DynamoStore, legacy: Legacy
) -> None:
    counter = await store.create(await wanted(store, legacy))
    position = await store.position(counter)
    assert position is not None
    assert (position.next, position.mark, position.rev) == (41, 41, 0)
    legacy.put(counterValue=40, epoch=counter.epoch, mark=41, rev=0)
    with pytest.raises(errors.WentBack):
        await ids_of(store, counter, 1)


@on_both
async def test_the_value_may_be_called_next(store: DynamoStore, client: Any) -> None:
    legacy = Legacy(client, {"pk": "orders"}, value="next")
    legacy.put(next=7)
    counter = await store.create(await wanted(store, legacy))
    assert await ids_of(store, counter, 2) == [7, 8]
    assert legacy.next("old") == 9
    assert await ids_of(store, counter, 1) == [10]


@on_both
async def test_an_item_of_the_service_s_own_table_can_be_adopted(
    store: DynamoStore, backend: Dynamo, client: Any
) -> None:
    key = {"pk": {"S": "ctr:orders"}}
    item = {"next": {"N": "5"}, "rev": {"N": "5"}}  # as the template's mapping leaves it
    client.put_item(TableName=backend.table, Item=key | item)
    with pytest.raises(errors.NotApplied, match="position 'ctr:orders' without an entry"):
        await store.create(new_counter("orders", random))
    adopted, value = await store.locate(backend.table, {"pk": "ctr:orders"}, "next", "old")
    counter = await store.create(new_counter("orders", random, start=value, adopted=adopted))
    assert await ids_of(store, counter, 2) == [5, 6]
    position = await store.position(counter)
    assert position is not None
    assert position.rev == 6  # went on from where it stood


@pytest.mark.parametrize("shard", ["", ":1"])
async def test_the_item_of_a_counter_that_was_created_is_not_adopted_under_another_name(
    store: DynamoStore, backend: Dynamo, shard: str
) -> None:
    await store.create(new_counter("orders", random, shards=2))
    key = {"pk": f"ctr:orders{shard}"}
    adopted, value = await store.locate(backend.table, key, "next", "old")
    renamed = new_counter("renamed", random, start=value, adopted=adopted)
    with pytest.raises(errors.BadConfiguration, match="'orders' goes on in the item pk=ctr:orders"):
        await ensure(store, renamed, runway=30, random=random)
    assert await store.counter("renamed") is None


@on_both
async def test_a_number_can_be_part_of_the_key(store: DynamoStore, client: Any) -> None:
    legacy = Legacy(client, {"context": "c", "year": "2024"}, {"year": "N"})
    legacy.put(counterValue=3)
    counter = await store.create(await wanted(store, legacy))
    assert counter.adopted is not None
    assert counter.adopted.key == (("context", "S", "c"), ("year", "N", "2024"))
    assert await ids_of(store, counter, 2) == [3, 4]
    assert await store.counter("donations") == counter


async def test_the_old_endpoint_may_count_on_while_it_is_being_adopted(
    store: DynamoStore, legacy: Legacy
) -> None:
    planned = await wanted(store, legacy)
    got = [legacy.next("old"), legacy.next("old")]
    counter = await store.create(planned)
    got += await ids_of(store, counter, 3)
    assert got == [41, 42, 43, 44, 45]
    assert counter.start == 43


# --- repeated and broken off ----------------------------------------------------------------------


async def test_adopting_again_changes_nothing(store: DynamoStore, legacy: Legacy) -> None:
    planned = await wanted(store, legacy)
    counter = await store.create(planned)
    await ids_of(store, counter, 10)
    before = legacy.item()
    assert await store.create(planned) == counter
    again = await wanted(store, legacy)
    assert again.epoch != counter.epoch
    assert await ensure(store, again, runway=30, random=random) == (counter, False)
    assert legacy.item() == before


async def test_an_item_is_not_adopted_under_a_second_name(
    store: DynamoStore, legacy: Legacy
) -> None:
    """It was said to be there already, and the end of either adoption closed the other counter."""
    counter = await store.create(await wanted(store, legacy))
    before = legacy.item()
    adopted, value = await store.locate(legacy.table, legacy.key, legacy.value, "old")
    second = new_counter("orders", random, start=value, adopted=adopted)
    with pytest.raises(errors.BadConfiguration, match="'donations' goes on in the item"):
        await ensure(store, second, runway=30, random=random)
    assert await store.counter("orders") is None
    assert legacy.item() == before
    assert await ids_of(store, counter, 1) == [41]
    item = {**legacy.typed, "id": {"S": "other"}, "counterValue": {"N": "5"}}
    legacy.client.put_item(TableName=legacy.table, Item=item)
    other = {**legacy.key, "id": "other"}
    adopted, value = await store.locate(legacy.table, other, legacy.value, "old")
    third = await store.create(new_counter("orders", random, start=value, adopted=adopted))
    assert await ids_of(store, third, 1) == [5]


@pytest.mark.parametrize("held", ["UpdateItem", "TransactWriteItems"])
async def test_of_two_who_adopt_an_item_at_once_under_two_names_one_is_refused(
    store: DynamoStore,
    backend: Dynamo,
    legacy: Legacy,
    monkeypatch: pytest.MonkeyPatch,
    held: str,
) -> None:
    """Neither found the other's entry: both had looked before either was written."""
    reached, go = asyncio.Event(), asyncio.Event()
    real = DynamoClient.call

    async def slow(self: DynamoClient, operation: str, *rest: Any, **request: Any) -> Any:
        if self is store._client and operation == held:
            reached.set()
            await go.wait()
        return await real(self, operation, *rest, **request)

    async def adopt(its: DynamoStore, name: str) -> Counter:
        adopted, value = await its.locate(legacy.table, legacy.key, legacy.value, "old")
        planned = new_counter(name, random, start=value, adopted=adopted)
        return (await ensure(its, planned, runway=30, random=random))[0]

    monkeypatch.setattr(DynamoClient, "call", slow)
    async with backend.open() as other:
        first = asyncio.create_task(adopt(store, "donations"))
        await asyncio.wait_for(reached.wait(), 60)
        second = await adopt(other, "orders")
        go.set()
        with pytest.raises(errors.BadConfiguration, match="'orders' goes on in the item"):
            await first
        assert await other.counter("donations") is None
        assert await ids_of(other, second, 2) == [41, 42]


@pytest.mark.parametrize("others", [1, 5, 1000])
async def test_an_adoption_goes_on_though_other_entries_are_written_meanwhile(
    store: DynamoStore, legacy: Legacy, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    real, created = DynamoClient.transact, list[str]()

    async def late(self: DynamoClient, writes: Any, action: str) -> None:
        if len(created) < others and "donations" in action:
            created.append(f"c{len(created)}")
            await store.create(new_counter(created[-1], random))
        await real(self, writes, action)

    monkeypatch.setattr(DynamoClient, "transact", late)
    adopting = ensure(store, await wanted(store, legacy), runway=30, random=random)
    if others == 1000:
        with pytest.raises(errors.OutcomeUnknown, match="repeat the command when that is over"):
            await adopting
        return
    counter, is_new = await adopting
    assert is_new
    assert await ids_of(store, counter, 1) == [41]


@pytest.mark.parametrize(
    ("item", "same"),
    [
        (Adopted("old", (("id", "N", "7"),), "v", "old"), True),
        (Adopted("old", (("id", "N", "7.0"),), "v", "old"), True),  # as DynamoDB compares them
        (Adopted("old", (("id", "N", "70"),), "v", "old"), False),
        (Adopted("arn:aws:dynamodb:x:1:table/old", (("id", "N", "7"),), "v", "old", "t"), True),
        (Adopted("other", (("id", "N", "7"),), "v", "old", "u"), False),
        (Adopted("other", (("id", "N", "7"),), "v", "old"), False),
    ],
)
def test_an_item_is_known_in_each_way_of_naming_it(item: Adopted, same: bool) -> None:
    its = Adopted("old", (("id", "N", "7"),), "v", "old", "t")
    others = [new_counter("orders", random, adopted=its)]
    refused = pytest.raises(errors.BadConfiguration) if same else nullcontext()
    with refused:
        check_alone(new_counter("donations", random, adopted=item), others, "ids")


def test_the_item_of_a_deleted_counter_is_refused_with_what_to_do() -> None:
    item = Adopted("old", (("id", "N", "7"),), "v", "old", "t")
    gone = replace(new_counter("orders", random), home=item, state=DELETED)
    told = r"'orders', which is deleted.*`idservice create orders` goes on in it.* another key"
    with pytest.raises(errors.BadConfiguration, match=told):
        check_alone(new_counter("donations", random, adopted=item), [gone], "ids")


class Died(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("step", ["UpdateItem", "TransactWriteItems"])
async def test_an_adoption_that_died_is_finished_by_the_next(
    store: DynamoStore, legacy: Legacy, monkeypatch: pytest.MonkeyPatch, step: str, sent: bool
) -> None:
    real = DynamoClient.call

    async def dies(self: DynamoClient, operation: str, *rest: Any, **request: Any) -> Any:
        if operation == step and not sent:
            raise Died
        answer = await real(self, operation, *rest, **request)
        if operation == step:
            raise Died
        return answer

    first = await wanted(store, legacy)
    with monkeypatch.context() as patched:
        patched.setattr(DynamoClient, "call", dies)
        with pytest.raises(Died):
            await store.create(first)
    old = legacy.next("old")
    second = await wanted(store, legacy)
    counter = await store.create(second)
    died_after_writing = sent or step == "TransactWriteItems"
    assert counter.epoch == (first if died_after_writing else second).epoch
    assert legacy.item()["epoch"] == {"S": counter.epoch}
    assert await store.counter("donations") == counter
    assert [old, *await ids_of(store, counter, 2)] == [41, 42, 43]


async def test_an_item_that_was_prepared_and_never_entered_is_free_for_another_name(
    store: DynamoStore, legacy: Legacy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*_: object) -> None:
        raise Died

    first = await wanted(store, legacy)
    with monkeypatch.context() as patched:
        patched.setattr(DynamoClient, "transact", dies)
        with pytest.raises(Died):
            await store.create(first)
    second = await store.create(replace(first, name="orders", epoch="1.another"))
    assert await ids_of(store, second, 1) == [41]
    with pytest.raises(errors.BadConfiguration, match="'orders' goes on in the item"):
        await store.create(first)


@on_both  # dynoxide is so quick that a missing condition shows in one of five runs there
async def test_ten_who_adopt_at_once_agree_on_one_epoch(store: DynamoStore, legacy: Legacy) -> None:
    planned = [await wanted(store, legacy) for _ in range(10)]
    counters = await asyncio.gather(*(store.create(counter) for counter in planned))
    assert {counter.epoch for counter in counters} == {legacy.item()["epoch"]["S"]}
    assert await ids_of(store, counters[0], 1) == [41]


@pytest.mark.parametrize("epoch", ["gone-back:1", "sealed:2.abc", "whatever"])
async def test_an_item_that_another_store_closed_is_refused(
    store: DynamoStore, legacy: Legacy, epoch: str
) -> None:
    planned = await wanted(store, legacy)
    legacy.put(counterValue=41, epoch=epoch, mark=41, rev=3)
    with pytest.raises(errors.Usage, match=epoch):
        await wanted(store, legacy)
    before = legacy.item()
    with pytest.raises(errors.BadConfiguration, match=epoch):
        await store.create(planned)
    assert await store.counter("donations") is None
    assert legacy.item() == before


async def test_a_lost_answer_to_the_first_write_is_unknown_and_not_repeated() -> None:
    adopted = Adopted(table="old", key=(("id", "S", "x"),), attribute="v", returns="old")
    counter = new_counter("donations", random, adopted=adopted)
    item = answers.success(Item={"id": {"S": "x"}, "v": {"N": "4"}}, ConsumedCapacity={})
    head = answers.success(Item={"revision": {"N": "1"}}, ConsumedCapacity={})
    none = answers.success(ConsumedCapacity={}, Items=[])

    class Server(answers.Server):
        """Without an entry, with the adopted item."""

        def answer_to(self, operation: str, request: dict[str, object]) -> answers.Answer:
            if operation == "UpdateItem":
                return answers.reset
            if request["TableName"] == "old":
                return item
            return head if request.get("Key") == {"pk": {"S": "catalogue"}} else none

    async with answers.serving(kind=Server) as server:
        async with DynamoStore(DynamoAddress("ids", "eu-west-1", server.url)) as store:
            with pytest.raises(errors.OutcomeUnknown):
                await store.create(counter)
        assert server.operations == ["GetItem", "GetItem", "Scan", "GetItem", "UpdateItem"]


# --- what cannot be adopted -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ({"context": "atomicCounter"}, "context=VALUE,id=VALUE"),
        ({"context": "atomicCounter", "id": "id", "more": "x"}, "context=VALUE,id=VALUE"),
        ({"context": "atomicCounter", "ID": "id"}, "context=VALUE,id=VALUE"),
        ({"context": "atomicCounter", "id": ""}, "context=VALUE,id=VALUE"),
        ({"context": "atomicCounter", "id": "other"}, "no item context=atomicCounter,id=other"),
    ],
)
async def test_a_key_that_is_not_the_table_s_is_told_the_table_s(
    store: DynamoStore, legacy: Legacy, key: dict[str, str], told: str
) -> None:
    with pytest.raises(errors.Usage, match=told):
        await store.locate(legacy.table, key, "counterValue", "old")


@pytest.mark.parametrize("value", ["41", 41.5, -1])
async def test_a_value_that_is_no_whole_number_is_shown_with_the_rule(
    store: DynamoStore, legacy: Legacy, value: object
) -> None:
    legacy.put(counterValue=value)
    with pytest.raises(errors.Usage, match="it must be a whole number from 0 up") as raised:
        await store.locate(legacy.table, legacy.key, "counterValue", "old")
    assert "counterValue" in str(raised.value)
    assert str(value) in str(raised.value)


@pytest.mark.parametrize("name", ["epoch", "mark", "rev", "writers", "context", "nothing"])
async def test_an_attribute_that_cannot_be_the_value_is_named(
    store: DynamoStore, legacy: Legacy, name: str
) -> None:
    with pytest.raises(errors.Usage, match=name):
        await store.locate(legacy.table, legacy.key, name, "old")


@pytest.mark.parametrize(
    ("name", "value"), [("mark", "x"), ("next", 3), ("rev", "x"), ("writers", 1), ("w:a", 1)]
)
async def test_an_attribute_of_the_item_s_own_is_not_overwritten(
    store: DynamoStore, legacy: Legacy, name: str, value: object
) -> None:
    legacy.put(counterValue=41, **{name: value})
    with pytest.raises(errors.Usage, match=f"'{name}' of its own"):
        await store.locate(legacy.table, legacy.key, "counterValue", "old")


async def test_a_table_that_is_not_there_is_named_with_its_region(store: DynamoStore) -> None:
    with pytest.raises(errors.Usage, match=r"'donation-dat', and region eu-west-1"):
        await store.locate("donation-dat", {"id": "x"}, "v", "old")
    await store.verify()
    assert await store.counter("default")  # it was not our table


async def test_returns_is_old_or_new(store: DynamoStore, legacy: Legacy) -> None:
    with pytest.raises(errors.Usage, match="'both'"):
        await store.locate(legacy.table, legacy.key, "counterValue", "both")


async def test_a_key_this_service_cannot_write_beside_is_refused(
    store: DynamoStore, client: Any
) -> None:
    legacy = Legacy(client, {"epoch": "x"})
    with pytest.raises(errors.Usage, match="'epoch'"):
        await store.locate(legacy.table, {"epoch": "x"}, "v", "old")
    numbered = Legacy(client, {"year": "2024"}, {"year": "N"})
    with pytest.raises(errors.Usage, match="plain digits"):
        await store.locate(numbered.table, {"year": "MMXXIV"}, "v", "old")


on_dynoxide = pytest.mark.parametrize(  # whose tables have identities
    "backend", [pytest.param("dynoxide", marks=pytest.mark.needs_engine)], indirect=True
)


def restored(legacy: Legacy, item: dict[str, Any]) -> Legacy:
    """Another table under the name of one that is gone, with an item of that."""
    again = Legacy(legacy.client, legacy.key, table=legacy.table)
    legacy.client.put_item(TableName=again.table, Item=item)
    return again


@on_dynoxide
async def test_an_adopted_item_in_a_table_that_was_recreated_is_refused(
    store: DynamoStore, client: Any, legacy: Legacy
) -> None:
    await store.create(await wanted(store, legacy))
    assert await store.counter("donations") is not None
    item = legacy.item()
    client.delete_table(TableName=legacy.table)
    restored(legacy, item)
    with pytest.raises(errors.NotApplied, match="recreated or restored"):
        await store.counter("donations")


@on_dynoxide
@pytest.mark.parametrize("noticed", ["by silence", "by its absence"])
async def test_a_replaced_table_refuses_its_adopted_item_to_a_running_instance(
    backend: Dynamo,
    store: DynamoStore,
    client: Any,
    legacy: Legacy,
    noticed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = await store.create(await wanted(store, legacy))
    assert await store.counter("donations") == counter
    first = await ids_of(store, counter, 5)
    backup = legacy.item()
    async with backend.open() as other:
        assert await ids_of(other, counter, 5) == [id + 5 for id in first]
    client.delete_table(TableName=legacy.table)
    if noticed == "by its absence":
        with pytest.raises(errors.NotApplied, match="ResourceNotFound"):
            await ids_of(store, counter, 5)
    again = restored(legacy, backup)
    if noticed == "by silence":
        monkeypatch.setattr(dynamodb_table, "SILENCE_MAX_S", -1.0)
    for attempt in (
        store.reserve(counter, count=5, seen=first[-1] + 1, room=1000),
        store.claim(counter, 1),
        store.give_back(counter, Position(0, 0, 1, counter.epoch), next=0, returned=()),
    ):
        with pytest.raises(errors.NotApplied, match="recreated or restored"):
            await attempt
    assert again.item() == backup


@on_dynoxide
async def test_an_adopted_item_s_table_that_is_gone_casts_no_doubt_on_our_own(
    backend: Dynamo,
    store: DynamoStore,
    client: Any,
    legacy: Legacy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adopted = await store.create(await wanted(store, legacy))
    own = await store.counter("default")
    assert own is not None
    client.delete_table(TableName=legacy.table)
    asked: list[str] = []
    call = DynamoClient.call

    async def late(self: DynamoClient, operation: str, action: str, **request: Any) -> Any:
        """Our own table's answer comes when others have learned that the other is gone."""
        answer = await call(self, operation, action, **request)
        if operation == "UpdateItem" and request["TableName"] == backend.table:
            for _ in range(2):
                with pytest.raises(errors.NotApplied, match="ResourceNotFound"):
                    await ids_of(store, adopted, 5)
            with pytest.raises(errors.NotApplied, match="ResourceNotFound"):
                await store.position(adopted)
            with pytest.raises(errors.NotApplied, match="ResourceNotFound"):
                await store.counter("donations")
        if operation == "DescribeTable":
            asked.append(request["TableName"])
        return answer

    monkeypatch.setattr(DynamoClient, "call", late)
    assert await ids_of(store, own, 5) == [*range(5)]
    assert not asked, "of our own table there is no doubt"


@on_dynoxide
async def test_a_look_at_an_adopted_item_notices_that_its_table_is_gone(
    store: DynamoStore, client: Any, legacy: Legacy
) -> None:
    counter = await store.create(await wanted(store, legacy))
    first = await ids_of(store, counter, 5)
    backup = legacy.item()
    client.delete_table(TableName=legacy.table)
    with pytest.raises(errors.NotApplied, match="ResourceNotFound"):
        await store.position(counter)
    restored(legacy, backup)
    with pytest.raises(errors.NotApplied, match="recreated or restored"):
        await ids_of(store, counter, 5, seen=first[-1] + 1)
