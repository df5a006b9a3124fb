"""Access keys in a DynamoDB table: the items `keys:0` to `keys:f`, each a list written as JSON."""

from typing import Any

from idservice import errors
from idservice.stores.dynamodb import items, requests
from idservice.stores.dynamodb.calls import TableCalls
from idservice.stores.dynamodb.client import CallRefused, DynamoClient
from idservice.stores.dynamodb.items import Place
from idservice.stores.dynamodb.table import TableIdentities
from idservice.stores.key_store import KeyBucket, decoded_keys, encoded_keys

KEYS = "keys:"


class DynamoKeys:
    """A `KeyStore` over the client of a DynamoDB store."""

    def __init__(self, client: DynamoClient, tables: TableIdentities, calls: TableCalls) -> None:
        self._client = client
        self._tables = tables
        self._calls = calls

    async def bucket(self, number: str) -> KeyBucket:
        action, place = "reading the access keys", _place(self._client.table, number)
        item = await self._calls.get(place.table, place.key, action)
        await self._calls.ensure(action)  # after a pause of this process another table answered
        if item is None:
            return KeyBucket(number)
        try:
            rev = items.number(item.get("rev"))
            if rev is None:
                raise ValueError("its attribute 'rev' is not a whole number >= 0")
            return KeyBucket(number, rev, decoded_keys(items.string(item.get("keys")) or ""))
        except ValueError as why:
            raise errors.KeysIllFormed(
                store=self._client.store, action=action, item=f"{KEYS}{number}", why=why
            ) from None

    async def rewrite(self, after: KeyBucket) -> bool:
        action = "changing the access keys"
        await self._calls.ensure(action)
        try:
            writes = [_written(self._client.table, after), requests.head_moved(self._client.table)]
            await self._client.transact(writes, action)
        except CallRefused as refused:
            self._tables.not_found(refused, self._client.table)
            if refused.reasons[:1] == ("ConditionalCheckFailed",):
                return False
            raise
        return True


def _place(table: str, number: str) -> Place:
    return Place(table, {items.KEY: {"S": f"{KEYS}{number}"}}, "rev")


def _written(table: str, after: KeyBucket) -> dict[str, Any]:
    """Return the write of a bucket, for a transaction, if its `rev` is one less still."""
    condition = "#v = :before" if after.rev > 1 else "attribute_not_exists(#k)"
    write = requests.update(
        _place(table, after.number),
        "SET #v = :after, #list = :keys",
        condition,
        {"#list": "keys"},
        before=after.rev - 1, after=after.rev, keys=encoded_keys(after.keys),
    )  # fmt: skip
    return {"Update": write}
