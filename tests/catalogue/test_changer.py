"""How a change is carried out when the store fails, repeats, or somebody else is faster."""

import asyncio
import logging
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.catalogue import rules
from idservice.catalogue.changer import TRIES, EpochChanger
from idservice.catalogue.changes import Configure, Fence, Reshard, SetNext
from idservice.stores.records import Adopted, Counter
from tests.simulation.loop import elapse, run
from tests.simulation.serving import table
from tests.simulation.store import Faults, SimStore, Table

SUSPEND = Configure(state="suspended")


def changer(data: Table, faults: Faults | None = None, *, stale_s: float = 60.0) -> EpochChanger:
    return EpochChanger(SimStore(Random(1), data, faults), random=Random(2), stale_s=stale_s)


async def granted(data: Table, count: int) -> None:
    entry = data.entries["orders"]
    await SimStore(Random(1), data).reserve(entry, count=count, seen=0, room=10**6)


def test_ids_go_down_only_when_every_instance_has_heard_or_stopped() -> None:
    async def main() -> None:
        data = table()
        await granted(data, 100)
        wish = SetNext(next=5, lower=True)
        changing = asyncio.create_task(changer(data).change("orders", wish))
        await elapse(59.0)
        assert data.positions["orders", 0].epoch.startswith("sealed:2.")
        assert data.entries["orders"].epoch.startswith("1.")
        _, after = await changing
        assert asyncio.get_running_loop().time() >= 60.0
        assert after.base == 5

    run(main())


def test_a_change_that_waits_logs_for_how_long(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "idservice.change")

    async def main() -> None:
        data = table()
        await granted(data, 100)
        store = SimStore(Random(2), data)
        made = EpochChanger(store, random=Random(3), stale_s=60.0, clock=lambda: 1e9)
        wish = SetNext(next=5, lower=True, by="ann@desk", why="a typo")
        await made.change("orders", wish)

    run(main())
    waits = [one for one in caplog.records if getattr(one, "action", "") == "change_waits"]
    (said,) = [one.getMessage() for one in waits]
    assert said == (
        "counter orders: set by ann@desk at 2001-09-09 01:46:40 UTC (a typo) waits 60 s, until each"
        " instance has read of it or stopped serving"
    )


async def lowering() -> tuple[Table, EpochChanger, asyncio.Task[Any]]:
    """A change that lowers ids, a second after its begin: the table, its changer and its task."""
    data = table()
    await granted(data, 100)
    made = changer(data)
    changing = asyncio.create_task(made.change("orders", SetNext(next=5, lower=True)))
    await elapse(1.0)
    return data, made, changing


def test_a_wait_is_logged_once_however_often_it_is_carried_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each change that was sent over HTTP meanwhile logged it once more."""
    caplog.set_level(logging.INFO, "idservice.change")

    async def main() -> None:
        _, made, first = await lowering()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(4.0):
                    await made.carry_out("orders")
        await first

    run(main())
    waits = [one for one in caplog.records if getattr(one, "action", "") == "change_waits"]
    assert len(waits) == 1


@pytest.mark.parametrize("ends", ["here", "elsewhere"])
def test_a_change_that_is_over_takes_no_memory(ends: str) -> None:
    """A process that serves for years sees many of them, also such as another one ends."""

    async def main() -> None:
        data, made, changing = await lowering()
        if ends == "elsewhere":
            changing.cancel()
            await changer(data).carry_out("orders")
            await made.carry_out("orders")
        else:
            await changing
        assert data.entries["orders"].base == 5
        assert not made._seals

    run(main())


def test_a_longer_runway_of_the_counter_itself_is_waited_for() -> None:
    async def main() -> None:
        data = table(runway=300.0)
        await granted(data, 100)
        await changer(data).change("orders", SetNext(next=5, lower=True))
        assert asyncio.get_running_loop().time() >= 600.0

    run(main())


def test_who_takes_over_waits_from_when_it_saw_the_seals_itself() -> None:
    async def main() -> None:
        data = table()
        await granted(data, 100)
        first = asyncio.create_task(changer(data).change("orders", SetNext(next=5, lower=True)))
        await elapse(30.0)
        first.cancel()
        await changer(data).carry_out("orders")
        assert asyncio.get_running_loop().time() >= 90.0
        assert data.entries["orders"].base == 5

    run(main())


def test_nobody_waits_where_ids_go_up() -> None:
    async def main() -> None:
        data = table()
        await granted(data, 100)
        await changer(data).change("orders", SetNext(next=100, lower=True))
        assert asyncio.get_running_loop().time() < 1.0

    run(main())


@pytest.mark.parametrize("seed", range(40))
def test_a_change_is_made_once_whatever_the_network_loses_and_repeats(seed: int) -> None:
    async def main() -> None:
        data = table()
        await granted(data, 100)
        faults = Faults(lost_before=0.1, lost_after=0.2, late_answer=0.1, repeated=0.5)
        store = SimStore(Random(seed), data, faults)
        try:
            _, after = await EpochChanger(store, random=Random(seed), stale_s=60.0).change(
                "orders", SetNext(next=500)
            )
        except errors.OutcomeUnknown:
            after = await changer(data).carry_out("orders")
        await elapse(30.0)
        assert data.entries["orders"] == after
        assert after.ordinal in (1, 2)
        assert after.intent is None

    run(main(), seed=seed)


class Gone(SimStore):
    """A store that answers nothing any more, from some call on."""

    def __init__(self, *arguments: Any, left: int) -> None:
        super().__init__(*arguments)
        self.left = left

    async def _call(self, action: str, apply: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            kind = errors.NotApplied if action == "read" else errors.OutcomeUnknown
            raise kind(store=self.address, action=action, why="it is gone")
        return await super()._call(action, apply)


class Refusing(Gone):
    """A store that does one more call without an answer, and then refuses every one."""

    async def _call(self, action: str, apply: Any) -> Any:
        if self.left < 0:
            raise errors.NotApplied(store=self.address, action=action, why="it is throttled")
        if self.left == 0 and action != "read":
            apply(False)
        return await super()._call(action, apply)


@pytest.mark.parametrize("kind", [Gone, Refusing])
@pytest.mark.parametrize("left", range(12))
def test_whatever_an_operator_got_done_before_the_store_went_away_is_finished_later(
    left: int, kind: type[Gone]
) -> None:
    async def main() -> None:
        data = table()
        await granted(data, 100)
        dying = EpochChanger(kind(Random(1), data, left=left), random=Random(2), stale_s=0.0)
        outcome = ""
        try:
            await dying.change("orders", SetNext(next=500))
        except errors.StoreError as error:
            outcome = error.outcome
        if data.entries["orders"].intent is not None:
            assert outcome == errors.UNKNOWN
        before = data.entries["orders"]
        after = await changer(data).carry_out("orders")
        assert after.intent is None
        assert after.base == (500 if before.intent or before.base else 0)
        if after.base:
            assert data.positions["orders", 0].epoch == after.epoch
            assert data.positions["orders", 0].next == 0

    run(main())


def test_two_operators_at_once_both_find_it_done() -> None:
    async def main() -> None:
        data = table()
        await granted(data, 100)
        both = await asyncio.gather(
            changer(data, Faults()).change("orders", SUSPEND),
            changer(data, Faults()).change("orders", SUSPEND),
        )
        assert {after.state for _, after in both} == {"suspended"}
        assert data.entries["orders"].ordinal == 2, "one change was enough"

    run(main())


class Meddled(Table):
    """A table in which a hand undoes every seal."""

    def seal(self, counter: Counter, *arguments: Any) -> None:
        super().seal(counter, *arguments)
        self.set_by_hand(counter.name, epoch="9.hand")


def test_a_change_that_cannot_be_carried_out_gives_up_and_says_why() -> None:
    async def main() -> None:
        data = Meddled()
        ready = table()
        data.recorded, data.entries, data.positions = ready.recorded, ready.entries, ready.positions
        with pytest.raises(errors.OutcomeUnknown, match=r"9\.hand") as refused:
            await changer(data).change("orders", SUSPEND)
        assert "begun and not done" in str(refused.value)
        assert data.entries["orders"].intent is not None

    run(main())
    assert TRIES < 20


def test_who_begins_over_another_s_intent_finishes_that_first() -> None:
    async def main() -> None:
        data = table()
        await granted(data, 100)
        entry = data.entries["orders"]
        found = [data.shard_state(entry, 0)]
        data.rewrite(entry, rules.begun(entry, SetNext(next=500), found, Random(1)))
        before, after = await changer(data).change("orders", Fence(ahead=1))
        assert (before.base, before.ordinal) == (500, 2)
        assert (after.base, after.ordinal) == (501, 3)

    run(main())


class Overtaken(SimStore):
    """A store in which another operator writes an intent just before the first one of ours."""

    async def rewrite(self, before: Counter, after: Counter) -> bool:
        if self.data.entries["orders"].rev == 0:
            found = [self.data.shard_state(before, 0)]
            theirs = rules.begun(before, SetNext(next=500, by="ann"), found, Random(1))
            assert self.data.rewrite(before, theirs)
        return await super().rewrite(before, after)


def test_a_change_that_follows_no_other_is_refused_though_it_was_overtaken() -> None:
    """It had found no other one under way. Its own intent was refused, and it followed."""

    async def main() -> None:
        data = table()
        await granted(data, 100)
        overtaken = EpochChanger(Overtaken(Random(1), data), random=Random(2), stale_s=0.0)
        for _ in range(2):  # the second time, it finds the other one at once
            with pytest.raises(errors.Changing, match="set by ann") as refused:
                await overtaken.begin("orders", SetNext(next=5, lower=True))
            assert refused.value.outcome == errors.NOT_APPLIED
            intent = data.entries["orders"].intent
            assert intent is not None
            assert intent.floor == 500, "the other one is left as it was"
            assert data.positions["orders", 0].epoch.startswith("1.")
        await overtaken.carry_out("orders")
        assert (data.entries["orders"].base, data.entries["orders"].ordinal) == (500, 2)

    run(main())


def test_a_command_that_was_overtaken_follows_the_other_change() -> None:
    async def main() -> None:
        data = table()
        await granted(data, 100)
        overtaken = EpochChanger(Overtaken(Random(1), data), random=Random(2), stale_s=0.0)
        before, after = await overtaken.change("orders", SetNext(next=600))
        assert (before.base, before.ordinal) == (500, 2)
        assert (after.base, after.ordinal) == (600, 3)

    run(main())


def test_who_wants_shards_of_an_adopted_counter_is_not_told_to_fence_it() -> None:
    async def main() -> None:
        data = table(adopted=Adopted("old", (("id", "S", "x"),), "value", "old"))
        before = data.entries["orders"]
        with pytest.raises(errors.ChangeRefused, match="old endpoint"):
            await changer(data).change("orders", Reshard(shards=2))
        assert data.entries["orders"] == before

    run(main())
