"""What a look at an SQLite store finds: each fault is made, and must be found with its way out."""

import errno
import os
import shutil
import sqlite3
import time
from collections import namedtuple
from pathlib import Path
from random import Random

import pytest

from idservice import errors
from idservice.catalogue import doctor
from idservice.catalogue.counters import new_counter
from idservice.stores.findings import Finding
from idservice.stores.sqlite import examine
from idservice.stores.sqlite.connection import not_opened, what_refuses_writes
from idservice.stores.sqlite.examine import kind_of_file_system
from idservice.stores.sqlite.file_identity import other_names
from idservice.stores.sqlite.store import SQLiteStore
from tests.stores.test_dynamodb_examine import about

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:5 / /dev rw - devtmpfs none rw
40 22 0:50 / /mnt/share rw - nfs4 server:/export rw
41 40 0:51 / /mnt/share/with\\040space rw shared:3 - tmpfs tmpfs rw
42 22 0:60 / /var/lib/over rw - overlay overlay rw
43 22 0:61 / /mnt/share rw - cifs //server/x rw
"""


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    path = tmp_path / "ids.db"
    async with SQLiteStore(str(path)) as store:
        await store.init(new_counter("default", Random(1)))
    return path


async def looked_at(path: Path) -> list[Finding]:
    async with SQLiteStore(str(path)) as store:
        return await doctor.examine(store, time.time)


def worse(found: list[Finding]) -> list[str]:
    return [finding.about for finding in found if finding.is_worse_than_advice]


async def test_a_file_that_is_itself_mounted_is_refused_under_each_of_its_names(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """evcc-io/evcc PR 30903: two names, two journals, and one rolls the other's writes back."""
    other = Path("/elsewhere/ids.db")
    listed = f"22 1 8:1 / / rw - ext4 /dev/sda rw\n30 22 8:1 {path} {other} rw - ext4 /dev/sda rw\n"
    monkeypatch.setattr(Path, "read_bytes", lambda self: listed.encode())
    async with SQLiteStore(str(path)) as store:
        with pytest.raises(errors.StoreUnready, match=f"itself is mounted, at {other}"):
            await store.verify()
    assert other_names(other, listed) == [other]
    assert other_names(path.with_name("another.db"), listed) == []
    odd = listed.replace(str(other), "/srv/\u00e9\\040x/ids.db")
    assert other_names(path, odd) == [Path("/srv/\u00e9 x/ids.db")]
    folder = listed.replace(f"{path} {other}", f"{path.parent} /elsewhere")
    assert other_names(other, folder) == other_names(path, folder) == []


async def test_a_mount_with_a_name_that_is_not_utf_8_is_nobody_s_obstacle(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"22 1 8:1 / /a\xff rw - tmpfs x rw\n")
    async with SQLiteStore(str(path)) as store:
        await store.verify()


async def test_a_store_in_order_has_nothing_worse_than_advice(path: Path) -> None:
    before = path.read_bytes()
    found = await looked_at(path)
    assert worse(found) == []
    assert {finding.about for finding in found} == {
        "permissions", "links", "journal", "space", "file_system", "pragmas", "quick_check",
        "schema", "identity", "counters",
    }  # fmt: skip
    assert path.read_bytes() == before


async def test_the_quick_look_leaves_the_pages_alone(path: Path) -> None:
    async with SQLiteStore(str(path)) as store:
        found = await store.examine(time.time, thorough=False)
    assert "quick_check" not in {finding.about for finding in found}


async def test_a_missing_or_empty_file_is_one_fault_and_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "my ids.db"
    (missing,) = await looked_at(path)
    assert (missing.level, missing.about) == ("fault", "file")
    assert missing.run == f"idservice init --store 'sqlite:{path}'"
    assert not path.exists()
    path.touch()
    (empty,) = await looked_at(path)
    assert empty.about == "file"


async def test_a_file_that_is_no_store_and_one_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "ids.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE other (x)")
    database.close()
    found = await looked_at(path)
    assert "not an idservice store" in about(found, "schema").found
    path.write_bytes(b"anything else" * 1000)
    one = about(await looked_at(path), "file")
    assert "not a database" in one.found
    assert one.why.startswith("check the path; if it is right, the file is damaged; restore it")
    assert one.run == f"idservice fence --all --past N --store sqlite:{path}"


async def test_a_copy_is_found(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    one = about(await looked_at(copy), "identity")
    assert (one.level, "fence --all --past N" in one.run) == ("fault", True)


async def test_another_schema_is_found(path: Path) -> None:
    _write(path, "UPDATE identity SET schema = 7")
    assert "schema 7" in about(await looked_at(path), "schema").found


async def test_a_second_link_is_found(path: Path) -> None:
    path.with_name("link.db").hardlink_to(path)
    found = await looked_at(path)
    one = about(found, "links")
    assert (one.level, one.found) == ("fault", "the file has 2 links")
    assert "-samefile" in one.run


@pytest.mark.parametrize("which", ["file", "folder"])
async def test_what_everybody_may_write_is_found(path: Path, which: str) -> None:
    target = path if which == "file" else path.parent
    mode = target.stat().st_mode
    target.chmod(mode | 0o002)
    one = about(await looked_at(path), "permissions")
    assert (one.level, one.run) == ("warning", f"chmod o-w {target}")
    if which == "folder":
        target.chmod(mode | 0o1002)  # as /tmp is: nobody can take another's file away
        assert about(await looked_at(path), "permissions").level == "ok"
    target.chmod(mode)


async def test_what_this_user_cannot_write_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda where, _: Path(where) != path.parent)
    one = about(examine.look_at_place(path), "permissions")
    assert (one.level, str(path.parent) in one.found) == ("fault", True)


async def test_a_file_system_that_is_mounted_read_only_is_told_as_such(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does after errors of a disk; then no right helps."""
    seen = os.statvfs(path)
    read_only = os.statvfs_result([*seen[:8], seen.f_flag | os.ST_RDONLY, *seen[9:]])
    monkeypatch.setattr(os, "statvfs", lambda _: read_only)
    one = about(examine.look_at_place(path), "permissions")
    assert (one.level, one.run) == ("fault", f"findmnt --target {path.parent}")
    assert one.found == f"the file system of {path.parent} is mounted read-only"
    refused = not_opened(path, sqlite3.OperationalError("unable to open database file"))
    assert (refused.about, refused.found) == ("file", one.found)
    assert what_refuses_writes(path) == one.sentence


def test_a_disk_that_does_not_even_tell_how_it_is_mounted_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "statvfs", fails)
    fault = not_opened(tmp_path / "ids.db", sqlite3.OperationalError("disk I/O error"))
    assert "check the path" in fault.why


def test_a_disk_without_room_for_a_new_file_is_told_as_such(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = "SQLITE_FULL"
    fault = not_opened(tmp_path / "ids.db", error)
    assert (fault.why, fault.run) == ("make room on its disk", f"df {tmp_path}")


async def test_a_journal_that_was_left_is_found_before_it_is_rolled_back(path: Path) -> None:
    Path(f"{path}-journal").write_bytes(b"\0" * 512)
    one = about(await looked_at(path), "journal")
    assert (one.level, "ids.db-journal" in one.found) == ("advice", True)


async def test_a_write_ahead_log_is_found(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("UPDATE catalogue SET revision = revision + 1")
    database.commit()
    found = examine.look_at_place(path)
    database.close()
    assert about(found, "journal").level == "warning"


async def test_a_file_set_to_a_write_ahead_log_is_told_and_left_so(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.close()
    before = path.read_bytes()
    one = about(await looked_at(path), "file")
    assert (one.level, "write-ahead log" in one.found) == ("fault", True)
    assert path.read_bytes() == before


async def test_an_identity_that_was_emptied_is_told_without_a_traceback(path: Path) -> None:
    _write(path, "DELETE FROM identity")
    assert about(await looked_at(path), "schema").level == "fault"
    async with SQLiteStore(str(path)) as store:
        with pytest.raises(errors.StoreUnready, match="`identity` is empty"):
            await store.verify()


async def test_other_pragmas_are_a_fault(path: Path) -> None:
    database = sqlite3.connect(path)
    inode = path.stat().st_ino
    found = list(examine.check_inside(database, path, (inode, 0), 1, thorough=False))
    database.close()
    one = about(found, "pragmas")
    assert (one.level, "'synchronous': 2" in one.found) == ("fault", True)


async def test_a_damaged_file_is_found(path: Path) -> None:
    _write(path, "CREATE TABLE filler (x)")
    database = sqlite3.connect(path)
    with database:
        database.executemany("INSERT INTO filler VALUES (?)", [("y" * 3000,)] * 50)
    database.close()
    content = bytearray(path.read_bytes())
    content[-60_000:-30_000] = b"\xff" * 30_000
    inode = path.stat().st_ino
    with path.open("r+b") as file:
        file.write(content)
    assert path.stat().st_ino == inode
    one = about(await looked_at(path), "quick_check")
    assert (one.level, "fence --all" in one.run) == ("fault", True)


@pytest.mark.parametrize(
    ("free", "level"),
    [(2**20 - 1, "fault"), (2**25, "warning"), (2**26, "ok")],
)
async def test_a_full_disk_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str
) -> None:
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - free, free))
    assert about(examine.look_at_place(path), "space").level == level


@pytest.mark.parametrize(
    ("kind", "level"),
    [("nfs4", "warning"), ("fuse.sshfs", "warning"), ("tmpfs", "warning"), ("overlay", "advice"),
     ("ext4", "ok")],
)  # fmt: skip
async def test_the_kind_of_file_system_is_told(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, level: str
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 254:0 / / rw,relatime - {kind} somewhere rw\n")
    monkeypatch.setattr(examine, "MOUNTS", mounts)
    one = about(examine.look_at_place(path), "file_system")
    assert (one.level, one.found.startswith(kind) or kind == "overlay") == (level, True)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x.db", "ext4"),
        ("/mnt/sharex/x.db", "ext4"),
        ("/mnt/share/a/x.db", "cifs"),  # mounted over the one before
        ("/mnt/share/with space/x.db", "tmpfs"),
        ("/var/lib/over/x.db", "overlay"),
    ],
)
def test_a_path_is_on_the_deepest_mount_above_it(path: str, kind: str) -> None:
    assert kind_of_file_system(Path(path), MOUNTS) == kind


def test_without_a_list_of_mounts_the_kind_is_not_known() -> None:
    assert kind_of_file_system(Path("/x"), "") == ""
    assert kind_of_file_system(Path("/x"), "nonsense\n1 2 3 - \n") == ""


def _write(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute(statement)
    database.close()


async def test_an_emptied_catalogue_is_told_without_a_traceback(path: Path) -> None:
    _write(path, "DELETE FROM catalogue")
    async with SQLiteStore(str(path)) as store:
        with pytest.raises(errors.StoreError, match="`catalogue` is empty"):
            await store.revision()
