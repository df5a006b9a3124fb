"""What an instance makes of a counter that is changed while it hands its ids out."""

import asyncio
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from idservice import errors
from idservice.allocation.catalogue_watch import POLL_S, STANDS_STILL_S
from idservice.allocation.context import Limits
from idservice.allocation.local_counter import SUSPECT_RECHECK_S, LocalCounter
from idservice.allocation.local_state import LocalState
from idservice.allocation.service import Service
from idservice.catalogue import rules
from idservice.catalogue.changes import Change, Configure, Delete, Fence, SetNext
from idservice.catalogue.counters import new_counter
from tests.simulation.loop import elapse, run
from tests.simulation.serving import answers_after, controlled, elsewhere, serving, table
from tests.simulation.store import Faults, SimStore

SUSPEND, RESUME = Configure(state="suspended"), Configure(state="active")
LATER = Limits(runway=30.0, wait=2.0)


async def stocked(service: Service) -> LocalCounter:
    """A counter of which ids are in memory: 0 and 1 are handed out."""
    supply = await service.local_counter("orders")
    assert [await supply.next_id(), await supply.next_id()] == [0, 1]
    assert supply.allocator.held
    return supply


def balanced(supply: LocalCounter) -> bool:
    reading = supply.reading()
    in_memory = {name: ids for name, ids in reading.gaps.items() if name not in ("unknown", "late")}
    return reading.reserved == reading.issued + reading.held + sum(in_memory.values())


def test_ids_of_an_epoch_that_is_merely_over_are_used_up_first() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await stocked(service)
            held = supply.allocator.held
            await elsewhere(data, SetNext(next=5000))
            await elapse(POLL_S + 0.1)
            assert supply.counter.ordinal == 2
            got = [await supply.next_id() for _ in range(held + 5)]
            assert got[:held] == list(range(2, held + 2))
            assert got[held:] == list(range(5000, 5005))
            assert not supply.reading().gaps
            assert balanced(supply)

    run(main())


@pytest.mark.parametrize(
    "wish",
    [Fence(ahead=7), Configure(limit=2**40), SUSPEND],
    ids=lambda wish: wish.kind,
)
def test_ids_of_a_revoked_epoch_are_dropped_within_three_seconds_and_counted(wish: Change) -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await stocked(service)
            held = supply.allocator.held
            await elsewhere(data, wish)
            await elapse(3.0)
            assert supply.reading().gaps == {"revoked": held}
            if wish is SUSPEND:
                await elsewhere(data, RESUME)
                await elapse(3.0)
            assert await supply.next_id() >= held + 2
            assert balanced(supply)

    run(main())


def test_a_fence_that_was_followed_by_another_change_still_revokes() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await stocked(service)
            held = supply.allocator.held
            await elsewhere(data, Fence(ahead=0))
            await elsewhere(data, SetNext(next=900))
            await elapse(3.0)
            assert supply.reading().gaps == {"revoked": held}
            assert await supply.next_id() == 900

    run(main())


def test_older_news_changes_nothing() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await stocked(service)
            entries = [data.entries["orders"]]
            data.on_entry = entries.append
            for wish in (SUSPEND, RESUME, SetNext(next=700), SUSPEND):
                await elsewhere(data, wish)
            supply.apply_entry(entries[-1])
            closed = supply.unavailable_reason
            assert isinstance(closed, errors.Suspended)
            for entry in reversed(entries):
                supply.apply_entry(entry)
                supply.apply_entry(replace(entry, rev=99, epoch="1.restored"))
                assert supply.counter is entries[-1]
                assert supply.unavailable_reason is closed

    run(main())


def test_a_suspended_counter_refuses_at_once_and_asks_the_store_nothing() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await stocked(service)
            await elsewhere(data, SUSPEND)
            await elapse(3.0)
            sent = len(service.store.sent)  # type: ignore[attr-defined]
            for _ in range(20):
                with pytest.raises(errors.Suspended):
                    await supply.next_id()
                with pytest.raises(errors.Suspended):
                    await supply.next_batch(50)
            await elapse(30.0)
            assert len(service.store.sent) == sent  # type: ignore[attr-defined]
            assert "suspended" in str(supply.unavailable_reason)

    run(main())


def test_a_counter_that_is_suspended_when_its_use_begins_is_refused_and_comes_alive() -> None:
    async def main() -> None:
        data = table()
        await elsewhere(data, SUSPEND)
        async with serving(data, declared=["orders"]) as service:
            await service.warm()
            supply = await service.local_counter("orders")
            with pytest.raises(errors.Suspended):
                await supply.next_id()
            await elsewhere(data, RESUME)
            await elapse(3.0)
            assert await supply.next_id() == 0

    run(main())


def test_a_deleted_counter_is_unknown_to_who_uses_it_and_to_who_comes_new() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as used, controlled(data, seed=2) as (fresh, catalogue):
            supply = await stocked(used)
            await elsewhere(data, Delete())
            await elapse(3.0)
            with pytest.raises(errors.UnknownCounter):
                await supply.next_id()
            with pytest.raises(errors.UnknownCounter):
                await fresh.local_counter("orders")
            await catalogue.create(new_counter("orders", Random(9)))
            await elapse(3.0)
            both = [await supply.next_id(), await (await fresh.local_counter("orders")).next_id()]
            assert min(both) >= 10
            assert len(set(both)) == 2

    run(main())


def test_who_waits_while_a_counter_is_changed_is_served_by_the_new_epoch() -> None:
    async def main() -> None:
        data = table()
        async with serving(data, answers_after(0.2), limits=LATER) as service:
            supply = await service.local_counter("orders")
            await supply.next_id()
            entry = data.entries["orders"]
            found = [data.shard_state(entry, 0)]
            begun = rules.begun(entry, Fence(past=99), found, Random(1))
            data.rewrite(entry, begun)
            data.seal(entry, 0, found[0], "sealed:" + begun.intent.epoch)  # type: ignore[union-attr]
            waiting = asyncio.create_task(supply.next_batch(50))
            await elapse(0.5)
            await elsewhere(data, Fence(past=99))
            blocks = await waiting
            assert blocks[0].start >= 100
            assert supply.state is LocalState.SERVING

    run(main())


def test_a_grant_that_comes_when_its_epoch_is_over_is_burnt() -> None:
    async def main() -> None:
        data = table()
        async with serving(data, answers_after(0.5), limits=LATER) as service:
            supply = await service.local_counter("orders")
            waiting = asyncio.create_task(supply.next_id())
            await elapse(0.3)  # granted by now, and on its way back
            assert data.ledger
            supply.apply_entry(await elsewhere(data, Fence(ahead=0)))
            granted = data.ledger[0].ids
            assert await waiting >= granted.stop
            assert supply.reading().gaps["late"] == len(granted)
            assert balanced(supply)

    run(main())


def test_a_request_that_was_made_but_not_sent_when_its_epoch_was_over_is_never_sent() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await stocked(service)
            entry = await elsewhere(data, Fence(past=99))
            sent = len(data.ledger)
            while supply.allocator.waits_for_store is False:
                supply.take()
            supply.apply_entry(entry)  # in the same turn of the loop, before anything is sent
            await elapse(1.0)
            assert supply.state is LocalState.SERVING, (
                "the next epoch begins below where this one ended"
            )
            assert data.positions["orders", 0].epoch == entry.epoch
            assert await supply.next_id() >= 100
            assert [grant.epoch for grant in data.ledger[sent:]] == [entry.epoch]
            assert supply.stats.reservations == {"granted": 2}, "it was sent"
            assert "late" not in supply.reading().gaps

    run(main())


def test_ids_that_end_a_doubt_are_not_of_an_epoch_that_was_revoked_meanwhile() -> None:
    """Whoever lowers a counter waits for those who have not heard of it, and for nobody else."""

    async def main() -> None:
        data, faults = table(), Faults(latency_s=(0.0, 0.0))
        async with serving(data, faults) as service:
            supply = await service.local_counter("orders")
            kept = data.positions.pop(("orders", 0))
            with pytest.raises(errors.CounterSuspect):
                await supply.next_id()
            data.positions["orders", 0] = kept
            await elapse(SUSPECT_RECHECK_S)
            faults.latency_s = (1.0, 1.0)
            waiting = asyncio.create_task(supply.next_id())
            await elapse(0.7)  # granted by now, and not heard of yet
            assert len(data.ledger) == 1
            entry = data.entries["orders"]
            wish = SetNext(next=0, lower=True)
            data.rewrite(entry, rules.begun(entry, wish, [data.shard_state(entry, 0)], Random(1)))
            supply.apply_entry(data.entries["orders"])
            with pytest.raises(errors.Changing):
                await waiting
            assert supply.take() is None
            await elapse(1.0)
            assert supply.reading().gaps == {"late": len(data.ledger[0].indices)}
            assert supply.state is LocalState.SUSPECT_CLOSED

    run(main())


def test_a_change_that_stands_still_is_finished_by_an_instance() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await stocked(service)
            entry = data.entries["orders"]
            found = [data.shard_state(entry, 0)]
            data.rewrite(entry, rules.begun(entry, SetNext(next=500), found, Random(1)))
            await elapse(POLL_S + STANDS_STILL_S - 0.5)
            assert data.entries["orders"].intent is not None, "its operator may be at it"
            await elapse(2 * POLL_S)
            assert data.entries["orders"].intent is None
            assert supply.counter.ordinal == 2

    run(main())


def test_without_the_catalogue_ids_end_after_a_minute_and_resume_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        data, faults = table(), Faults()
        async with serving(data, faults, limits=LATER) as service:
            supply = await service.local_counter("orders")
            for _ in range(200):
                await supply.next_id()
                await elapse(0.2)
            began = asyncio.get_running_loop().time()
            faults.outages = [(began, float("inf"))]
            last = began
            while asyncio.get_running_loop().time() < began + 80.0:
                if supply.take() is not None:
                    last = asyncio.get_running_loop().time()
                await elapse(2.5)
            assert began + 30.0 < last <= began + 60.0, last - began
            with pytest.raises(errors.CatalogueStale):
                await supply.next_id()
            faults.outages = []
            await elapse(10.0)
            story = [getattr(record, "action", "") for record in caplog.records]
            assert [one for one in story if one.startswith("catalogue_")] == [
                "catalogue_stale", "catalogue_read",
            ]  # fmt: skip
            assert await supply.next_id() >= 0
            assert supply.reading().gaps["stale"] > 0
            assert balanced(supply)

    run(main())


@pytest.mark.parametrize(("runway", "least"), [(5.0, 60.0), (100.0, 200.0)])
def test_its_runway_decides_how_long_a_counter_goes_on_without_the_catalogue(
    runway: float, least: float
) -> None:
    async def main() -> None:
        data, faults = table(runway=runway), Faults()
        async with serving(data, faults, limits=Limits(runway=1.0)) as service:
            supply = await service.local_counter("orders")
            await supply.next_id()
            await elapse(10.0)
            faults.outages = [(0.0, float("inf"))]
            await elapse(least - POLL_S - 0.5)
            assert supply.state is LocalState.SERVING
            await elapse(POLL_S + 1.0)
            assert supply.state is LocalState.STALE

    run(main())


def test_the_long_runway_of_another_counter_keeps_no_revoked_ids_in_use() -> None:
    """`set --allow-lower` waits for twice the counter's own runway, and then repeats ids."""

    async def main() -> None:
        data, faults = table(), Faults()
        data.create(new_counter("slow", Random(5), runway=3600.0))
        async with serving(data, faults, limits=LATER) as service:
            orders, slow = [await service.local_counter(name) for name in ("orders", "slow")]
            await orders.next_id()
            await slow.next_id()
            await elapse(10.0)
            faults.outages = [(0.0, float("inf"))]
            await elapse(60.0 + POLL_S)
            assert orders.state is LocalState.STALE
            assert slow.state is LocalState.SERVING
            await elapse(7200.0)
            assert slow.state is LocalState.STALE
            faults.outages = []
            await elapse(10.0)
            assert orders.state is slow.state is LocalState.SERVING

    run(main())


class Uncatalogued(SimStore):
    """A store that lends ids and keeps no catalogue."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.hold_s = 10.0


def test_a_store_without_a_catalogue_is_not_watched() -> None:
    async def main() -> None:
        async with serving(table(), store=Uncatalogued) as service:
            supply = await service.local_counter("orders")
            calls = service.store.calls  # type: ignore[attr-defined]
            await elapse(600.0)
            assert service.store.calls == calls  # type: ignore[attr-defined]
            assert supply.state is LocalState.SERVING

    run(main())
