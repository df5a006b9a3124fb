"""What an instance makes of a counter with shards."""

import asyncio
from collections import defaultdict
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.allocation.catalogue_watch import POLL_S
from idservice.allocation.context import Limits
from idservice.allocation.local_counter import LocalCounter
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Reshard
from idservice.stores.records import Counter, Grant
from tests.simulation.loop import elapse, run
from tests.simulation.serving import answers_after, serving, table
from tests.simulation.store import SimStore, Table, throttled


class Hot(SimStore):
    """A store on which some shards take no more."""

    shards: set[int] = set()  # noqa: RUF012  replaced by each test

    async def reserve(self, counter: Counter, *, shard: int = 0, **rest: Any) -> Grant:
        if shard in self.shards:
            raise throttled("reserving")
        return await super().reserve(counter, shard=shard, **rest)


def at(supply: LocalCounter) -> int:
    """The shard that it is at."""
    return supply.allocator.shards.present.layout.shard


async def reshard(data: Table, shards: int) -> Counter:
    changer = EpochChanger(SimStore(Random(2), data), random=Random(3), stale_s=0.0)
    _, after = await changer.change("orders", Reshard(shards=shards))
    return after


def used(data: Table) -> dict[int, int]:
    """How far each shard was reserved from."""
    return {shard: position.next for (_, shard), position in data.positions.items()}


# --- affinity -------------------------------------------------------------------------------------


def test_an_instance_stays_with_one_shard_and_instances_begin_on_different_ones() -> None:
    async def main() -> None:
        data = table(shards=8)
        begun = set()
        for seed in range(12):
            async with serving(data, seed=seed) as service:
                supply = await service.local_counter("orders")
                first = await supply.next_id()
                ids = [await supply.next_id() for _ in range(200)]
                assert {id % 8 for id in ids} == {first % 8}
                assert [first, *ids] == sorted({first, *ids})
                assert supply.stats.moves == {}
                begun.add(first % 8)
        assert len(begun) > 4

    run(main())


def test_an_instance_that_is_throttled_goes_on_elsewhere_and_that_is_counted() -> None:
    async def main() -> None:
        data = table(shards=4)
        async with serving(data, store=Hot) as service:
            supply = await service.local_counter("orders")
            await supply.next_id()
            home = at(supply)
            service.store.shards = {home}  # type: ignore[attr-defined]
            ids = [await supply.next_id() for _ in range(500)]
            assert at(supply) != home
            assert supply.stats.moves == {"throttled": 1}
            assert supply.stats.reservations["throttled"] == 1
            assert not supply.reading().gaps
            by_shard = defaultdict(list)
            for id in ids:
                by_shard[id % 4].append(id)
            assert set(by_shard) == {home, at(supply)}
            for of_one in by_shard.values():
                assert of_one == sorted(set(of_one))

    run(main())


def test_instances_that_are_turned_away_from_one_shard_spread_over_the_others() -> None:
    async def main() -> None:
        data = table(shards=6)
        first, second = set(), set()
        for seed in range(60):
            async with serving(data, seed=seed, store=Hot) as service:
                supply = await service.local_counter("orders")
                if at(supply) != 0:
                    continue
                service.store.shards = {0}  # type: ignore[attr-defined]
                await supply.next_id()
                first.add(at(supply))
                service.store.shards = {0, at(supply)}  # type: ignore[attr-defined]
                for _ in range(50):
                    await supply.next_id()
                second.add(at(supply))
        assert len(first) >= 3
        assert len(second) >= 3

    run(main())


def test_a_counter_throttled_on_every_shard_is_retried_with_pauses() -> None:
    async def main() -> None:
        data = table(shards=3)
        async with serving(data, store=Hot) as service:
            service.store.shards = {0, 1, 2}  # type: ignore[attr-defined]
            supply = await service.local_counter("orders")
            with pytest.raises(errors.WaitedTooLong):
                await supply.next_id()
            tries = supply.stats.reservations["throttled"]
            assert 4 <= tries <= 9
            assert supply.stats.moves == {"throttled": tries}
            service.store.shards = set()  # type: ignore[attr-defined]
            assert await supply.next_id() in range(3)

    run(main())


# --- the limit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.01, 0.15])
def test_exhausted_is_said_once_every_shard_is_and_every_id_was_handed_out(seconds: float) -> None:
    """Also where a look at all of them takes longer than one answer is believed."""

    async def main() -> None:
        data = table(shards=8, start=5, limit=104)
        async with serving(data, answers_after(seconds)) as service:
            supply = await service.local_counter("orders")
            ids = [await supply.next_id() for _ in range(100)]
            assert sorted(ids) == list(range(5, 105))
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(errors.Exhausted):
                await supply.next_id()
            assert loop.time() - began < 0.001, "its own reservations have told it"
            assert supply.stats.moves == {"exhausted": 7}
            assert service.health.up
            assert "410" not in str(supply.unavailable_reason)
            assert supply.unavailable_reason

    run(main())


def test_a_new_instance_looks_at_every_shard_before_it_says_exhausted() -> None:
    async def main() -> None:
        data = table(shards=8, limit=99)
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            assert sum(map(len, await supply.next_batch(100))) == 100
        async with serving(data, answers_after(0.15)) as service:
            supply = await service.local_counter("orders")
            with pytest.raises(errors.Exhausted):
                await supply.next_id()
            assert supply.stats.reservations == {"no_room": 8}
            with pytest.raises(errors.Exhausted):
                await supply.next_id()
            assert supply.stats.reservations == {"no_room": 8}, "it was told a moment ago"
        assert all(grant.ids[-1] <= 99 for grant in data.ledger)

    run(main())


def test_a_batch_larger_than_any_shard_has_left_is_put_together_or_refused_whole() -> None:
    async def main() -> None:
        data = table(shards=4, limit=39)
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            with pytest.raises(errors.Exhausted):
                await supply.next_batch(41)
            assert data.ledger == []
            blocks = await supply.next_batch(40)
            assert sorted(id for block in blocks for id in block) == list(range(40))
            assert [block.step for block in blocks] == [4] * 4
            with pytest.raises(errors.Exhausted):
                await supply.next_batch(1)

    run(main())


def test_a_start_with_all_but_the_last_shard_used_up_is_a_start_with_ids() -> None:
    async def main() -> None:
        data = table(shards=5, limit=999)
        counter = data.entries["orders"]
        for shard in range(5):
            async with serving(data, declared=("orders",)) as service:
                await service.warm()
                assert service.local_counters["orders"].allocator.held
                assert await service.not_ready() is None
            end = counter.layout(shard).end
            data.positions["orders", shard] = data.positions["orders", shard].__class__(
                end, end, 0, counter.epoch
            )
        async with serving(data, declared=("orders",)) as service:
            await service.warm()
            assert "999" in str(await service.not_ready())

    run(main())


# --- reshard --------------------------------------------------------------------------------------


def test_a_reshard_drops_nothing_and_the_next_ids_are_above() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            assert [await supply.next_id(), await supply.next_id()] == [0, 1]
            held = supply.allocator.held
            for shards in (8, 2, 1):
                after = await reshard(data, shards)
                await elapse(POLL_S + 0.1)
                assert supply.counter == after
                held = supply.allocator.held
                below = [await supply.next_id() for _ in range(held)]
                assert all(id < after.base for id in below)
                above = [await supply.next_id() for _ in range(20)]
                assert all(id >= after.base for id in above)
                assert above == sorted(above)
                assert {b - a for a, b in pairwise(above)} == {shards}
            assert supply.reading().gaps == {}

    run(main())


def test_nobody_waits_for_a_reshard_as_long_as_ids_last() -> None:
    async def main() -> None:
        data = table()
        async with serving(data, answers_after(0.05), limits=Limits(runway=5.0)) as service:
            supply = await service.local_counter("orders")
            loop = asyncio.get_running_loop()
            got: list[int] = []

            async def ask(seconds: float) -> None:
                until = loop.time() + seconds
                while loop.time() < until:
                    got.append(await supply.next_id())
                    await elapse(0.01)

            await ask(20.0)
            waits = supply.stats.waits
            asking = asyncio.create_task(ask(40.0))
            for shards in (8, 2, 64, 1):
                await elapse(3.0)
                await reshard(data, shards)
            await asking
            assert supply.stats.waits == waits
            assert len(set(got)) == len(got)
            assert supply.counter.ordinal == 5
            assert not set(supply.reading().gaps) - {"late"}

    run(main())


# --- give-back ------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_clean_stop_gives_back_to_every_shard_it_holds_ids_of() -> None:
    async def main() -> None:
        data = table(shards=3)
        async with serving(data, store=Hot) as service:
            supply = await service.local_counter("orders")
            for _ in range(5):  # reservations, of which the next shard will have fewer
                await supply.next_batch(supply.allocator.held + 30)
            service.store.shards = {at(supply)}  # type: ignore[attr-defined]
            while len({ids.start % 3 for ids in supply.allocator.buffer.blocks}) < 2:
                await supply.next_batch(1 + supply.allocator.held // 4)
                await elapse(0.01)
            reading = supply.reading()
        after = supply.reading()
        assert after.returned == reading.held
        assert not after.gaps
        assert sum(used(data).values()) == after.issued
        assert not any(position.returned for position in data.positions.values())

    run(main())


def test_what_was_given_back_to_a_shard_is_claimed_by_who_comes_to_it_first() -> None:
    async def main() -> None:
        data = table(shards=2)
        async with serving(data) as service, serving(data, seed=3) as between:
            supply, second = (
                await service.local_counter("orders"),
                await between.local_counter("orders"),
            )
            second.allocator.shards._at = supply.allocator.shards._at
            second.allocator.shards._row = supply.allocator.shards._row
            await supply.next_batch(20)
            home = at(supply)
            data.move(supply.counter, home, used(data)[home], used(data)[home] + 5)  # somebody else
            held = supply.allocator.held
        waiting = sum(map(len, data.positions["orders", home].returned))
        assert waiting == held > 0
        for seed in range(20):
            async with serving(data, seed=seed) as service:
                supply = await service.local_counter("orders")
                if at(supply) != home:
                    await supply.next_id()
                    assert supply.stats.claimed == 0
                    continue
                ids = [await supply.next_id() for _ in range(held)]
                assert supply.stats.claimed == held
                assert ids == sorted(ids)
                assert ids[-1] < ids[0] + 2 * held
                break
        assert not data.positions["orders", home].returned

    run(main())


# --- doubt ----------------------------------------------------------------------------------------


def test_a_shard_that_went_back_closes_the_counter_for_everybody() -> None:
    async def main() -> None:
        data = table(shards=3)
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            await supply.next_batch(50)
            home = at(supply)
            found = data.positions["orders", home]
            data.positions["orders", home] = found.__class__(3, found.mark, found.rev, found.epoch)
            with pytest.raises(errors.CounterSuspect):
                for _ in range(1000):
                    await supply.next_id()
        assert {position.epoch for position in data.positions.values()} == {"gone-back:1"}
        for seed in range(6):
            async with serving(data, seed=seed) as fresh:
                with pytest.raises(errors.CounterSuspect):
                    await (await fresh.local_counter("orders")).next_id()

    run(main())
