"""The past of an SQLite file as the file knows it. By it an older copy of the file is recognised.

Functions run in a transaction of their caller.
"""

import sqlite3

from idservice.stores.sqlite.transactions import RETURNED_TABLE, exists

MARKS = 1000  # of the last writes: an instance that looked before them cannot tell
# `born` is the birth of the file that had this inode. Triggers count writes, so that earlier
# versions, which know nothing of the table, count theirs too.
TABLES = (
    """
CREATE TABLE IF NOT EXISTS file (
    one INTEGER PRIMARY KEY CHECK (one = 1), inode INTEGER NOT NULL, born INTEGER NOT NULL,
    writes INTEGER NOT NULL
) STRICT
""",
    """
CREATE TRIGGER IF NOT EXISTS position_written AFTER UPDATE ON position
BEGIN UPDATE file SET writes = writes + 1; END
""",
    """
CREATE TRIGGER IF NOT EXISTS catalogue_written AFTER UPDATE ON catalogue
BEGIN UPDATE file SET writes = writes + 1; END
""",
    # Each of the last writes has a random mark. An older copy into which others wrote since may
    # have as many writes, but with other marks.
    """
CREATE TABLE IF NOT EXISTS write_mark (
    place INTEGER PRIMARY KEY, number INTEGER NOT NULL, mark INTEGER NOT NULL
) STRICT
""",
    f"""
CREATE TRIGGER IF NOT EXISTS write_marked AFTER UPDATE OF writes ON file
BEGIN INSERT OR REPLACE INTO write_mark VALUES (new.writes % {MARKS}, new.writes, random()); END
""",  # noqa: S608 - a number of ours
)
Write = tuple[int, int]  # the number of writes up to this one, and its mark; 0 if it has none
NO_WRITE: Write = (0, 0)


def add_later_tables(database: sqlite3.Connection) -> None:
    """Bring a file of an earlier version up to date, in a transaction, if that was not done."""
    if not exists(database, "returned"):
        database.execute(RETURNED_TABLE)
    for statement in TABLES:
        database.execute(statement)
    database.execute("INSERT OR IGNORE INTO file VALUES (1, 0, 0, 0)")


def accept_file(database: sqlite3.Connection, inode: int, born: int, *, known: bool) -> None:
    """Record inode and birth of the file; if it is `known`, only what is not recorded yet.

    An operator sets the inode to 0 to accept the file as it is.
    """
    (recorded,) = database.execute("SELECT inode FROM identity").fetchone()
    if not known or recorded == 0:
        database.execute("UPDATE identity SET inode = ?", (inode,))
        database.execute("UPDATE file SET inode = ?, born = ?", (inode, born))
    elif not recorded_birth(database):
        database.execute("UPDATE file SET inode = ?, born = ?", (inode, born))


def recorded_birth(database: sqlite3.Connection) -> int:
    """Return when the file was created, as it records it; 0 if it does not, or if an earlier
    version accepted another file since."""
    if not exists(database, "file"):
        return 0
    same = "SELECT born FROM file JOIN identity ON file.inode = identity.inode"
    row = database.execute(same).fetchone()
    return int(row[0]) if row else 0


def last_write(database: sqlite3.Connection) -> Write:
    """Return the last write that the file has seen; NO_WRITE if only earlier versions used it."""
    if not exists(database, "file"):
        return NO_WRITE
    row = database.execute("SELECT writes FROM file").fetchone()
    number = int(row[0]) if row else 0
    return number, _mark_of(database, number) or 0


def follows(database: sqlite3.Connection, last: Write, before: Write) -> bool:
    """Return True if a file whose last write is `last` had the write `before` in its past, as far
    as it still knows."""
    if last == before:
        return True
    number, mark = before
    if last[0] < number:
        return False
    return not mark or _mark_of(database, number) in (None, mark)


def _mark_of(database: sqlite3.Connection, number: int) -> int | None:
    """Return the mark of a write; None if it has none, or no longer."""
    if not exists(database, "write_mark"):
        return None
    known = "SELECT mark FROM write_mark WHERE place = ? AND number = ?"
    row = database.execute(known, (number % MARKS, number)).fetchone()
    return int(row[0]) if row else None
