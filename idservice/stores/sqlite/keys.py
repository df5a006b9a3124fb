"""Access keys in an SQLite file: one row for each bucket."""

import sqlite3

from idservice import errors
from idservice.stores.key_store import KeyBucket, decoded_keys, encoded_keys
from idservice.stores.sqlite import transactions
from idservice.stores.sqlite.connection import FileConnection

# Created by the first key: older files lack it, and older versions leave it alone.
TABLE = """
CREATE TABLE IF NOT EXISTS key (
    bucket TEXT PRIMARY KEY, rev INTEGER NOT NULL, keys TEXT NOT NULL
) STRICT
"""


class SQLiteKeys:
    """A `KeyStore` over the connection of an SQLite store."""

    def __init__(self, connection: FileConnection, address: str) -> None:
        self._connection = connection
        self._address = address

    async def bucket(self, number: str) -> KeyBucket:
        action = "reading the access keys"
        row = await self._connection.read(action, _row, number)
        if row is None:
            return KeyBucket(number)
        try:
            return KeyBucket(number, row[0], decoded_keys(row[1]))
        except ValueError as why:
            item = f"{number!r} of table `key`"
            raise errors.KeysIllFormed(
                store=self._address, action=action, item=item, why=why
            ) from None

    async def rewrite(self, after: KeyBucket) -> bool:
        return await self._connection.write("changing the access keys", _rewrite, after)


# --- on the thread: each runs in a transaction of its caller --------------------------------------


def _row(database: sqlite3.Connection, number: str) -> tuple[int, str] | None:
    if not transactions.exists(database, "key"):
        return None
    query = "SELECT rev, keys FROM key WHERE bucket = ?"
    row: tuple[int, str] | None = database.execute(query, (number,)).fetchone()
    return row


def _rewrite(database: sqlite3.Connection, after: KeyBucket) -> bool:
    database.execute(TABLE)
    row = _row(database, after.number)
    if (0 if row is None else row[0]) != after.rev - 1:
        return False
    database.execute(
        "INSERT OR REPLACE INTO key VALUES (?, ?, ?)",
        (after.number, after.rev, encoded_keys(after.keys)),
    )
    transactions.move_revision(database)
    return True
