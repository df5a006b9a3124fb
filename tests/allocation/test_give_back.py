"""A clean stop gives back what nobody used, and the next start hands it out first."""

import asyncio
import contextlib
import logging
from random import Random

import pytest

from idservice import errors
from idservice.allocation.catalogue_watch import POLL_S
from idservice.allocation.context import Limits
from idservice.allocation.local_counter import LocalCounter
from idservice.allocation.service import Service
from idservice.catalogue.changes import Configure
from idservice.catalogue.counters import described
from idservice.stores.records import Counter, Grant
from tests.allocation.test_local_counter import store_of
from tests.simulation.loop import elapse, run
from tests.simulation.serving import answers_after, elsewhere, serving, table
from tests.simulation.store import Faults, SimStore, Table


async def takes(data: Table, count: int, faults: Faults | None = None) -> list[int]:
    """One life: the ids it handed out."""
    async with serving(data, faults) as service:
        supply = await service.local_counter("orders")
        return [await supply.next_id() for _ in range(count)]


def test_stopped_and_started_over_and_over_one_instance_loses_nothing() -> None:
    async def main() -> None:
        data = table()
        ids = [id for count in (3, 0, 1, 40, 7, 1) for id in await takes(data, count)]
        assert ids == list(range(52))
        assert data.positions["orders", 0].next == 52

    run(main())


def test_ids_left_by_two_instances_are_claimed_and_handed_out_first() -> None:
    async def main() -> None:
        data = table()
        async with serving(data, seed=1) as one, serving(data, seed=2) as two:
            mine = [await (await one.local_counter("orders")).next_id() for _ in range(3)]
            others = [await (await two.local_counter("orders")).next_id() for _ in range(3)]
        # `two` stopped first, `one` then found that somebody had written after its reservation.
        assert (mine, others) == ([0, 1, 2], [10, 11, 12])
        position = data.positions["orders", 0]
        assert (position.next, position.returned) == (13, (range(3, 10),))
        assert described(data.entries["orders"], 30.0, [position])["returned"] == 7
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            assert [await supply.next_id() for _ in range(9)] == [3, 4, 5, 6, 7, 8, 9, 13, 14]
            assert supply.stats.claimed == 7
            assert supply.reading().issued == 9
            assert await supply.next_id() == 15
        assert data.positions["orders", 0].returned == ()
        assert data.positions["orders", 0].next == 16

    run(main())


def test_a_start_costs_neither_read_nor_write_where_nothing_was_given_back() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            await (await service.local_counter("orders")).next_id()
            assert store_of(service).calls == 2, "the entry, and a reservation"

    run(main())


def test_a_stop_with_nothing_to_return_sends_nothing_to_the_store() -> None:
    async def main() -> None:
        for data in (table(strict=True), table(limit=9)):
            async with serving(data) as service:
                assert len(await (await service.local_counter("orders")).next_batch(10)) == 1
                calls = store_of(service).calls
            assert store_of(service).calls == calls

    run(main())


def test_of_two_that_stop_at_once_the_second_counts_and_logs_its_gap(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        data = table()
        caplog.set_level(logging.INFO)
        services = [Service(SimStore(Random(n), data, answers_after(0.1)), random=Random(n))
                    for n in range(2)]  # fmt: skip
        for service in services:
            await service.__aenter__()
            await (await service.local_counter("orders")).next_id()
        await elapse(1.0)
        await asyncio.gather(*(service.__aexit__(None, None, None) for service in services))
        readings = [service.local_counters["orders"].reading() for service in services]
        assert sorted(reading.returned for reading in readings) == [0, 9]
        assert [r.gaps for r in sorted(readings, key=lambda r: r.returned)] == [{"stop": 9}, {}]
        words = {record.action: record.getMessage() for record in caplog.records}  # type: ignore[attr-defined]
        assert words["ids_returned"] == "counter orders: 9 ids were given back"
        assert "9 ids in memory become a gap" in words["ids_dropped"]
        assert "another instance wrote" in words["ids_dropped"]

    run(main())


def test_a_stop_with_many_counters_logs_one_line_with_the_sum(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        caplog.set_level(logging.INFO)
        names = [f"c{n}" for n in range(6)]
        data, faults = table(*names), answers_after(0.01)
        async with serving(data, faults) as service:
            for name in names:
                await (await service.local_counter(name)).next_id()
        assert [one.getMessage() for one in caplog.records if "given back" in one.message] == [
            "6 counters: 54 ids were given back"
        ]
        async with serving(data, faults) as service:
            for name in names:
                await (await service.local_counter(name)).next_id()
            faults.outages = [(0.0, float("inf"))]
        (line,) = (one.getMessage() for one in caplog.records if "become a gap" in one.message)
        assert line.startswith("6 counters: 5")
        assert len(line) < 500

    run(main())


def test_a_full_list_takes_no_more_and_that_is_a_cause_of_its_own() -> None:
    async def main() -> None:
        data = table()
        data.move(data.entries["orders"], 0, 0, 1000)
        full = tuple(range(10 * n, 10 * n + 1) for n in range(8))
        async with serving(data, seed=1) as one, serving(data, seed=2) as two:
            for service in (one, two):
                await (await service.local_counter("orders")).next_id()
            data.set_by_hand("orders", returned=full)
        assert two.local_counters["orders"].reading().gaps == {}, "the end of the position has room"
        assert one.local_counters["orders"].reading().gaps == {"full": 9}
        assert data.positions["orders", 0].returned == full

    run(main())


def test_with_the_store_away_a_stop_is_short_and_all_is_a_gap(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        data, faults = table(), answers_after(0.01)
        caplog.set_level(logging.INFO)
        async with serving(data, faults) as service:
            await (await service.local_counter("orders")).next_id()
            faults.outages = [(0.0, float("inf"))]
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began <= 2.0
        assert service.local_counters["orders"].reading().gaps == {"stop": 9}
        assert data.positions["orders", 0].next == 10

    run(main())
    assert "9 ids in memory become a gap" in caplog.text


async def stopped_while_it_asks(data: Table) -> LocalCounter:
    """A counter whose first request was under way at the stop of its service."""
    async with serving(data, answers_after(0.5)) as service:
        supply = await service.local_counter("orders")
        waiting = asyncio.create_task(supply.next_id())
        await elapse(0.1)
        assert supply.allocator.waits_for_store
    with pytest.raises(errors.Stopped):
        await waiting
    return supply


def test_what_is_under_way_at_the_stop_is_awaited_and_goes_back_too() -> None:
    async def main() -> None:
        data = table()
        supply = await stopped_while_it_asks(data)
        assert supply.reading().gaps == {}
        assert data.positions["orders", 0].next == 0

    run(main())


def test_who_stops_claims_nothing_any_more() -> None:
    async def main() -> None:
        data = table()
        data.set_by_hand("orders", next=100, mark=100, returned=(range(40, 60),))
        supply = await stopped_while_it_asks(data)
        assert supply.stats.claimed == 0
        assert supply.reading().gaps == {}
        assert data.positions["orders", 0].returned == (range(40, 60),)

    run(main())


def test_a_reservation_that_our_own_give_back_overtakes_raises_no_alarm() -> None:
    """It finds the position below where its instance's last one ended."""

    class Slow(SimStore):
        """A reservation is on its way for long, and the stop of another counter takes longer."""

        slow = False

        async def reserve(self, *arguments: object, **rest: object) -> Grant:
            await elapse(1.5 if self.slow else 0.0)
            return await super().reserve(*arguments, **rest)  # type: ignore[arg-type]

        async def give_back(self, counter: Counter, *arguments: object, **rest: object) -> bool:
            await elapse(1.8 if counter.name == "tickets" else 0.0)
            return await super().give_back(counter, *arguments, **rest)  # type: ignore[arg-type]

    async def main() -> None:
        data = table("orders", "tickets")
        async with serving(data, answers_after(0.02), store=Slow) as service:
            await (await service.local_counter("tickets")).next_id()
            supply = await service.local_counter("orders")
            await supply.next_id()
            store_of(service).slow = True  # type: ignore[attr-defined]
            await supply.next_batch(6)
            assert supply.allocator.waits_for_store
            await elapse(0.1)  # or it would never be sent
        await elapse(10.0)
        assert supply.stats.reservations == {"granted": 1, "changed": 1}
        position = data.positions["orders", 0]
        assert position.epoch == data.entries["orders"].epoch, "nobody closed it"
        assert position.next == 7

    run(main())


def test_at_the_limit_a_start_is_granted_nothing_and_claims_what_was_given_back() -> None:
    async def main() -> None:
        data = table(limit=19)
        async with serving(data, seed=1) as one, serving(data, seed=2) as two:
            await (await one.local_counter("orders")).next_id()
            assert await (await two.local_counter("orders")).next_batch(10) == [range(10, 20)]
        assert data.positions["orders", 0].returned == (range(1, 10),)
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            assert await supply.next_id() == 1
            assert await supply.next_batch(8) == [range(2, 10)]
            with pytest.raises(errors.Exhausted):
                await supply.next_id()

    run(main())


def test_at_the_limit_who_had_newer_ids_leaves_older_ones_to_the_next_start() -> None:
    async def main() -> None:
        data = table(limit=19)
        async with serving(data, seed=2) as two:
            async with serving(data, seed=1) as one:
                await (await one.local_counter("orders")).next_id()
                supply = await two.local_counter("orders")
                assert await supply.next_batch(10) == [range(10, 20)]
            assert data.positions["orders", 0].returned == (range(1, 10),)
            with pytest.raises(errors.Exhausted):
                await supply.next_id()
        assert await takes(data, 9) == [*range(1, 10)]

    run(main())


def test_a_claim_without_an_answer_is_a_gap_and_ids_come_all_the_same() -> None:
    async def main() -> None:
        data = table()
        data.move(data.entries["orders"], 0, 0, 100)
        data.set_by_hand("orders", returned=(range(40, 60),))

        class Lost(SimStore):
            async def claim(self, *arguments: object, **rest: object) -> tuple[range, ...]:
                await super().claim(*arguments, **rest)  # type: ignore[arg-type]
                raise errors.OutcomeUnknown(store=self.address, action="claiming", why="lost")

        async with serving(data, store=Lost, limits=Limits()) as service:
            supply = await service.local_counter("orders")
            assert await supply.next_id() == 100
            assert supply.reading().gaps == {"claim": 20}

    run(main())


def test_who_has_handed_out_newer_ids_claims_no_older_ones() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            assert await supply.next_id() == 0
            data.set_by_hand("orders", next=100, returned=(range(40, 60),))
            ids = [await supply.next_id() for _ in range(30)]
            assert ids == sorted(ids)
            assert not set(ids) & set(range(40, 60))
            assert data.positions["orders", 0].returned == (range(40, 60),)

    run(main())


def test_an_unforeseen_fault_in_a_claim_is_a_gap_and_the_service_goes_on() -> None:
    class Broken(SimStore):
        async def claim(self, *arguments: object, **rest: object) -> tuple[range, ...]:
            raise KeyError("returned")

    async def main() -> None:
        for limit, ids in ((2**53 - 1, [100]), (99, [])):
            data = table(limit=limit)
            data.move(data.entries["orders"], 0, 0, 100)
            data.set_by_hand("orders", returned=(range(40, 60),))
            async with serving(data, store=Broken) as service:
                supply = await service.local_counter("orders")
                with contextlib.suppress(errors.Exhausted):
                    assert [await supply.next_id()] == ids
                await elapse(5.0)
                assert supply.reading().gaps["claim"] >= 20

    run(main())


def test_what_continues_a_block_of_the_epoch_before_goes_back_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        caplog.set_level(logging.INFO)
        data = table(limit=1000)
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            ids = [await supply.next_id() for _ in range(2)]
            await elsewhere(data, Configure(limit=2000))  # goes on right above
            await elapse(POLL_S + 0.1)
            ids += [await supply.next_id() for _ in range(5)]
            await elapse(1)
            assert supply.counter.base == 10
            assert any(10 in block[1:] for block in supply.allocator.buffer.blocks), (
                "one block of both"
            )
        assert ids == list(range(7))
        assert supply.reading().gaps == {"stop": 3}, "7 to 9"
        assert data.positions["orders", 0].next == 0
        assert "3 ids in memory become a gap: they are of an epoch that is over" in caplog.text

    run(main())
