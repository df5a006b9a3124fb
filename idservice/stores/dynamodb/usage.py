"""Usage in a DynamoDB table: `use:DAY:RUN` is a part of a run's day, `uses:DAY` names all of them.

So a day is read item by item, without a scan of the table.
"""

import asyncio
from typing import Any

from idservice import errors
from idservice.core.usage import RunEnd, UsagePart
from idservice.stores.at_once import for_each
from idservice.stores.dynamodb import client as dynamo
from idservice.stores.dynamodb import items, requests
from idservice.stores.dynamodb.calls import TableCalls
from idservice.stores.dynamodb.client import CallRefused, DynamoClient
from idservice.stores.dynamodb.items import Item, Place
from idservice.stores.instants import day_text
from idservice.stores.usage_store import decoded_rows, encoded_rows, split_name

PART, DAY = "use:", "uses:"
CALLS_AT_ONCE = 8  # of the client's 32 connections, so that ids do not wait for a report
READING, WRITING = "reading the usage", "writing the usage"


class DynamoUsage:
    """A `UsageStore` over the client of a DynamoDB store."""

    def __init__(self, client: DynamoClient, calls: TableCalls) -> None:
        self._client = client
        self._calls = calls
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        self._named: set[tuple[int, str]] = set()  # the parts that their days are known to name

    async def write(self, part: UsagePart) -> bool:
        # The name goes first: a part that no day names would be in no report.
        if (part.day, part.name) not in self._named:
            await self._write(_named(self._client.table, part))
            self._named = {one for one in self._named if one[0] >= part.day - 1}
            self._named.add((part.day, part.name))
        return await self._write(_written(self._client.table, part))

    async def _write(self, request: dict[str, Any]) -> bool:
        """Return False if the condition does not hold."""
        try:
            await self._calls.write("UpdateItem", WRITING, **request)
        except CallRefused as refused:
            if refused.said != dynamo.CONDITION_FAILED:
                raise
            return False
        return True

    async def parts(self, day: int) -> list[UsagePart]:
        item = await self._get(_day_place(self._client.table, day))
        names = (item or {}).get("runs", {}).get("SS", [])

        async def part(name: str) -> UsagePart | None:
            found = await self._get(_place(self._client.table, day, name))
            return None if found is None else self._part(day, name, found)

        found = await for_each(sorted(names), part)
        return [one for one in found if one is not None]

    async def _get(self, place: Place) -> Item | None:
        async with self._turns:
            item = await self._calls.get(place.table, place.key, READING)
        await self._calls.ensure(READING)  # after a pause of this process another table answered
        return item

    def _part(self, day: int, name: str, item: Item) -> UsagePart:
        try:
            run, number = split_name(name)
            rows = decoded_rows(items.string(item.get("rows")) or "")
            seq, first, last = (_number(item, field) for field in ("seq", "first", "last"))
            end = RunEnd(items.string(item.get("end")) or "")
            return UsagePart(day, run, number, seq, first, last, end, rows)
        except ValueError as why:
            raise errors.UsageIllFormed(
                store=self._client.store, action=READING, why=why,
                item=f"{PART}{day_text(day)}:{name}",
            ) from None  # fmt: skip


def _number(item: Item, field: str) -> int:
    found = items.number(item.get(field))
    if found is None:
        raise ValueError(f"its attribute {field!r} is not a whole number >= 0")
    return found


def _place(table: str, day: int, name: str) -> Place:
    return Place(table, {items.KEY: {"S": f"{PART}{day_text(day)}:{name}"}}, "seq")


def _day_place(table: str, day: int) -> Place:
    return Place(table, {items.KEY: {"S": f"{DAY}{day_text(day)}"}}, "runs")


def _named(table: str, part: UsagePart) -> dict[str, Any]:
    """Return the write of a part's name among those of its day."""
    return requests.update(
        _day_place(table, part.day), "ADD #v :runs",
        "attribute_not_exists(#v) OR NOT contains(#v, :name)",
        runs={"SS": [part.name]}, name=part.name,
    )  # fmt: skip


def _written(table: str, part: UsagePart) -> dict[str, Any]:
    """Return the write of a part over one with a lower `seq` (U1)."""
    return requests.update(
        _place(table, part.day, part.name),
        "SET #v = :seq, #f = :first, #z = :last, #x = :end, #w = :rows",
        "attribute_not_exists(#v) OR #v < :seq",
        {"#f": "first", "#z": "last", "#x": "end", "#w": "rows"},
        seq=part.seq, first=part.first, last=part.last, end=part.end.value,
        rows=encoded_rows(part.rows),
    )  # fmt: skip
