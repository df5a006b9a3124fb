"""Tallies in a DynamoDB table: one item each, and one for the record of each add.

A commit is one transaction. DynamoDB cancels it as a whole, and tells for each write why. A
condition that failed says what is there instead, whatever else was in the way (T3).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from idservice import errors
from idservice.core.tally import AddRecord, Commit, Tally
from idservice.stores.at_once import for_each
from idservice.stores.dynamodb import client as dynamo
from idservice.stores.dynamodb import items, tally_items
from idservice.stores.dynamodb.calls import TableCalls
from idservice.stores.dynamodb.client import Answer, CallRefused, CallUnanswered, DynamoClient
from idservice.stores.dynamodb.table import TableIdentities
from idservice.stores.tally_store import Beaten

CALLS_AT_ONCE = 16  # half of the client's connections: ids do not wait for calls about tallies
FAILED, IN_THE_WAY = "ConditionalCheckFailed", "TransactionConflict"  # reasons of a cancellation


class DynamoTallies:
    """A `TallyStore` over the client of a DynamoDB store."""

    def __init__(self, client: DynamoClient, tables: TableIdentities, calls: TableCalls) -> None:
        self._name = client.table
        self._address = client.store
        self._tables = tables
        self._calls = calls
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)

    # --- reading ---------------------------------------------------------------------------------

    async def tally(self, name: str) -> Tally | None:
        action = f"reading tally {name}"
        item = await self._get(tally_items.tally_place(self._name, name).key, action)
        return None if item is None else self._tally(item, name, action)

    async def tallies(self) -> list[Tally]:
        action, found = "reading the tallies", []
        async for item in self._scanned(tally_items.TALLY, action):
            name = (items.string(item.get(items.KEY)) or "").removeprefix(tally_items.TALLY)
            found.append(self._tally(item, name, action))
        return sorted(found, key=lambda tally: tally.name)

    async def records(self, tally: Tally, keys: Sequence[str]) -> dict[str, AddRecord]:
        # One by one: to read them together is another permission, or a transaction that conflicts.
        found = await for_each(keys, partial(self._record_of, tally))
        return {record.key: record for record in found if record is not None}

    async def _record_of(self, tally: Tally, key: str) -> AddRecord | None:
        action = f"reading an add to tally {tally.name}"
        item = await self._get(tally_items.record_place(self._name, tally, key).key, action)
        return None if item is None else self._record(item, tally.name, tally.inc, action)

    async def every_record(self, name: str, inc: int) -> AsyncIterator[AddRecord]:
        action = f"reading the adds to tally {name}"
        async for item in self._scanned(tally_items.records_prefix(name, inc), action):
            yield self._record(item, name, inc, action)

    async def _get(self, key: items.Item, action: str) -> Answer | None:
        async with self._turns:
            item = await self._calls.get(self._name, key, action)
        await self._calls.ensure(action)  # after a pause of this process another table answered
        return item

    async def _scanned(self, prefix: str, action: str) -> AsyncIterator[Answer]:
        request = tally_items.scan(self._name, prefix)
        while True:
            async with self._turns:
                answer = await self._calls.read("Scan", action, **request)
            await self._calls.ensure(action)
            for item in answer["Items"]:
                yield item
            if not answer.get("LastEvaluatedKey"):
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _tally(self, item: Answer, name: str, action: str) -> Tally:
        try:
            return tally_items.tally_in(item, name)
        except ValueError as why:
            raise self._ill_formed(item, name, action, why) from None

    def _record(self, item: Answer, name: str, inc: int, action: str) -> AddRecord:
        try:
            return tally_items.record_in(item, name, inc)
        except ValueError as why:
            raise self._ill_formed(item, name, action, why) from None

    def _ill_formed(
        self, item: Answer, name: str, action: str, why: ValueError
    ) -> errors.TallyIllFormed:
        which = items.shown(item.get(items.KEY))
        return errors.TallyIllFormed(
            store=self._address, name=name, item=which, action=action, why=why
        )

    # --- writing ---------------------------------------------------------------------------------

    async def create(self, tally: Tally) -> Tally:
        action = f"creating tally {tally.name}"
        try:
            await self._write("UpdateItem", action, **tally_items.created(self._name, tally))
        except CallRefused as refused:
            if refused.said != dynamo.CONDITION_FAILED:
                raise
            found = await self._seen(refused.item, tally.name, action)
            if found is None:
                why = "it refused a condition that holds"
                raise errors.OutcomeUnknown(store=self._address, action=action, why=why) from None
            return found
        except CallUnanswered as unanswered:
            try:
                found = await self.tally(tally.name)
            except errors.StoreError:
                raise unanswered from None  # not the reading's error, which says "not applied"
            if found is None:
                raise
            return tally if found == tally else found
        return tally

    async def rewrite(self, before: Tally, after: Tally) -> bool:
        action = f"changing tally {before.name}"
        write = tally_items.rewritten(self._name, before, after)
        try:
            await self._write("UpdateItem", action, **write)
        except CallRefused as refused:
            if refused.said != dynamo.CONDITION_FAILED:
                raise
            if not refused.item:
                self._tables.own.invalidate()  # what is read next is read of the right table
            return False
        return True

    async def commit(self, commit: Commit) -> Beaten | None:
        # The library adds a ClientRequestToken, a new one at each call. We make one attempt per
        # call, so none of our commits has the token of another, and DynamoDB tells none of them to
        # be a repetition. A copy that the network makes has the same token: for ten minutes it is
        # answered like the first one and not applied. Later, or on an engine that does not know
        # tokens, its conditions stop it: `rev` never returns (T1).
        action = f"counting adds to tally {commit.before.name}"
        writes = tally_items.committed(self._name, commit)
        try:
            await self._write("TransactWriteItems", action, TransactItems=writes)
            return None
        except CallRefused as refused:
            return await self._beaten(commit, refused, action)

    async def _write(self, operation: str, action: str, **request: Any) -> None:
        async with self._turns:
            await self._calls.write(operation, action, refusals_tell=True, **request)

    async def _beaten(self, commit: Commit, refused: CallRefused, action: str) -> Beaten:
        """Return what a refusal of a commit says. Raises it if it says nothing of the tally."""
        if refused.said == dynamo.CONFLICT:
            return Beaten(conflict=True)
        if refused.said != dynamo.CANCELED or len(refused.reasons) != 1 + len(commit.records):
            raise refused
        conflict = IN_THE_WAY in refused.reasons
        if FAILED not in refused.reasons:
            if conflict:
                return Beaten(conflict=True)
            raise refused
        before = commit.before
        tally, missing = None, False
        if refused.reasons[0] == FAILED:  # the tally's is the first write
            tally = await self._seen(refused.items[0], before.name, action)
            missing = tally is None
        there = await self._records_seen(commit, refused, action)
        if tally is not None and commit.holds_on(tally):
            why = "it refused a condition that holds"
            raise errors.OutcomeUnknown(store=self._address, action=action, why=why)
        return Beaten(tally, there, conflict, missing)

    async def _seen(self, item: Answer | None, name: str, action: str) -> Tally | None:
        """Return the tally that a failed condition shows. If it shows no item, there was none, or
        the engine does not show it. Then the tally is read, after the table is recognised again."""
        if item:
            return self._tally(item, name, action)
        self._tables.own.invalidate()
        return await self.tally(name)

    async def _records_seen(
        self, commit: Commit, refused: CallRefused, action: str
    ) -> dict[str, AddRecord]:
        """Return the records that were there already, by key."""
        before, found, unseen = commit.before, {}, []
        parts = zip(commit.records, refused.reasons[1:], refused.items[1:], strict=True)
        for record, reason, item in parts:
            if reason == FAILED and item:
                there = self._record(item, before.name, before.inc, action)
                if there.key != record.key:
                    why = f"it showed the record of {there.key!r} for {record.key!r}"
                    raise errors.OutcomeUnknown(store=self._address, action=action, why=why)
                found[record.key] = there
            elif reason == FAILED:
                unseen.append(record.key)
        found |= await self.records(before, unseen)
        if not found.keys() >= set(unseen):
            why = "it refused a condition that holds"
            raise errors.OutcomeUnknown(store=self._address, action=action, why=why)
        return found
