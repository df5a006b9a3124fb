"""Usage in an SQLite file: one row for each part of a run's day."""

import sqlite3
from functools import partial

from idservice import errors
from idservice.core.usage import RunEnd, UsagePart
from idservice.stores.instants import day_text
from idservice.stores.sqlite import transactions
from idservice.stores.sqlite.connection import FileConnection
from idservice.stores.usage_store import decoded_rows, encoded_rows, split_name

# Created by the first write: older files lack it, and older versions leave it alone.
TABLE = """
CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, run TEXT NOT NULL, seq INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL, "end" TEXT NOT NULL, rows TEXT NOT NULL, PRIMARY KEY (day, run)
) STRICT
"""
WRITE = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (day, run) DO UPDATE SET
    seq = excluded.seq, first = excluded.first, last = excluded.last, "end" = excluded."end",
    rows = excluded.rows
WHERE excluded.seq > usage.seq
"""
READ = 'SELECT run, seq, first, last, "end", rows FROM usage WHERE day = ? ORDER BY run'

Row = tuple[str, int, int, int, str, str]


class SQLiteUsage:
    """A `UsageStore` over the connection of an SQLite store."""

    def __init__(self, connection: FileConnection, address: str) -> None:
        self._connection = connection
        self._address = address

    async def write(self, part: UsagePart) -> bool:
        return await self._connection.write("writing the usage", _write, part)

    async def parts(self, day: int) -> list[UsagePart]:
        rows = await self._connection.read("reading the usage", _read, day)
        return [*map(partial(self._part, day), rows)]

    def _part(self, day: int, row: Row) -> UsagePart:
        name, seq, first, last, end, rows = row
        try:
            run, number = split_name(name)
            return UsagePart(day, run, number, seq, first, last, RunEnd(end), decoded_rows(rows))
        except ValueError as why:
            raise errors.UsageIllFormed(
                store=self._address, action="reading the usage", why=why,
                item=f"{name!r} of {day_text(day)} in table `usage`",
            ) from None  # fmt: skip


# --- on the thread: each runs in a transaction of its caller --------------------------------------


def _write(database: sqlite3.Connection, part: UsagePart) -> bool:
    database.execute(TABLE)
    row = (
        day_text(part.day), part.name, part.seq, part.first, part.last, part.end.value,
        encoded_rows(part.rows),
    )  # fmt: skip
    return database.execute(WRITE, row).rowcount == 1


def _read(database: sqlite3.Connection, day: int) -> list[Row]:
    if not transactions.exists(database, "usage"):
        return []
    return database.execute(READ, (day_text(day),)).fetchall()
