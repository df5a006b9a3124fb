"""What a look at a DynamoDB store finds: each fault is made, and must be found with its way out."""

import time
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from random import Random
from typing import Any

import msgspec
import pytest

from idservice import errors
from idservice.catalogue import doctor
from idservice.catalogue.counters import new_counter
from idservice.stores.address import DynamoAddress
from idservice.stores.dynamodb import DynamoStore, description
from idservice.stores.findings import Finding
from idservice.stores.records import Adopted, Counter
from tests.engines import REGION, by_hand, recreate
from tests.stores import answers, backends
from tests.stores.answers import Answer, error, serving, success
from tests.stores.backends import Dynamo
from tests.stores.test_dynamodb_adopt import KEYS, Legacy, wanted
from tests.stores.test_dynamodb_table import ACTIVE

random = Random()
EVENTUAL = [{"RegionName": "us-east-1", "ReplicaStatus": "ACTIVE"}]
PROTECTED = {
    **ACTIVE,
    "DeletionProtectionEnabled": True,
    "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
}
IDENTITY = {"pk": {"S": "identity"}, "schema": {"N": "1"}, "table_id": {"S": "one"}}
NEVER_HELD = error("ConditionalCheckFailedException")


def default() -> Counter:
    return new_counter("default", random)


def store_at(url: str) -> DynamoStore:
    return DynamoStore(DynamoAddress.parse(f"ids?region={REGION}&endpoint={url}"))


def healthy(**table: object) -> dict[str, Answer]:
    """Every answer that a store in order gives."""
    return {
        "DescribeTable": success(Table=PROTECTED | table),
        "GetItem": success(ConsumedCapacity={}, Item=IDENTITY),
        "DescribeTimeToLive": success(TimeToLiveDescription={"TimeToLiveStatus": "DISABLED"}),
        "DescribeContinuousBackups": recovery("ENABLED"),
        "UpdateItem": NEVER_HELD,
        "PutItem": NEVER_HELD,
        "Scan": success(Items=[]),
    }


def recovery(status: str) -> bytes:
    told = {"PointInTimeRecoveryStatus": status}
    return success(ContinuousBackupsDescription={"PointInTimeRecoveryDescription": told})


async def looked_at(
    given: Mapping[str, Answer], *, thorough: bool = True, now: float | None = None
) -> list[Finding]:
    async with serving(**given) as server, store_at(server.url) as store:
        return await store.examine(lambda: now or time.time(), thorough=thorough)


def about(found: list[Finding], word: str) -> Finding:
    """The only finding about something."""
    (one,) = [finding for finding in found if finding.about == word]
    return one


async def test_a_store_in_order_has_nothing_worse_than_ok() -> None:
    found = await looked_at(healthy())
    assert {finding.level for finding in found} == {"ok"}
    assert {finding.about for finding in found} == {
        "table", "key", "replicas", "deletion_protection", "throughput", "schema", "identity",
        "time_to_live", "recovery", "permissions",
    }  # fmt: skip


async def test_the_quick_look_asks_nothing_that_serving_does_not_ask_for() -> None:
    async with serving(**healthy()) as server, store_at(server.url) as store:
        found = await store.examine(time.time, thorough=False)
        assert server.operations == ["DescribeTable"]
    assert {finding.about for finding in found} == {
        "table", "key", "replicas", "deletion_protection", "throughput",
    }  # fmt: skip


async def test_a_look_writes_nothing(moto_url: str) -> None:
    backend = backends.moto(moto_url)
    async with backend.open() as store:
        await store.init(default())
        with by_hand(moto_url) as client:
            before = client.scan(TableName=backend.table)["Items"]
            found = await doctor.examine(store, time.time)
            assert client.scan(TableName=backend.table)["Items"] == before
    worse = [finding.about for finding in found if finding.is_worse_than_advice]
    assert worse == ["identity"]  # this engine gives no ids to tables


@pytest.mark.needs_engine
async def test_an_engine_that_does_not_know_a_question_is_no_fault(dynoxide_url: str) -> None:
    backend = backends.dynoxide(dynoxide_url)
    async with backend.open() as store:
        await store.init(default())
        found = await doctor.examine(store, time.time)
    assert not [finding for finding in found if finding.is_worse_than_advice]
    told = about(found, "recovery")
    assert (told.level, told.why) == ("advice", "this engine does not support the question")


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "word", "level", "part"),
    [
        ({"DeletionProtectionEnabled": False}, "deletion_protection", "warning",
         "--endpoint-url http://127.0.0.1"),
        ({"BillingModeSummary": {}, "ProvisionedThroughput": {"WriteCapacityUnits": 1}},
         "throughput", "warning", "PAY_PER_REQUEST"),
        ({"BillingModeSummary": {}, "ProvisionedThroughput": {"WriteCapacityUnits": 500}},
         "throughput", "advice", "PAY_PER_REQUEST"),
        ({"OnDemandThroughput": {"MaxWriteRequestUnits": 40}}, "throughput", "advice",
         "MaxWriteRequestUnits=-1"),
        ({"Replicas": EVENTUAL}, "replicas", "fault", "--replica-updates"),
        ({"Replicas": EVENTUAL, "MultiRegionConsistency": "EVENTUAL"}, "replicas", "fault",
         "us-east-1"),
        ({"Replicas": EVENTUAL, "MultiRegionConsistency": "STRONG"}, "replicas", "warning", ""),
        ({"TableStatus": "ARCHIVED"}, "table", "fault", ""),
        ({"KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}]}, "key", "fault", ""),
        ({"TableId": "another"}, "identity", "fault", "fence --all --past N"),
        ({"TableId": None}, "identity", "warning", "fence --all --past N"),
    ],
)  # fmt: skip
async def test_what_the_description_says(
    table: dict[str, object], word: str, level: str, part: str
) -> None:
    found = await looked_at(healthy(**table))
    one = about(found, word)
    assert (one.level, part in one.run) == (level, True)
    assert one.why
    assert [other.about for other in found if other.level != "ok"] == [word]


async def test_a_replica_in_the_own_region_is_the_table_itself() -> None:
    own = [{"RegionName": REGION, "ReplicaStatus": "ACTIVE"}]
    assert about(await looked_at(healthy(Replicas=own)), "replicas").level == "ok"


async def test_deletion_protection_that_was_taken_away_is_seen_on_an_engine(moto_url: str) -> None:
    backend = backends.moto(moto_url)
    async with backend.open() as store:
        await store.init(default())
        with by_hand(moto_url) as client:
            client.update_table(TableName=backend.table, DeletionProtectionEnabled=False)
            client.update_continuous_backups(
                TableName=backend.table,
                PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False},
            )
            client.update_time_to_live(
                TableName=backend.table,
                TimeToLiveSpecification={"Enabled": True, "AttributeName": "next"},
            )
        found = await doctor.examine(store, time.time)
    assert about(found, "deletion_protection").level == "warning"
    assert about(found, "recovery").level == "warning"
    assert about(found, "time_to_live").level == "fault"
    assert backend.table in about(found, "time_to_live").run


async def test_a_table_that_is_not_there_is_told_from_one_that_may_not_be_seen() -> None:
    found = await looked_at({**healthy(), "DescribeTable": error("ResourceNotFoundException")})
    (missing,) = found
    assert (missing.level, missing.about) == ("fault", "table")
    assert "no table 'ids'" in missing.found
    assert "idservice init" in missing.run
    found = await looked_at({**healthy(), "DescribeTable": error("AccessDeniedException")})
    (denied,) = [finding for finding in found if finding.level != "ok"]
    assert (denied.level, denied.about) == ("fault", "permissions")
    assert "dynamodb:DescribeTable" in denied.found
    assert about(found, "recovery").level == "ok", "the rest is looked at all the same"


async def test_a_store_that_cannot_be_reached_is_one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(None) as server:
        pass
    async with store_at(server.url) as store:
        (silent,) = await store.examine(time.time, thorough=True)
        assert (silent.level, silent.about) == ("fault", "reach")
        assert "Check that it runs" in silent.why
        assert await doctor.examine(store, time.time) == [silent], "the counters say nothing more"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with store_at(server.url) as store:
        (unknown,) = await store.examine(time.time, thorough=True)
    assert "credentials" in unknown.found


async def test_an_uninitialised_table_and_another_schema() -> None:
    none = {**healthy(), "GetItem": success(ConsumedCapacity={})}
    assert "idservice init" in about(await looked_at(none), "schema").run
    newer = success(ConsumedCapacity={}, Item=IDENTITY | {"schema": {"N": "2"}})
    one = about(await looked_at({**healthy(), "GetItem": newer}), "schema")
    assert (one.level, "schema 2" in one.found) == ("fault", True)
    taken = {name: value for name, value in IDENTITY.items() if name != "table_id"}
    unrecorded = {**healthy(), "GetItem": success(ConsumedCapacity={}, Item=taken)}
    assert about(await looked_at(unrecorded), "identity").level == "advice"


@pytest.mark.needs_engine
async def test_a_recreated_table_is_found(dynoxide_url: str) -> None:
    backend = backends.dynoxide(dynoxide_url)
    async with backend.open() as store:
        await store.init(default())
        with by_hand(dynoxide_url) as client:
            recreate(client, backend.table)
        found = await doctor.examine(store, time.time)
    one = about(found, "identity")
    assert (one.level, "fence --all" in one.run) == ("fault", True)


# --- the clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "level", "part"),
    [(0, "ok", "within"), (29, "ok", "within"), (-120, "warning", "120 s behind"),
     (120, "warning", "120 s ahead of"), (301, "fault", "301 s ahead of")],
)  # fmt: skip
async def test_a_clock_that_is_off_is_found(ahead: float, level: str, part: str) -> None:
    now = 1_900_000_000.0
    described = success(Table=PROTECTED).replace(
        b"\r\n\r\n", f"\r\nDate: {formatdate(now, usegmt=True)}\r\n\r\n".encode(), 1
    )
    given = {**healthy(), "DescribeTable": described}
    one = about(await looked_at(given, now=now + ahead), "clock")
    assert (one.level, part in one.found) == (level, True)


# --- what protects it -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "level"),
    [("next", "fault"), ("mark", "fault"), ("expires", "warning")],
)
@pytest.mark.parametrize("status", ["ENABLED", "ENABLING"])
async def test_a_time_to_live_is_found(attribute: str, level: str, status: str) -> None:
    told = {"TimeToLiveStatus": status, "AttributeName": attribute}
    given = {**healthy(), "DescribeTimeToLive": success(TimeToLiveDescription=told)}
    one = about(await looked_at(given), "time_to_live")
    assert one.level == level
    assert f"Enabled=false,AttributeName={attribute}" in one.run


async def test_recovery_that_is_off_is_found() -> None:
    one = about(
        await looked_at({**healthy(), "DescribeContinuousBackups": recovery("DISABLED")}),
        "recovery",
    )
    assert one.level == "warning"
    assert "PointInTimeRecoveryEnabled=true" in one.run


@pytest.mark.parametrize("operation", ["DescribeTimeToLive", "DescribeContinuousBackups"])
@pytest.mark.parametrize("code", ["AccessDeniedException", "UnknownOperationException"])
async def test_what_only_doctor_asks_is_no_fault_where_it_is_not_allowed(
    operation: str, code: str
) -> None:
    found = await looked_at({**healthy(), operation: error(code)})
    (one,) = [finding for finding in found if finding.level != "ok"]
    assert one.level == "advice"
    assert ("not allowed" in one.why) == (code == "AccessDeniedException")


# --- permissions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "level"),
    [("GetItem", "fault"), ("UpdateItem", "fault"), ("PutItem", "advice"), ("Scan", "advice")],
)
async def test_a_call_that_is_not_allowed_is_named_with_who_needs_it(
    operation: str, level: str
) -> None:
    found = await looked_at({**healthy(), operation: error("AccessDeniedException")})
    (one,) = [finding for finding in found if finding.level != "ok"]
    assert (one.level, one.about) == (level, "permissions")
    assert f"dynamodb:{operation} on table ids is not allowed" in one.found
    assert "need" in one.why


async def test_a_call_that_fails_otherwise_is_not_taken_for_forbidden() -> None:
    found = await looked_at({**healthy(), "UpdateItem": error("ThrottlingException")})
    (one,) = [finding for finding in found if finding.level != "ok"]
    assert (one.level, one.about) == ("warning", "reach")


async def test_where_the_counters_cannot_be_listed_the_default_one_is_looked_at() -> None:
    class Server(answers.Server):
        """With the default counter's entry, and a position that went back."""

        def answer_to(self, operation: str, request: dict[str, object]) -> Answer:
            key: Any = request.get("Key", {})
            if operation == "GetItem" and key["pk"]["S"] in items:
                return success(ConsumedCapacity={}, Item=items[key["pk"]["S"]])
            return super().answer_to(operation, request)

    counter = default()
    items = {
        "entry:default": {"config": {"S": msgspec.json.encode(counter).decode()}},
        "catalogue": {"revision": {"N": "1"}},
        "ctr:default": {
            "epoch": {"S": counter.epoch}, "next": {"N": "5"}, "mark": {"N": "9"}, "rev": {"N": "1"}
        },
    }  # fmt: skip
    given = {**healthy(), "Scan": error("AccessDeniedException")}
    async with serving(kind=Server, **given) as server, store_at(server.url) as store:
        found = await doctor.examine(store, time.time)
    assert "only default" in about(found, "counters").why
    assert "below its mark 9" in about(found, "position").found


# --- replicas are refused -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, "EVENTUAL"])
async def test_init_and_serve_refuse_a_table_that_two_regions_count_on(mode: str | None) -> None:
    table = PROTECTED | {"Replicas": EVENTUAL}
    table |= {"MultiRegionConsistency": mode} if mode else {}
    async with serving(**{**healthy(), "DescribeTable": success(Table=table)}) as server:
        async with store_at(server.url) as store:
            for start in (store.verify(), store.init(default())):
                with pytest.raises(errors.StoreUnready, match="replicas in us-east-1") as raised:
                    await start
                assert not raised.value.waiting_helps
        assert not set(server.operations) & {"TransactWriteItems", "UpdateItem", "PutItem"}


async def test_a_table_without_replicas_or_with_consistent_ones_is_accepted() -> None:
    for table in (
        PROTECTED, PROTECTED | {"Replicas": []},
        PROTECTED | {"Replicas": EVENTUAL, "MultiRegionConsistency": "STRONG"},
    ):  # fmt: skip
        given = {**healthy(), "DescribeTable": success(Table=table)}
        async with serving(**given) as server, store_at(server.url) as store:
            await store.verify()


async def test_a_table_that_two_regions_count_on_is_neither_adopted_nor_served() -> None:
    adopted = Adopted(table="old", key=(("id", "S", "x"),), attribute="v", returns="old",
                      table_id="one")  # fmt: skip
    counter = new_counter("donations", random, adopted=adopted)
    entry = {"config": {"S": msgspec.json.encode(counter).decode()}}
    given = {**healthy(Replicas=EVENTUAL), "GetItem": success(ConsumedCapacity={}, Item=entry)}
    async with serving(**given) as server, store_at(server.url) as store:
        with pytest.raises(errors.Usage, match="replicas in us-east-1"):
            await store.locate("old", {"pk": "x"}, "v", "old")
        with pytest.raises(errors.NotApplied, match="'old': it has replicas in us-east-1"):
            await store.counter("donations")
        found = await store.examine_item(counter)
    assert "replicas in us-east-1" in " ".join(finding.found for finding in found)
    assert description.replicas({"Replicas": EVENTUAL}, "us-east-1") == []


# --- adopted items --------------------------------------------------------------------------------


@pytest.fixture
async def engine(dynoxide_url: str) -> AsyncIterator[tuple[Dynamo, DynamoStore, Legacy]]:
    backend = backends.dynoxide(dynoxide_url)
    async with backend.open() as store:
        await store.init(default())
        with by_hand(dynoxide_url) as client:
            legacy = Legacy(client, KEYS["two"])
            legacy.put(counterValue=41)
            await store.create(await wanted(store, legacy))
            yield backend, store, legacy


@pytest.mark.needs_engine
async def test_the_table_of_an_adopted_item_is_looked_at_too(
    engine: tuple[Dynamo, DynamoStore, Legacy],
) -> None:
    _, store, legacy = engine
    found = await doctor.examine(store, time.time)
    assert not [finding for finding in found if finding.is_worse_than_advice]
    assert legacy.table in about(found, "adopted_table").found
    recreate(legacy.client, legacy.table)
    found = await doctor.examine(store, time.time)
    assert any("recreated" in one.found and "fence donations" in one.run for one in found)
    legacy.client.delete_table(TableName=legacy.table)
    found = await doctor.examine(store, time.time)
    (missing,) = [one for one in found if one.about == "adopted_table"]
    assert (missing.level, "no table" in missing.found) == ("fault", True)
    assert await store.examine_item(default()) == []


async def test_an_adopted_item_that_may_not_be_written_or_that_expires_is_found() -> None:
    adopted = Adopted(table="old", key=(("id", "S", "x"),), attribute="v", returns="old")
    counter = new_counter("donations", random, adopted=adopted)
    told = {"TimeToLiveStatus": "ENABLED", "AttributeName": "v"}
    given = {
        **healthy(),
        "UpdateItem": error("AccessDeniedException"),
        "DescribeTimeToLive": success(TimeToLiveDescription=told),
    }
    async with serving(**given) as server, store_at(server.url) as store:
        found = await store.examine_item(counter)
    assert about(found, "permissions").level == "fault"
    assert "counter donations" in about(found, "permissions").why
    assert about(found, "time_to_live").level == "fault"
