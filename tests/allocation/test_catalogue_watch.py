"""The looks at the catalogue: what they cost, and what they see of a store that went back."""

import asyncio
from collections import Counter as Tally
from typing import Any

import pytest

from idservice import errors
from idservice.allocation.catalogue_watch import POLL_S, POSITIONS_MAX, CatalogueWatcher
from idservice.allocation.context import Limits
from idservice.allocation.local_state import LocalState
from idservice.allocation.service import Service
from idservice.catalogue.changes import Configure
from idservice.stores.records import Counter, Position
from tests.simulation.loop import elapse, run
from tests.simulation.serving import elsewhere, serving, table
from tests.simulation.store import SimStore, Table

RUNWAY_S = Limits().runway


def watcher_of(service: Service) -> CatalogueWatcher:
    assert service._catalogue is not None
    return service._catalogue


class Following:
    """A follower that notes when it reads."""

    def __init__(self) -> None:
        self.reads = 0

    async def run(self) -> None:
        pass

    async def read_again(self) -> None:
        self.reads += 1

    def heard(self, at: float) -> None:
        pass


def test_keys_are_read_again_though_an_entry_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unread(*_: object) -> None:
        raise errors.NotAnswered(store="sim", action="reading", why="it took too long")

    async def main() -> None:
        data, following = table(), Following()
        async with serving(data) as service:
            monkeypatch.setattr(watcher_of(service), "_followers", [following])
            await service.local_counter("orders")
            await elapse(2 * POLL_S)
            before = following.reads
            monkeypatch.setattr(service.store, "entry", unread)
            await elsewhere(data, Configure(limit=10_000))
            await elapse(2 * POLL_S)
            assert following.reads > before

    run(main())


# --- positions ------------------------------------------------------------------------------------


def put_back(data: Table, shard: int, *, to: int) -> None:
    """As an older copy of the item, written over it."""
    data.set_by_hand("orders", shard, next=to, mark=to)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("how", ["put back", "deleted", "ill-formed", "closed by another"])
def test_an_idle_counter_notices_what_was_done_to_its_position(how: str, shards: int) -> None:
    async def main() -> None:
        data = table(shards=shards)
        async with serving(data) as service:
            local = await service.local_counter("orders")
            for _ in range(3):
                await local.next_id()
            [shard] = [each.layout.shard for each in local.allocator.shards if each.seen]
            match how:
                case "put back":
                    put_back(data, shard, to=0)
                case "deleted":
                    del data.positions["orders", shard]
                case "ill-formed":
                    data.set_by_hand("orders", shard, next=41.5)
                case "closed by another":
                    entry = data.entries["orders"]
                    data.close_gone_back(entry, entry.epoch, shard)
            await elapse(RUNWAY_S + 2 * POLL_S)
            assert local.state is LocalState.SUSPECT
            assert local.take() is None
            if how == "put back":  # and no command is granted them either
                assert data.positions["orders", shard].epoch.startswith("gone-back:")

    run(main())


@pytest.mark.parametrize("strict", [False, True])
def test_a_position_as_it_was_left_raises_no_suspicion(strict: bool) -> None:
    async def main() -> None:
        data = table(strict=strict)
        async with serving(data) as first, serving(data, seed=2) as second:
            for service in (first, second, first, second):
                await (await service.local_counter("orders")).next_batch(50)
            await elsewhere(data, Configure(runway=7.0))
            await elapse(5 * RUNWAY_S)
            await elsewhere(data, Configure(limit=10_000))
            await elapse(5 * RUNWAY_S)
            for service in (first, second):
                local = service.local_counters["orders"]
                assert local.state is LocalState.SERVING
                assert not local.reading().gaps.get("went_back")

    run(main())


class HeldUp(SimStore):
    """Reads a position for the first time only when ids were given back."""

    def __init__(self, *rest: Any) -> None:
        super().__init__(*rest)
        self.asked, self.given_back = asyncio.Event(), asyncio.Event()

    async def position(self, counter: Counter, shard: int = 0) -> Position | None:
        if not self.asked.is_set():
            self.asked.set()
            await self.given_back.wait()
        return await super().position(counter, shard)

    async def give_back(self, *counter: Any, **rest: Any) -> bool:
        done = await super().give_back(*counter, **rest)
        self.given_back.set()
        await elapse(1.0)
        return done


def test_a_stop_that_gives_ids_back_raises_no_suspicion() -> None:
    async def main() -> None:
        data = table()
        async with serving(data, store=HeldUp) as service:
            local = await service.local_counter("orders")
            await local.next_id()
            await elapse(RUNWAY_S + 2 * POLL_S)
            assert isinstance(service.store, HeldUp)
            assert service.store.asked.is_set()
        found = data.positions["orders", 0]
        assert (found.next, found.epoch) == (1, data.entries["orders"].epoch)

    run(main())


class Tallied(SimStore):
    """Counts the reads of each position."""

    def __init__(self, *rest: Any) -> None:
        super().__init__(*rest)
        self.reads: Tally[str] = Tally()

    async def position(self, counter: Counter, shard: int = 0) -> Position | None:
        self.reads[counter.name] += 1
        return await super().position(counter, shard)


@pytest.mark.parametrize(
    ("used", "idle", "turn_s"),
    [(1, 0, RUNWAY_S), (60, 0, RUNWAY_S), (5, 500, RUNWAY_S), (600, 0, 2 * RUNWAY_S)],
)
def test_each_position_has_its_turn_and_no_more(used: int, idle: int, turn_s: float) -> None:
    names = [f"n{number}" for number in range(used + idle)]

    async def main() -> None:
        async with serving(table(*names), store=Tallied) as service:
            store = service.store
            assert isinstance(store, Tallied)
            for name in names:
                local = await service.local_counter(name)
                if name in names[:used]:
                    await local.next_id()
            await elapse(RUNWAY_S + 2 * POLL_S)  # a first turn, of the counters in use by then
            store.reads.clear()
            await elapse(3 * turn_s)
            assert set(store.reads) == set(names[:used])
            assert set(store.reads.values()) <= {2, 3, 4}
            looks = 3 * turn_s / (0.85 * POLL_S)
            assert store.reads.total() <= looks * POSITIONS_MAX

    run(main())


# --- the store ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["another", "older"])
def test_a_store_that_was_replaced_is_refused_at_the_next_look(how: str) -> None:
    async def main() -> None:
        data = table("orders", "tickets")
        async with serving(data) as service:
            local = await service.local_counter("orders")
            await local.next_id()
            await elsewhere(data, Configure(runway=7.0), name="tickets")
            await elapse(2 * POLL_S)
            if how == "another":
                data.identity = "another"
            else:
                data.revision -= 1
            await elapse(POLL_S)
            assert local.take() is None
            with pytest.raises(errors.StoreReplaced):
                await local.next_id()
            assert service.health.up is (how == "older")

    run(main())


# --- what a look costs ----------------------------------------------------------------------------


class Watched(SimStore):
    """Counts the tasks that there are when the revision, and when each entry is read."""

    def __init__(self, *rest: Any) -> None:
        super().__init__(*rest)
        self.before, self.during = 0, [0]

    async def revision(self) -> int:
        self.before, self.during = len(asyncio.all_tasks()), [0]
        return await super().revision()

    async def entry(self, name: str) -> Counter | None:
        self.during.append(len(asyncio.all_tasks()))
        return await super().entry(name)


@pytest.mark.parametrize(("used", "tasks"), [(1, 1), (3, 3), (40, 16)])
def test_a_change_is_read_by_as_many_tasks_as_it_needs(used: int, tasks: int) -> None:
    names = [f"n{number}" for number in range(used)]

    async def main() -> None:
        async with serving(table(*names), store=Watched) as service:
            for name in names:
                await service.local_counter(name)
            await elapse(POLL_S)  # the first look finds a revision that is new to it
            store = service.store
            assert isinstance(store, Watched)
            assert max(store.during) - store.before == tasks
            assert len(store.during) - 1 == used, "every entry is read, once"

    run(main())


class FailsOnce(SimStore):
    """Cannot read an entry, once it is told so."""

    failing, read = False, 0

    async def entry(self, name: str) -> Counter | None:
        self.read += 1
        if self.failing:
            self.failing = False
            raise errors.NotAnswered(store="sim", action="reading", why="it took too long")
        return await super().entry(name)


def test_a_change_that_could_not_be_read_is_read_at_the_next_look() -> None:
    async def main() -> None:
        async with serving(table("orders"), store=FailsOnce) as service:
            await service.local_counter("orders")
            store = service.store
            assert isinstance(store, FailsOnce)
            store.failing, store.read = True, 0
            await elapse(2.5 * POLL_S)
            assert (store.failing, store.read) == (False, 2)

    run(main())


def test_a_look_that_finds_nothing_new_goes_through_no_counter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    surveys = []
    survey = CatalogueWatcher._survey

    def counted(self: CatalogueWatcher) -> None:
        surveys.append(asyncio.get_running_loop().time())
        survey(self)

    monkeypatch.setattr(CatalogueWatcher, "_survey", counted)

    async def main() -> None:
        data = table("orders", "tickets")
        async with serving(data) as service:
            await (await service.local_counter("orders")).next_id()
            await elapse(60.0)
            assert len(surveys) == 1
            await (await service.local_counter("tickets")).next_id()
            await elapse(60.0)
            assert len(surveys) == 2
            for name in ("orders", "tickets"):
                await elsewhere(data, Configure(runway=100.0), name)
            await elapse(60.0)
            assert len(surveys) == 3
            assert watcher_of(service).age.most == 200.0
            await elsewhere(data, Configure(runway=30.0))
            await elapse(60.0)
            assert watcher_of(service).age.most == 60.0

    run(main())
