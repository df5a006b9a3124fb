"""Work on many items over a store."""

import asyncio

import pytest

from idservice.stores.at_once import AT_ONCE, for_each


async def test_results_are_in_the_order_of_the_items() -> None:
    async def work(item: int) -> int:
        for _ in range(10 - item):
            await asyncio.sleep(0)
        return 2 * item

    assert await for_each(range(10), work) == [2 * item for item in range(10)]


async def test_only_so_many_are_worked_on_at_once() -> None:
    busy = most = 0

    async def work(item: int) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1

    await for_each(range(5 * AT_ONCE), work)
    assert (busy, most) == (0, AT_ONCE)


async def test_the_others_end_before_a_failure_is_raised() -> None:
    done = []

    async def work(item: int) -> None:
        await asyncio.sleep(0)
        if item in (1, 3):
            raise ValueError(item)
        done.append(item)

    with pytest.raises(ValueError, match="1"):
        await for_each(range(5), work)
    assert done == [0, 2, 4]
