"""A disk whose power may be cut: what it surely holds, and what it may hold besides.

Built from the record of `recorder.c`. Sure is what was synced: the bytes of a file by a sync of it,
its name, or that it has none any more, by a sync of the folder. Everything later may be on the disk
or not: names up to any point in their order, writes in any choice, and of a write any sectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

SECTOR = 512
O_CREAT, O_TRUNC = 0o100, 0o1000

State = dict[str, bytes]  # the files of the folder, by name


@dataclass(frozen=True, slots=True)
class Event:
    """One call that succeeded."""

    call: str
    words: tuple[str, ...]
    data: bytes = b""


def read_record(path: Path) -> Iterator[Event]:
    """The calls in order."""
    record, at = path.read_bytes(), 0
    while at < len(record):
        end = record.index(b"\n", at)
        call, *words = record[at:end].decode().split(" ", 3)
        at = end + 1
        data = b""
        if call == "write":
            data = record[at : at + int(words[2])]
            at += len(data)
        yield Event(call, tuple(words), data)


@dataclass(eq=False)
class File:
    """The bytes that are sure, those that a reader sees now, and what is between."""

    sure: bytes = b""
    now: bytes = b""
    unsure: list[tuple[int, bytes | None]] = field(default_factory=list)  # None: cut to this length

    def write(self, offset: int, data: bytes | None) -> None:
        self.unsure.append((offset, data))
        self.now = _written(self.now, offset, data)

    def sync(self) -> None:
        self.sure = self.now
        self.unsure.clear()

    def some(self, rng: Random) -> bytes:
        """What the disk may hold: each unsure sector or not."""
        held, kept = self.sure, rng.choice((0.1, 0.5, 0.9))
        for offset, data in self.unsure:
            if data is None:
                held = _written(held, offset, None) if rng.random() < kept else held
                continue
            at = 0
            while at < len(data):
                end = min(len(data), at + SECTOR - (offset + at) % SECTOR)
                if rng.random() < kept:
                    held = _written(held, offset + at, data[at:end])
                at = end
        return held


def _written(held: bytes, offset: int, data: bytes | None) -> bytes:
    if data is None:
        return held[:offset].ljust(offset, b"\0")
    return held[:offset].ljust(offset, b"\0") + data + held[offset + len(data) :]


class Disk:
    """One folder's files; `happen` is told of every call, `states` tells what a cut may leave."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._open: dict[int, File | None] = {}  # by descriptor; None is the folder
        self._names: dict[str, File] = {}
        self._sure_names: dict[str, File] = {}
        self._unsure_names: list[dict[str, File]] = []  # after each step since

    def happen(self, event: Event) -> None:
        match event.call, event.words:
            case "open", (fd, flags, path):
                self._open[int(fd)] = self._opened(path, int(flags))
            case "write", (fd, offset, _):
                self._file(fd).write(int(offset), event.data)
            case "truncate", (fd, length):
                self._file(fd).write(int(length), None)
            case "sync", (fd,) if self._open[int(fd)] is None:
                self._sure_names = dict(self._names)
                self._unsure_names.clear()
            case "sync", (fd,):
                self._file(fd).sync()
            case "close", (fd,):
                del self._open[int(fd)]
            case "unlink", (path,):
                del self._names[self._name(path)]
                self._unsure_names.append(dict(self._names))
            case _:
                raise AssertionError(f"not understood: {event}")

    def _name(self, path: str) -> str:
        return path.removeprefix(self._folder).strip("/")

    def _file(self, fd: str) -> File:
        file = self._open[int(fd)]
        assert file is not None
        return file

    def _opened(self, path: str, flags: int) -> File | None:
        name = self._name(path)
        if not name:
            return None
        if name not in self._names:
            assert flags & O_CREAT, path
            self._names[name] = File()
            self._unsure_names.append(dict(self._names))
        if flags & O_TRUNC:
            self._names[name].write(0, None)
        return self._names[name]

    def states(self, rng: Random, *, random: int) -> Iterator[State]:
        """The least and the most that a cut leaves, each with old and new names, and some of what
        is between."""
        for names in (self._sure_names, self._names):
            yield {name: file.sure for name, file in names.items()}
            yield {name: file.now for name, file in names.items()}
        for _ in range(random):
            names = rng.choice([self._sure_names, *self._unsure_names])
            yield {name: file.some(rng) for name, file in names.items()}
