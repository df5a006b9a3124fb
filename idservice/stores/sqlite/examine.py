"""An examination of an SQLite store: its file, folder and disk, and what SQLite reports."""

import errno
import os
import shlex
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from idservice.stores.findings import (
    ADVICE,
    BEHIND,
    FAULT,
    IDENTITY,
    WARNING,
    Finding,
    fine,
    schema_read,
)
from idservice.stores.sqlite import file_past
from idservice.stores.sqlite.connection import (
    DAMAGED,
    is_busy,
    mounted_read_only,
    what_refuses_writes,
)
from idservice.stores.sqlite.file_identity import MOUNTS, mount_of, other_names

SPACE_WARNED, SPACE_MIN = 64 * 1024**2, 1024**2  # bytes
# SQLite's own documentation warns of locks over a network.
NETWORKED = frozenset(
    (
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs",
        "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs", "virtiofs",
    )
)  # fmt: skip
VOLATILE = {
    "tmpfs": "memory, which a reboot clears",
    "ramfs": "memory, which a reboot clears",
}
OVERLAY = "overlay"


def check_place(path: Path) -> Iterator[Finding]:
    """Yield what `serve` refuses of the file before it is opened."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.exists() or path.stat().st_size == 0:
        yield Finding(
            FAULT, "file", f"{path} is missing or empty",
            "if the volume was lost, restore it, because a new file starts from 0 and repeats ids;"
            " otherwise create it",
            f"idservice init --store {_address(path)}",
        )  # fmt: skip
        return
    links, mounted = path.stat().st_nlink, other_names(path.resolve(), _mounts())
    if links > 1:
        yield Finding(
            FAULT, "links", f"the file has {links} links",
            "each name has its own journal, so a crash damages the file; list the names",
            shlex.join(["find", str(path.parent), "-samefile", str(path)]),
        )  # fmt: skip
    elif mounted:
        yield Finding(
            FAULT, "links", f"the file itself is mounted, at {' and '.join(map(str, mounted))}",
            "each name has its own journal, so a crash damages the file and repeats ids; mount the"
            " folder that holds the file instead",
            shlex.join(["findmnt", str(mounted[0])]),
        )  # fmt: skip
    else:
        yield fine("links", "one")


def look_at_place(path: Path) -> list[Finding]:
    """Return all findings about the file that do not need it open."""
    found = list(check_place(path))
    if any(finding.about == "file" for finding in found):
        return found
    return [*found, *_permissions(path), *_journal(path), *_disk(path)]


def look_at_header(path: Path) -> list[Finding]:
    """Report a write-ahead log, which opening the file would end: an examination changes nothing.

    Not for a file that this process has open: to close it again would drop SQLite's locks.
    """
    with path.open("rb") as file:
        versions = file.read(20)[18:]
    if versions != b"\2\2":
        return []
    return [
        Finding(
            FAULT, "file", "it is set to a write-ahead log",
            "another tool opened it; ids acknowledged since may be lost at a power cut. Close the"
            " file in all other processes; the next start removes the log. Then run doctor again",
            shlex.join(["fuser", str(path)]),
        )
    ]  # fmt: skip


def _address(path: Path) -> str:
    return shlex.quote(f"sqlite:{path}")


def _permissions(path: Path) -> Iterator[Finding]:
    about = "permissions"
    if (fault := mounted_read_only(path.absolute().parent, about)) is not None:
        yield fault
        return
    unwritable = [str(each) for each in (path, path.parent) if not os.access(each, os.W_OK)]
    if unwritable:
        yield Finding(
            FAULT, about, f"{' and '.join(unwritable)} cannot be written by this user",
            "the file takes reservations, and its folder the journal beside it",
            shlex.join(["chown", str(os.geteuid()), *unwritable]),
        )  # fmt: skip
    open_to_others = []
    for each in (path, path.parent):
        mode = each.stat().st_mode
        if mode & stat.S_IWOTH and not (each.is_dir() and mode & stat.S_ISVTX):
            open_to_others.append(str(each))
    if open_to_others:
        yield Finding(
            WARNING, about, f"{' and '.join(open_to_others)} can be written by every user",
            "an edited or replaced file repeats ids",
            shlex.join(["chmod", "o-w", *open_to_others]),
        )  # fmt: skip
    if not (unwritable or open_to_others):
        yield fine(about, "this user can write the file and its folder, and others cannot")


def _journal(path: Path) -> Iterator[Finding]:
    journal, log = Path(f"{path}-journal"), Path(f"{path}-wal")
    if log.exists():
        yield Finding(
            WARNING, "journal", f"{log.name} is beside it",
            "another tool opened the file with a write-ahead log, which loses acknowledged ids at a"
            " power cut; close it in all other processes, and the next start removes the log",
            shlex.join(["fuser", str(path)]),
        )  # fmt: skip
    elif journal.exists() and journal.stat().st_size:
        yield Finding(
            ADVICE, "journal", f"{journal.name} is beside it",
            "a write is under way, or a process died during one: the next process that opens the"
            " file rolls it back. Never move or copy the file without the journal",
        )  # fmt: skip
    else:
        yield fine("journal", "none is left")


def _disk(path: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(path).free
    if free < SPACE_WARNED:
        yield Finding(
            FAULT if free < SPACE_MIN else WARNING, "space", f"{free // 1024} KiB are free",
            "a write without room is refused: adds are not counted, ids last for one runway",
            shlex.join(["df", str(path.parent)]),
        )  # fmt: skip
    else:
        yield fine("space", f"{free // 1024**2} MiB are free")
    kind = kind_of_file_system(path.resolve(), _mounts())
    if kind in NETWORKED:
        yield Finding(
            WARNING, "file_system", f"{kind}, over a network",
            "its locks and its syncs cannot be relied on: two processes could reserve the same ids;"
            " use a disk of this machine, or DynamoDB",
        )  # fmt: skip
    elif kind in VOLATILE:
        yield Finding(
            WARNING, "file_system", f"{kind}: {VOLATILE[kind]}",
            "a new file starts from 0 and repeats ids; put the file on a disk",
        )  # fmt: skip
    elif kind == OVERLAY:
        yield Finding(
            ADVICE, "file_system", "the container's own layer",
            "it is deleted with the container, and a new file starts from 0; if the container may"
            " be replaced, mount a volume",
        )  # fmt: skip
    else:
        yield fine("file_system", kind or "not known")


def kind_of_file_system(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds a path, by the kernel's list of mounts.

    Empty if the list does not tell.
    """
    mount = mount_of(path, mounts)
    return "" if mount is None else mount.kind


def _mounts() -> str:
    return os.fsdecode(MOUNTS.read_bytes()) if MOUNTS.exists() else ""


def check_inside(
    database: sqlite3.Connection,
    path: Path,
    file: tuple[int, int],
    schema: int,
    *,
    thorough: bool,
) -> Iterator[Finding]:
    """Yield what SQLite reports by a connection as reservations use it; `serve` refuses a fault.

    `file` is the file's inode and birth now, `schema` the one that this version reads.
    Raises sqlite3.Error.
    """
    pragmas = {
        name: database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    }
    wanted = {"journal_mode": "delete", "synchronous": 3}
    if pragmas == wanted:
        yield fine("pragmas", "rollback journal, synchronous=EXTRA")
    else:
        yield Finding(
            FAULT, "pragmas", f"{pragmas}, not {wanted}",
            "a power cut loses acknowledged ids; use the file system of a local disk",
        )  # fmt: skip
    if thorough:
        (health,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if health != "ok":
            yield Finding(
                FAULT, "quick_check", health,
                DAMAGED,
                f"idservice fence --all --past N --store {_address(path)}",
            )  # fmt: skip
            return
        yield fine("quick_check", "ok")
    yield from _identity(database, path, file, schema)
    if thorough:
        yield from _records_alone(database, path)
        yield from _writing(database, path)


def _records_alone(database: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    """Find records of adds whose tally is gone: a command that deletes one keeps its row."""
    if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'tally_add'").fetchone():
        return
    alone = "SELECT tally, count(*), max(inc) FROM tally_add"
    alone += " WHERE tally NOT IN (SELECT name FROM tally) GROUP BY tally"
    for name, records, inc in database.execute(alone):
        why = (
            "its row was deleted by hand: create it as it was, then run `fence --all`, which makes"
            " its sum anew; see docs/how-to/recover.md"
        )
        run = f"idservice tally create {name} --decimals N --store {_address(path)}"
        if inc > 1:  # a new row would begin with the records of the first incarnation
            why = (
                f"its row with `inc` = {inc} was deleted by hand: put it back with the same `inc`; "
                "a tally created anew would count its latest keys again"
            )
            run = ""
        yield Finding(
            WARNING, "tally_records", f"tally {name} is gone, and {records} of its records are not",
            why, run,
        )  # fmt: skip


def _identity(
    database: sqlite3.Connection, path: Path, file: tuple[int, int], schema: int
) -> Iterator[Finding]:
    if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'identity'").fetchone():
        yield Finding(
            FAULT, "schema", "the file is not an idservice store (it has no table `identity`)",
            "name another file, or one that does not exist yet with --init",
        )  # fmt: skip
        return
    row = database.execute("SELECT inode, schema FROM identity").fetchone()
    if row is None:
        why = "restore the file, then go on above every id that may be in use"
        yield Finding(FAULT, "schema", "its table `identity` is empty", why)
        return
    recorded, written = row
    yield schema_read(str(written), schema)
    inode, born = file
    birth = file_past.recorded_birth(database)
    same = recorded == inode and (not birth or not born or birth == born)
    if recorded and not same:  # 0 was set by hand, to accept the file
        yield Finding(
            FAULT, IDENTITY, "the file is a copy or was restored from a backup",
            BEHIND,
            f"idservice fence --all --past N --store {_address(path)}",
        )  # fmt: skip
    else:
        what = "the file is the one that was initialised; an older copy inside it looks the same"
        yield fine(IDENTITY, what)


def _writing(database: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    """Try a write that is rolled back: file and folder must take it."""
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE identity SET schema = schema")
        database.execute("ROLLBACK")
    except sqlite3.Error as error:
        if is_busy(error):
            raise
        why = what_refuses_writes(path)
        yield Finding(FAULT, "permissions", f"a write is refused: {error}", why)
