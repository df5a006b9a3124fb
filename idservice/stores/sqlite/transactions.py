"""The operations on an SQLite file, each a function that runs in a transaction of its caller.

Each does what the operation of its name in `stores.protocol` says. Tables are STRICT: in others an
integer that overflows becomes a float, and all later ones are equal.
"""

import sqlite3
from dataclasses import replace

from idservice.core.writer import Batch, Record
from idservice.stores.protocol import SentReservation
from idservice.stores.records import (
    DELETED,
    Counter,
    Grant,
    Position,
    ShardState,
    Writers,
    decoded,
    encoded,
)

TABLES = """
CREATE TABLE identity (id TEXT NOT NULL, inode INTEGER NOT NULL, schema INTEGER NOT NULL) STRICT;
CREATE TABLE catalogue (revision INTEGER NOT NULL) STRICT;
CREATE TABLE entry (
    name TEXT PRIMARY KEY, epoch TEXT NOT NULL, state TEXT NOT NULL, config TEXT NOT NULL
) STRICT;
CREATE TABLE position (
    counter TEXT NOT NULL, shard INTEGER NOT NULL, next INTEGER NOT NULL, mark INTEGER NOT NULL,
    rev INTEGER NOT NULL, epoch TEXT NOT NULL, PRIMARY KEY (counter, shard)
) STRICT;
"""
# A table of its own: versions that know nothing of it go on writing positions beside it.
RETURNED_TABLE = """
CREATE TABLE IF NOT EXISTS returned (
    counter TEXT NOT NULL, shard INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    PRIMARY KEY (counter, shard, start)
) STRICT
"""
# As above, beside entries. It is created by the first change.
LAST_CHANGE_TABLE = """
CREATE TABLE IF NOT EXISTS last_change (
    counter TEXT PRIMARY KEY, change TEXT NOT NULL
) STRICT
"""
# They are created by the first registration: older files lack them.
WRITER_TABLES = """
CREATE TABLE IF NOT EXISTS registrations (
    counter TEXT PRIMARY KEY, count INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS writer (
    counter TEXT NOT NULL, name TEXT NOT NULL, seq INTEGER NOT NULL, top INTEGER NOT NULL,
    nonce TEXT NOT NULL, PRIMARY KEY (counter, name)
) STRICT;
"""
RESERVE = """
UPDATE position SET next = next + :count, mark = next + :count, rev = rev + 1
WHERE counter = :counter AND shard = :shard AND epoch = :epoch
  AND next BETWEEN :seen AND :room AND next >= mark
RETURNING next, rev
"""
REPLACE_EPOCH = """
UPDATE position SET epoch = ?, rev = rev + 1 WHERE counter = ? AND shard = ? AND epoch = ?
"""
TOUCH = "UPDATE position SET rev = rev + 1 WHERE counter = ? AND shard = ?"


def exists(database: sqlite3.Connection, table: str) -> bool:
    """Return True if the file has this table."""
    known = "SELECT 1 FROM sqlite_schema WHERE name = ?"
    return database.execute(known, (table,)).fetchone() is not None


# --- the catalogue --------------------------------------------------------------------------------


def entry(database: sqlite3.Connection, name: str) -> Counter | None:
    """Return the entry of a counter."""
    row = database.execute("SELECT config FROM entry WHERE name = ?", (name,)).fetchone()
    return decoded(row[0], _last_changes(database, name, name).get(name)) if row else None


def entries(database: sqlite3.Connection, after: str = "", most: int = -1) -> list[Counter]:
    """Return every entry, by name, or the first `most` after a name that are not deleted."""
    query = "SELECT name, config FROM entry WHERE name > ?1 AND (?2 < 0 OR state != ?3)"
    rows = database.execute(f"{query} ORDER BY name LIMIT ?2", (after, most, DELETED)).fetchall()
    changes = _last_changes(database, rows[0][0], rows[-1][0]) if rows else {}
    return [decoded(config, changes.get(name)) for name, config in rows]


def _last_changes(database: sqlite3.Connection, first: str, last: str) -> dict[str, str]:
    """Return the last changes of the counters from one name to another, by name."""
    if not exists(database, "last_change"):
        return {}
    query = "SELECT counter, change FROM last_change WHERE counter BETWEEN ? AND ?"
    return dict(database.execute(query, (first, last)))


def revision(database: sqlite3.Connection) -> int:
    """Return the catalogue's revision."""
    row = database.execute("SELECT revision FROM catalogue").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("its table `catalogue` is empty")
    return int(row[0])


def move_revision(database: sqlite3.Connection) -> None:
    """Move the revision, with every write of an entry: instances poll only the revision."""
    database.execute("UPDATE catalogue SET revision = revision + 1")


def create(database: sqlite3.Connection, counter: Counter) -> Counter:
    """Insert a counter unless there is one; return the one that is there now."""
    assert counter.adopted is None
    found = entry(database, counter.name)
    if found is not None:
        return found
    move_revision(database)
    config, change = encoded(counter)
    database.execute(
        "INSERT INTO entry VALUES (?, ?, ?, ?)",
        (counter.name, counter.epoch, counter.state, config),
    )
    _write_last_change(database, counter.name, change)
    first = counter.start - counter.base
    for shard in range(counter.shards):
        database.execute(
            "INSERT INTO position VALUES (?, ?, ?, ?, 0, ?)",
            (counter.name, shard, first, first, counter.initial_epoch),
        )
    return counter


def rewrite(database: sqlite3.Connection, before: Counter, after: Counter) -> bool:
    """Write an entry if it still has the `rev` of `before`."""
    found = entry(database, before.name)
    if found is None or found.rev != before.rev:
        return False
    config, change = encoded(after)
    database.execute(
        "UPDATE entry SET epoch = ?, state = ?, config = ? WHERE name = ?",
        (after.epoch, after.state, config, after.name),
    )
    _write_last_change(database, after.name, change)
    move_revision(database)
    return True


def _write_last_change(database: sqlite3.Connection, name: str, change: str) -> None:
    if change:
        database.execute(LAST_CHANGE_TABLE)
        database.execute("INSERT OR REPLACE INTO last_change VALUES (?, ?)", (name, change))


# --- a change of epoch ----------------------------------------------------------------------------


def shard_state(database: sqlite3.Connection, counter: Counter, shard: int) -> ShardState | None:
    """Return a shard as it is written."""
    found = position(database, counter, shard)
    return ShardState(found.epoch, found.next, found.mark) if found else None


def seal(
    database: sqlite3.Connection, counter: Counter, shard: int, found: ShardState | None, seal: str
) -> None:
    """Replace the epoch in `found` by a seal; a missing shard is created so."""
    if found is None:
        database.execute(
            "INSERT INTO position VALUES (?, ?, 0, 0, 0, ?) ON CONFLICT DO NOTHING",
            (counter.name, shard, seal),
        )
    else:
        database.execute(REPLACE_EPOCH, (seal, counter.name, shard, found.epoch))


def open_shard(
    database: sqlite3.Connection, counter: Counter, shard: int, seal: str, epoch: str
) -> None:
    """Begin an epoch on a sealed shard, without what is left of the epoch before."""
    done = database.execute(
        "UPDATE position SET next = 0, mark = 0, rev = rev + 1, epoch = ?"
        " WHERE counter = ? AND shard = ? AND epoch = ?",
        (epoch, counter.name, shard, seal),
    )
    if done.rowcount:
        _take_returned(database, counter, shard)
        if exists(database, "writer"):
            database.execute("DELETE FROM writer WHERE counter = ?", (counter.name,))
            database.execute("DELETE FROM registrations WHERE counter = ?", (counter.name,))


# --- positions ------------------------------------------------------------------------------------


def position(database: sqlite3.Connection, counter: Counter, shard: int) -> Position | None:
    """Return the position of a shard."""
    known = "SELECT next, mark, rev, epoch FROM position WHERE counter = ? AND shard = ?"
    row = database.execute(known, (counter.name, shard)).fetchone()
    if row is None:
        return None
    next, mark, rev, epoch = row
    return Position(next, mark, rev, epoch, _returned(database, counter, shard))


def reserve(database: sqlite3.Connection, sent: SentReservation, shard: int) -> Grant:
    """Send a reservation, or find that an earlier copy of it was applied."""
    counter, batch = sent.counter, sent.batch
    record = _record(database, counter, batch) if batch else None
    row = None
    if batch is None or (record is not None and record.seq == batch.seq - 1):
        values = {
            "count": sent.count, "counter": counter.name, "shard": shard, "epoch": counter.epoch,
            "seen": sent.seen, "room": sent.room,
        }  # fmt: skip
        row = database.execute(RESERVE, values).fetchone()
    if row is None:
        grant = sent.interpret_failure(position(database, counter, shard), record)
        # What an earlier copy committed may not have reached the disk, if that is why it is sent
        # again: a commit that is synced is the proof for all before it.
        database.execute(TOUCH, (counter.name, shard))
        return replace(grant, rev=grant.rev + 1)
    stop, rev = row
    if batch is not None:
        database.execute(
            "UPDATE writer SET seq = ?, top = ?, nonce = ? WHERE counter = ? AND name = ?",
            (batch.seq, stop, batch.nonce, counter.name, batch.writer),
        )
    return Grant(range(stop - sent.count, stop), rev, _returned(database, counter, shard))


def give_back(
    database: sqlite3.Connection,
    counter: Counter,
    shard: int,
    found: Position,
    next: int,
    returned: tuple[range, ...],
) -> bool:
    """Set a position that was read as `found` to `next`, and hold `returned` for others."""
    done = database.execute(
        "UPDATE position SET next = ?, mark = ?, rev = rev + 1"
        " WHERE counter = ? AND shard = ? AND epoch = ? AND rev = ? AND next = ?",
        (next, min(next, found.mark), counter.name, shard, counter.epoch, found.rev, found.next),
    )
    if not done.rowcount:
        return False
    _take_returned(database, counter, shard)
    database.executemany(
        "INSERT INTO returned VALUES (?, ?, ?, ?)",
        [(counter.name, shard, each.start, each.stop) for each in returned],
    )
    return True


def claim(
    database: sqlite3.Connection, counter: Counter, shard: int, rev: int
) -> tuple[range, ...]:
    """Take all ranges that were given back."""
    done = database.execute(
        f"{TOUCH} AND epoch = ? AND rev = ?", (counter.name, shard, counter.epoch, rev)
    )
    return _take_returned(database, counter, shard) if done.rowcount else ()


def _returned(database: sqlite3.Connection, counter: Counter, shard: int) -> tuple[range, ...]:
    rows = database.execute(
        "SELECT start, stop FROM returned WHERE counter = ? AND shard = ? ORDER BY start",
        (counter.name, shard),
    )
    return tuple(range(start, stop) for start, stop in rows)


def _take_returned(database: sqlite3.Connection, counter: Counter, shard: int) -> tuple[range, ...]:
    rows = database.execute(
        "DELETE FROM returned WHERE counter = ? AND shard = ? RETURNING start, stop",
        (counter.name, shard),
    )
    return tuple(range(start, stop) for start, stop in rows)


# --- the writers of strict counters ---------------------------------------------------------------


def registered(database: sqlite3.Connection, counter: Counter) -> Writers | None:
    """Return the registered writers."""
    if position(database, counter, 0) is None:
        return None
    if not exists(database, "writer"):
        return Writers(0, {})
    row = database.execute(
        "SELECT count FROM registrations WHERE counter = ?", (counter.name,)
    ).fetchone()
    seqs = database.execute("SELECT name, seq FROM writer WHERE counter = ?", (counter.name,))
    return Writers(row[0] if row else 0, dict(seqs.fetchall()))


def register(database: sqlite3.Connection, counter: Counter, name: str, registrations: int) -> bool:
    """Register a writer under a name that was never used."""
    known = registered(database, counter)
    if known is None or known.registrations != registrations or name in known.seqs:
        return False
    if not database.execute(f"{TOUCH} AND epoch = ?", (counter.name, 0, counter.epoch)).rowcount:
        return False
    for statement in WRITER_TABLES.split(";"):
        database.execute(statement)
    database.execute(
        "INSERT INTO registrations VALUES (?, 1)"
        " ON CONFLICT (counter) DO UPDATE SET count = count + 1",
        (counter.name,),
    )
    database.execute("INSERT INTO writer VALUES (?, ?, 0, 0, '')", (counter.name, name))
    return True


def prune(database: sqlite3.Connection, counter: Counter, name: str, seq: int) -> None:
    """Remove the record of a writer if its number is still `seq`."""
    if not exists(database, "writer"):
        return
    if database.execute(
        "DELETE FROM writer WHERE counter = ? AND name = ? AND seq = ?", (counter.name, name, seq)
    ).rowcount:
        database.execute(TOUCH, (counter.name, 0))


def _record(database: sqlite3.Connection, counter: Counter, batch: Batch) -> Record | None:
    """Return the record of the batch's writer on the position."""
    if not exists(database, "writer"):
        return None
    row = database.execute(
        "SELECT seq, top, nonce FROM writer WHERE counter = ? AND name = ?",
        (counter.name, batch.writer),
    ).fetchone()
    return Record(*row) if row else None
