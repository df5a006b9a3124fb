"""The contract of `UsageStore`, kept by every store alike."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from idservice import errors
from idservice.core.limits import ID_MAX
from idservice.core.usage import PART_ROWS, RunEnd, UsageKind, UsagePart, UsageRow
from idservice.stores.dynamodb.client import DynamoClient
from idservice.stores.instants import day_text
from idservice.stores.protocol import CatalogueStore
from idservice.stores.usage_store import UsageStore
from tests import engines
from tests.stores.backends import Backend, Dynamo, SQLite
from tests.stores.conftest import one_engine

DAY = 20_700
NOW = DAY * 86_400_000 + 5
ROWS = (
    UsageRow(UsageKind.IDS, "acme.orders", 42, 60),
    UsageRow(UsageKind.IDS, "gifts", ID_MAX, ID_MAX),
    UsageRow(UsageKind.ADDS, "gifts", 7),
)
PART = UsagePart(DAY, "k7f3q9m2xw", 0, 1, NOW, NOW + 50_000, RunEnd.OPEN, ROWS)


@pytest.fixture
def usage(store: CatalogueStore) -> UsageStore:
    return store.usage


@pytest.fixture
def others(other: CatalogueStore) -> UsageStore:
    """The same usage by another handle: an instance that remembers nothing."""
    return other.usage


@one_engine
async def test_a_part_is_read_back_as_it_was_written(usage: UsageStore, others: UsageStore) -> None:
    assert await usage.parts(DAY) == []
    assert await usage.write(PART)
    assert await usage.parts(DAY) == await others.parts(DAY) == [PART]


async def test_a_day_shows_its_own_parts_and_all_of_them_by_name(
    usage: UsageStore, others: UsageStore
) -> None:
    second = replace(PART, number=1, rows=())
    other = replace(PART, run="aaaaaaaaaa", end=RunEnd.STOP)
    later = replace(PART, day=DAY + 1, end=RunEnd.MIDNIGHT)
    for part, handle in ((PART, usage), (other, others), (second, usage), (later, usage)):
        assert await handle.write(part)
    assert await others.parts(DAY) == [other, PART, second]
    assert await usage.parts(DAY + 1) == [later]
    assert await usage.parts(DAY - 1) == []


async def test_a_part_is_replaced_only_by_one_with_a_higher_number(
    usage: UsageStore, others: UsageStore
) -> None:
    newer = replace(PART, seq=3, rows=ROWS[:1], end=RunEnd.STOP)
    assert await usage.write(PART)
    assert await usage.write(newer)
    for late in (PART, replace(PART, seq=2), replace(PART, seq=3)):
        assert not await usage.write(late)
        assert not await others.write(late)
    assert await usage.parts(DAY) == [newer]
    assert await others.write(replace(PART, seq=9))


@one_engine
async def test_a_part_has_room_for_the_longest_rows(usage: UsageStore) -> None:
    rows = tuple(
        UsageRow(UsageKind.IDS, f"{number:-<64}", ID_MAX, ID_MAX) for number in range(PART_ROWS)
    )
    full = replace(PART, rows=rows)
    assert await usage.write(full)
    assert await usage.parts(DAY) == [full]


async def test_a_row_changed_by_hand_is_told_and_the_rest_of_the_store_goes_on(
    backend: Backend, usage: UsageStore
) -> None:
    assert await usage.write(PART)
    if isinstance(backend, SQLite):
        with closing(sqlite3.connect(backend.path)) as database, database:
            database.execute('UPDATE usage SET rows = \'[["gold","gifts",7,null]]\'')
    elif isinstance(backend, Dynamo):
        with engines.by_hand(backend.url) as client:
            client.update_item(
                TableName=backend.table,
                Key={"pk": {"S": f"use:{day_text(DAY)}:{PART.name}"}},
                UpdateExpression="SET seq = :text",
                ExpressionAttributeValues={":text": {"S": "nine"}},
            )
    else:
        pytest.skip("the model holds records as they are")
    with pytest.raises(errors.UsageIllFormed, match=PART.name):
        await usage.parts(DAY)
    assert await usage.write(replace(PART, run="aaaaaaaaaa"))


async def test_a_part_is_in_no_report_before_its_day_names_it(
    backend: Backend, usage: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On DynamoDB the name goes first: a day without it would not show the part."""
    if not isinstance(backend, Dynamo):
        pytest.skip("a day of this store is read as a whole")
    sent: list[str] = []
    call = DynamoClient.call

    async def noted(self: DynamoClient, operation: str, action: str, **request: Any) -> Any:
        if operation == "UpdateItem":
            sent.append(request["Key"]["pk"]["S"])
        return await call(self, operation, action, **request)

    monkeypatch.setattr(DynamoClient, "call", noted)
    for seq in (1, 2):
        assert await usage.write(replace(PART, seq=seq))
    part, day = f"use:{day_text(DAY)}:{PART.name}", f"uses:{day_text(DAY)}"
    assert sent == [day, part, part]
