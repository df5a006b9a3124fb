"""The table of a DynamoDB store: made, recognised, and described in a sentence where unusable."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.catalogue.counters import new_counter
from idservice.stores.address import DynamoAddress
from idservice.stores.dynamodb import DynamoStore
from idservice.stores.dynamodb import client as dynamodb_client
from idservice.stores.dynamodb import table as dynamodb_table
from idservice.stores.dynamodb.region import named_region
from tests import engines
from tests.engines import REGION, by_hand
from tests.stores import answers, backends
from tests.stores.answers import Answer, error, page, serving, success
from tests.stores.backends import ENGINES, Dynamo, of_engine

random = Random()
KEY = [{"AttributeName": "pk", "KeyType": "HASH"}]
TEXT_KEY = [{"AttributeName": "pk", "AttributeType": "S"}]
ACTIVE = {
    "TableName": "ids",
    "TableStatus": "ACTIVE",
    "TableId": "one",
    "KeySchema": KEY,
    "AttributeDefinitions": TEXT_KEY,
}


@pytest.fixture(params=ENGINES)
def backend(request: pytest.FixtureRequest) -> Dynamo:
    return of_engine(request)


@pytest.fixture
def dynoxide(dynoxide_url: str) -> Dynamo:
    return backends.dynoxide(dynoxide_url)


def default() -> Any:
    return new_counter("default", random)


def make_table(client: Any, name: str, keys: Any = KEY, attributes: Any = TEXT_KEY) -> None:
    client.create_table(
        TableName=name,
        KeySchema=keys,
        AttributeDefinitions=attributes,
        BillingMode="PAY_PER_REQUEST",
    )


def items_of(client: Any, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.scan(TableName=table)["Items"]
    return found


def drop(client: Any, table: str) -> None:
    client.update_table(TableName=table, DeletionProtectionEnabled=False)
    client.delete_table(TableName=table)


# --- init -----------------------------------------------------------------------------------------


async def test_init_makes_a_protected_table_on_demand_with_everything_in_it(
    backend: Dynamo, caplog: pytest.LogCaptureFixture
) -> None:
    first = default()
    async with backend.open() as store:
        with caplog.at_level(logging.WARNING):
            assert await store.init(first)
    with by_hand(backend.url) as client:
        table = client.describe_table(TableName=backend.table)["Table"]
        items = {item["pk"]["S"]: item for item in items_of(client, backend.table)}
    assert table["DeletionProtectionEnabled"]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert set(items) == {"identity", "catalogue", "entry:default", "ctr:default"}
    assert items["catalogue"]["revision"] == {"N": "1"}
    assert items["identity"]["schema"] == {"N": "1"}
    assert items["identity"].get("table_id", {}).get("S") == table.get("TableId")
    assert items["entry:default"]["epoch"] == items["ctr:default"]["epoch"] == {"S": first.epoch}
    assert items["entry:default"]["state"] == {"S": "active"}
    del items["ctr:default"]["epoch"], items["ctr:default"]["pk"]
    assert items["ctr:default"] == {"next": {"N": "0"}, "mark": {"N": "0"}, "rev": {"N": "0"}}
    # moto offers recovery, dynoxide does not know the operation.
    warned = [record.message for record in caplog.records if "recovery" in record.message]
    assert len(warned) == ("TableId" in table)


async def test_init_switches_recovery_on(moto_url: str) -> None:
    backend = backends.moto(moto_url)
    async with backend.open() as store:
        await store.init(default())
    with by_hand(moto_url) as client:
        found = client.describe_continuous_backups(TableName=backend.table)
    recovery = found["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
    assert recovery["PointInTimeRecoveryStatus"] == "ENABLED"


async def test_every_create_moves_the_catalogue_s_revision_by_one(backend: Dynamo) -> None:
    async with backend.open() as store:
        await store.init(default())
        for name in ("a", "b", "a"):
            await store.create(new_counter(name, random))
    with by_hand(backend.url) as client:
        items = {item["pk"]["S"]: item for item in items_of(client, backend.table)}
    assert items["catalogue"]["revision"] == {"N": "3"}


async def test_a_position_without_an_entry_is_told_and_not_started_again(
    backend: Dynamo,
) -> None:
    async with backend.open() as store:
        await store.init(default())
        counter = await store.create(new_counter("orders", random))
        await store.reserve(counter, count=10, seen=0, room=1000)
        with by_hand(backend.url) as client:
            client.delete_item(TableName=backend.table, Key={"pk": {"S": "entry:orders"}})
        before = await store.position(counter)
        with pytest.raises(errors.NotApplied, match="'ctr:orders' without an entry"):
            await store.create(new_counter("orders", random))
        assert await store.position(counter) == before
        assert await store.counter("orders") is None


async def test_a_table_without_a_catalogue_is_told_so(backend: Dynamo) -> None:
    async with backend.open() as store:
        await store.init(default())
        with by_hand(backend.url) as client:
            client.delete_item(TableName=backend.table, Key={"pk": {"S": "catalogue"}})
        with pytest.raises(errors.NotApplied, match="'catalogue' is missing"):
            await store.create(new_counter("orders", random))
        assert await store.counter("orders") is None


async def test_an_empty_table_made_by_somebody_else_is_initialised(backend: Dynamo) -> None:
    with by_hand(backend.url) as client:
        make_table(client, backend.table)
    async with backend.open() as store:
        with pytest.raises(errors.StoreUnready, match="not initialised"):
            await store.verify()
        assert await store.init(default())
        await store.verify()


@pytest.mark.parametrize(
    ("keys", "attributes"),
    [
        ([{"AttributeName": "id", "KeyType": "HASH"}],
         [{"AttributeName": "id", "AttributeType": "S"}]),
        (KEY, [{"AttributeName": "pk", "AttributeType": "N"}]),
        ([*KEY, {"AttributeName": "sk", "KeyType": "RANGE"}],
         [*TEXT_KEY, {"AttributeName": "sk", "AttributeType": "S"}]),
    ],
)  # fmt: skip
async def test_a_table_with_another_key_is_refused_with_the_key_it_must_have(
    backend: Dynamo, keys: Any, attributes: Any
) -> None:
    with by_hand(backend.url) as client:
        make_table(client, backend.table, keys, attributes)
    async with backend.open() as store:
        for start in (store.init(default()), store.verify()):
            with pytest.raises(errors.StoreUnready) as raised:
                await start
            assert "'pk', a string" in str(raised.value)
            assert not raised.value.waiting_helps
    with by_hand(backend.url) as client:
        assert items_of(client, backend.table) == []


@pytest.mark.parametrize("left", ["ctr:default", "entry:default", "catalogue"])
async def test_a_table_that_lost_its_identity_is_not_started_again(
    backend: Dynamo, left: str
) -> None:
    with by_hand(backend.url) as client:
        make_table(client, backend.table)
        client.put_item(TableName=backend.table, Item={"pk": {"S": left}, "next": {"N": "7"}})
        before = items_of(client, backend.table)
        async with backend.open() as store:
            with pytest.raises(errors.StoreUnready, match=f"already holds '{left}'") as raised:
                await store.init(default())
        assert not raised.value.waiting_helps
        assert items_of(client, backend.table) == before


class Died(BaseException):
    """The process ended here."""


async def test_init_goes_on_where_one_that_died_stopped(
    backend: Dynamo, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dynamodb_client.DynamoClient.call
    for step in ("CreateTable", "UpdateContinuousBackups", "TransactWriteItems"):

        async def dies(self: Any, operation: str, *rest: Any, **request: Any) -> Any:
            try:
                return await real(self, operation, *rest, **request)
            finally:
                if operation == step:  # noqa: B023
                    raise Died

        with monkeypatch.context() as patched:
            patched.setattr(dynamodb_client.DynamoClient, "call", dies)
            async with backend.open() as store:
                with pytest.raises(Died):
                    await store.init(default())
    async with backend.open() as store:
        assert await store.init(default()) is False  # the last one died after its last step
        await store.verify()
        assert len(await store.counters()) == 1


async def test_a_lost_answer_to_init_is_looked_up() -> None:
    async with serving(
        DescribeTable=success(Table=ACTIVE),
        GetItem=success(ConsumedCapacity={}),
        UpdateContinuousBackups=success(ContinuousBackupsDescription={}),
        TransactWriteItems=answers.reset,
    ) as server:
        async with store_at(server.url) as store:
            with pytest.raises(errors.StoreUnready) as raised:
                await store.init(default())
        assert raised.value.waiting_helps  # it may be run again
        assert server.operations.count("TransactWriteItems") == 1
        written: Any = server.requests[-2][1]["TransactItems"]
    assert written[0]["Put"]["Item"]["table_id"] == {"S": "one"}


async def test_recovery_is_asked_for_again_while_it_is_not_offered_yet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dynamodb_table, "BACKUPS_POLL_S", 0)
    for name, tries, told in (
        ("ContinuousBackupsUnavailableException", dynamodb_table.BACKUPS_TRIES, "by hand"),
        ("AccessDeniedException", 1, "AccessDeniedException; allow it"),
        ("UnknownOperationException", 1, "this engine has none"),
    ):
        caplog.clear()
        async with (
            serving(
                DescribeTable=success(Table=ACTIVE),
                GetItem=success(ConsumedCapacity={}),
                UpdateContinuousBackups=error(name),
                TransactWriteItems=success(ConsumedCapacity=[]),
            ) as server,
            store_at(server.url) as store,
        ):
            assert await store.init(default())
        assert server.operations.count("UpdateContinuousBackups") == tries
        (warned,) = [
            record.message
            for record in caplog.records
            if getattr(record, "action", "") == "recovery_off"
        ]
        assert told in warned


# --- the same table? ------------------------------------------------------------------------------


def recreate(client: Any, table: str) -> None:
    """As a restore does: another table of this name with the same items."""
    copy = items_of(client, table)
    drop(client, table)
    make_table(client, table)
    for item in copy:
        client.put_item(TableName=table, Item=item)


@pytest.fixture
async def in_use(dynoxide: Dynamo) -> AsyncIterator[tuple[DynamoStore, Any]]:
    """An initialised store that has granted, and a plain client."""
    async with dynoxide.open() as store:
        await store.init(default())
        await store.verify()
        with by_hand(dynoxide.url) as client:
            yield store, client


@pytest.mark.needs_engine
async def test_a_table_recreated_with_its_old_items_is_refused_at_the_start(
    dynoxide: Dynamo, in_use: tuple[DynamoStore, Any]
) -> None:
    _, client = in_use
    recreate(client, dynoxide.table)
    async with dynoxide.open() as later:
        with pytest.raises(errors.StoreReplaced) as raised:
            await later.verify()
        with pytest.raises(errors.StoreReplaced):
            await later.verify()
    assert not raised.value.waiting_helps
    assert dynoxide.table in str(raised.value)
    assert REGION in str(raised.value)


@pytest.mark.needs_engine
async def test_once_a_table_was_missing_its_namesake_is_refused(
    dynoxide: Dynamo, in_use: tuple[DynamoStore, Any]
) -> None:
    store, client = in_use
    counter = await store.counter("default")
    assert counter is not None
    seen = (await store.reserve(counter, count=10, seen=0, room=1000)).indices.stop
    copy = items_of(client, dynoxide.table)
    drop(client, dynoxide.table)
    with pytest.raises(errors.NotApplied):
        await store.reserve(counter, count=10, seen=seen, room=1000)
    make_table(client, dynoxide.table)
    for item in copy:
        client.put_item(TableName=dynoxide.table, Item=item)
    for attempt in (
        store.reserve(counter, count=10, seen=seen, room=1000),
        store.counter("default"),
        store.create(new_counter("more", random)),
        store.close_gone_back(counter, counter.epoch),
    ):
        with pytest.raises(errors.NotApplied, match="recreated or restored"):
            await attempt
    assert items_of(client, dynoxide.table) == copy


@pytest.mark.needs_engine
async def test_an_operator_who_removes_the_recorded_id_vouches_for_the_table(
    dynoxide: Dynamo, in_use: tuple[DynamoStore, Any]
) -> None:
    store, client = in_use
    client.update_item(
        TableName=dynoxide.table,
        Key={"pk": {"S": "identity"}},
        UpdateExpression="REMOVE table_id",
    )
    await store.verify()
    recorded = client.get_item(TableName=dynoxide.table, Key={"pk": {"S": "identity"}})["Item"]
    assert recorded["table_id"]["S"], "the next one that is recreated is refused again"
    recreate(client, dynoxide.table)
    with pytest.raises(errors.StoreReplaced):
        await store.verify()


@pytest.mark.needs_engine
async def test_a_table_recreated_while_an_instance_was_idle_grants_it_nothing(
    dynoxide: Dynamo, in_use: tuple[DynamoStore, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, client = in_use
    counter = await store.counter("default")
    assert counter is not None
    await store.reserve(counter, count=10, seen=0, room=1000)
    recreate(client, dynoxide.table)
    monkeypatch.setattr(dynamodb_table, "SILENCE_MAX_S", -1.0)
    with pytest.raises(errors.NotApplied, match="recreated or restored"):
        await store.reserve(counter, count=10, seen=10, room=1000)
    with pytest.raises(errors.StoreReplaced):
        await store.verify()


class Clocks:
    """Stands for the module `time`: both clocks, of which either can be moved on."""

    def __init__(self) -> None:
        self.slept_s = self.paused_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.paused_s

    def time(self) -> float:
        return time.time() + self.paused_s + self.slept_s


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(dynamodb_table, "time", made)
    return made


@pytest.mark.needs_engine
@pytest.mark.parametrize("which", ["paused_s", "slept_s"])
async def test_a_table_replaced_in_a_pause_grants_nothing_afterwards(
    dynoxide: Dynamo, in_use: tuple[DynamoStore, Any], clocks: Clocks, which: str
) -> None:
    store, client = in_use
    counter = await store.counter("default")
    assert counter is not None
    await store.reserve(counter, count=10, seen=0, room=1000)
    recreate(client, dynoxide.table)
    copy = items_of(client, dynoxide.table)
    setattr(clocks, which, 6.0)
    with pytest.raises(errors.NotApplied, match="recreated or restored"):
        await store.reserve(counter, count=10, seen=10, room=1000)
    assert items_of(client, dynoxide.table) == copy


@pytest.mark.needs_engine
@pytest.mark.parametrize(("before_s", "meanwhile_s"), [(0.0, 6.0), (3.0, 3.0)])
@pytest.mark.parametrize("operation", ["UpdateItem", "GetItem"])
async def test_an_answer_that_came_after_a_silence_is_not_believed_of_another_table(
    dynoxide: Dynamo,
    in_use: tuple[DynamoStore, Any],
    clocks: Clocks,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    before_s: float,
    meanwhile_s: float,
) -> None:
    store, client = in_use
    counter = await store.counter("default")
    assert counter is not None
    real = dynamodb_client.DynamoClient.call

    async def paused(self: Any, asked: str, *rest: Any, **request: Any) -> Any:
        if asked == operation and clocks.paused_s == before_s:
            clocks.paused_s += meanwhile_s  # between the check of the table and the request
            recreate(client, dynoxide.table)
        return await real(self, asked, *rest, **request)

    clocks.paused_s = before_s
    monkeypatch.setattr(dynamodb_client.DynamoClient, "call", paused)
    if operation == "GetItem":
        await store.entry("default")
        expected: type[Exception] = errors.NotApplied
    else:
        expected = errors.OutcomeUnknown
    with pytest.raises(expected, match="recreated or restored"):
        await store.reserve(counter, count=10, seen=0, room=1000)


async def test_looks_that_are_answered_keep_a_table_recognised(
    backend: Dynamo, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backend.open() as store:
        await store.init(default())
        await store.verify()
        counter = await store.counter("default")
        assert counter is not None

        async def denied(self: Any) -> None:
            raise errors.StoreUnready(store="ids", why="tables are not described now")

        monkeypatch.setattr(dynamodb_table.Table, "_description", denied)
        for _ in range(10):
            clocks.paused_s += 4.0
            await store.revision()
        await store.reserve(counter, count=1, seen=0, room=1000)
        clocks.paused_s += 6.0
        with pytest.raises(errors.NotApplied, match="not described now"):
            await store.reserve(counter, count=1, seen=1, room=1000)


async def test_after_a_look_without_an_answer_the_table_is_recognised_again() -> None:
    identity = {"pk": {"S": "identity"}, "schema": {"N": "1"}, "id": {"S": "ours"}}
    known = success(Item=identity | {"table_id": {"S": "one"}}, ConsumedCapacity={})
    async with (
        serving(DescribeTable=success(Table=ACTIVE), GetItem=known, UpdateItem=page(503)) as server,
        store_at(server.url) as store,
    ):
        await store.verify()
        with pytest.raises(errors.OutcomeUnknown):
            await store.reserve(default(), count=1, seen=0, room=9)
        assert server.operations.count("DescribeTable") == 1
        server.by_operation["GetItem"] = answers.reset
        with pytest.raises(errors.NotApplied):
            await store.revision()
        server.by_operation["GetItem"] = known
        server.requests.clear()
        with pytest.raises(errors.OutcomeUnknown):
            await store.reserve(default(), count=1, seen=0, room=9)
        assert server.operations == ["DescribeTable", "GetItem", "UpdateItem"]


@pytest.mark.needs_engine
@pytest.mark.parametrize("how", ["restored", "initialised", "restored and fenced"])
async def test_the_next_look_sees_that_the_table_was_made_anew(
    dynoxide: Dynamo, in_use: tuple[DynamoStore, Any], how: str
) -> None:
    store, client = in_use
    await store.revision()
    if how == "initialised":
        drop(client, dynoxide.table)
    else:
        recreate(client, dynoxide.table)
    async with dynoxide.open() as other:
        if how == "initialised":
            assert await other.init(default())
        elif how == "restored and fenced":
            await other.accept_identity()
            await other.verify()
    for _ in range(2):
        with pytest.raises(errors.StoreReplaced):
            await store.revision()
    with pytest.raises(errors.NotApplied):
        await store.entry("default")


async def test_a_schema_of_another_version_is_refused(backend: Dynamo) -> None:
    async with backend.open() as store:
        await store.init(default())
        with by_hand(backend.url) as client:
            client.update_item(
                TableName=backend.table,
                Key={"pk": {"S": "identity"}},
                UpdateExpression="SET #s = :two",
                ExpressionAttributeNames={"#s": "schema"},
                ExpressionAttributeValues={":two": {"N": "2"}},
            )
        with pytest.raises(errors.StoreUnready, match="schema 2"):
            await store.verify()


# --- one clear sentence ---------------------------------------------------------------------------


def store_at(url: str) -> DynamoStore:
    return DynamoStore(DynamoAddress.parse(f"ids?region={REGION}&endpoint={url}"))


def assert_one_sentence(raised: errors.StoreUnready, operation: str, table: str = "ids") -> None:
    text = str(raised)
    assert f"dynamodb:{operation} on table {table!r} in region {REGION}" in text
    assert "\n" not in text
    assert "Traceback" not in text
    assert "test" not in text.replace(table, "")  # neither key nor secret


async def test_a_missing_table_is_named_with_what_to_do(backend: Dynamo) -> None:
    async with backend.open() as store:
        with pytest.raises(errors.StoreUnready) as raised:
            await store.verify()
    assert_one_sentence(raised.value, "DescribeTable", backend.table)
    assert f"`idservice init --store 'dynamodb:{backend.address}'`" in str(raised.value)
    assert not raised.value.waiting_helps


@pytest.mark.parametrize(
    ("answer", "told", "waiting_helps"),
    [
        (error("AccessDeniedException"), "allow it to the role or user", False),
        (error("UnrecognizedClientException"), "check the credentials", False),
        (error("ExpiredTokenException"), "check the credentials", True),
        (error("ThrottlingException"), "wait, or raise", True),
        (error("InternalServerError", 500), "check region, endpoint and network", True),
        (page(503), "check region, endpoint and network", True),
        (page(429), "check region, endpoint and network", True),
        (page(403), "(HTTP 403)", False),
        (page(200), "something that is not DynamoDB", True),
        (answers.reset, "check region, endpoint and network", True),
        (success(Table={**ACTIVE, "TableStatus": "CREATING"}), "it is CREATING", True),
        (success(Table={**ACTIVE, "TableStatus": "DELETING"}), "it is DELETING", False),
        (success(Table={**ACTIVE, "TableStatus": "ARCHIVED"}), "it is ARCHIVED", False),
    ],
)
async def test_a_table_that_cannot_be_described_is_told_so(
    answer: Answer, told: str, waiting_helps: bool
) -> None:
    async with serving(answer) as server, store_at(server.url) as store:
        with pytest.raises(errors.StoreUnready) as raised:
            await store.verify()
        assert server.operations == ["DescribeTable"]
    assert_one_sentence(raised.value, "DescribeTable")
    assert told in str(raised.value)
    assert raised.value.waiting_helps == waiting_helps


async def test_a_denied_read_of_the_identity_is_told_by_its_action() -> None:
    denied = error("AccessDeniedException")
    async with (
        serving(DescribeTable=success(Table=ACTIVE), GetItem=denied) as server,
        store_at(server.url) as store,
    ):
        with pytest.raises(errors.StoreUnready) as raised:
            await store.verify()
    assert_one_sentence(raised.value, "GetItem")
    assert "allow it to the role or user" in str(raised.value)
    assert not raised.value.waiting_helps


@pytest.mark.parametrize("operation", ["CreateTable", "TransactWriteItems"])
async def test_a_denied_step_of_init_is_told_by_its_action(operation: str) -> None:
    missing = operation == "CreateTable"
    async with (
        serving(
            error("AccessDeniedException"),
            DescribeTable=error("ResourceNotFoundException") if missing else success(Table=ACTIVE),
            GetItem=success(ConsumedCapacity={}),
        ) as server,
        store_at(server.url) as store,
    ):
        with pytest.raises(errors.StoreUnready) as raised:
            await store.init(default())
    assert_one_sentence(raised.value, operation)


async def test_an_endpoint_where_nobody_listens_may_be_waited_for() -> None:
    async with serving(None) as server:
        pass
    async with store_at(server.url) as store:
        with pytest.raises(errors.StoreUnready) as raised:
            await store.verify()
    assert_one_sentence(raised.value, "DescribeTable")
    assert server.url in str(raised.value)
    assert raised.value.waiting_helps


async def test_missing_credentials_are_told_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with serving(None) as server, store_at(server.url) as store:
        for start in (store.verify(), store.init(default())):
            with pytest.raises(errors.StoreUnready, match="no AWS credentials") as raised:
                await start
            assert_one_sentence(raised.value, "DescribeTable")
            assert "(none)" not in str(raised.value), "the environment names a region"
            assert raised.value.waiting_helps
        with pytest.raises(errors.NotApplied, match="no AWS credentials"):
            await store.counter("orders")
        assert server.operations == []


async def test_credentials_that_come_later_are_used(
    backend: Dynamo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backend.open() as store:
        with monkeypatch.context() as without:
            without.delenv("AWS_ACCESS_KEY_ID")
            with pytest.raises(errors.StoreUnready):
                await store.verify()
        assert await store.init(default())


async def test_a_source_of_credentials_that_is_away_may_be_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with serving(None) as gone:
        pass
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", gone.url)
    monkeypatch.setattr("aiobotocore.utils.AioContainerMetadataFetcher.RETRY_ATTEMPTS", 1)
    monkeypatch.setattr("aiobotocore.utils.AioContainerMetadataFetcher.SLEEP_TIME", 0)
    async with store_at("http://127.0.0.1:1") as store:
        with pytest.raises(errors.StoreUnready, match="source of AWS credentials") as raised:
            await store.verify()
    assert raised.value.waiting_helps


REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION", "the AWS profile")


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Name regions, in the order of REGIONS; None names none."""

    def said(*regions: str | None) -> None:
        for name, region in zip(REGIONS[:2], regions, strict=False):
            monkeypatch.delenv(name, raising=False)
            if region is not None:
                monkeypatch.setenv(name, region)
        profile = tmp_path / "config"
        profile.write_text("[default]\n" + (f"region = {regions[2]}\n" if regions[2] else ""))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))

    return said


def differing(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings that two sources of the region differ."""
    told = [one for one in caplog.records if getattr(one, "action", "") == "regions_differ"]
    return [one.message for one in told]


async def test_no_region_is_told_and_any_source_of_one_will_do(
    backend: Dynamo, say: Callable[..., None]
) -> None:
    address = DynamoAddress.parse(f"{backend.table}?endpoint={backend.url}")
    async with DynamoStore(address) as store:
        say(None, None, None)
        with pytest.raises(errors.StoreUnready, match="no region is known") as raised:
            await store.verify()
        assert not raised.value.waiting_helps
        say(engines.REGION, None, None)
        assert await store.init(default())
    for named in ((None, engines.REGION, None), (None, None, engines.REGION)):
        say(*named)
        async with DynamoStore(address) as store:
            await store.verify()


@pytest.mark.parametrize(
    ("regions", "used", "warned"),
    [
        (("eu-central-1", None, "us-east-1"), "eu-central-1", ["the AWS profile"]),
        (("eu-central-1", "us-west-2", "us-east-1"), "eu-central-1", list(REGIONS[1:])),
        ((None, "eu-central-1", "us-east-1"), "eu-central-1", ["the AWS profile"]),
        (("eu-central-1", "us-east-1", None), "eu-central-1", ["AWS_DEFAULT_REGION"]),
        (("eu-central-1", "eu-central-1", "eu-central-1"), "eu-central-1", []),
        (("", "", "us-east-1"), "us-east-1", []),
    ],
)
async def test_the_environment_names_the_region_before_a_profile_does(
    regions: tuple[str | None, ...],
    used: str,
    warned: list[str],
    say: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    say(*regions)
    denied = error("AccessDeniedException")
    async with (
        serving(denied) as server,
        DynamoStore(DynamoAddress.parse(f"ids?endpoint={server.url}")) as store,
    ):
        with pytest.raises(errors.StoreUnready, match=f"in region {used} "):
            await store.init(default())
    assert DynamoAddress("ids").resolved() == DynamoAddress("ids", used)
    warnings = differing(caplog)
    said = [source for text in warnings for source in REGIONS if f"and {source} says" in text]
    assert said == [*warned, *warned]  # by `init` before anything is made, and by `resolved`


@pytest.mark.parametrize(
    "host",
    [
        "dynamodb.us-gov-west-1.amazonaws.com",
        "dynamodb-fips.us-gov-west-1.api.aws",
        "vpce-1a-2b.dynamodb.us-gov-west-1.vpce.amazonaws.com",
        "123456789012.ddb.us-gov-west-1.amazonaws.com",
    ],
)
def test_an_endpoint_of_aws_names_its_region_before_the_environment(
    host: str, say: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    say("eu-central-1", None, None)
    assert named_region(f"https://{host}") == "us-gov-west-1"
    assert ["and AWS_REGION says eu-central-1" in text for text in differing(caplog)] == [True]
    assert named_region("http://dynamodb.us-gov-west-1.example.org") == "eu-central-1"


async def test_a_region_in_the_address_is_the_last_word(
    say: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    say("eu-central-1", "us-west-2", "us-east-1")
    async with serving(error("AccessDeniedException")) as server:
        address = f"ids?region=eu-north-1&endpoint={server.url}"
        async with DynamoStore(DynamoAddress.parse(address)) as store:
            with pytest.raises(errors.StoreUnready, match="in region eu-north-1"):
                await store.verify()
    assert differing(caplog) == []


async def test_a_refusal_is_logged_once_in_aws_s_own_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reasons = [{"reason": "TableWriteKeyRangeThroughputExceeded", "resource": "arn"}]
    answer = error("ThrottlingException", throttlingReasons=reasons)
    async with serving(answer) as server, store_at(server.url) as store:
        for _ in range(3):
            with pytest.raises(errors.NotApplied):
                await store.counter("orders")
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "TableWriteKeyRangeThroughputExceeded" in record.message
