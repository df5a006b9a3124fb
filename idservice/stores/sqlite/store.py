"""The operations of an SQLite store. Several processes may share a file."""

import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from idservice import errors
from idservice.core import epoch as epochs
from idservice.core.writer import Batch
from idservice.stores.findings import FAULT, Clock, Finding, refusal
from idservice.stores.protocol import SentReservation
from idservice.stores.records import Adopted, Counter, Grant, Position, ShardState, Writers
from idservice.stores.sqlite import examine, file_past, transactions
from idservice.stores.sqlite.connection import FileConnection, not_opened, replaced
from idservice.stores.sqlite.keys import SQLiteKeys
from idservice.stores.sqlite.tallies import SQLiteTallies
from idservice.stores.sqlite.usage import SQLiteUsage

SCHEMA = 1


class SQLiteStore:
    """Keeps counters in the SQLite file at `path`; operations run on the connection's thread."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.hold_s: float | None = None
        self.address = f"sqlite:{path}"
        self._connection = FileConnection(self.path, self.address)
        self.tallies = SQLiteTallies(self._connection)
        self.keys = SQLiteKeys(self._connection, self.address)
        self.usage = SQLiteUsage(self._connection, self.address)

    async def __aenter__(self) -> Self:
        self._connection.open()
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self._connection.close()

    # --- the file --------------------------------------------------------------------------------

    async def init(self, first: Counter) -> bool:
        return await self._connection.start(self._init, first)

    async def verify(self) -> None:
        await self._connection.start(self._verify)

    async def accept_identity(self) -> None:
        await self._connection.start(self._accept_identity)

    async def examine(self, clock: Clock, *, thorough: bool) -> list[Finding]:
        return await self._connection.run(self._examine, thorough)

    async def examine_item(self, counter: Counter) -> list[Finding]:
        return []

    # --- the catalogue ---------------------------------------------------------------------------

    async def counter(self, name: str) -> Counter | None:
        return await self._connection.read(f"reading counter {name}", transactions.entry, name)

    async def entry(self, name: str) -> Counter | None:
        return await self.counter(name)

    async def counters(self) -> list[Counter]:
        return await self._connection.read("reading the counters", transactions.entries)

    async def page(self, after: str, most: int) -> list[Counter]:
        action = "reading the counters"
        return await self._connection.read(action, transactions.entries, after, most)

    async def create(self, counter: Counter) -> Counter:
        action = f"creating counter {counter.name}"
        return await self._connection.write(action, transactions.create, counter)

    async def revision(self) -> int:
        return await self._connection.read("reading the catalogue", transactions.revision)

    async def rewrite(self, before: Counter, after: Counter) -> bool:
        action = f"changing counter {before.name}"
        return await self._connection.write(action, transactions.rewrite, before, after)

    async def with_table_identity(self, counter: Counter) -> Counter:
        return counter

    async def shard_state(self, counter: Counter, shard: int) -> ShardState | None:
        action = f"reading counter {counter.name}"
        return await self._connection.read(action, transactions.shard_state, counter, shard)

    async def seal(self, counter: Counter, shard: int, found: ShardState | None, seal: str) -> None:
        action = f"changing counter {counter.name}"
        await self._connection.write(action, transactions.seal, counter, shard, found, seal)

    async def open_shard(
        self, counter: Counter, shard: int, seal: str, epoch: str, *, value: int
    ) -> None:
        action = f"changing counter {counter.name}"
        await self._connection.write(action, transactions.open_shard, counter, shard, seal, epoch)

    async def finish_adoption(self, counter: Counter, seal: str, epoch: str, *, first: int) -> None:
        raise AssertionError("nothing is adopted here")

    async def locate(
        self, table: str, key: Mapping[str, str], attribute: str, returns: str
    ) -> tuple[Adopted, int]:
        raise errors.Usage(why="--adopt-table needs a store at dynamodb:TABLE")

    # --- positions -------------------------------------------------------------------------------

    async def position(self, counter: Counter, shard: int = 0) -> Position | None:
        action = f"reading counter {counter.name}"
        return await self._connection.read(action, transactions.position, counter, shard)

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
        sent = SentReservation(self.address, counter, count, seen, room, batch)
        return await self._connection.write(sent.action, transactions.reserve, sent, shard)

    async def writers(self, counter: Counter) -> Writers | None:
        action = f"reading the writers of counter {counter.name}"
        return await self._connection.read(action, transactions.registered, counter)

    async def register(self, counter: Counter, name: str, *, registrations: int) -> bool:
        action = f"registering a writer of counter {counter.name}"
        arguments = (counter, name, registrations)
        return await self._connection.write(action, transactions.register, *arguments)

    async def prune(self, counter: Counter, name: str, seq: int) -> None:
        action = f"pruning a writer of counter {counter.name}"
        await self._connection.write(action, transactions.prune, counter, name, seq)

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
        return await self._connection.write(
            action, transactions.give_back, counter, shard, found, next, returned
        )

    async def claim(self, counter: Counter, rev: int, shard: int = 0) -> tuple[range, ...]:
        action = f"claiming ids of counter {counter.name}"
        return await self._connection.write(action, transactions.claim, counter, shard, rev)

    async def close_gone_back(self, counter: Counter, found: str, shard: int = 0) -> None:
        await self._connection.write(
            f"closing the position of counter {counter.name}",
            sqlite3.Connection.execute,
            transactions.REPLACE_EPOCH,
            (epochs.gone_back(found), counter.name, shard, found),
        )

    # --- on the thread: start --------------------------------------------------------------------

    def _init(self, first: Counter) -> bool:
        database = self._connection.connect(create=True)
        database.execute("BEGIN IMMEDIATE")
        try:
            if database.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
                database.execute("ROLLBACK")
                self._verify()
                return False
            for statement in transactions.TABLES.split(";"):
                database.execute(statement)
            identity = (secrets.token_hex(16), self._connection.inode, SCHEMA)
            database.execute("INSERT INTO identity VALUES (?, ?, ?)", identity)
            database.execute("INSERT INTO catalogue VALUES (0)")
            file_past.add_later_tables(database)
            self._accept(database, known=False)
            transactions.create(database, first)
            database.execute("COMMIT")
            return True
        except BaseException:
            self._connection.disconnect()  # rolls back
            raise

    def _verify(self) -> None:
        for finding in self._checks():
            if finding.level == FAULT:
                raise refusal(finding, self.address)
        database = self._connection.connect()
        with database:
            database.execute("BEGIN IMMEDIATE")
            file_past.add_later_tables(database)
            self._accept(database, known=True)

    def _checks(self) -> Iterator[Finding]:
        yield from examine.check_place(self.path)
        if self._connection.is_replaced:
            yield replaced(self.address)
        yield from self._check_inside(thorough=True)

    def _check_inside(self, *, thorough: bool) -> Iterator[Finding]:
        database = self._connection.connect()
        file = (self._connection.inode, self._connection.born)
        return examine.check_inside(database, self.path, file, SCHEMA, thorough=thorough)

    def _accept_identity(self) -> None:
        database = self._connection.connect()
        with database:
            database.execute("BEGIN IMMEDIATE")
            file_past.add_later_tables(database)
            self._accept(database, known=False)

    def _accept(self, database: sqlite3.Connection, *, known: bool) -> None:
        inode, born = self._connection.inode, self._connection.born
        file_past.accept_file(database, inode, born, known=known)

    def _examine(self, thorough: bool) -> list[Finding]:
        found: list[Finding] = []
        try:
            found += examine.look_at_place(self.path)
            if not self._connection.is_open and not _about_file(found):
                found += examine.look_at_header(self.path)
            if not _about_file(found):
                found += self._check_inside(thorough=thorough)
        except (sqlite3.Error, OSError) as error:
            self._connection.disconnect()
            found.append(not_opened(self.path, error))
        return found


def _about_file(found: list[Finding]) -> bool:
    return any(finding.about == "file" for finding in found)
