"""What doctor says of counters, how it ends, and what a start says by itself."""

import json
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from idservice import errors
from idservice.catalogue import doctor, rules
from idservice.catalogue.changes import (
    Change,
    Configure,
    Fence,
    FinishAdoption,
    MoveAway,
    Reshard,
    SetNext,
)
from idservice.catalogue.counters import new_counter
from idservice.catalogue.doctor import judge
from idservice.core.epoch import gone_back, sealed
from idservice.stores import open_store
from idservice.stores.findings import Finding
from idservice.stores.records import Adopted, Counter, ShardState
from tests import served
from tests.cli.test_main import Run, _here, assert_refused, run
from tests.processes import Serving, until
from tests.simulation.serving import elsewhere
from tests.simulation.store import SimStore, Table
from tests.stores.backends import Chained, Simulated

__all__ = ["_here", "run"]  # fixtures, used by name

RANDOM = Random(1)
NOW = 1e9


def counter(**settings: object) -> Counter:
    return new_counter("orders", RANDOM, **settings)  # type: ignore[arg-type]


def only(found: list[Finding]) -> Finding:
    (one,) = found
    return one


def test_a_counter_in_order_is_not_mentioned() -> None:
    entry = counter()
    assert judge(entry, [ShardState(entry.epoch, 5, 5)], "", NOW) == []
    assert judge(entry, [ShardState(entry.epoch, 9, 5)], "", NOW) == [], (
        "an old endpoint may be ahead"
    )
    for state in ("suspended", "deleted"):
        closed = replace(entry, state=state)
        assert judge(closed, [ShardState(sealed(entry.epoch), 5, 5)], "", NOW) == []


@pytest.mark.parametrize(
    ("stand", "part", "command"),
    [
        (None, "no position", "--past N"),
        (ShardState("1.x", None, 5), "is not a number", "--past N"),
        (ShardState("1.x", 5, None), "is not a number", "--past N"),
        (ShardState("1.x", 4, 5), "stands at 4, below its mark 5", "--ahead N"),
        (ShardState(gone_back("1.x"), 4, 5), "went back", "--ahead N"),
        (ShardState(gone_back("1.x"), 5, 5), "went back", "--past N"),  # nor is its mark known
        (ShardState("1.another", 5, 5), "carries the epoch '1.another'", "--past N"),
        (ShardState("7.later", 5, 5), "carries the epoch '7.later'", "--past N"),
        (ShardState(sealed("2.x"), 5, 5), "sealed:2.x", "--past N"),
        (ShardState(None, 5, 5), "carries the epoch None", "--past N"),
    ],
)
def test_a_position_that_disagrees_with_its_entry_is_a_fault(
    stand: ShardState | None, part: str, command: str
) -> None:
    entry = replace(counter(), epoch="1.x")
    one = only(judge(entry, [stand], " --store s", NOW))
    assert (one.level, one.about) == ("fault", "position")
    assert part in one.found
    assert one.run.startswith("idservice fence orders")
    assert one.run.endswith(f"{command} --store s")
    assert one.why


def test_each_shard_is_looked_at() -> None:
    entry = replace(counter(), shards=3, epoch="1.x")
    found = judge(entry, [ShardState("1.x", 5, 5), None, ShardState("1.x", 4, 5)], "", NOW)
    assert ["shard 1" in found[0].found, "shard 2" in found[1].found] == [True, True]


@pytest.mark.parametrize(
    ("wish", "command"),
    [
        (SetNext(next=500), "set orders --next 500"),
        (SetNext(next=3, lower=True), "set orders --next 3 --allow-lower"),
        (Reshard(shards=4), "reshard orders --shards 4"),
        (Configure(state="suspended"), "suspend orders"),
        (Fence(past=99), "fence orders --past 99"),
        (Configure(limit=4000), "configure orders --limit 4000"),
    ],
)
def test_an_unfinished_change_is_found_with_the_command_that_finishes_it(
    wish: Change, command: str
) -> None:
    entry = counter()
    begun = rules.begun(entry, replace(wish, by="ann"), [ShardState(entry.epoch, 5, 5)], RANDOM)
    one = only(judge(begun, [ShardState(entry.epoch, 5, 5)], "", NOW))
    assert (one.level, one.about, one.run) == ("warning", "change", f"idservice {command}")
    assert "by ann" in one.found


@pytest.mark.parametrize(
    ("at", "until", "level"),
    [(0, None, "advice"), (-61, None, "warning"), (-300, 10, "advice"), (-300, -61, "warning")],
)
def test_a_change_that_is_carried_out_is_nothing_to_act_on(
    at: float, until: float | None, level: str
) -> None:
    entry, stands = counter(), [ShardState("1.x", 5, 5)]
    begun = rules.begun(entry, SetNext(next=3, lower=True), stands, RANDOM)
    assert begun.last_change is not None
    times = [None if s is None else datetime.fromtimestamp(NOW + s, UTC) for s in (at, until)]
    changed = replace(begun.last_change, at=times[0], until=times[1])
    assert only(judge(replace(begun, last_change=changed), stands, "", NOW)).level == level
    older = replace(changed, epoch="0.x")  # of the change before, as an older version leaves it
    assert only(judge(replace(begun, last_change=older), stands, "", NOW)).level == "warning"


def test_an_adoption_that_stands_still_is_told_with_what_finishes_it() -> None:
    entry = counter(adopted=Adopted("t", (("k", "S", "v"),), "a", "old"))
    begun = rules.begun(entry, FinishAdoption(), [ShardState(entry.epoch, 5, 5)], RANDOM)
    one = only(judge(begun, [ShardState(entry.epoch, 5, 5)], "", NOW))
    assert one.run == "idservice adopt --finish orders"


def test_a_counter_on_its_way_to_another_store_is_told_until_it_arrived() -> None:
    entry = counter()
    stand = ShardState(entry.epoch, 5, 5)
    begun = rules.begun(entry, MoveAway(to="sqlite:/a b.db"), [stand], RANDOM)
    command = "idservice move orders --to 'sqlite:/a b.db' --store s"
    assert only(judge(begun, [stand], " --store s", NOW)).run == command
    done = rules.done(rules.based(begun, [stand], None))
    closed = [ShardState(sealed(done.epoch), 5, 5)]
    one = only(judge(done, closed, " --store s", NOW))
    assert (one.level, one.about, one.run) == ("warning", "move", command)
    assert judge(rules.arrived(done), closed, "", NOW) == []


@pytest.mark.parametrize(
    ("next", "part"), [(93, ""), (94, ""), (95, "5 ids are left"), (100, "its limit is reached")]
)
def test_a_limit_that_is_nearly_reached_is_told(next: int, part: str) -> None:
    entry = counter(limit=99)
    found = judge(entry, [ShardState(entry.epoch, next, next)], " --store s", NOW)
    assert bool(found) == bool(part)
    if found:
        assert (found[0].level, found[0].about) == ("warning", "limit")
        assert part in found[0].found
        assert found[0].run == "idservice configure orders --limit N --store s"


# --- over a store ---------------------------------------------------------------------------------


async def test_every_counter_is_looked_at_the_deleted_ones_too() -> None:
    data = Table()
    data.init(new_counter("default", RANDOM))
    for number in range(50):
        data.create(new_counter(f"c{number}", RANDOM))
    store = SimStore(Random(1), data)
    assert only(await doctor.examine(store, time.time)).found.startswith("51 in use")
    data.set_by_hand("c7", mark=9)
    del data.positions["c9", 0]
    data.entries["c9"] = replace(data.entries["c9"], state="deleted")
    found = await doctor.examine(store, time.time)
    assert [one.found.split(":")[0] for one in found] == ["counter c7", "counter c9"]


class Changing(SimStore):
    """A store whose counter is changed once it was listed."""

    async def counters(self) -> list[Counter]:
        listed = await super().counters()
        await elsewhere(self.data, SetNext(next=500), "default")
        return listed


async def test_a_counter_that_is_changed_meanwhile_is_no_fault() -> None:
    data = Table()
    data.init(new_counter("default", RANDOM))
    assert only(await doctor.examine(Changing(Random(1), data), time.time)).level == "ok"


class Unread(SimStore):
    """A store that lists its counters and then reads nothing more."""

    async def shard_state(self, counter: Counter, shard: int) -> ShardState | None:
        raise errors.NotApplied(store="sim:", action="reading", why="throttled")


async def test_a_position_that_cannot_be_read_is_a_warning_and_no_traceback() -> None:
    data = Table()
    data.init(new_counter("default", RANDOM))
    one = only(await doctor.examine(Unread(Random(1), data), time.time))
    assert (one.level, one.about) == ("warning", "position")
    assert "throttled" in one.found


async def test_of_a_service_as_the_store_it_tells_what_the_service_shows() -> None:
    backend = Chained()
    async with backend.open() as store:
        found = await doctor.examine(store, time.time)
        assert {one.level for one in found} == {"ok"}
        assert {one.about for one in found} == {"central", "counters"}


async def test_a_service_that_shows_nothing_or_cannot_serve_is_told_so() -> None:
    data = Simulated()
    data.data.init(new_counter("default", RANDOM, strict=True))
    async with (
        served.served(data.open(), control=False) as service,
        open_store(service.url) as store,
    ):
        found = await doctor.examine(store, time.time)
    assert [one.level for one in found] == ["ok", "advice"]
    assert "where the central runs" in found[1].why


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_what_is_found_and_ends_by_the_worst(run: Run, tmp_path: Path) -> None:
    assert run("init").code == 0
    said = run("doctor")
    assert said.code == 0
    assert said.out.splitlines()[-1].startswith("fault 0, warning 0, advice")
    database = sqlite3.connect(tmp_path / "idservice.db")
    database.execute("UPDATE position SET next = 3, mark = 9")
    database.commit()
    database.close()
    said = run("doctor")
    assert said.code == 1
    first = said.out.splitlines()[:3]
    assert first[0].startswith("fault    position: counter default: it stands at 3")
    assert first[2].strip() == "idservice fence default --ahead N --store sqlite:idservice.db"
    found = json.loads(run("doctor", "--json").out)
    assert found["store"] == "sqlite:idservice.db"
    assert found["findings"][0]["level"] == "fault"
    assert set(found["findings"][0]) == {"level", "about", "found", "why", "run"}


def test_a_missing_store_is_a_finding_and_no_error(run: Run, tmp_path: Path) -> None:
    said = run("doctor", "--store", "sqlite:none.db")
    assert (said.code, said.err) == (1, "")
    assert "idservice init" in said.out
    assert not (tmp_path / "none.db").exists()
    assert_refused(run("doctor", "--store", "other:x"), 2, "other:x")


# --- at a start -----------------------------------------------------------------------------------


@pytest.mark.process
def test_a_start_says_by_itself_what_is_quickly_seen(folder: Path) -> None:
    (folder / "ids.db").chmod(0o666)
    with Serving(folder, "--store", "sqlite:ids.db") as serving:
        said = serving.await_log("store_examined")
        assert said["level"] == "warning"
        assert "written by every user" in said["message"]
        assert "`idservice doctor --store sqlite:ids.db`" in said["message"]
        serving.await_log("listening")
        assert len(serving.records("store_examined")) == 1


@pytest.mark.process
async def test_of_several_workers_one_says_it(folder: Path) -> None:
    (folder / "ids.db").chmod(0o666)
    with Serving(folder, "--store", "sqlite:ids.db", "--workers", "2") as serving:
        await until(lambda: len(serving.records("worker_started")) == 2, what=serving.output)
        assert len(serving.records("store_examined")) == 1
