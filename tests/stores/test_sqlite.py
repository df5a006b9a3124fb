"""What only SQLite can do wrong: files that are swapped, entries that cannot be read, and commits
that are there until the power goes."""

import os
import sqlite3
from pathlib import Path
from random import Random

import pytest

from idservice import errors
from idservice.catalogue.counters import new_counter
from idservice.core.writer import Batch
from idservice.stores.sqlite.store import SQLiteStore


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
        await store.init(new_counter("default", Random(1)))
        counter = await store.counter("default")
        assert counter is not None
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
