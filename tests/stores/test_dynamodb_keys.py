"""What each answer to a write of access keys proves: beaten, not applied, or unknown."""

from typing import Any

import pytest

from idservice import errors
from idservice.core.access_key import AccessKey, Role, hashed
from idservice.stores.key_store import KeyBucket
from tests.stores import answers
from tests.stores.answers import Answer, error, page, serving, success
from tests.stores.test_dynamodb import store_at

KEY = AccessKey("k7f3q9m2xw", Role.USE, ("acme.*",), hashed("secret"), 1_800_000_000_000)
FAILED, CONFLICT, THROTTLED = "ConditionalCheckFailed", "TransactionConflict", "ThrottlingError"


def canceled(*reasons: str) -> bytes:
    """A cancellation: of the bucket and of the catalogue's head a reason."""
    parts = [{"Code": reason} for reason in reasons]
    return error("TransactionCanceledException", CancellationReasons=parts)


@pytest.mark.parametrize("rev", [1, 7])
async def test_a_rewrite_is_one_transaction_with_the_catalogues_revision(rev: int) -> None:
    answer = success(ConsumedCapacity=[])
    async with serving(answer) as server, store_at(server.url) as store:
        assert await store.keys.rewrite(KeyBucket("a", rev, (KEY,)))
        ((operation, request),) = server.requests
    assert operation == "TransactWriteItems"
    writes: Any = request["TransactItems"]
    bucket, head = (write["Update"] for write in writes)
    assert (bucket["Key"], head["Key"]) == ({"pk": {"S": "keys:a"}}, {"pk": {"S": "catalogue"}})
    held = {1: "attribute_not_exists(#k)", 7: "#v = :before"}
    assert bucket["ConditionExpression"] == held[rev]
    assert (":before" in bucket["ExpressionAttributeValues"]) == (rev == 7)


@pytest.mark.parametrize("others", ["None", CONFLICT, THROTTLED])
async def test_a_bucket_of_another_revision_is_a_write_that_was_beaten(others: str) -> None:
    async with serving(canceled(FAILED, others)) as server, store_at(server.url) as store:
        assert not await store.keys.rewrite(KeyBucket("a", 2, (KEY,)))
        assert server.operations == ["TransactWriteItems"]


REFUSED: dict[str, Answer] = {
    "no catalogue": canceled("None", FAILED),
    "a throttle": canceled(THROTTLED, "None"),
    "a throttle as a whole": error("ThrottlingException"),
    "what is not valid": canceled("ValidationError", "None"),
    "no permission": error("AccessDeniedException"),
    "no table": error("ResourceNotFoundException"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_another_refusal_is_not_applied(name: str) -> None:
    async with serving(REFUSED[name]) as server, store_at(server.url) as store:
        with pytest.raises(errors.NotApplied) as refused:
            await store.keys.rewrite(KeyBucket("a", 1, (KEY,)))
        assert server.operations == ["TransactWriteItems"]
    assert KEY.hash not in str(refused.value)


UNKNOWN: dict[str, Answer] = {
    "a page with 200": page(200),
    "an empty object with 200": success(),
    "a cut answer": answers.cut(success(ConsumedCapacity=[])),
    "a reset": answers.reset,
    "500": error("InternalServerError", 500),
    "503 from a proxy": page(503),
    "in progress": error("TransactionInProgressException"),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_a_rewrite_without_a_clear_answer_is_unknown_and_sent_once(name: str) -> None:
    async with serving(UNKNOWN[name]) as server, store_at(server.url) as store:
        with pytest.raises(errors.OutcomeUnknown):
            await store.keys.rewrite(KeyBucket("a", 1, (KEY,)))
        assert server.operations == ["TransactWriteItems"]


@pytest.mark.parametrize("name", [*UNKNOWN, "a throttle as a whole", "no permission"])
async def test_a_bucket_that_cannot_be_read_is_not_an_empty_one(name: str) -> None:
    """Every key of it would be refused."""
    answer = {**UNKNOWN, **REFUSED}[name]
    async with serving(answer) as server, store_at(server.url) as store:
        with pytest.raises(errors.NotApplied):
            await store.keys.bucket("a")
