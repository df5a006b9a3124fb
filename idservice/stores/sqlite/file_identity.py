"""Tells a file from another that has its name, its number, or its place.

An inode number is handed on: a copy that is made when the original was deleted gets it. So the time
at which the file was created is compared too. SQLite's journal lies beside the name by which the
file was opened, so a file must have one name: one link, and no mount of the file itself.
"""

import ctypes
import os
import re
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

MOUNTS = Path("/proc/self/mountinfo")
INODE_MASK = 2**63 - 1  # the highest value of an INTEGER column
FileId = tuple[int, int]  # device and inode
NOT_OPENED: FileId = (0, 0)
# Of linux/stat.h: arguments, the flag of a known birth time, and where struct statx has it.
AT_FDCWD, STATX_BTIME, BTIME_OFFSET, STATX_SIZE = -100, 0x800, 0x50, 256


def file_at(path: Path) -> FileId:
    """Return device and inode of the only link to a file. Raises OSError if it has none or two."""
    status = os.stat(path)
    if status.st_nlink != 1:
        raise OSError(f"{path} has {status.st_nlink} links; a store's file must have one")
    return status.st_dev, status.st_ino & INODE_MASK


def born(path: Path) -> int:
    """Return the nanosecond since 1970 in which a file was created; 0 if the system does not tell.

    Python 3.11 reads it on macOS only; Linux has it behind `statx`.
    """
    seconds = getattr(os.stat(path), "st_birthtime", None)
    if seconds is not None:
        return int(seconds * 1e9)
    statx = _statx()
    answer = ctypes.create_string_buffer(STATX_SIZE)
    if statx is None or statx(AT_FDCWD, os.fsencode(path), 0, STATX_BTIME, answer):
        return 0
    known = struct.unpack_from("I", answer)[0] & STATX_BTIME
    seconds, nanoseconds = struct.unpack_from("qI", answer, BTIME_OFFSET)
    return seconds * 10**9 + nanoseconds if known else 0


@lru_cache(maxsize=1)
def _statx() -> Any:
    """Return the function of the C library; None if it has none."""
    return getattr(ctypes.CDLL(None), "statx", None)


class Mount:
    """A line of the kernel's list of mounts: the folder or file `root` of a device, at `point`."""

    def __init__(self, line: str) -> None:
        left, _, right = line.partition(" - ")
        _, _, self.device, root, point = left.split()[:5]
        self.root, self.point = (Path(_unescaped(each)) for each in (root, point))
        self.kind = right.split()[0]


@lru_cache(maxsize=1)  # it is the same for years, and is read whenever a file is opened
def mounts(text: str) -> Sequence[Mount]:
    """Return the mounts of a list, without lines that cannot be read."""
    return tuple(_readable(text))


def _readable(text: str) -> Iterator[Mount]:
    for line in text.splitlines():
        try:
            yield Mount(line)
        except (ValueError, IndexError):
            continue


def mount_of(path: Path, text: str) -> Mount | None:
    """Return the mount that holds a resolved path; None if the list does not tell."""
    above = {path, *path.parents}
    holding = [mount for mount in mounts(text) if mount.point in above]
    deepest = max((len(mount.point.parts) for mount in holding), default=0)
    return next((one for one in reversed(holding) if len(one.point.parts) == deepest), None)


def other_names(path: Path, text: str) -> list[Path]:
    """Return the points at which the file at a resolved path is itself mounted."""
    mine = mount_of(path, text)
    if mine is None:
        return []
    root = mine.root / path.relative_to(mine.point)
    return [one.point for one in mounts(text) if (one.device, one.root) == (mine.device, root)]


def _unescaped(text: str) -> str:
    """Return a path as it is: the list has a space as \\040, and other bytes unchanged."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
