"""A counter goes from one store to another: whoever dies at any step, and however often it is
begun, its ids are granted in one place at most, and go on above."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from idservice import errors
from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.catalogue import rules
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import (
    Change,
    Configure,
    Delete,
    Fence,
    FinishAdoption,
    MoveAway,
    SetNext,
)
from idservice.catalogue.counters import ensure, new_counter
from idservice.catalogue.mover import CounterMover
from idservice.catalogue.renewals import CreateAgain
from idservice.server.startup import build_instance
from idservice.stores.records import Adopted, Counter, Move
from tests.simulation.loop import elapse, run
from tests.simulation.serving import table
from tests.simulation.store import Faults, SimStore, Table

TO = "sqlite:/there.db"
NAME = "orders"
CALLS = 80  # more than a move makes


class Died(BaseException):
    """The process ended here."""


class Dying(SimStore):
    """A handle of a process that dies at one of its calls, before or after that was applied."""

    calls_made = 0  # over all handles of the process
    dies_at = -1
    applied = False
    between: Callable[[], None] = staticmethod(lambda: None)

    async def _call(self, action: str, apply: Any) -> Any:
        kind = type(self)
        kind.between()
        number = kind.calls_made
        kind.calls_made += 1
        if number == kind.dies_at and not kind.applied:
            raise Died
        answer = await super()._call(action, apply)
        if number == kind.dies_at:
            raise Died
        return answer


class Two:
    """Two stores, and what was granted at either."""

    def __init__(self, **configuration: Any) -> None:
        self.source, self.target = table(NAME, **configuration), table("default")
        self.got: list[int] = []
        self.seen = set[int]()

    def mover(self, kind: type[SimStore] = SimStore, faults: Faults | None = None) -> CounterMover:
        source, target = (kind(Random(1), data, faults) for data in (self.source, self.target))
        return CounterMover(source, target, to=TO, random=Random(2), stale_s=60.0)

    def grant(self, data: Table) -> bool:
        """Take three ids, as any instance could that has read the entry as it is."""
        entry = data.entries.get(NAME)
        if entry is None or entry.target_state != "active":
            return False
        try:
            indices = data.reserve(entry, count=3, seen=0, room=10**6, shard=0)
        except errors.EpochChanged:
            return False
        ids = entry.layout().ids(indices)
        assert self.seen.isdisjoint(ids), "an id twice"
        self.seen.update(ids)
        self.got += ids
        return True

    def take(self) -> list[bool]:
        """Whether each grants, tried at once."""
        granted = [self.grant(self.source), self.grant(self.target)]
        assert granted != [True, True], "both hand out its ids"
        return granted


async def steps(store: SimStore, *, wish: Change) -> Counter:
    _, after = await EpochChanger(store, random=Random(3), stale_s=0.0).change(NAME, wish)
    return after


# --- the whole ------------------------------------------------------------------------------------


async def test_a_counter_goes_on_above_in_the_other_store_as_it_was_configured() -> None:
    two = Two(start=5, limit=900, strict=True, runway=7.0)
    two.take()
    there = await two.mover().move(NAME, by="ann", why="grown")
    assert (there.start, there.limit, there.strict, there.runway) == (5, 900, True, 7.0)
    assert (there.state, there.base, there.high) == ("active", 8, 8)
    assert two.take() == [False, True]
    assert two.got == [5, 6, 7, 8, 9, 10]
    gone = two.source.entries[NAME]
    assert gone.state == "moved"
    assert gone.move is not None
    assert (gone.move.to, gone.move.arrived) == (TO, True)
    assert there.origins == (gone.move.token,)
    same = new_counter(NAME, Random(1), start=5, limit=900, strict=True, runway=7.0)
    store = SimStore(Random(1), two.target)
    assert (await ensure(store, same, runway=30.0, random=Random(1)))[1] is False, "idempotent"


@pytest.mark.parametrize("state", ["active", "suspended"])
async def test_a_counter_arrives_with_its_shards_right_above_all_its_ids(state: str) -> None:
    two = Two(start=1000, shards=4)
    entry = two.source.entries[NAME]
    two.source.reserve(entry, count=5, seen=0, room=9, shard=3)  # up to 1000 + 3 + 4 * 4
    if state == "suspended":
        await steps(SimStore(Random(1), two.source), wish=Configure(state="suspended"))
    there = await two.mover().move(NAME)
    assert (there.shards, there.state, there.high) == (4, state, 1020)
    if state == "suspended":
        there = await steps(SimStore(Random(1), two.target), wish=Configure(state="active"))
    assert (there.shards, there.base) == (4, 1020)
    assert len({two.target.positions[NAME, shard].epoch for shard in range(4)}) == 1
    untouched = await Two(start=1000, shards=4).mover().move(NAME)
    assert untouched.base == 1000


@pytest.mark.parametrize(("here", "there"), [({"strict": True}, 4), ({"shards": 4}, 1)])
async def test_a_suspended_counter_does_not_take_over_the_shards_of_a_tombstone(
    here: dict[str, Any], there: int
) -> None:
    two = Two(**here)
    source = SimStore(Random(1), two.source)
    two.target.create(new_counter(NAME, Random(8), shards=there))
    two.target.reserve(two.target.entries[NAME], count=1, seen=0, room=9, shard=0)
    await steps(SimStore(Random(1), two.target), wish=Delete())
    _, suspended = await EpochChanger(source, random=Random(4), stale_s=0.0).change(
        NAME, Configure(state="suspended")
    )
    with pytest.raises(errors.ChangeRefused, match=rf"had {there} there\. Resume it first"):
        await two.mover().move(NAME)
    assert two.source.entries[NAME] == suspended, "nothing was closed"
    await steps(source, wish=Configure(state="active"))
    arrived = await two.mover().move(NAME)
    assert (arrived.strict, arrived.shards) == (here.get("strict", False), here.get("shards", 1))


async def test_moving_again_changes_nothing() -> None:
    two = Two()
    two.take()
    there = await two.mover().move(NAME)
    two.take()
    before = dict(two.source.entries), dict(two.target.entries), dict(two.target.positions)
    assert await two.mover().move(NAME) == there
    assert (two.source.entries, two.target.entries, two.target.positions) == before


async def test_what_was_granted_in_an_earlier_epoch_is_below_too() -> None:
    two = Two()
    two.take()
    store = SimStore(Random(1), two.source)
    await steps(store, wish=SetNext(next=5000))
    two.source.set_by_hand(NAME, next=0, mark=0)  # with what its tombstone alone knows of
    there = await two.mover().move(NAME)
    assert there.base == 5000


@pytest.mark.parametrize("how", ["suspended", "used up"])
async def test_a_suspended_or_used_up_counter_arrives_as_what_it_is(how: str) -> None:
    two = Two(limit=2 if how == "used up" else 900)
    two.take()
    if how == "suspended":
        await steps(SimStore(Random(1), two.source), wish=Configure(state="suspended"))
    there = await two.mover().move(NAME)
    assert there.limit == (2 if how == "used up" else 900)
    if how == "used up":
        assert there.layout().end == 0
        return
    assert there.state == "suspended"
    assert two.take() == [False, False]
    await steps(SimStore(Random(1), two.target), wish=Configure(state="active"))
    assert two.take() == [False, True]
    assert two.got == [0, 1, 2, 3, 4, 5]


async def test_there_and_back_again_and_there() -> None:
    two = Two()
    for _ in range(3):
        two.take()
        await two.mover().move(NAME)
        assert two.take() == [False, True]
        back = CounterMover(SimStore(Random(1), two.target), SimStore(Random(1), two.source),
                     to="sqlite:/here.db", random=Random(4), stale_s=60.0)  # fmt: skip
        await back.move(NAME)
        assert two.take() == [True, False]
    assert two.got == list(range(len(two.got)))


def test_a_lowering_that_is_under_way_waits_for_who_has_not_heard_of_it() -> None:
    async def main() -> None:
        two = Two()
        two.take()
        two.take()
        entry, loop = two.source.entries[NAME], asyncio.get_running_loop()
        stand = await SimStore(Random(1), two.source).shard_state(entry, 0)
        lowering = rules.begun(entry, SetNext(next=2, lower=True), [stand], Random(5))
        two.source.rewrite(entry, lowering)
        there = await two.mover().move(NAME)
        assert loop.time() >= 60.0, "an instance that cannot look goes on for so long"
        assert there.base == 2

    run(main())


# --- interruptions --------------------------------------------------------------------------------


def dying(at: int, *, applied: bool, between: Callable[[], None]) -> type[Dying]:
    return type(
        "DyingHere", (Dying,),
        {"dies_at": at, "applied": applied, "between": staticmethod(between), "calls_made": 0},
    )  # fmt: skip


@pytest.mark.parametrize("applied", [False, True], ids=["unsent", "unheard"])
@pytest.mark.parametrize("found", ["nothing", "tombstone", "untouched"])
def test_whoever_dies_at_any_call_leaves_what_the_same_command_finishes(
    found: str, applied: bool
) -> None:
    """Beside an instance at either store that reserves before every call."""
    died = 0

    async def main(at: int) -> bool:
        two = Two()
        if found != "nothing":
            two.target.create(new_counter(NAME, Random(8)))
        if found == "tombstone":
            store = SimStore(Random(1), two.target)
            await steps(store, wish=SetNext(next=100))
            await steps(store, wish=Delete())
        cleared = found != "untouched"  # else what is there hands out ids of its own

        def between() -> None:
            nonlocal cleared
            cleared = cleared or two.target.entries[NAME].state == "deleted"
            if cleared:
                two.take()
            else:
                two.grant(two.source)

        kind = dying(at, applied=applied, between=between)
        try:
            await two.mover(kind).move(NAME)
            return False
        except Died:
            pass
        between()
        if two.source.entries[NAME].target_state == "moved":
            assert not two.grant(two.source)
        there = await two.mover().move(NAME)
        assert two.take() == [False, True]
        assert two.target.entries[NAME] == there
        assert two.got == sorted(set(two.got)), "also those of the other store are above"
        moved = two.source.entries[NAME].move
        assert moved is not None
        assert moved.arrived
        return True

    for at in range(CALLS):
        if not run(main(at)):
            break
        died += 1
    assert 15 < died < CALLS, "every call was one to die at"


@pytest.mark.parametrize("at", range(0, 40, 3))
def test_of_two_who_die_one_after_the_other_a_third_finishes_it(at: int) -> None:
    async def main() -> None:
        two = Two()
        for later in (at, at // 2):
            kind = dying(later, applied=True, between=lambda: two.take() and None)
            try:
                await two.mover(kind).move(NAME)
            except Died:
                continue
        await two.mover().move(NAME)
        assert two.take() == [False, True]

    run(main())


async def operate(two: Two, faults: Faults, rng: Random) -> None:
    """Some commands of one operator, which are given up at any time."""
    for _ in range(4):
        command = asyncio.create_task(two.mover(SimStore, faults).move(NAME))
        await asyncio.wait({command}, timeout=rng.choice((0.05, 0.3, 3.0, 60.0)))
        command.cancel()
        (ended,) = await asyncio.gather(command, return_exceptions=True)
        if isinstance(ended, Exception) and not isinstance(ended, errors.StoreError):
            raise ended


@pytest.mark.parametrize("seed", range(60))
def test_two_operators_at_once_over_a_network_that_loses_and_repeats(seed: int) -> None:
    async def main() -> None:
        two, rng = Two(), Random(seed)
        faults = Faults(lost_before=0.1, lost_after=0.15, late_answer=0.1, repeated=0.4)

        async def take_all_the_time() -> None:
            while True:
                two.take()
                await elapse(0.02)

        taking = asyncio.create_task(take_all_the_time())
        await asyncio.gather(operate(two, faults, rng), operate(two, faults, rng))
        await elapse(15.0)  # late copies land
        await two.mover().move(NAME)
        await elapse(1.0)
        taking.cancel()
        await asyncio.wait({taking})
        if not taking.cancelled():
            taking.result()
        assert two.take() == [False, True]

    run(main(), seed=seed)


@pytest.mark.parametrize("seed", range(40))
def test_services_on_both_stores_hand_out_no_id_twice(seed: int) -> None:
    """Clients ask both all the time, whatever they are answered."""

    async def main() -> None:
        two, rng = Two(), Random(seed)
        faults = Faults(lost_after=0.1, late_answer=0.1, repeated=0.3)
        got: list[int] = []
        refused: set[str] = set()

        async def ask(service: Service) -> None:
            while True:
                try:
                    got.append(await (await service.local_counter(NAME)).next_id())
                except errors.IdserviceError as error:
                    refused.add(error.code)
                await elapse(rng.uniform(0.0, 0.2))

        limits = Limits(runway=rng.choice((1.0, 30.0)), block_max=rng.choice((3, 100)))
        (here, *_), (too, *_), (there, *_) = (
            build_instance(SimStore(Random(seed), table, faults), limits, random=rng)
            for seed, table in ((5, two.source), (6, two.source), (7, two.target))
        )
        async with here, too, there:
            clients = [asyncio.create_task(ask(each)) for each in (here, too, there)]
            await elapse(2.0)
            await asyncio.gather(operate(two, faults, rng), operate(two, faults, rng))
            await two.mover().move(NAME)
            faults.heal()
            await elapse(15.0)
            before = len(got)
            await elapse(5.0)
            assert len(got) > before, "it goes on there"
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            for gone in (here, too):
                with pytest.raises(errors.Moved, match="serve it with --store"):
                    await (await gone.local_counter(NAME)).next_id()
        assert len(got) == len(set(got)), "an id twice"
        assert {"unknown_counter", "moved"} <= refused

    run(main(), seed=seed)


# --- what is refused ------------------------------------------------------------------------------


async def test_a_name_in_use_there_is_refused_before_anything_is_closed() -> None:
    two = Two()
    two.take()
    entry = two.target.create(new_counter(NAME, Random(8)))
    two.target.reserve(entry, count=1, seen=0, room=100, shard=0)
    before = two.source.entries[NAME], two.target.entries[NAME]
    with pytest.raises(errors.ChangeRefused, match=r"in use, with other ids.*idservice delete"):
        await two.mover().move(NAME)
    assert (two.source.entries[NAME], two.target.entries[NAME]) == before
    assert two.grant(two.source)
    await steps(SimStore(Random(1), two.target), wish=Delete())
    there = await two.mover().move(NAME)
    assert there.base == 6


class Begins(SimStore):
    """A store whose counter hands out its first ids just before it is sealed."""

    async def _call(self, action: str, apply: Any) -> Any:
        if action == "seal":
            entry = self.data.entries[NAME]
            self.data.reserve(entry, count=10, seen=0, room=100, shard=0)
        return await super()._call(action, apply)


async def test_an_untouched_name_that_is_used_just_then_is_refused_too() -> None:
    two = Two()
    two.take()
    two.target.create(new_counter(NAME, Random(8)))
    source, target = SimStore(Random(1), two.source), Begins(Random(1), two.target)
    with pytest.raises(errors.ChangeRefused, match="handed out ids up to 9 just now"):
        await CounterMover(source, target, to=TO, random=Random(2), stale_s=60.0).move(NAME)
    assert two.take() == [True, False], "here it is as it was"
    there = await two.mover().move(NAME)
    assert there.base == 10


async def test_a_name_taken_at_the_target_keeps_both_closed_until_it_is_free() -> None:
    two = Two()
    two.take()
    entry = two.target.create(new_counter(NAME, Random(8)))
    store = SimStore(Random(1), two.source)
    await steps(store, wish=MoveAway(to=TO))
    two.target.reserve(entry, count=1, seen=0, room=100, shard=0)
    with pytest.raises(errors.ChangeRefused, match=r"Until then its ids are not handed out"):
        await two.mover().move(NAME)
    assert not two.grant(two.source)
    await steps(SimStore(Random(1), two.target), wish=Delete())
    await two.mover().move(NAME)
    assert two.take() == [False, True]


async def test_a_counter_created_at_the_target_meanwhile_has_ids_of_its_own() -> None:
    """It is in use there, as any other of its name in another store: the guide warns of it."""
    two = Two()
    two.take()
    await two.mover()._leave(two.source.entries[NAME], MoveAway(to=TO))
    there = SimStore(Random(1), two.target)
    created, new = await ensure(there, new_counter(NAME, Random(8)), runway=30.0, random=Random(1))
    assert new
    indices = two.target.reserve(created, count=9, seen=0, room=100, shard=0)
    assert list(created.layout().ids(indices))[:3] == two.got, "the same ids, in two stores"
    with pytest.raises(errors.ChangeRefused, match=r"with other ids.*delete it there first"):
        await two.mover().move(NAME)
    assert not two.grant(two.source)
    await steps(there, wish=Delete())
    await two.mover().move(NAME)
    assert two.take() == [False, True]
    assert two.got[-3:] == [9, 10, 11], "above both"


async def test_a_move_that_is_under_way_goes_only_where_it_was_begun_to() -> None:
    two = Two()
    await steps(SimStore(Random(1), two.source), wish=MoveAway(to="sqlite:/elsewhere.db"))
    with pytest.raises(errors.Moved, match=r"move orders --to 'sqlite:/elsewhere\.db'"):
        await two.mover().move(NAME)
    assert two.take() == [False, False]


async def test_a_moved_counter_cannot_be_changed_but_its_tombstone_is_fenced() -> None:
    two = Two()
    two.take()
    store = SimStore(Random(1), two.source)
    await steps(store, wish=MoveAway(to=TO))
    for wish in (
        SetNext(next=99), Configure(state="suspended"), Configure(state="active"),
        Delete(), Configure(runway=9.0),
        CreateAgain(wanted=new_counter(NAME, Random(1))),
    ):  # fmt: skip
        with pytest.raises(errors.Moved, match=r"is being moved to sqlite:/there\.db"):
            await steps(store, wish=wish)
    with pytest.raises(errors.Moved):
        await ensure(store, new_counter(NAME, Random(1)), runway=30.0, random=Random(1))
    fenced = await steps(store, wish=Fence(past=700))
    assert (fenced.state, fenced.high) == ("moved", 701)
    there = await two.mover().move(NAME)
    assert there.base == 701
    assert two.take() == [False, True]


async def test_nothing_arrives_at_a_store_that_its_name_is_just_leaving() -> None:
    two = Two()
    two.target.create(new_counter(NAME, Random(8)))
    await steps(SimStore(Random(1), two.target), wish=MoveAway(to="sqlite:/far.db"))
    with pytest.raises(errors.ChangeRefused, match=r"moved from .* to sqlite:/far\.db"):
        await two.mover().move(NAME)
    assert two.take() == [True, False]


async def test_an_adopted_counter_is_moved_only_when_its_old_endpoint_is_off() -> None:
    old = Adopted("t", (("k", "S", "v"),), "a", "old")
    two = Two(adopted=old)
    with pytest.raises(errors.ChangeRefused, match="adopt --finish orders"):
        await two.mover().move(NAME)
    assert NAME not in two.target.entries
    two.take()
    await steps(SimStore(Random(1), two.source), wish=FinishAdoption())
    there = await two.mover().move(NAME)
    assert (there.adopted, there.home, there.base) == (None, None, 3)


async def test_a_counter_is_not_moved_to_where_it_is() -> None:
    two = Two()
    two.target = two.source
    before = two.source.entries[NAME]
    with pytest.raises(errors.Usage, match="is in already"):
        await two.mover().move(NAME)
    assert two.source.entries[NAME] == before
    with pytest.raises(errors.UnknownCounter):
        await two.mover().move("nobody")


async def test_a_lost_position_is_not_moved_until_it_is_fenced() -> None:
    two = Two()
    del two.source.positions[NAME, 0]
    with pytest.raises(errors.PositionMissing):
        await two.mover().move(NAME)
    assert two.source.entries[NAME].state == "active"


async def test_a_target_that_was_lost_on_the_way_may_be_made_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    two = Two()
    two.take()
    await steps(SimStore(Random(1), two.source), wish=MoveAway(to=TO))
    two.target = table("default")
    there = await two.mover().move(NAME)
    assert there.base == 3
    assert "ids from 3 on repeat" in caplog.text, "nobody here knows whether it had arrived"
    two.target = table("default")
    with pytest.raises(errors.ChangeRefused, match="is not there any more"):
        await two.mover().move(NAME)


async def test_an_arrival_that_the_source_cannot_be_told_of_is_one_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    two = Two()

    class Lost(SimStore):
        """It goes away once the counter has left it."""

        async def entry(self, name: str) -> Counter | None:
            if name in two.target.entries and two.target.entries[name].origins:
                raise errors.StoreReplaced(store="sim:", why="gone")
            return await super().entry(name)

    source, target = Lost(Random(1), two.source), SimStore(Random(1), two.target)
    there = await CounterMover(source, target, to=TO, random=Random(2), stale_s=60.0).move(NAME)
    assert there.state == "active"
    assert "could not note it" in caplog.text
    left = two.source.entries[NAME].move
    assert left is not None
    assert not left.arrived
    assert await two.mover().move(NAME) == there
    assert two.take() == [False, True]


async def test_an_arrival_not_noted_does_not_count_once_the_counter_moved_on() -> None:
    two, far = Two(), table("default")

    class Forgets(CounterMover):
        async def _note_arrival(self, name: str, move: Move) -> None:
            """It died just before."""

    def stores(*data: Table) -> list[SimStore]:
        return [SimStore(Random(1), each) for each in data]

    await Forgets(*stores(two.source, two.target), to=TO, random=Random(2), stale_s=60.0).move(NAME)
    onward = CounterMover(
        *stores(two.target, far), to="sqlite:/far.db", random=Random(3), stale_s=60.0
    )
    await onward.move(NAME)
    await CounterMover(*stores(far, two.target), to=TO, random=Random(4), stale_s=60.0).move(NAME)
    await onward.move(NAME)
    there = await two.mover().move(NAME)
    assert there.state == "moved"
    assert [two.grant(data) for data in (two.source, two.target, far)] == [False, False, True]
    told = two.source.entries[NAME].move
    assert told is not None
    assert told.arrived


async def test_an_entry_that_never_moved_is_readable_by_earlier_versions() -> None:
    written = msgspec.to_builtins(new_counter(NAME, Random(1)))
    assert not {"move", "origins", "home"} & set(written)
    two = Two()
    await two.mover().move(NAME)
    assert "move" in msgspec.to_builtins(two.source.entries[NAME])
