"""The power cut: after every call to the kernel, what a disk may hold is opened by the real store,
and nothing that an instance was told may be untrue there.

Not proven: a disk that says "synced" and lies, and file systems that reorder names.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar
from unittest import mock

from idservice import errors
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Configure
from idservice.stores.records import ACTIVE, SUSPENDED, Counter
from idservice.stores.sqlite.connection import FileConnection
from idservice.stores.sqlite.store import SQLiteStore
from tests.prove.disk import Disk, Event, State, read_record
from tests.prove.power_run import DATABASE, NAMES, TOLD
from tests.prove.power_tallies import KnownTallies
from tests.prove.verdict import Progress, Verdict
from tests.simulation.checker import Violation

SOURCE = Path(__file__).with_name("recorder.c")
MEMORY = Path("/dev/shm")  # nothing of ours needs a disk: what would be on it is computed
RUN_S = 120.0
RANDOM_STATES = 3  # of what is between the least and the most, after each call

T = TypeVar("T")


@dataclass
class Known:
    """What was known of one counter when the power went."""

    held: set[int] = field(default_factory=set)  # ids that an instance may hand out, or has
    ordinal: int = 1
    state: str = ACTIVE
    changing: bool = False  # somebody was at it: it may or may not be done


def why_no_power_cut() -> str:
    """Why power cuts cannot be made here; empty where they can."""
    if sys.platform != "linux":
        return "power cuts are made on Linux only"
    return "" if shutil.which("cc") else "there is no C compiler (cc)"


def prove_power(
    *, steps: int, seed: int, pragmas: Sequence[str] = (), quiet: bool = False
) -> Verdict:
    """Cut the power after every call of a run of `steps` operations, until something is broken."""
    again = f"make prove ARGS='power --steps {steps} --seed {seed}'"
    verdict = Verdict("power", seed, again)
    if missing := why_no_power_cut():
        verdict.violations.append(f"not proven: {missing}")
        return verdict
    with _folder() as folder:
        record = _recorded(folder, seed, steps, pragmas)
        checked: Tally[str] = Tally()
        try:
            progress = Progress("power", quiet=quiet)
            with mock.patch.object(FileConnection, "run", _at_once):
                asyncio.run(_cut_everywhere(folder, record, seed, checked, progress))
        except Violation as violation:
            verdict.violations.append(str(violation))
    verdict.figures.append(
        f"{steps} operations, {len(record)} calls to the kernel,"
        f" {checked['states']} different disks opened, {checked['ids']} ids held in them at"
        f" most, {checked['adds']} adds told"
    )
    return verdict


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name) / "disk"
        folder.mkdir()
        yield folder


def _recorded(folder: Path, seed: int, steps: int, pragmas: Sequence[str]) -> list[Event]:
    """Run the program to its end, with all that it asks of the kernel written down."""
    library, log = folder.parent / "recorder.so", folder.parent / "record"
    build = ["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl", "-lpthread"]
    subprocess.run(build, check=True, timeout=RUN_S)
    root = Path(__file__).parent.parent.parent
    subprocess.run(
        [sys.executable, "-m", "tests.prove.power_run", folder, str(seed), str(steps), *pragmas],
        check=True, timeout=RUN_S, cwd=root,
        env={
            **os.environ, "LD_PRELOAD": str(library),
            "RECORD_FOLDER": str(folder), "RECORD_LOG": str(log),
        },
    )  # fmt: skip
    return list(read_record(log))


async def _at_once(_: FileConnection, function: Callable[..., T], *arguments: object) -> T:
    """Call a function here and not on a thread: what it finds in a file is the same, and the
    switches took more time than all the rest."""
    return function(*arguments)


async def _cut_everywhere(
    folder: Path, record: list[Event], seed: int, checked: Tally[str], progress: Progress
) -> None:
    disk, rng = Disk(str(folder)), Random(seed)
    known: dict[str, Known] = {}
    tallies = KnownTallies()
    told, seen = 0, set()

    def is_new(files: State) -> bool:
        key = hash((told, *sorted(files.items())))
        if key in seen:
            return False
        seen.add(key)
        return True

    for number, event in enumerate(record):
        disk.happen(event)
        if event.call == "write" and event.data.startswith(b'{"what"'):
            line = json.loads(event.data)
            if not tallies.learn(line):
                _learn(known, line)
            told += 1
        for state in disk.states(rng, random=RANDOM_STATES):
            files = {name: held for name, held in state.items() if _is_on_disk(name)}
            if not is_new(files):
                continue
            checked["states"] += 1
            checked["ids"] = max(checked["ids"], sum(len(one.held) for one in known.values()))
            checked["adds"] = max(checked["adds"], tallies.told)
            when = f"after call {number} ({event.call}), seed {seed}"
            await _check(folder, files, is_new, known, tallies, when)
        progress(f"{number} of {len(record)} calls, {checked['states']} disks")


def _is_on_disk(name: str) -> bool:
    """What was told is known whatever becomes of the disk; shared memory is on none."""
    return name != TOLD and not name.endswith("-shm")


def _learn(known: dict[str, Known], line: Mapping[str, object]) -> None:
    name, ranges = str(line["name"]), line.get("ranges", [])
    assert isinstance(ranges, list)
    ids = {id for start, stop in ranges for id in range(start, stop)}
    match line["what"]:
        case "created":
            known[name] = Known()
        case "holds":
            known[name].held |= ids
        case "lets_go":
            known[name].held -= ids
        case "begins":
            known[name].changing = True
        case "changed":
            known[name].changing = False
            known[name].ordinal = int(str(line["ordinal"]))
            known[name].state = str(line["state"])


# --- one disk -------------------------------------------------------------------------------------


async def _check(
    folder: Path,
    files: State,
    is_new: Callable[[State], bool],
    known: Mapping[str, Known],
    tallies: KnownTallies,
    when: str,
) -> None:
    """Open the store on it, and take ids of every counter: none may be one that was held. Tallies
    are as they were told. What was checked before is not checked again: many disks become one and
    the same database when they are opened."""
    _lay_out(folder, files)
    async with SQLiteStore(str(folder / DATABASE)) as store:
        try:
            await store.verify()
            recovered = _recovered(folder)
            if recovered != files and not is_new(recovered):
                return
            for name in NAMES:
                await _check_counter(store, name, known.get(name), when)
            await tallies.check(store.tallies, when)
        except errors.IdserviceError as error:
            if known:
                raise Violation("opens", f"{error!r} {when}") from error


def _lay_out(folder: Path, files: State) -> None:
    """Put files in the folder; the database always in the same inode, by which it is recognised."""
    kept = folder.parent / "database"
    database = folder / DATABASE
    if database.exists():
        database.rename(kept)
    for left in folder.iterdir():
        left.unlink()
    for name, held in files.items():
        path = folder / name
        if name == DATABASE:
            kept.rename(path)
            with path.open("r+b") as file:
                file.truncate(0)
                file.write(held)
        else:
            path.write_bytes(held)


def _recovered(folder: Path) -> State:
    """What the store goes on with once it is open. A journal that is there even then is no part of
    it: SQLite found nothing to bring back in it, and the next write begins it anew."""
    names = (DATABASE, f"{DATABASE}-wal")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


async def _check_counter(store: SQLiteStore, name: str, known: Known | None, when: str) -> None:
    entry = await store.counter(name)
    if known is None:
        return
    if entry is None:
        raise Violation("lost", f"counter {name} {when}")
    if entry.ordinal < known.ordinal:
        raise Violation("lost", f"epoch {known.ordinal} of {name}: {entry} {when}")
    if entry.target_state != known.state and not known.changing:
        raise Violation("lost", f"state {known.state} of {name}: {entry} {when}")
    entry = await _put_right(store, entry)
    position = await store.position(entry)
    assert position is not None
    grant = await store.reserve(entry, count=10, seen=0, room=entry.layout().end - 10)
    claimed = await store.claim(entry, grant.rev) if grant.returned else ()
    for indices in (grant.indices, *claimed):
        again = known.held.intersection(entry.layout().ids(indices))
        if again:
            raise Violation("unique", f"{sorted(again)[:3]} of {name} granted again {when}")


async def _put_right(store: SQLiteStore, entry: Counter) -> Counter:
    """Finish what a change had begun, and leave the counter active."""
    if entry.intent is None and entry.state == ACTIVE:
        return entry
    changer = EpochChanger(store, random=Random(1), stale_s=0.0)
    entry = await changer.carry_out(entry.name)
    if entry.state == SUSPENDED:
        _, entry = await changer.change(entry.name, Configure(state=ACTIVE))
    return entry
