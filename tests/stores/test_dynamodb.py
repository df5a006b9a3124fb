"""What each answer to a request proves: granted, not applied, or unknown (I7)."""

import asyncio
import json
import socket
from random import Random
from unittest.mock import Mock

import pytest

from idservice import errors
from idservice.catalogue.counters import new_counter
from idservice.stores.address import DynamoAddress
from idservice.stores.dynamodb import DynamoStore
from idservice.stores.dynamodb import client as dynamodb_client
from tests.engines import REGION
from tests.stores import answers
from tests.stores.answers import Answer, error, http, page, serving, success

COUNTER = new_counter("orders", Random(1))
EPOCH = COUNTER.epoch


def item(**attributes: object) -> dict[str, object]:
    values = {"next": 100, "mark": 100, "rev": 7, "epoch": EPOCH} | attributes
    return {
        name: {"S": value} if isinstance(value, str) else {"N": str(value)}
        for name, value in values.items()
        if value is not None
    }


def store_at(url: str) -> DynamoStore:
    return DynamoStore(DynamoAddress.parse(f"ids?region={REGION}&endpoint={url}"))


async def reserve(store: DynamoStore, *, seen: int = 100, room: int = 1000) -> range:
    return (await store.reserve(COUNTER, count=10, seen=seen, room=room)).indices


GRANT = success(Attributes=item(next=110, mark=110, rev=8))
FAILED = "ConditionalCheckFailedException"

UNKNOWN: dict[str, Answer] = {
    "a page with 200": page(200),
    "an empty body with 200": http(200, ""),
    "an empty object": success(),
    "cut JSON in a whole answer": http(200, '{"Attributes": {"next": {"N": "110"'),
    "a 200 that the connection cuts": answers.cut(GRANT),
    "204": http(204, ""),
    "500 in DynamoDB's words": error("InternalServerError", 500),
    "503 in DynamoDB's words": error("ServiceUnavailable", 503),
    "a throttle's name with 500": error("ThrottlingException", 500),
    "503 from a proxy": page(503),
    "502 from a proxy": page(502),
    "403 from something in between": page(403),
    "408 from something in between": page(408),
    "429 from something in between": page(429),
    "400 without a name": http(400, "{}"),
    "400 with a name that is not DynamoDB's": error("SomeOtherException"),
    "a reset once the request was sent": answers.reset,
    "an end once the request was sent": answers.close,
    "attributes without the value": success(Attributes=item(next=None, mark=110, rev=8)),
    "attributes without the revision": success(Attributes=item(next=110, mark=110, rev=None)),
    "a value that is a text": success(Attributes=item(next="110", rev=8)),
    "no attributes": success(Attributes={}),
    "a block that begins below what was seen": success(Attributes=item(next=109)),
    "a block that begins above the room": success(Attributes=item(next=1011)),
    "a refusal of a condition that holds": error(FAILED, Item=item()),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_an_unclear_answer_is_unknown_and_is_not_asked_for_again(name: str) -> None:
    async with serving(UNKNOWN[name]) as server, store_at(server.url) as store:
        with pytest.raises(errors.OutcomeUnknown) as raised:
            await reserve(store)
        assert raised.value.outcome == errors.UNKNOWN
        assert raised.value.retryable
        assert server.operations == ["UpdateItem"]


REFUSED: dict[str, tuple[Answer, type[errors.NotApplied]]] = {
    "no item": (error(FAILED), errors.PositionMissing),
    "another epoch": (error(FAILED, Item=item(epoch="2.x", next=3)), errors.EpochChanged),
    "a closed epoch": (error(FAILED, Item=item(epoch="gone-back:1")), errors.EpochChanged),
    "a text for a value": (error(FAILED, Item=item(next="105")), errors.PositionIllFormed),
    "a fraction": (error(FAILED, Item=item(next="x") | {"next": {"N": "99.5"}}),
                   errors.PositionIllFormed),
    "a number with an exponent": (error(FAILED, Item=item() | {"next": {"N": "1E2"}}),
                                  errors.PositionIllFormed),
    "39 digits": (error(FAILED, Item=item(next=10**38)), errors.PositionIllFormed),
    "digits of another script": (error(FAILED, Item=item() | {"next": {"N": "١٠٥"}}),
                                 errors.PositionIllFormed),
    "no mark": (error(FAILED, Item=item(mark=None)), errors.PositionIllFormed),
    "no revision": (error(FAILED, Item=item(rev=None)), errors.PositionIllFormed),
    "no epoch": (error(FAILED, Item=item(epoch=None)), errors.PositionIllFormed),
    "a value below the mark": (error(FAILED, Item=item(next=100, mark=101)), errors.WentBack),
    "a value below what was seen": (error(FAILED, Item=item(next=99, mark=99)), errors.WentBack),
    "a value above the room": (error(FAILED, Item=item(next=1001, mark=1001)), errors.NoRoom),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_a_failed_condition_is_read_from_the_item_it_shows(name: str) -> None:
    answer, kind = REFUSED[name]
    async with serving(answer) as server, store_at(server.url) as store:
        with pytest.raises(kind) as raised:
            await reserve(store)
        assert type(raised.value) is kind
        assert raised.value.outcome == errors.NOT_APPLIED
        assert server.operations == ["UpdateItem"]


@pytest.mark.parametrize(
    ("name", "retryable"),
    [
        ("ProvisionedThroughputExceededException", True),
        ("ThrottlingException", True),
        ("RequestLimitExceeded", True),
        ("TransactionConflictException", True),
        ("ReplicatedWriteConflictException", True),
        ("ExpiredTokenException", True),
        ("UnrecognizedClientException", True),
        ("InvalidSignatureException", True),
        ("AccessDeniedException", False),
        ("ResourceNotFoundException", False),
    ],
)
async def test_a_refusal_in_dynamodb_s_own_words_is_not_applied(name: str, retryable: bool) -> None:
    async with serving(error(name)) as server, store_at(server.url) as store:
        with pytest.raises(errors.NotApplied) as raised:
            await reserve(store)
        assert raised.value.outcome == errors.NOT_APPLIED
        assert raised.value.retryable == retryable
        throttles = ("Provisioned", "Throttling", "RequestLimit")
        assert raised.value.throttled == name.startswith(throttles)
        assert f"dynamodb:UpdateItem on table 'ids' in region {REGION} answered {name}" in str(
            raised.value
        )
        assert "words" not in str(raised.value)  # AWS's own name accounts and roles
        assert server.operations == ["UpdateItem"]


async def test_a_well_formed_answer_grants_exactly_what_it_says() -> None:
    async with serving(GRANT) as server, store_at(server.url) as store:
        assert await reserve(store) == range(100, 110)
        [(_, request)] = server.requests
    assert request["ExpressionAttributeValues"] == {
        ":count": {"N": "10"},
        ":one": {"N": "1"},
        ":epoch": {"S": EPOCH},
        ":seen": {"N": "100"},
        ":room": {"N": "1000"},
    }
    assert request["ReturnValues"] == "ALL_NEW"
    assert request["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"


@pytest.mark.parametrize("next", [110, 1010])
async def test_a_block_may_touch_both_bounds(next: int) -> None:
    async with serving(success(Attributes=item(next=next))) as server, store_at(server.url) as ids:
        assert await reserve(ids) == range(next - 10, next)


async def test_a_counted_fraction_is_a_suspect_position_of_unknown_outcome() -> None:
    answer = success(Attributes=item(rev=8) | {"next": {"N": "110.5"}})
    async with serving(answer) as server, store_at(server.url) as store:
        with pytest.raises(errors.PositionIllFormed) as raised:
            await reserve(store)
        assert raised.value.outcome == errors.UNKNOWN
        assert server.operations == ["UpdateItem"]


async def test_no_answer_in_time_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamodb_client, "CALL_MAX_S", 0.05)
    async with serving(None) as server, store_at(server.url) as store:
        with pytest.raises(errors.OutcomeUnknown, match="took longer"):
            await reserve(store)
        with pytest.raises(errors.NotApplied, match="took longer"):
            await store.counter("orders")


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
async def test_without_a_connection_nothing_was_sent_or_applied(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host != "127.0.0.1":
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=unknown))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        async with store_at(f"http://{host}:{nobody.getsockname()[1]}") as store:
            with pytest.raises(errors.NotReached, match="Cannot reach DynamoDB at http://") as one:
                await reserve(store)
            assert one.value.outcome == errors.NOT_APPLIED
            assert one.value.retryable
            with pytest.raises(errors.NotReached, match=r"refused|resolve"):
                await store.counter("orders")
            with pytest.raises(errors.StoreUnready, match="cannot reach DynamoDB") as unready:
                await store.verify()
            assert unready.value.waiting_helps


async def test_a_connect_that_takes_too_long_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamodb_client, "CONNECT_MAX_S", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            async with store_at(f"http://127.0.0.1:{port}") as store:
                with pytest.raises(errors.NotReached, match=r"no connection within 0\.05 s"):
                    await reserve(store)


def redirect(to: str, then: str = "keep-alive") -> bytes:
    head = f"HTTP/1.1 307 X\r\nLocation: {to}/\r\nConnection: {then}\r\n"
    return f"{head}Content-Length: 0\r\n\r\n".encode()


async def test_a_redirect_to_where_nobody_listens_proves_nothing() -> None:
    async with serving(redirect("http://127.0.0.1:1")) as server, store_at(server.url) as store:
        with pytest.raises(errors.OutcomeUnknown):
            await reserve(store)
        assert server.operations == ["UpdateItem"]


async def test_a_redirect_to_the_same_address_is_not_followed_and_proves_nothing() -> None:
    """The answer to a second copy would hide what the first one did."""
    async with serving(None) as server, store_at(server.url) as store:
        server.answer = redirect(server.url, "close")
        with pytest.raises(errors.OutcomeUnknown, match="307"):
            await reserve(store)
        assert server.operations == ["UpdateItem"]


async def test_a_cancelled_call_is_cancelled_and_leaves_no_task_behind() -> None:
    async with serving(None) as server:
        before = asyncio.all_tasks()
        async with store_at(server.url) as store:
            call = asyncio.create_task(reserve(store))
            await server.asked.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await reserve(store)
        assert asyncio.all_tasks() - before <= server_tasks()


def server_tasks() -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() if "listening" in repr(task.get_coro())}


async def test_environment_settings_do_not_bring_the_library_s_own_retries_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
    async with serving(error("InternalServerError", 500)) as server, store_at(server.url) as store:
        with pytest.raises(errors.OutcomeUnknown):
            await reserve(store)
        assert server.operations == ["UpdateItem"]


# --- reading and creating -------------------------------------------------------------------------

OF_RESERVATIONS = ("attributes", "block", "condition", "value")
UNREADABLE = [name for name in UNKNOWN if not any(word in name for word in OF_RESERVATIONS)]


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unclear_answer_to_a_read_is_no_missing_counter(name: str) -> None:
    async with serving(UNKNOWN[name]) as server, store_at(server.url) as store:
        for read in (store.counter("orders"), store.counters(), store.position(COUNTER)):
            with pytest.raises(errors.NotApplied) as raised:
                await read
            assert raised.value.outcome == errors.NOT_APPLIED
        assert server.operations == ["GetItem", "Scan", "GetItem"]


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unclear_answer_to_a_create_is_unknown_and_not_created(name: str) -> None:
    async with serving(UNKNOWN[name]) as server, store_at(server.url) as store:
        with pytest.raises(errors.OutcomeUnknown):
            await store.create(COUNTER)
        assert server.operations == ["TransactWriteItems", "GetItem"]


async def test_a_create_whose_answer_was_lost_is_found_by_reading() -> None:
    entry = {"config": {"S": json.dumps({"name": "orders", "epoch": EPOCH})}}
    found = success(Item=entry, ConsumedCapacity={})
    async with (
        serving(TransactWriteItems=answers.reset, GetItem=found) as server,
        store_at(server.url) as store,
    ):
        assert (await store.create(COUNTER)).epoch == EPOCH
        assert server.operations == ["TransactWriteItems", "GetItem"]


async def test_a_create_without_answer_that_is_not_found_stays_unknown() -> None:
    async with (
        serving(TransactWriteItems=answers.reset, GetItem=success(ConsumedCapacity={})) as server,
        store_at(server.url) as store,
    ):
        with pytest.raises(errors.OutcomeUnknown):  # it may be applied later
            await store.create(COUNTER)
        assert server.operations == ["TransactWriteItems", "GetItem"]


async def test_a_transaction_in_the_way_is_waited_out_and_only_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dynamodb_client, "CONFLICT_TRIES", 3)

    def canceled(*codes: str) -> bytes:
        reasons = [{"Code": code} for code in codes]
        return error("TransactionCanceledException", CancellationReasons=reasons)

    nothing = success(ConsumedCapacity={})
    for answer, tries in (
        (canceled("None", "TransactionConflict", "None"), 3),
        (error("TransactionConflictException"), 3),
        (canceled("None", "ThrottlingError", "None"), 1),
        (canceled("None", "ConditionalCheckFailed", "TransactionConflict"), 1),
    ):
        async with (
            serving(TransactWriteItems=answer, GetItem=nothing) as server,
            store_at(server.url) as store,
        ):
            with pytest.raises(errors.NotApplied):
                await store.create(COUNTER)
            assert server.operations == ["TransactWriteItems"] * tries + ["GetItem"]


async def test_counters_on_further_pages_are_listed_too() -> None:
    def entry(name: str) -> dict[str, object]:
        return {"config": {"S": json.dumps({"name": name, "epoch": EPOCH})}}

    class Pages(answers.Server):
        """Two pages, and an empty one between them."""

        def answer_to(self, operation: str, request: dict[str, object]) -> Answer:
            start = request.get("ExclusiveStartKey")
            if start is None:
                return success(Items=[entry("b")], LastEvaluatedKey={"pk": {"S": "1"}})
            if start == {"pk": {"S": "1"}}:
                return success(Items=[], LastEvaluatedKey={"pk": {"S": "2"}})
            return success(Items=[entry("a")])

    async with serving(kind=Pages) as server, store_at(server.url) as store:
        assert [counter.name for counter in await store.counters()] == ["a", "b"]
        assert all(request["ConsistentRead"] is True for _, request in server.requests)


async def test_what_is_read_is_read_consistently() -> None:
    async with serving(success(ConsumedCapacity={})) as server, store_at(server.url) as store:
        assert await store.counter("orders") is None
        assert await store.position(COUNTER) is None
        assert [request["ConsistentRead"] for _, request in server.requests] == [True, True]


async def test_an_entry_of_another_version_is_named_and_not_guessed() -> None:
    entry = {
        "pk": {"S": "entry:orders"},
        "config": {"S": json.dumps({"name": "orders", "epoch": EPOCH, "later": 1})},
    }
    async with (
        serving(success(Item=entry, ConsumedCapacity={})) as server,
        store_at(server.url) as store,
    ):
        with pytest.raises(errors.NotApplied, match="entry:orders"):
            await store.counter("orders")


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("ab", "'ab'"),
        ("has space", "'has space'"),
        ("", "''"),
        ("a/b/c", "'a/b/c'"),
        ("ids\n", "ids"),
        ("x" * 256, "255"),
        ("ids?regoin=eu-west-1", "'regoin'"),
        ("ids?region=eu-west-1&region=eu-west-2", "'region'"),
        ("ids?endpoint=http://a&endpoint=http://b", "'endpoint'"),
        ("ids?region=", "region"),
        ("ids?region=EU West", "EU West"),
        ("ids?endpoint=", "endpoint"),
        ("ids?endpoint=localhost:8000", "endpoint"),
        ("ids?endpoint=ftp://localhost", "endpoint"),
        ("ids?endpoint=http://localhost:x", "endpoint"),
        ("ids?endpoint=http://user:secret@localhost", "endpoint"),
        ("ids?endpoint=http://localhost/path", "endpoint"),
        ("ids?=1", "''"),
        ("http://user:secret@localhost", "...@localhost"),
    ],
)
def test_an_address_that_is_wrong_is_told_what_is(address: str, named: str) -> None:
    with pytest.raises(errors.Usage) as raised:
        DynamoStore(DynamoAddress.parse(address))
    assert named in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    ["ids", "my_table.1-x?region=us-east-1", "ids?endpoint=http://127.0.0.1:8000&region=x-1"],
)
def test_a_right_address_is_accepted(address: str) -> None:
    assert DynamoStore(DynamoAddress.parse(address)).address.startswith(
        f"dynamodb:{address.partition('?')[0]}"
    )
