"""Tallies in a DynamoDB table: one item each, and one for the record of each add."""

from collections.abc import AsyncIterator, Sequence

from idservice import errors
from idservice.core.tally import AddRecord, Commit, Tally
from idservice.stores.dynamodb.client import DynamoClient
from idservice.stores.dynamodb.table import Table, TableIdentities
from idservice.stores.tally_store import Beaten


class DynamoTallies:
    """A `TallyStore` over the client of a DynamoDB store."""

    def __init__(self, client: DynamoClient, tables: TableIdentities, table: Table) -> None:
        self._client = client
        self._tables = tables
        self._table = table

    async def tally(self, name: str) -> Tally | None:
        raise self._not_yet()

    async def tallies(self) -> list[Tally]:
        raise self._not_yet()

    async def create(self, tally: Tally) -> Tally:
        raise self._not_yet()

    async def rewrite(self, before: Tally, after: Tally) -> bool:
        raise self._not_yet()

    async def commit(self, commit: Commit) -> Beaten | None:
        raise self._not_yet()

    async def records(self, tally: Tally, keys: Sequence[str]) -> dict[str, AddRecord]:
        raise self._not_yet()

    def every_record(self, name: str, inc: int) -> AsyncIterator[AddRecord]:
        raise self._not_yet()

    def _not_yet(self) -> errors.NotApplied:
        why = "this version keeps no tallies on DynamoDB"
        return errors.NotApplied(store=self._client.store, action="reading tallies", why=why)
