"""The registered writers of strict counters in an SQLite file, in a caller's transaction.

Their tables are created by the first registration: older files lack them.
"""

import sqlite3

from idservice.core.writer import Batch, Record
from idservice.stores.records import Counter, Writers

TABLES = """
CREATE TABLE IF NOT EXISTS registrations (
    counter TEXT PRIMARY KEY, count INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS writer (
    counter TEXT NOT NULL, name TEXT NOT NULL, seq INTEGER NOT NULL, top INTEGER NOT NULL,
    nonce TEXT NOT NULL, PRIMARY KEY (counter, name)
) STRICT;
"""


def _exist(database: sqlite3.Connection) -> bool:
    found = database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'writer'")
    return found.fetchone() is not None


def found(database: sqlite3.Connection, counter: Counter) -> Writers | None:
    """Return the writers, as `CatalogueStore.writers`."""
    if not database.execute(
        "SELECT 1 FROM position WHERE counter = ? AND shard = 0", (counter.name,)
    ).fetchone():
        return None
    if not _exist(database):
        return Writers(0, {})
    row = database.execute(
        "SELECT count FROM registrations WHERE counter = ?", (counter.name,)
    ).fetchone()
    seqs = database.execute("SELECT name, seq FROM writer WHERE counter = ?", (counter.name,))
    return Writers(row[0] if row else 0, dict(seqs.fetchall()))


def register(database: sqlite3.Connection, counter: Counter, name: str, registrations: int) -> bool:
    """Register a writer, as `CatalogueStore.register`."""
    known = found(database, counter)
    if known is None or known.registrations != registrations or name in known.seqs:
        return False
    if not database.execute(
        "UPDATE position SET rev = rev + 1 WHERE counter = ? AND shard = 0 AND epoch = ?",
        (counter.name, counter.epoch),
    ).rowcount:
        return False
    for statement in TABLES.split(";"):
        database.execute(statement)
    database.execute(
        "INSERT INTO registrations VALUES (?, 1)"
        " ON CONFLICT (counter) DO UPDATE SET count = count + 1",
        (counter.name,),
    )
    database.execute("INSERT INTO writer VALUES (?, ?, 0, 0, '')", (counter.name, name))
    return True


def prune(database: sqlite3.Connection, counter: Counter, name: str, seq: int) -> None:
    """Remove a writer, as `CatalogueStore.prune`."""
    if not _exist(database):
        return
    if database.execute(
        "DELETE FROM writer WHERE counter = ? AND name = ? AND seq = ?", (counter.name, name, seq)
    ).rowcount:
        database.execute(
            "UPDATE position SET rev = rev + 1 WHERE counter = ? AND shard = 0", (counter.name,)
        )


def forget_all(database: sqlite3.Connection, counter: Counter) -> None:
    """Remove all writers and the count of registrations: an epoch opens without any."""
    if _exist(database):
        database.execute("DELETE FROM writer WHERE counter = ?", (counter.name,))
        database.execute("DELETE FROM registrations WHERE counter = ?", (counter.name,))


def record(database: sqlite3.Connection, counter: Counter, batch: Batch) -> Record | None:
    """Return the record of the batch's writer on the position."""
    if not _exist(database):
        return None
    row = database.execute(
        "SELECT seq, top, nonce FROM writer WHERE counter = ? AND name = ?",
        (counter.name, batch.writer),
    ).fetchone()
    return Record(*row) if row else None


def keep(database: sqlite3.Connection, counter: Counter, batch: Batch, top: int) -> None:
    """Record a batch that was granted up to `top` as its writer's last."""
    database.execute(
        "UPDATE writer SET seq = ?, top = ?, nonce = ? WHERE counter = ? AND name = ?",
        (batch.seq, top, batch.nonce, counter.name, batch.writer),
    )
