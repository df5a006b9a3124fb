"""SQLite as a store: one file, one writer thread, every acknowledged write on the disk.

The rollback journal with `synchronous=EXTRA` is used, and read back: reservations are rare, and a
write-ahead log with less loses acknowledged blocks at a power cut. Several processes may share a
file. Tables are STRICT: elsewhere an integer that overflows becomes a float, and every next equal.
"""

import asyncio
import logging
import os
import secrets
import shlex
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from idservice import errors
from idservice.core import epoch as epochs
from idservice.core.writer import Batch
from idservice.stores.findings import FAULT, Clock, Finding
from idservice.stores.records import Counter, Grant, Position, ShardState, Writers
from idservice.stores.reservation import SentReservation
from idservice.stores.sqlite import epoch_changes as change
from idservice.stores.sqlite import examine as sqlite_examine
from idservice.stores.sqlite import give_back as returns
from idservice.stores.sqlite import writers

log = logging.getLogger("idservice.store")

BUSY_TIMEOUT_S = 2.0  # how long a write waits for another process's
SCHEMA = 1
INODE_MASK = 2**63 - 1  # what an INTEGER column holds
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
"""  # and sqlite_returns.TABLE, which came later
RESERVE = """
UPDATE position SET next = next + :count, mark = next + :count, rev = rev + 1
WHERE counter = :counter AND shard = :shard AND epoch = :epoch
  AND next BETWEEN :seen AND :room AND next >= mark
RETURNING next, rev
"""
TOUCH = "UPDATE position SET rev = rev + 1 WHERE counter = ? AND shard = ?"
POSITION = "SELECT next, mark, rev, epoch FROM position WHERE counter = ? AND shard = ?"

T = TypeVar("T")
File = tuple[int, int]  # device and inode
NOT_OPENED: File = (0, 0)


class SQLiteStore:
    """Counters in the SQLite file at `path`. Every operation runs on one thread of its own."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.hold_s: float | None = None
        self.address = f"sqlite:{path}"
        self._thread: ThreadPoolExecutor | None = None
        self._database: sqlite3.Connection | None = None
        self._file = NOT_OPENED
        self._pin = -1

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
            self._thread.shutdown()
            self._thread = None
        if self._pin >= 0:
            os.close(self._pin)
            self._pin = -1

    # --- operations ------------------------------------------------------------------------------

    async def init(self, first: Counter) -> bool:
        return await self._run(self._init, first)

    async def verify(self) -> None:
        await self._run(self._verify)

    async def accept(self) -> None:
        await self._run(self._accept)

    async def examine(self, clock: Clock, *, thorough: bool) -> list[Finding]:
        return await self._run(self._examine, thorough)

    async def examine_item(self, counter: Counter) -> list[Finding]:
        return []

    async def counter(self, name: str) -> Counter | None:
        return await self._run(self._reading, f"reading counter {name}", self._entry, name)

    async def entry(self, name: str) -> Counter | None:
        return await self.counter(name)

    async def counters(self) -> list[Counter]:
        return await self._run(self._reading, "reading the counters", self._entries)

    async def create(self, counter: Counter) -> Counter:
        return await self._run(self._create, counter)

    async def revision(self) -> int | None:
        return await self._run(self._reading, "reading the catalogue", change.revision)

    async def rewrite(self, before: Counter, after: Counter) -> bool:
        return await self._change(change.rewrite, before, after)

    async def renewed(self, counter: Counter) -> Counter:
        return counter

    async def stand(self, counter: Counter, shard: int) -> ShardState | None:
        action = f"reading counter {counter.name}"
        return await self._run(self._reading, action, change.stand, counter, shard)

    async def seal(self, counter: Counter, shard: int, found: ShardState | None, seal: str) -> None:
        await self._change(change.seal, counter, shard, found, seal)

    async def open_shard(
        self, counter: Counter, shard: int, seal: str, epoch: str, *, value: int
    ) -> None:
        await self._change(change.open_shard, counter, shard, seal, epoch)

    async def finish_adoption(self, counter: Counter, seal: str, epoch: str, *, first: int) -> None:
        raise AssertionError("nothing is adopted here")

    async def _change(self, write: Callable[..., T], counter: Counter, *arguments: object) -> T:
        return await self._run(
            self._writing,
            f"changing counter {counter.name}",
            lambda database: write(database, counter, *arguments),
        )

    async def position(self, counter: Counter, shard: int = 0) -> Position | None:
        return await self._run(
            self._reading, f"reading counter {counter.name}", self._position, counter, shard
        )

    async def reserve(
        self,
        counter: Counter,
        *,
        count: int,
        seen: int,
        room: int,
        shard: int = 0,
        batch: Batch | None = None,
    ) -> Grant:
        assert count > 0
        assert seen <= room
        assert batch is None or (batch.count, shard) == (count, 0)
        asked = SentReservation(self.address, counter, count, seen, room, batch)
        return await self._run(self._reserve, asked, shard)

    async def writers(self, counter: Counter) -> Writers | None:
        action = f"reading the writers of counter {counter.name}"
        return await self._run(self._reading, action, writers.found, counter)

    async def register(self, counter: Counter, name: str, *, registrations: int) -> bool:
        return await self._run(
            self._writing,
            f"registering a writer of counter {counter.name}",
            lambda database: writers.register(database, counter, name, registrations),
        )

    async def prune(self, counter: Counter, name: str, seq: int) -> None:
        await self._run(
            self._writing,
            f"pruning a writer of counter {counter.name}",
            lambda database: writers.prune(database, counter, name, seq),
        )

    async def give_back(
        self,
        counter: Counter,
        found: Position,
        *,
        next: int,
        returned: tuple[range, ...],
        shard: int = 0,
    ) -> bool:
        action = f"giving back ids of counter {counter.name}"
        write = partial(
            returns.give_back, counter=counter, shard=shard, found=found, next=next,
            returned=returned,
        )  # fmt: skip
        return await self._run(self._writing, action, write)

    async def claim(self, counter: Counter, rev: int, shard: int = 0) -> tuple[range, ...]:
        action = f"claiming ids of counter {counter.name}"
        write = partial(returns.claim, counter=counter, shard=shard, rev=rev)
        return await self._run(self._writing, action, write)

    async def close_gone_back(self, counter: Counter, found: str, shard: int = 0) -> None:
        await self._run(self._close_gone_back, counter, found, shard)

    # --- on the thread: connection ---------------------------------------------------------------

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        assert self._thread is not None, "the store was not entered"
        loop = asyncio.get_running_loop()
        # A call that is cancelled while it waits for the thread is never begun.
        return await loop.run_in_executor(self._thread, function, *arguments)

    def _connect(self, *, create: bool = False) -> sqlite3.Connection:
        """The open connection, made anew after a failure. Raises sqlite3.Error, OSError."""
        if self._database is not None:
            return self._database
        mode = "rwc" if create else "rw"
        database = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,  # transactions begin where we say so
            timeout=BUSY_TIMEOUT_S,
            check_same_thread=False,  # one thread at a time: the executor's only one
        )
        try:
            for pragma, value, wanted in (
                ("journal_mode", "DELETE", "delete"),
                ("synchronous", "EXTRA", 3),
            ):
                database.execute(f"PRAGMA {pragma}={value}")
                (found,) = database.execute(f"PRAGMA {pragma}").fetchone()
                if found != wanted:
                    raise sqlite3.OperationalError(f"{pragma} stays {found}, {value} is needed")
            self._file = _file_at(self.path)
            self._keep_inode()
        except BaseException:
            database.close()
            raise
        self._database = database
        return database

    def _keep_inode(self) -> None:
        """Hold on to the file's inode, so that no other file gets its number while we run.

        By a descriptor that cannot read: to close one that can would drop SQLite's locks.
        """
        if self._pin < 0 and hasattr(os, "O_PATH"):
            self._pin = os.open(self.path, os.O_PATH)

    def _disconnect(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    # --- on the thread: start --------------------------------------------------------------------

    def _init(self, first: Counter) -> bool:
        try:
            database = self._connect(create=True)
            database.execute("BEGIN IMMEDIATE")
            try:
                if database.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
                    database.execute("ROLLBACK")
                    self._verify()
                    return False
                for statement in (*TABLES.split(";"), returns.TABLE):
                    database.execute(statement)
                identity = (secrets.token_hex(16), self._file[1], SCHEMA)
                database.execute("INSERT INTO identity VALUES (?, ?, ?)", identity)
                database.execute("INSERT INTO catalogue VALUES (0)")
                self._insert(database, first)
                database.execute("COMMIT")
                return True
            except BaseException:
                self._disconnect()  # rolls back
                raise
        except (sqlite3.Error, OSError) as error:
            raise self._unready(error) from error

    def _verify(self) -> None:
        if not self.path.exists() or self.path.stat().st_size == 0:
            raise errors.StoreUnready(
                store=self.address,
                why="the file is missing or empty. Where the volume was lost, restore it: a new"
                " file starts from 0 and repeats ids. Where there never was one, run"
                f" `idservice init --store {self.address}` or start with --init",
            )
        try:
            if self._file not in (NOT_OPENED, _file_at(self.path)):
                raise errors.StoreReplaced(
                    store=self.address,
                    why="the file was replaced while in use; stop all instances, put the original"
                    " back, and start again",
                )
            database = self._connect()
            (health,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if health != "ok":
                raise sqlite3.DatabaseError(health)
            if not database.execute(
                "SELECT 1 FROM sqlite_schema WHERE name = 'identity'"
            ).fetchone():
                raise errors.StoreUnready(
                    store=self.address,
                    why="the file is no idservice store (it has no table `identity`); name another"
                    " file, or an empty one with --init",
                )
            row = database.execute("SELECT inode, schema FROM identity").fetchone()
            if row is None:
                raise sqlite3.DatabaseError("its table `identity` is empty")
            inode, schema = row
            if schema != SCHEMA:
                raise errors.StoreUnready(
                    store=self.address,
                    why=f"it has schema {schema} and this version reads {SCHEMA}; use the version"
                    " that wrote it, or a newer one",
                )
            if inode == 0:  # set by hand
                database.execute("UPDATE identity SET inode = ?", (self._file[1],))
            elif inode != self._file[1]:
                raise errors.StoreReplaced(
                    store=self.address,
                    why="the file is a copy or was restored from a backup, so its positions may be"
                    " behind ids that are in use. Put the original file back, or go"
                    " on above them: idservice fence --all, see 'A restored store' in the README",
                )
            # File and folder must be writable: better told now than at the first reservation.
            database.execute("BEGIN IMMEDIATE")
            database.execute("UPDATE identity SET schema = schema")
            database.execute("ROLLBACK")
            returns.add_table(database)
        except (sqlite3.Error, OSError) as error:
            raise self._unready(error) from error

    def _accept(self) -> None:
        try:
            database = self._connect()
            database.execute("UPDATE identity SET inode = ?", (self._file[1],))
        except (sqlite3.Error, OSError) as error:
            raise self._unready(error) from error

    def _examine(self, thorough: bool) -> list[Finding]:
        found: list[Finding] = []
        try:
            found += sqlite_examine.look_at_place(self.path)
            if self._database is None and not any(finding.about == "file" for finding in found):
                found += sqlite_examine.look_at_header(self.path)
            if not any(finding.about == "file" for finding in found):
                found += sqlite_examine.look_inside(
                    self._connect(), self.path, self._file[1], SCHEMA, thorough=thorough
                )
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            found.append(Finding(FAULT, "file", str(error), "the file cannot be used as it is"))
        return found

    def _unready(self, error: Exception) -> errors.StoreUnready:
        self._disconnect()
        busy = getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
        check = "check the path, its permissions (the folder must be writable too), and the disk"
        if busy:
            check = f"another process keeps it so; see which: fuser {shlex.quote(str(self.path))}"
        return errors.StoreUnready(
            store=self.address,
            why=f"{error}; {check}",
            waiting_helps=busy,
        )

    # --- on the thread: the operations -----------------------------------------------------------

    def _entry(self, database: sqlite3.Connection, name: str) -> Counter | None:
        row = database.execute("SELECT config FROM entry WHERE name = ?", (name,)).fetchone()
        return msgspec.json.decode(row[0], type=Counter) if row else None

    def _entries(self, database: sqlite3.Connection) -> list[Counter]:
        rows = database.execute("SELECT config FROM entry ORDER BY name")
        return [msgspec.json.decode(config, type=Counter) for (config,) in rows]

    def _position(
        self, database: sqlite3.Connection, counter: Counter, shard: int
    ) -> Position | None:
        row = database.execute(POSITION, (counter.name, shard)).fetchone()
        if row is None:
            return None
        next, mark, rev, epoch = row
        return Position(next, mark, rev, epoch, returns.listed(database, counter, shard))

    def _create(self, counter: Counter) -> Counter:
        def write(database: sqlite3.Connection) -> Counter:
            found = self._entry(database, counter.name)
            if found is None:
                self._insert(database, counter)
            return found or counter

        return self._writing(f"creating counter {counter.name}", write)

    def _insert(self, database: sqlite3.Connection, counter: Counter) -> None:
        assert counter.adopted is None
        change.move_revision(database)
        database.execute(
            "INSERT INTO entry VALUES (?, ?, ?, ?)",
            (counter.name, counter.epoch, counter.state, msgspec.json.encode(counter).decode()),
        )
        first = counter.start - counter.base
        for shard in range(counter.shards):
            database.execute(
                "INSERT INTO position VALUES (?, ?, ?, ?, 0, ?)",
                (counter.name, shard, first, first, counter.carried),
            )

    def _reserve(self, asked: SentReservation, shard: int) -> Grant:
        counter, batch = asked.counter, asked.batch

        def write(database: sqlite3.Connection) -> Grant:
            record = writers.record(database, counter, batch) if batch else None
            row = None
            if batch is None or (record is not None and record.seq == batch.seq - 1):
                row = database.execute(
                    RESERVE,
                    {
                        "count": asked.count,
                        "counter": counter.name,
                        "shard": shard,
                        "epoch": counter.epoch,
                        "seen": asked.seen,
                        "room": asked.room,
                    },
                ).fetchone()
            if row is None:
                grant = asked.meant(self._position(database, counter, shard), record)
                # What an earlier copy committed may not have reached the disk, if that is why it is
                # sent again: a commit that is synced is the proof for all before it.
                database.execute(TOUCH, (counter.name, shard))
                return replace(grant, rev=grant.rev + 1)
            stop, rev = row
            if batch is not None:
                writers.keep(database, counter, batch, stop)
            returned = returns.listed(database, counter, shard)
            return Grant(range(stop - asked.count, stop), rev, returned)

        return self._writing(asked.action, write)

    def _close_gone_back(self, counter: Counter, found: str, shard: int) -> None:
        def write(database: sqlite3.Connection) -> None:
            database.execute(
                "UPDATE position SET epoch = ?, rev = rev + 1"
                " WHERE counter = ? AND shard = ? AND epoch = ?",
                (epochs.gone_back(found), counter.name, shard, found),
            )

        self._writing(f"closing the position of counter {counter.name}", write)

    # --- on the thread: what a failure means -----------------------------------------------------

    def _reading(self, action: str, read: Callable[..., T], *arguments: object) -> T:
        try:
            return read(self._checked(), *arguments)
        except msgspec.DecodeError as error:
            why = f"this version cannot read an entry: {error}; was a newer one used?"
            raise errors.NotApplied(store=self.address, action=action, why=why) from error
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise errors.NotApplied(store=self.address, action=action, why=error) from error

    def _writing(self, action: str, write: Callable[[sqlite3.Connection], T]) -> T:
        """One write in a transaction of its own, durable when this returns."""
        try:
            database = self._checked()
            database.execute("BEGIN IMMEDIATE")
            result = write(database)
        except errors.IdserviceError:
            self._roll_back()
            raise
        except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
            self._disconnect()  # nothing was committed: closing rolls back
            raise errors.NotApplied(store=self.address, action=action, why=error) from error
        except BaseException:  # a bug of ours must not leave the file locked for others
            self._disconnect()
            raise
        try:
            database.execute("COMMIT")
        except sqlite3.Error as error:
            if database.in_transaction and self._roll_back():  # e.g. busy: it never began to commit
                raise errors.NotApplied(store=self.address, action=action, why=error) from error
            self._disconnect()
            raise errors.OutcomeUnknown(store=self.address, action=action, why=error) from error
        return result

    def _roll_back(self) -> bool:
        try:
            if self._database is not None and self._database.in_transaction:
                self._database.execute("ROLLBACK")
            return True
        except sqlite3.Error:
            self._disconnect()
            return False

    def _checked(self) -> sqlite3.Connection:
        """The connection, once the path still leads to the file that is open.

        A file that was deleted or replaced goes on working for whoever has it open, while every
        new process counts on the other one: the same ids twice.
        """
        before = self._file
        database = self._connect()
        if _file_at(self.path) != self._file or (before not in (NOT_OPENED, self._file)):
            self._file = before
            self._disconnect()
            raise errors.NotApplied(
                store=self.address,
                action="every request",
                why="the file was replaced while in use; stop all instances, put the original back,"
                " and start again",
            )
        return database


def _file_at(path: Path) -> File:
    """Device and inode of the only link to a file. Raises OSError where there is none or two."""
    status = os.stat(path)
    if status.st_nlink != 1:
        raise OSError(f"{path} has {status.st_nlink} links; a store's file must have one")
    return status.st_dev, status.st_ino & INODE_MASK
