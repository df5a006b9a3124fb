"""Reads and writes of a change of epoch in an SQLite file, each part of a caller's transaction."""

import sqlite3

import msgspec

from idservice.stores.records import Counter, ShardState
from idservice.stores.sqlite import give_back, writers


def revision(database: sqlite3.Connection) -> int:
    """Return the catalogue's revision, as `CatalogueStore.revision`."""
    row = database.execute("SELECT revision FROM catalogue").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("its table `catalogue` is empty")
    return int(row[0])


def move_revision(database: sqlite3.Connection) -> None:
    """Move the revision, with every write of an entry: instances poll only the revision."""
    database.execute("UPDATE catalogue SET revision = revision + 1")


def rewrite(database: sqlite3.Connection, before: Counter, after: Counter) -> bool:
    """Write an entry, as `CatalogueStore.rewrite`."""
    row = database.execute("SELECT config FROM entry WHERE name = ?", (before.name,)).fetchone()
    if row is None or msgspec.json.decode(row[0], type=Counter).rev != before.rev:
        return False
    config = msgspec.json.encode(after).decode()
    database.execute(
        "UPDATE entry SET epoch = ?, state = ?, config = ? WHERE name = ?",
        (after.epoch, after.state, config, after.name),
    )
    move_revision(database)
    return True


def shard_state(database: sqlite3.Connection, counter: Counter, shard: int) -> ShardState | None:
    """Return the state of a shard, as `CatalogueStore.shard_state`."""
    row = database.execute(
        "SELECT epoch, next, mark FROM position WHERE counter = ? AND shard = ?",
        (counter.name, shard),
    ).fetchone()
    return ShardState(*row) if row else None


def seal(
    database: sqlite3.Connection, counter: Counter, shard: int, found: ShardState | None, seal: str
) -> None:
    """Seal a shard, as `CatalogueStore.seal`."""
    if found is None:
        database.execute(
            "INSERT INTO position VALUES (?, ?, 0, 0, 0, ?) ON CONFLICT DO NOTHING",
            (counter.name, shard, seal),
        )
    else:
        database.execute(
            "UPDATE position SET epoch = ?, rev = rev + 1"
            " WHERE counter = ? AND shard = ? AND epoch = ?",
            (seal, counter.name, shard, found.epoch),
        )


def open_shard(
    database: sqlite3.Connection, counter: Counter, shard: int, seal: str, epoch: str
) -> None:
    """Open a shard, as `CatalogueStore.open_shard`."""
    done = database.execute(
        "UPDATE position SET next = 0, mark = 0, rev = rev + 1, epoch = ?"
        " WHERE counter = ? AND shard = ? AND epoch = ?",
        (epoch, counter.name, shard, seal),
    )
    if done.rowcount:
        give_back.emptied(database, counter, shard)
        writers.forget_all(database, counter)
