"""A counter with bounds: what it gives to requests, in virtual time, and when bounds change."""

import asyncio

import pytest

from idservice import errors
from idservice.allocation.catalogue_watch import POLL_S
from idservice.allocation.local_counter import LocalCounter
from idservice.catalogue.changes import Configure
from tests.simulation.loop import elapse, run
from tests.simulation.serving import answers_after, elsewhere, serving, table


async def ids_in(local: LocalCounter, seconds: float, *, count: int = 1) -> list[int]:
    """All ids that a caller gets who asks 100 times a second."""
    ids: list[int] = []
    for _ in range(round(seconds * 100)):
        try:
            for block in await local.next_batch(count) if count > 1 else ():
                ids += block
            if count == 1:
                ids.append(await local.next_id())
        except errors.RateExceeded:
            pass
        await elapse(0.01)
    return ids


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_a_caller_in_a_loop_gets_the_rate_and_one_second_more(count: int, strict: bool) -> None:
    async def main() -> None:
        async with serving(table(rate_max=20.0, strict=strict)) as service:
            local = await service.local_counter("orders")
            ids = await ids_in(local, 5.0, count=count)
            assert 20 * 5 <= len(ids) <= 20 * 6
            assert sorted(set(ids)) == ids
            local.reading()
            assert not local.allocator.gaps

    run(main())


def test_callers_that_wait_for_the_store_are_counted_once() -> None:
    async def main() -> None:
        async with serving(table(rate_max=10.0), answers_after(0.3)) as service:
            local = await service.local_counter("orders")
            asked = [asyncio.create_task(local.next_id()) for _ in range(25)]
            done = await asyncio.gather(*asked, return_exceptions=True)
            ids = [one for one in done if isinstance(one, int)]
            assert sorted(ids) == list(range(10))
            assert sum(isinstance(one, errors.RateExceeded) for one in done) == 15

    run(main())


def test_a_request_refused_for_the_rate_reserves_nothing() -> None:
    """Time goes on between the look into memory and the refusal."""

    async def main() -> None:
        async with serving(table(rate_max=10.0)) as service:
            local = await service.local_counter("orders")
            assert len([await local.next_id() for _ in range(10)]) == 10
            await elapse(0.05)
            granted = local.allocator.granted_ids
            assert local.take() is None
            await elapse(0.1)
            with pytest.raises(errors.RateExceeded):
                await local.wait(1)
            await elapse(0.1)
            assert local.allocator.granted_ids == granted
            assert await local.next_id() == 10

    run(main())


def test_a_request_above_a_bound_is_refused_for_good_and_costs_nothing() -> None:
    async def main() -> None:
        async with serving(table(request_max=3)) as service:
            local = await service.local_counter("orders")
            with pytest.raises(errors.RequestTooLarge, match="at most 3 ids per request"):
                await local.next_batch(4)
            assert [list(block) for block in await local.next_batch(3)] == [[0, 1, 2]]
            assert [await local.next_id() for _ in range(50)] == list(range(3, 53))
        async with serving(table(rate_max=3.0)) as service:
            local = await service.local_counter("orders")
            with pytest.raises(errors.RequestTooLarge, match="rate_max of 3 ids/s"):
                await local.next_batch(4)
            assert sum(map(len, await local.next_batch(3))) == 3

    run(main())


def test_bounds_come_and_go_with_the_next_look_and_open_no_epoch() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            local = await service.local_counter("orders")
            assert len(await ids_in(local, 2.0)) == 200
            await elsewhere(data, Configure(rate_max=5.0))
            await elapse(POLL_S)
            assert 10 <= len(await ids_in(local, 2.0)) <= 15
            await elsewhere(data, Configure(rate_max=0.0, request_max=7))
            await elapse(POLL_S)
            assert len(await ids_in(local, 2.0)) == 200
            with pytest.raises(errors.RequestTooLarge):
                await local.next_batch(8)
            await elsewhere(data, Configure(request_max=0))
            await elapse(POLL_S)
            await local.next_batch(8)
            assert local.counter.ordinal == 1
            assert not local.allocator.gaps

    run(main())


def test_a_change_of_something_else_leaves_the_allowance_as_it_is() -> None:
    """Else each change would allow another burst."""

    async def main() -> None:
        data = table(rate_max=10.0)
        async with serving(data) as service:
            local = await service.local_counter("orders")
            assert len(await ids_in(local, 0.01)) == 1
            allowance = local.epoch_state.allowance
            for wish in (Configure(runway=9.0), Configure(limit=10_000)):
                await elsewhere(data, wish)
                await elapse(POLL_S)
                assert local.epoch_state.allowance is allowance
            assert local.counter.ordinal == 2
            assert 20 <= len(await ids_in(local, 2.0)) <= 30

    run(main())


def test_a_counter_without_bounds_is_served_straight_from_the_row_of_blocks() -> None:
    """The lane takes ids from this cursor: a bound must end that, and nothing else may."""

    async def main() -> None:
        data = table()
        async with serving(data) as service:
            local = await service.local_counter("orders")
            await local.next_id()
            assert local.epoch_state.buffer is local.allocator.buffer
            await elsewhere(data, Configure(request_max=7))
            await elapse(POLL_S)
            assert next(local.epoch_state.buffer.cursor, None) is None
            assert local.allocator.held

    run(main())
