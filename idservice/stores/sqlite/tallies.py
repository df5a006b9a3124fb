"""Tallies in an SQLite file: a table of tallies, and one of the records of their adds."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from typing import Any

from idservice.core.tally import AddFate, AddRecord, Commit, Tally, TallyState, is_as_it_was
from idservice.stores.sqlite.connection import FileConnection
from idservice.stores.tally_store import Beaten, decoded_change, encoded_change

# They are created by the first tally: older files lack them. Triggers count writes, so that an
# older copy of the file is noticed.
TABLES = (
    """
CREATE TABLE IF NOT EXISTS tally (
    name TEXT PRIMARY KEY, decimals INTEGER NOT NULL, "floor" INTEGER, ceiling INTEGER,
    "only" INTEGER, start INTEGER NOT NULL, "sum" INTEGER NOT NULL, rev INTEGER NOT NULL,
    inc INTEGER NOT NULL, state TEXT NOT NULL, at INTEGER NOT NULL, adds INTEGER NOT NULL,
    change TEXT NOT NULL
) STRICT
""",
    """
CREATE TABLE IF NOT EXISTS tally_add (
    tally TEXT NOT NULL, inc INTEGER NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL,
    amount INTEGER NOT NULL, "sum" INTEGER NOT NULL, rev INTEGER NOT NULL, at INTEGER NOT NULL,
    "by" TEXT NOT NULL, PRIMARY KEY (tally, inc, key)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TRIGGER IF NOT EXISTS tally_written AFTER UPDATE ON tally
BEGIN UPDATE file SET writes = writes + 1; END
""",
    """
CREATE TRIGGER IF NOT EXISTS tally_created AFTER INSERT ON tally
BEGIN UPDATE file SET writes = writes + 1; END
""",
)
FIELDS = (
    "name", "decimals", "floor", "ceiling", "only", "start", "sum", "rev", "inc", "state", "at",
    "adds", "change",
)  # fmt: skip
COLUMNS = ", ".join(f'"{field}"' for field in FIELDS)
RECORD = 'key, kind, amount, "sum", rev, at, "by"'
SELECT_TALLY = f"SELECT {COLUMNS} FROM tally"  # noqa: S608 - our own words
SELECT_RECORD = f"SELECT {RECORD} FROM tally_add WHERE tally = ? AND inc = ?"  # noqa: S608
PUT_RIGHT = "put the row right, or use the version of idservice that wrote it"
KEYS_AT_ONCE = 500  # SQLite's limit of variables is higher
PAGE = 1000  # records that are read at once: other operations go on between two pages


class SQLiteTallies:
    """A `TallyStore` over the connection of an SQLite store."""

    def __init__(self, connection: FileConnection) -> None:
        self._connection = connection

    async def tally(self, name: str) -> Tally | None:
        return await self._connection.read(f"reading tally {name}", _tally, name)

    async def tallies(self) -> list[Tally]:
        return await self._connection.read("reading the tallies", _tallies)

    async def create(self, tally: Tally) -> Tally:
        return await self._connection.write(f"creating tally {tally.name}", _create, tally)

    async def rewrite(self, before: Tally, after: Tally) -> bool:
        return await self._connection.write(
            f"changing tally {before.name}", _rewrite, before, after
        )

    async def commit(self, commit: Commit) -> Beaten | None:
        action = f"counting adds to tally {commit.before.name}"
        return await self._connection.write(action, _commit, commit)

    async def records(self, tally: Tally, keys: Sequence[str]) -> dict[str, AddRecord]:
        action = f"reading adds to tally {tally.name}"
        return await self._connection.write(action, _proven_records, tally, keys)

    async def every_record(self, name: str, inc: int) -> AsyncIterator[AddRecord]:
        action, after = f"reading the adds to tally {name}", ""
        while page := await self._connection.read(action, _page, name, inc, after):
            for record in page:
                yield record
            after = page[-1].key


# --- on the thread: each runs in a transaction of its caller --------------------------------------


def _is_there(database: sqlite3.Connection) -> bool:
    known = "SELECT 1 FROM sqlite_schema WHERE name = 'tally'"
    return database.execute(known).fetchone() is not None


def _tally(database: sqlite3.Connection, name: str) -> Tally | None:
    if not _is_there(database):
        return None
    row = database.execute(f"{SELECT_TALLY} WHERE name = ?", (name,)).fetchone()
    return None if row is None else _read_tally(row)


def _tallies(database: sqlite3.Connection) -> list[Tally]:
    if not _is_there(database):
        return []
    rows = database.execute(f"{SELECT_TALLY} ORDER BY name")
    return [_read_tally(row) for row in rows]


def _read_tally(row: Sequence[Any]) -> Tally:
    values = dict(zip(FIELDS, row, strict=True))
    try:
        values["state"] = TallyState(values["state"])
    except ValueError:
        why = f"tally {row[0]!r} has the state {values['state']!r}; {PUT_RIGHT}"
        raise sqlite3.DatabaseError(why) from None
    return Tally(**{**values, "change": decoded_change(values["change"])})


def _written(tally: Tally) -> dict[str, object]:
    values = {field: getattr(tally, field) for field in FIELDS}
    return {**values, "state": tally.state.value, "change": encoded_change(tally.change)}


def _create(database: sqlite3.Connection, tally: Tally) -> Tally:
    for statement in TABLES:
        database.execute(statement)
    found = _tally(database, tally.name)
    if found is not None:
        return found
    database.execute(
        "INSERT INTO tally VALUES (:name, :decimals, :floor, :ceiling, :only, :start, :sum, :rev,"
        " :inc, :state, :at, :adds, :change)",
        _written(tally),
    )
    return tally


def _rewrite(database: sqlite3.Connection, before: Tally, after: Tally) -> bool:
    found = _tally(database, before.name)
    if found is None or not is_as_it_was(found, before):
        return False
    database.execute(
        'UPDATE tally SET decimals = :decimals, "floor" = :floor, ceiling = :ceiling,'
        ' "only" = :only, start = :start, "sum" = :sum, rev = :rev, inc = :inc, state = :state,'
        " at = :at, adds = :adds, change = :change WHERE name = :name",
        _written(after),
    )
    return True


def _commit(database: sqlite3.Connection, commit: Commit) -> Beaten | None:
    before, after = commit.before, commit.after
    found = _tally(database, before.name)
    if found is None:
        return Beaten(missing=True)
    there = _proven_records(database, before, [one.key for one in commit.records])
    same = commit.holds_on(found)
    if there or not same:
        return Beaten(tally=None if same else found, records=there)
    database.execute(
        'UPDATE tally SET "sum" = ?, rev = ?, at = ?, adds = ? WHERE name = ?',
        (after.sum, after.rev, after.at, after.adds, after.name),
    )
    database.executemany(
        "INSERT INTO tally_add VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (before.name, before.inc, one.key, one.fate.value, one.amount, one.sum, one.rev, one.at,
             one.by)
            for one in commit.records
        ],
    )  # fmt: skip
    return None


def _proven_records(
    database: sqlite3.Connection, tally: Tally, keys: Sequence[str]
) -> dict[str, AddRecord]:
    """Return the records of these keys, durable once the caller's transaction is.

    A commit that ended unknown may be visible and not on the disk. One that is synced after it is
    the proof for all before it, so a record that is found makes this transaction write.
    """
    found: dict[str, AddRecord] = {}
    if not _is_there(database):
        return found
    for at in range(0, len(keys), KEYS_AT_ONCE):
        some = keys[at : at + KEYS_AT_ONCE]
        places = ", ".join("?" * len(some))
        rows = database.execute(
            f"{SELECT_RECORD} AND key IN ({places})",
            (tally.name, tally.inc, *some),
        )
        found |= {row[0]: _read_record(row) for row in rows}
    if found:
        database.execute("UPDATE tally SET at = at WHERE name = ?", (tally.name,))
    return found


def _page(database: sqlite3.Connection, name: str, inc: int, after: str) -> list[AddRecord]:
    if not _is_there(database):
        return []
    rows = database.execute(
        f"{SELECT_RECORD} AND key > ? ORDER BY key LIMIT ?",
        (name, inc, after, PAGE),
    )
    return [_read_record(row) for row in rows]


def _read_record(row: Sequence[Any]) -> AddRecord:
    key, fate, *rest = row
    try:
        return AddRecord(key, AddFate(fate), *rest)
    except ValueError:
        why = f"the record of key {key!r} has the fate {fate!r}; {PUT_RIGHT}"
        raise sqlite3.DatabaseError(why) from None
