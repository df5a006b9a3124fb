"""What only SQLite can do wrong: files that are swapped, entries that cannot be read, and commits
that are there until the power goes."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from idservice import errors
from idservice.allocation.context import Limits
from idservice.catalogue.counters import new_counter
from idservice.core.timeouts import REFILL_MIN_S
from idservice.core.writer import Batch
from idservice.stores.records import Counter
from idservice.stores.sqlite.connection import BUSY_TIMEOUT_S
from idservice.stores.sqlite.file_identity import born
from idservice.stores.sqlite.file_past import MARKS
from idservice.stores.sqlite.store import SQLiteStore


async def begun(store: SQLiteStore) -> Counter:
    """The default counter of a new file."""
    await store.init(new_counter("default", Random(1)))
    counter = await store.counter("default")
    assert counter is not None
    return counter


async def test_an_entry_of_a_newer_version_locks_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store, SQLiteStore(str(path)) as other:
        await store.init(new_counter("default", Random(1)))
        with sqlite3.connect(path) as database:
            database.execute(
                "INSERT INTO entry VALUES ('newer', '1.a', 'active', '{\"flavour\": 1}')"
            )
        database.close()
        with pytest.raises(errors.NotApplied):
            await store.create(new_counter("newer", Random(2)))
        with pytest.raises(errors.NotApplied, match="newer one used"):
            await store.counter("newer")
        counter = await other.counter("default")
        assert counter is not None
        granted = await other.reserve(counter, count=5, seen=0, room=100)
        assert granted.indices == range(5)


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="only Linux can hold an inode so")
async def test_no_other_file_gets_the_inode_of_one_in_use_even_after_a_failure(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        counter = await begun(store)
        before = path.read_bytes()
        await store.reserve(counter, count=100, seen=0, room=1000)
        await store._connection.run(store._connection.disconnect)  # as any error does
        inode = path.stat().st_ino
        for _ in range(20):
            path.unlink()
            path.write_bytes(before)
            assert path.stat().st_ino != inode
        with pytest.raises(errors.NotApplied, match="replaced"):
            await store.reserve(counter, count=100, seen=0, room=1000)


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="only Linux tells a file's birth so")
async def test_a_copy_that_is_given_the_inode_of_the_deleted_file_is_refused(
    tmp_path: Path,
) -> None:
    """elastic/beats#1341: the number of a deleted file is given to the next one."""
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        await store.init(new_counter("default", Random(1)))
    before = path.read_bytes()
    path.unlink()
    path.write_bytes(before)
    # As if the number had come back, which ext4 does every time, unless another process is quicker.
    _record_inode(path, path.stat().st_ino)
    _by_hand(path, "UPDATE file SET inode = (SELECT inode FROM identity)")
    async with SQLiteStore(str(path)) as store:
        with pytest.raises(errors.StoreReplaced, match="a copy or was restored"):
            await store.verify()
        await store.accept_identity()
        await store.verify()


async def test_a_file_of_an_earlier_version_is_recorded_at_its_first_start(tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        await store.init(new_counter("default", Random(1)))
    _forget_writes(path)
    async with SQLiteStore(str(path)) as store, SQLiteStore(str(path)) as other:
        counter = await other.counter("default")
        assert counter is not None
        await other.reserve(counter, count=5, seen=0, room=100)  # it was not verified
        await store.verify()
        await other.reserve(counter, count=5, seen=5, room=100)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT born, writes FROM file").fetchall() == [(born(path), 1)]
    database.close()


async def test_the_inode_zero_accepts_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        await store.init(new_counter("default", Random(1)))
    _by_hand(path, "UPDATE file SET born = 5")
    async with SQLiteStore(str(path)) as store:
        with pytest.raises(errors.StoreReplaced):
            await store.verify()
    _record_inode(path, 0)
    async with SQLiteStore(str(path)) as store:
        await store.verify()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT born FROM file").fetchone() == (born(path),)
    database.close()


@pytest.mark.parametrize("use", ["revision", "reserve"])
async def test_an_older_copy_written_into_the_file_is_noticed(tmp_path: Path, use: str) -> None:
    """The inode stays, and so does the time of birth: `cp old.db ids.db`."""
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store, SQLiteStore(str(path)) as cold:
        counter = await begun(store)
        before = path.read_bytes()
        await store.reserve(counter, count=100, seen=0, room=1000)
        with path.open("r+b") as file:
            file.write(before)
        await cold.verify()  # it cannot tell: it did not see the file before
        with pytest.raises(errors.NotApplied, match="replaced"):
            if use == "revision":
                await store.revision()
            else:
                await store.reserve(counter, count=100, seen=0, room=1000)
        with pytest.raises(errors.StoreReplaced, match="replaced while in use"):
            await store.verify()


@pytest.mark.parametrize("others", [1, MARKS + 1])
async def test_an_older_copy_is_noticed_though_others_wrote_as_much_into_it(
    tmp_path: Path, others: int
) -> None:
    """While the instance was paused, or between two of its looks. Each write has a mark."""
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store, SQLiteStore(str(path)) as cold:
        counter = await begun(store)
        before = path.read_bytes()
        await store.reserve(counter, count=100, seen=0, room=10**9)
        with path.open("r+b") as file:
            file.write(before)
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("BEGIN")
            for _ in range(others - 1):
                database.execute("UPDATE position SET next = next + 1, mark = mark + 1")
            database.execute("COMMIT")
        await cold.reserve(counter, count=10, seen=0, room=10**9)
        if others > MARKS:  # the mark that would tell is gone, as the guarantees say
            await store.revision()
        else:
            with pytest.raises(errors.NotApplied, match="replaced"):
                await store.revision()
            with pytest.raises(errors.StoreReplaced, match="replaced while in use"):
                await store.verify()


async def test_writes_of_others_are_no_reason_to_take_a_file_for_another(tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store, SQLiteStore(str(path)) as other:
        counter = await begun(store)
        for _ in range(3):
            await store.revision()
            await other.reserve(counter, count=10, seen=0, room=1000)
            await store.reserve(counter, count=10, seen=0, room=1000)


async def test_what_an_earlier_version_reserved_is_counted_too(tmp_path: Path) -> None:
    """It knows nothing of the count, and shares the file during a rolling update."""
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        await store.init(new_counter("default", Random(1)))
        await store.verify()
        before = path.read_bytes()
        _by_hand(path, "UPDATE position SET next = next + 800, mark = next + 800, rev = rev + 1")
        await store.revision()  # a look
        with path.open("r+b") as file:
            file.write(before)
        with pytest.raises(errors.NotApplied, match="replaced"):
            await store.revision()


async def test_a_file_that_an_earlier_version_accepted_is_the_right_one(tmp_path: Path) -> None:
    """Its `fence --all` records the inode alone."""
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        await store.init(new_counter("default", Random(1)))
    before = path.read_bytes()
    path.rename(tmp_path / "kept")
    path.write_bytes(before)
    _record_inode(path, path.stat().st_ino)
    async with SQLiteStore(str(path)) as store:
        await store.verify()
    with sqlite3.connect(path) as database:
        found = database.execute("SELECT inode, born FROM file").fetchone()
        assert found == (path.stat().st_ino, born(path))
    database.close()


async def test_an_older_copy_without_a_count_of_writes_is_noticed_too(tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        counter = await begun(store)
        await store.reserve(counter, count=100, seen=0, room=1000)
        _forget_writes(path)
        with pytest.raises(errors.NotApplied, match="replaced"):
            await store.revision()


async def test_a_write_that_is_refused_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        counter = await begun(store)
        await store.reserve(counter, count=100, seen=0, room=1000)
        with pytest.raises(errors.NoRoom):
            await store.reserve(counter, count=100, seen=0, room=50)
    with sqlite3.connect(path) as database:
        writes = database.execute("SELECT writes FROM file").fetchone()
        assert writes == (2,), "the default counter, and the first reservation"
    database.close()


def test_a_lock_is_told_before_a_request_or_a_refill_is_cut_off() -> None:
    """A call that is cut off says no more than that it took too long, and its ids are a gap."""
    shortest_s = min(Limits().wait, REFILL_MIN_S)
    assert 1.0 <= BUSY_TIMEOUT_S <= shortest_s - 0.5


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN; SELECT * FROM entry"])
async def test_a_file_that_another_process_keeps_locked_is_told_with_what_shows_it(
    tmp_path: Path, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idservice.stores.sqlite.connection.BUSY_TIMEOUT_S", 0.01)
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        counter = await begun(store)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            for statement in begin.split(";"):
                other.execute(statement).fetchone()
            with pytest.raises(errors.NotApplied, match=rf"is locked; .*`fuser {path}`") as raised:
                await store.reserve(counter, count=5, seen=0, room=100)
            assert raised.value.retryable
        assert (await store.reserve(counter, count=5, seen=0, room=100)).indices == range(5)


async def test_a_disk_that_is_full_is_told_with_what_to_do(tmp_path: Path) -> None:
    async with SQLiteStore(str(tmp_path / "ids.db")) as store:
        await begun(store)
        await store._connection.read("counting pages", _fill)
        with pytest.raises(errors.NotApplied, match="is full; make room") as raised:
            for number in range(1000):
                await store.create(new_counter(f"c{number}", Random(1)))
        assert raised.value.retryable


def _fill(database: sqlite3.Connection) -> None:
    """Let the file have no page more than it has."""
    database.execute("PRAGMA max_page_count = 1")


def _forget_writes(path: Path) -> None:
    """Make it a file of an earlier version."""
    for trigger in ("position_written", "catalogue_written"):
        _by_hand(path, f"DROP TRIGGER {trigger}")
    _by_hand(path, "DROP TABLE file")


def _record_inode(path: Path, inode: int) -> None:
    _by_hand(path, f"UPDATE identity SET inode = {inode}")


def _by_hand(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute(statement)
    database.close()


async def test_a_batch_that_is_sent_again_is_answered_by_a_commit_of_its_own(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        await store.init(new_counter("default", Random(1), strict=True))
        counter = await store.counter("default")
        assert counter is not None
        await store.register(counter, "w", registrations=0)
        batch = Batch("w", 1, "a", 5)
        reader = sqlite3.connect(path)
        versions, grants = [], []
        for _ in range(3):
            grants.append(await store.reserve(counter, count=5, seen=0, room=100, batch=batch))
            assert grants[-1].rev == (await store.position(counter)).rev  # type: ignore[union-attr]
            versions += reader.execute("PRAGMA data_version").fetchone()
        reader.close()
    assert [grant.indices for grant in grants] == [range(5)] * 3
    assert versions == sorted(set(versions)), "what it tells may not be on the disk yet"
