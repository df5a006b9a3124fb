"""Ranges given back in an SQLite file; each function is part of a caller's transaction."""

import sqlite3
from collections.abc import Iterable

from idservice.stores.records import Counter, Position

# A table of its own: versions that know nothing of it go on writing positions beside it.
TABLE = """
CREATE TABLE IF NOT EXISTS returned (
    counter TEXT NOT NULL, shard INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    PRIMARY KEY (counter, shard, start)
) STRICT
"""


def add_table(database: sqlite3.Connection) -> None:
    """Bring a file of an earlier version up to date, in a transaction, if that was not done."""
    known = "SELECT 1 FROM sqlite_schema WHERE name = 'returned'"
    if database.execute(known).fetchone() is None:
        database.execute(TABLE)


def listed(database: sqlite3.Connection, counter: Counter, shard: int) -> tuple[range, ...]:
    """Return the ranges that were not claimed yet."""
    rows = database.execute(
        "SELECT start, stop FROM returned WHERE counter = ? AND shard = ? ORDER BY start",
        (counter.name, shard),
    )
    return _ranges(rows)


def give_back(
    database: sqlite3.Connection,
    counter: Counter,
    shard: int,
    found: Position,
    next: int,
    returned: tuple[range, ...],
) -> bool:
    """Give ranges back, as `CatalogueStore.give_back`."""
    done = database.execute(
        "UPDATE position SET next = ?, mark = ?, rev = rev + 1"
        " WHERE counter = ? AND shard = ? AND epoch = ? AND rev = ? AND next = ?",
        (next, min(next, found.mark), counter.name, shard, counter.epoch, found.rev, found.next),
    )
    if not done.rowcount:
        return False
    emptied(database, counter, shard)
    database.executemany(
        "INSERT INTO returned VALUES (?, ?, ?, ?)",
        [(counter.name, shard, each.start, each.stop) for each in returned],
    )
    return True


def claim(
    database: sqlite3.Connection, counter: Counter, shard: int, rev: int
) -> tuple[range, ...]:
    """Claim all ranges, as `CatalogueStore.claim`."""
    done = database.execute(
        "UPDATE position SET rev = rev + 1"
        " WHERE counter = ? AND shard = ? AND epoch = ? AND rev = ?",
        (counter.name, shard, counter.epoch, rev),
    )
    return emptied(database, counter, shard) if done.rowcount else ()


def emptied(database: sqlite3.Connection, counter: Counter, shard: int) -> tuple[range, ...]:
    """Remove and return the ranges that were not claimed."""
    rows = database.execute(
        "DELETE FROM returned WHERE counter = ? AND shard = ? RETURNING start, stop",
        (counter.name, shard),
    )
    return _ranges(rows)


def _ranges(rows: Iterable[tuple[int, int]]) -> tuple[range, ...]:
    return tuple(range(start, stop) for start, stop in rows)
