"""What each answer to a commit of adds proves: beaten by what, not applied, or unknown (T3)."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from idservice import errors
from idservice.core.tally import AddRecord, Tally, Wanted, planned
from idservice.stores.dynamodb import DynamoStore
from idservice.stores.dynamodb import client as dynamodb_client
from idservice.stores.dynamodb.table import TableIdentities
from idservice.stores.dynamodb.tallies import CALLS_AT_ONCE, DynamoTallies
from idservice.stores.dynamodb.tally_items import record_attributes, tally_attributes
from idservice.stores.tally_store import Beaten
from tests.stores import answers
from tests.stores.answers import Answer, error, page, serving, success
from tests.stores.backends import Dynamo
from tests.stores.test_dynamodb import store_at
from tests.stores.test_dynamodb_table import (  # noqa: F401  fixtures
    ACTIVE,
    Clocks,
    clocks,
    dynoxide,
    in_use,
    items_of,
    recreate,
)

BEFORE = Tally("gifts", sum=10, rev=3, at=5, adds=2)
COMMIT = planned(BEFORE, [Wanted("a", 1), Wanted("b", 2)], now=6)
NEWER = replace(BEFORE, sum=11, rev=4, adds=3)
A, B = (replace(record, rev=2) for record in COMMIT.records)  # as others have made them
Item = dict[str, Any]


def item(what: Tally | AddRecord, **other: Any) -> Item:
    """The item of a tally or of a record; None takes an attribute away."""
    if isinstance(what, Tally):
        made = {"pk": {"S": f"tally:{what.name}"}, **tally_attributes(what)}
    else:
        made = {"pk": {"S": f"add:gifts:1:{what.key}"}, **record_attributes(what)}
    return {name: value for name, value in {**made, **other}.items() if value is not None}


FAILED, CONFLICT, THROTTLED = "ConditionalCheckFailed", "TransactionConflict", "ThrottlingError"
Part = str | Tally | AddRecord | Item


def canceled(*parts: Part) -> bytes:
    """A cancellation: of each write a reason, or what its failed condition shows."""
    reasons: list[Item] = []
    for part in parts:
        if isinstance(part, str):
            reasons.append({"Code": part})
        else:
            shown = part if isinstance(part, dict) else item(part)
            reasons.append({"Code": FAILED, "Item": shown})
    return error("TransactionCanceledException", CancellationReasons=reasons)


async def test_calls_about_tallies_leave_connections_for_ids() -> None:
    """However many tallies wait for a store that is slow."""
    under_way = []

    class Slow:
        async def get(self, *_: object) -> None:
            under_way.append(1)
            await asyncio.Event().wait()

    client: Any = SimpleNamespace(table="ids", store="dynamodb:ids")
    calls: Any = Slow()
    sums = DynamoTallies(client, TableIdentities("ids"), calls)
    asked = [asyncio.create_task(sums.tally(f"gifts{at}")) for at in range(100)]
    for _ in range(3):
        await asyncio.sleep(0)
    for one in asked:
        one.cancel()
    assert len(under_way) == CALLS_AT_ONCE


# --- a refusal ------------------------------------------------------------------------------------

BEATEN: dict[str, tuple[Answer, Beaten]] = {
    "a conflict": (canceled(CONFLICT, "None", "None"), Beaten(conflict=True)),
    "a conflict as a whole": (error("TransactionConflictException"), Beaten(conflict=True)),
    "a conflict and a throttle": (canceled(THROTTLED, "None", CONFLICT), Beaten(conflict=True)),
    "another tally": (canceled(NEWER, "None", "None"), Beaten(NEWER)),
    "another tally and a conflict": (canceled(NEWER, CONFLICT, "None"), Beaten(NEWER, {}, True)),
    "another tally and a throttle": (canceled(NEWER, "None", THROTTLED), Beaten(NEWER)),
    "a record": (canceled("None", "None", B), Beaten(records={"b": B})),
    "a record and a conflict": (canceled(CONFLICT, A, "None"), Beaten(None, {"a": A}, True)),
    "a record and a throttle": (canceled("None", A, THROTTLED), Beaten(records={"a": A})),
    "everything": (canceled(NEWER, A, B), Beaten(NEWER, {"a": A, "b": B})),
}


@pytest.mark.parametrize("name", BEATEN)
async def test_a_cancelled_commit_tells_every_fact_that_it_shows(name: str) -> None:
    answer, beaten = BEATEN[name]
    async with serving(answer) as server, store_at(server.url) as store:
        assert await store.tallies.commit(COMMIT) == beaten
        assert server.operations == ["TransactWriteItems"]


class Engine(answers.Server):
    """Refuses every commit with `answer`, and has these items."""

    def __init__(self, answer: Answer = None, **of_operation: Answer) -> None:
        super().__init__(answer, **of_operation)
        self.items: dict[str, Item] = {}

    def answer_to(self, operation: str, request: Mapping[str, Any]) -> Answer:
        if operation == "DescribeTable":
            return success(Table=ACTIVE)
        if operation != "GetItem":
            return self.answer
        key = request["Key"]["pk"]["S"]
        identity = {"id": {"S": "x"}, "schema": {"N": "1"}, "table_id": {"S": "one"}}
        found = identity if key == "identity" else self.items.get(key)
        return success(ConsumedCapacity={}, **({"Item": found} if found else {}))


@pytest.mark.parametrize(
    ("parts", "there", "beaten"),
    [
        ((FAILED, "None", "None"), [NEWER], Beaten(NEWER)),
        ((FAILED, "None", "None"), [], Beaten(missing=True)),
        ((FAILED, A, CONFLICT), [], Beaten(None, {"a": A}, conflict=True, missing=True)),
        (("None", FAILED, FAILED), [A, B], Beaten(records={"a": A, "b": B})),
        ((FAILED, FAILED, B), [NEWER, A], Beaten(NEWER, {"a": A, "b": B})),
    ],
)
async def test_what_a_failed_condition_does_not_show_is_read(
    parts: tuple[Part, ...], there: list[Tally | AddRecord], beaten: Beaten
) -> None:
    """Some engines show no items; and where none was, none can show it."""
    async with serving(canceled(*parts), kind=Engine) as server, store_at(server.url) as store:
        assert isinstance(server, Engine)
        server.items = {item(one)["pk"]["S"]: item(one) for one in there}
        assert await store.tallies.commit(COMMIT) == beaten
        # Where no tally was found, the table may be another one: it is recognised first.
        assert ("DescribeTable" in server.operations) == (parts[0] == FAILED)


REFUSED: dict[str, tuple[Answer, bool]] = {  # and if it is throttled
    "a throttle": (canceled("None", THROTTLED, "None"), True),
    "a limit of the table": (canceled("ProvisionedThroughputExceeded", "None", "None"), True),
    "a throttle as a whole": (error("ThrottlingException"), True),
    "what is not valid": (canceled("None", "ValidationError", "None"), False),
    "fewer reasons than writes": (canceled(NEWER, A), False),
    "more reasons than writes": (canceled("None", NEWER, A, B), False),
    "no reasons": (canceled(), False),
    "no permission": (error("AccessDeniedException"), False),
    "no table": (error("ResourceNotFoundException"), False),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refusal_that_shows_nothing_is_not_applied(name: str) -> None:
    answer, throttled = REFUSED[name]
    async with serving(answer) as server, store_at(server.url) as store:
        with pytest.raises(errors.NotApplied) as raised:
            await store.tallies.commit(COMMIT)
        assert raised.value.throttled == throttled
        assert server.operations == ["TransactWriteItems"]


UNKNOWN: dict[str, Answer] = {
    "a page with 200": page(200),
    "an empty object with 200": success(),
    "a cut answer": answers.cut(success(ConsumedCapacity=[])),
    "a reset": answers.reset,
    "500": error("InternalServerError", 500),
    "a cancellation with 500": error("TransactionCanceledException", 500),
    "503 from a proxy": page(503),
    # Its token is that of this very commit, a copy of which is under way.
    "in progress": error("TransactionInProgressException"),
    "a condition of the tally that holds": canceled(BEFORE, "None", "None"),
    "the record of another key": canceled("None", B, "None"),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_a_commit_without_a_clear_answer_is_unknown_and_sent_once(name: str) -> None:
    async with serving(UNKNOWN[name]) as server, store_at(server.url) as store:
        with pytest.raises(errors.OutcomeUnknown):
            await store.tallies.commit(COMMIT)
        assert server.operations == ["TransactWriteItems"]


@pytest.mark.parametrize("parts", [("None", FAILED, "None"), ("None", FAILED, B)])
async def test_a_record_that_is_there_and_is_not_is_unknown(parts: tuple[Part, ...]) -> None:
    async with serving(canceled(*parts), kind=Engine) as server, store_at(server.url) as store:
        with pytest.raises(errors.OutcomeUnknown, match="a condition that holds"):
            await store.tallies.commit(COMMIT)


async def test_no_commit_has_the_token_of_another_one() -> None:
    """DynamoDB would answer the second as the first, and not apply it."""
    done = success(ConsumedCapacity=[])
    async with serving(done) as server, store_at(server.url) as store:
        for _ in range(2):
            assert await store.tallies.commit(COMMIT) is None
        first, second = (request["ClientRequestToken"] for _, request in server.requests)
        assert first != second


# --- create and change ----------------------------------------------------------------------------


async def test_a_create_whose_answer_was_lost_is_found_by_reading() -> None:
    for there, told in ((BEFORE, BEFORE), (NEWER, NEWER)):
        async with serving(answers.reset, kind=Engine) as server, store_at(server.url) as store:
            assert isinstance(server, Engine)
            server.items = {"tally:gifts": item(there)}
            assert await store.tallies.create(BEFORE) == told
            assert server.operations == ["UpdateItem", "GetItem"]


async def test_a_create_that_is_not_found_stays_unknown() -> None:
    async with serving(answers.reset, kind=Engine) as server, store_at(server.url) as store:
        with pytest.raises(errors.OutcomeUnknown):
            await store.tallies.create(BEFORE)
    failed = error("ConditionalCheckFailedException")
    async with serving(failed, kind=Engine) as server, store_at(server.url) as store:
        with pytest.raises(errors.OutcomeUnknown, match="a condition that holds"):
            await store.tallies.create(BEFORE)


async def test_a_change_is_refused_or_unknown_as_its_answer_says() -> None:
    failed = error("ConditionalCheckFailedException", Item=item(NEWER))
    async with serving(failed) as server, store_at(server.url) as store:
        assert not await store.tallies.rewrite(BEFORE, NEWER)
    for answer, kind in (
        (error("ThrottlingException"), errors.NotApplied),
        (error("AccessDeniedException"), errors.NotApplied),
        (answers.reset, errors.OutcomeUnknown),
        (success(), errors.OutcomeUnknown),
    ):
        async with serving(answer) as server, store_at(server.url) as store:
            with pytest.raises(kind):
                await store.tallies.rewrite(BEFORE, NEWER)
            assert server.operations == ["UpdateItem"]


# --- an item that cannot be read ------------------------------------------------------------------

NUMBERS = {
    "missing": None, "a fraction": {"N": "41.5"}, "a text": {"S": "41"},
    "an exponent": {"N": "1E2"}, "20 digits": {"N": "1" * 20}, "a plus": {"N": "+1"},
    "minus zero": {"N": "-0"}, "a list": {"L": []},
}  # fmt: skip
WRONG: list[tuple[Tally | AddRecord, str, Any]] = [
    *((BEFORE, "sum", value) for value in NUMBERS.values()),
    *((BEFORE, field, {"N": "41.5"}) for field in ("start", "floor", "ceiling", "only", "at")),
    *((BEFORE, field, None) for field in ("start", "rev", "inc", "decimals", "adds", "state")),
    (BEFORE, "rev", {"N": "-1"}), (BEFORE, "decimals", {"N": "10"}),
    (BEFORE, "floor", {"S": "0"}), (BEFORE, "state", {"S": "frozen"}),
    *((A, "amount", value) for value in NUMBERS.values()),
    *((A, field, None) for field in ("sum", "rev", "at", "kind")),
    (A, "kind", {"S": "pending"}), (A, "rev", {"N": "1.5"}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "field", "value"), WRONG)
async def test_an_item_that_cannot_be_read_is_named_and_never_guessed(
    what: Tally | AddRecord, field: str, value: Any
) -> None:
    wrong = item(what, **{field: value})
    is_tally = isinstance(what, Tally)
    refusal = canceled(wrong, "None", "None") if is_tally else canceled("None", wrong, "None")
    found = success(ConsumedCapacity={}, Item=wrong)
    pages = success(Items=[wrong])
    async with (
        serving(TransactWriteItems=refusal, GetItem=found, Scan=pages) as server,
        store_at(server.url) as store,
    ):
        sums = store.tallies
        for asked in (
            sums.commit(COMMIT),
            sums.tally("gifts") if is_tally else sums.records(BEFORE, ["a"]),
            sums.tallies() if is_tally else anext(sums.every_record("gifts", 1)),
        ):
            with pytest.raises(errors.TallyIllFormed) as raised:
                await asked
            said = str(raised.value)
            assert wrong["pk"]["S"] in said
            assert f"its attribute {field!r} is" in said
            assert raised.value.outcome == errors.NOT_APPLIED


# --- another table --------------------------------------------------------------------------------


@pytest.mark.needs_engine
async def test_a_table_replaced_in_a_pause_gets_no_adds_afterwards(
    dynoxide: Dynamo,  # noqa: F811
    in_use: tuple[DynamoStore, Any],  # noqa: F811
    clocks: Clocks,  # noqa: F811
) -> None:
    store, client = in_use
    sums = store.tallies
    tally = await sums.create(Tally("gifts"))
    recreate(client, dynoxide.table)
    before = items_of(client, dynoxide.table)
    clocks.paused_s = 6.0
    for asked in (
        sums.commit(planned(tally, [Wanted("a", 1)], now=1)), sums.create(Tally("other")),
        sums.rewrite(tally, replace(tally, rev=1)), sums.tally("gifts"), sums.tallies(),
        sums.records(tally, ["a"]), anext(sums.every_record("gifts", 1)),
    ):  # fmt: skip
        with pytest.raises(errors.NotApplied, match="recreated or restored"):
            await asked
    assert items_of(client, dynoxide.table) == before


@pytest.mark.needs_engine
@pytest.mark.parametrize("operation", ["TransactWriteItems", "UpdateItem", "GetItem", "Scan"])
async def test_what_another_table_said_after_a_silence_is_not_believed(
    dynoxide: Dynamo,  # noqa: F811
    in_use: tuple[DynamoStore, Any],  # noqa: F811
    clocks: Clocks,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
) -> None:
    store, client = in_use
    sums = store.tallies
    tally = await sums.create(Tally("gifts"))
    commit = planned(tally, [Wanted("a", 1)], now=1)
    asked: Any = {
        "TransactWriteItems": lambda: sums.commit(commit),
        "UpdateItem": lambda: sums.rewrite(tally, replace(tally, rev=1)),
        "GetItem": lambda: sums.tally("gifts"),
        "Scan": sums.tallies,
    }[operation]
    if operation == "TransactWriteItems":
        assert await sums.commit(commit) is None  # so that the other table refuses it with facts
    real = dynamodb_client.DynamoClient.call

    async def paused(self: Any, called: str, *rest: Any, **request: Any) -> Any:
        if called == operation and not clocks.paused_s:
            clocks.paused_s = 6.0  # between the check of the table and the request
            recreate(client, dynoxide.table)
        return await real(self, called, *rest, **request)

    monkeypatch.setattr(dynamodb_client.DynamoClient, "call", paused)
    writes = operation in ("TransactWriteItems", "UpdateItem")
    with pytest.raises(
        errors.OutcomeUnknown if writes else errors.NotApplied, match="recreated or restored"
    ):
        await asked()
