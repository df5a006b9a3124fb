"""Calls about a store's items, each to a table that was recognised: another may bear its name."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from idservice import errors
from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.client import Answer, CallRefused, CallUnanswered, DynamoClient
from idservice.stores.dynamodb.table import Table, TableIdentities, TableIdentity, now


class TableCalls:
    """Reads and writes items. What is not said otherwise is about the store's own table."""

    def __init__(self, client: DynamoClient, tables: TableIdentities, table: Table) -> None:
        self._client = client
        self._tables = tables
        self._table = table

    async def ensure(self, action: str) -> None:
        """Recognise the table first if another one may bear its name now. Raises NotApplied."""
        try:
            await self._client.open()
            await self._tables.own.ensure(self._table.verify)
        except errors.StoreUnready as error:
            why = error.fields["why"]
            raise errors.NotApplied(store=self._client.store, action=action, why=why) from error

    async def get(self, table: str, key: items.Item, action: str) -> Answer | None:
        """Return an item, read consistently; None if there is none. Raises as `read`."""
        answer = await self.read("GetItem", action, TableName=table, Key=key, ConsistentRead=True)
        item: Answer | None = answer.get("Item")
        return item

    async def read(self, operation: str, action: str, **request: Any) -> Answer:
        """Send a request that changes nothing; its outcome is never unknown. Raises NotApplied."""
        asked_at = now()
        await self.ensure(action)
        try:
            answer = await self._client.call(operation, action, **request)
        except CallUnanswered as unanswered:
            raise errors.NotAnswered(**unanswered.fields) from unanswered
        except CallRefused as refused:
            self._tables.not_found(refused, request["TableName"])
            raise
        if request["TableName"] == self._client.table:
            self._tables.own.answered(asked_at)
        return answer

    async def write(
        self,
        operation: str,
        action: str,
        *,
        table: TableIdentity | None = None,
        ensure: Callable[[], Awaitable[None]] | None = None,
        refusals_tell: bool = False,
        **request: Any,
    ) -> Answer:
        """Send one write to a recognised table and return its answer.

        `table` is the table that answers, and `ensure` recognises it; without the two it is our
        own. With `refusals_tell` a refusal is believed like an answer, because its reader takes
        facts from it. Raises CallRefused, NotApplied, OutcomeUnknown: also if another table may
        have answered, because this one was not found meanwhile, or because this process was paused.
        """
        table = table or self._tables.own
        ensure = ensure or partial(self.ensure, action)
        asked_at = now()
        await ensure()
        try:
            answer = await self._client.call(operation, action, **request)
        except CallRefused as refused:
            name = request.get("TableName", self._client.table)
            if not self._tables.not_found(refused, name) and refusals_tell:
                await self._believe(table, asked_at, ensure, action)
            raise
        await self._believe(table, asked_at, ensure, action)
        return answer

    async def _believe(
        self,
        table: TableIdentity,
        asked_at: tuple[float, float],
        ensure: Callable[[], Awaitable[None]],
        action: str,
    ) -> None:
        """Raise OutcomeUnknown unless this table answered the request that was made at
        `asked_at`."""
        if table.is_invalid:
            why = "the table was not found in the meantime, so this may be another one"
            raise errors.OutcomeUnknown(store=self._client.store, action=action, why=why)
        table.answered(asked_at)
        try:
            await ensure()
        except errors.NotApplied as error:  # what was written is not taken back by this
            raise errors.OutcomeUnknown(**error.fields) from error
