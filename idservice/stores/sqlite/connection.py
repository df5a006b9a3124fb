"""The connection to an SQLite file: its only thread, its pragmas, and how each failure is read.

The rollback journal with `synchronous=EXTRA` is used, and read back: reservations are rare, and a
write-ahead log with less loses acknowledged blocks at a power cut.
"""

import asyncio
import os
import shlex
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from idservice import errors
from idservice.stores.findings import BEHIND, FAULT, IDENTITY, Finding, refusal
from idservice.stores.sqlite import file_identity, file_past
from idservice.stores.sqlite.file_identity import NOT_OPENED, file_at

# How long a write waits for that of another process. It is less than a request waits and a refill
# may take (2 s), so that the error names the lock, and says that nothing was applied.
BUSY_TIMEOUT_S = 1.5

# SQLite believes the pages in its memory while a file has as many writes as when they were read.
# That is so, too, if an older copy was written into the file, and then as many writes were made.
FORGET_PAGES = "PRAGMA shrink_memory"

DAMAGED = "the file is damaged; restore it, then go on above every id that may be in use"
BUSY = "another process keeps it so; see which"

T = TypeVar("T")


class FileConnection:
    """The writer thread of the store at `address`, and the connection that only it uses.

    All methods but `open`, `run`, `start`, `read`, `write` and `close` belong on that thread.
    """

    def __init__(self, path: Path, address: str) -> None:
        self.path = path
        self.address = address
        self.file_id = NOT_OPENED
        self._thread: ThreadPoolExecutor | None = None
        self._database: sqlite3.Connection | None = None
        self._pin = -1
        self._last = file_past.NO_WRITE  # the last write that this process saw in the file

    def open(self) -> None:
        """Start the thread. The file is opened by the first operation."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")

    async def close(self) -> None:
        """Close the file and end the thread."""
        if self._thread is not None:
            await self.run(self.disconnect)
            self._thread.shutdown()
            self._thread = None
        if self._pin >= 0:
            os.close(self._pin)
            self._pin = -1

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function on the thread."""
        assert self._thread is not None, "the store was not entered"
        loop = asyncio.get_running_loop()
        # A call that is cancelled while it waits for the thread is never begun.
        return await loop.run_in_executor(self._thread, function, *arguments)

    async def start(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function on the thread at the start. Raises StoreUnready, with the file closed."""
        return await self.run(self._start, function, arguments)

    async def read(self, action: str, function: Callable[..., T], *arguments: object) -> T:
        """Call `function(database, *arguments)`, which only reads. Raises NotApplied."""
        return await self.run(self._read, action, function, arguments)

    async def write(self, action: str, function: Callable[..., T], *arguments: object) -> T:
        """Call `function(database, *arguments)` in a transaction of its own, durable on return.

        Raises NotApplied, OutcomeUnknown, and what the function raises: then nothing was applied.
        """
        return await self.run(self._write, action, function, arguments)

    @property
    def is_open(self) -> bool:
        """Return True if the file is open."""
        return self._database is not None

    def connect(self, *, create: bool = False) -> sqlite3.Connection:
        """Return the connection, made anew after a failure. Raises sqlite3.Error, OSError."""
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
            self.file_id = file_at(self.path)
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

    def disconnect(self) -> None:
        """Close the file, which rolls back; the next operation opens it again."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    @property
    def inode(self) -> int:
        """Return the file's inode, as the identity records it; 0 before the file was opened."""
        return self.file_id[1]

    @property
    def born(self) -> int:
        """Return when the file was created, as `file_identity.born`."""
        return file_identity.born(self.path)

    @property
    def is_replaced(self) -> bool:
        """Return True if another file has the path of the one that was opened, or its place.

        Raises OSError, sqlite3.Error.
        """
        if self.file_id not in (NOT_OPENED, file_at(self.path)):
            return True
        database = self.connect()
        database.execute(FORGET_PAGES)
        return not file_past.follows(database, file_past.last_write(database), self._last)

    def _checked(self) -> sqlite3.Connection:
        """Return the connection if the path still leads to the file that is open.

        A deleted or replaced file goes on working for the processes that have it open, while every
        new process counts on the other one: the same ids twice.
        """
        before = self.file_id
        database = self.connect()
        database.execute(FORGET_PAGES)
        if file_at(self.path) != self.file_id or before not in (NOT_OPENED, self.file_id):
            self.file_id = before
            raise self._replaced()
        return database

    def _replaced(self) -> errors.NotApplied:
        self.disconnect()
        return errors.NotApplied(
            store=self.address, action="every request", why=replaced(self.address).sentence
        )

    def _look(self, database: sqlite3.Connection) -> None:
        """Raise NotApplied if an older copy was written into the file: it lacks a write."""
        last = file_past.last_write(database)
        if not file_past.follows(database, last, self._last):
            raise self._replaced()
        self._last = last

    def _read(self, action: str, function: Callable[..., T], arguments: tuple[object, ...]) -> T:
        try:
            database = self._checked()
            self._look(database)
            return function(database, *arguments)
        except msgspec.DecodeError as error:
            why = f"this version cannot read an entry: {error}; was a newer one used?"
            raise errors.NotApplied(store=self.address, action=action, why=why) from error
        except (sqlite3.Error, OSError) as error:
            self.disconnect()
            why = self._why(error)
            raise errors.NotApplied(store=self.address, action=action, why=why) from error

    def _write(self, action: str, function: Callable[..., T], arguments: tuple[object, ...]) -> T:
        try:
            database = self._checked()
            database.execute("BEGIN IMMEDIATE")
            self._look(database)
            result = function(database, *arguments)
            last = file_past.last_write(database)
        except errors.IdserviceError:
            self._roll_back()
            raise
        except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
            self.disconnect()  # not applied: nothing was committed, and closing rolls back
            why = self._why(error)
            raise errors.NotApplied(store=self.address, action=action, why=why) from error
        except BaseException:  # a bug of ours must not leave the file locked for others
            self.disconnect()
            raise
        try:
            database.execute("COMMIT")
        except sqlite3.Error as error:
            if database.in_transaction and self._roll_back():  # e.g. busy: it never began to commit
                why = self._why(error)
                raise errors.NotApplied(store=self.address, action=action, why=why) from error
            self.disconnect()
            raise errors.OutcomeUnknown(store=self.address, action=action, why=error) from error
        self._last = last
        return result

    def _why(self, error: Exception) -> str:
        """Return why SQLite refuses, with what to do where an operator can."""
        name = getattr(error, "sqlite_errorname", "")
        if is_busy(error):
            return f"{error}; {BUSY}: `{shlex.join(['fuser', str(self.path)])}`"
        if name == "SQLITE_FULL":
            return f"{error}; make room on the disk of the file, and go on without a restart"
        if name.startswith("SQLITE_READONLY"):
            return f"{error}; {what_refuses_writes(self.path)}"
        return str(error)

    def _roll_back(self) -> bool:
        try:
            if self._database is not None and self._database.in_transaction:
                self._database.execute("ROLLBACK")
            return True
        except sqlite3.Error:
            self.disconnect()
            return False

    def _start(self, function: Callable[..., T], arguments: tuple[object, ...]) -> T:
        try:
            return function(*arguments)
        except (sqlite3.Error, OSError) as error:
            self.disconnect()
            fault = not_opened(self.path, error)
            raise refusal(fault, self.address, waiting_helps=is_busy(error)) from error


def not_opened(path: Path, error: Exception) -> Finding:
    """Return the fault of a file that SQLite or the system refuses, with a way out."""
    folder = path.absolute().parent
    if is_busy(error):
        return Finding(FAULT, "file", str(error), BUSY, shlex.join(["fuser", str(path)]))
    if os.path.isdir(path):
        run = shlex.join(["idservice", "init", "--store", f"sqlite:{path / 'idservice.db'}"])
        return Finding(FAULT, "file", f"{path} is a folder", "name a file in it", run)
    found, run = f"{path}: {error}", shlex.join(["ls", "-ld", str(folder), str(path)])
    name = getattr(error, "sqlite_errorname", "")
    if name in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        why = f"check the path; if it is right, {DAMAGED}"
        store = shlex.quote(f"sqlite:{path}")
        return Finding(FAULT, "file", found, why, f"idservice fence --all --past N --store {store}")
    if name == "SQLITE_FULL":
        return Finding(
            FAULT, "file", found, "make room on its disk", f"df {shlex.quote(f'{folder}')}"
        )
    if (fault := mounted_read_only(folder, "file")) is not None:
        return fault
    why = "check the path, its permissions (the folder must be writable too), and the disk"
    if isinstance(error, PermissionError) or not os.access(folder, os.W_OK | os.X_OK):
        found = f"user {os.geteuid()} is not allowed to use {path} or its folder"
        run = shlex.join(["ls", "-ld", str(folder)])
        if not os.path.exists(folder) and not isinstance(error, PermissionError):
            found, run = f"there is no folder {folder}", shlex.join(["mkdir", "-p", str(folder)])
    return Finding(FAULT, "file", found, why, run)


def mounted_read_only(folder: Path, about: str) -> Finding | None:
    """Return the fault of a folder whose file system is mounted read-only; None for another, and
    for one that cannot tell."""
    try:
        if not os.statvfs(folder).f_flag & os.ST_RDONLY:
            return None
    except OSError:  # there is none, or the disk fails
        return None
    return Finding(
        FAULT, about, f"the file system of {folder} is mounted read-only",
        "the kernel does so after errors of the disk, and its log says which; mount it for writing",
        shlex.join(["findmnt", "--target", str(folder)]),
    )  # fmt: skip


def what_refuses_writes(path: Path) -> str:
    """Return what to do about a file of which SQLite says that it is read-only."""
    fault = mounted_read_only(path.absolute().parent, "file")
    if fault is not None:
        return fault.sentence
    return "check the permissions of the file and of its folder, and the disk"


def replaced(address: str) -> Finding:
    """Return the fault that another file, or an older copy, took the place of the open one."""
    return Finding(
        FAULT, IDENTITY, "the file was replaced while in use", f"Stop all instances. {BEHIND}",
        f"idservice fence --all --past N --store {shlex.quote(address)}",
    )  # fmt: skip


def is_busy(error: Exception) -> bool:
    """Return True if another process's lock is the only obstacle."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
