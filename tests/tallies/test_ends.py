"""Calls that hang, names that nobody created, and the end of an instance."""

import asyncio
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from idservice import errors
from idservice.core.tally import Tally
from idservice.observability.store_health import StoreHealth
from idservice.tallies.own import OwnTallies
from idservice.tallies.service import Tallies
from tests.simulation.loop import elapse, run
from tests.tallies.surroundings import NAME, Once, Watched, instance, lost, soon

GIFTS = Tally(NAME, decimals=2)


def test_a_call_that_hangs_leaves_its_callers_time_for_another() -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            store.behind["commit"] = Once(lambda: elapse(60.0))
            told = await sums.add(NAME, "k", "1")
            assert (told.record.sum, told.replayed) == (100, True)

    run(main())


def test_a_list_that_takes_too_long_says_nothing_of_the_store() -> None:
    """DynamoDB reads the whole table for it, and answers everything else meanwhile."""

    class Large(Watched):
        async def tallies(self) -> list[Tally]:
            await elapse(60.0)
            return []

    async def main() -> None:
        health = StoreHealth()
        store: Any = SimpleNamespace(hold_s=None, address="sim:", tallies=Large())
        served = Tallies(
            store, wait_s=2.0, waiting_max=1, health=health, spawn=asyncio.create_task,
            random=Random(1), clock=lambda: 0.0, check_open=lambda: None,
        )  # fmt: skip
        with pytest.raises(errors.NotAnswered, match=r"longer than 2 s; `idservice tally list`"):
            await served.tallies()
        assert health.up

    run(main())


def test_a_set_whose_answer_was_lost_is_logged_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The record tells its operator, and nothing but the log tells why."""

    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            store.behind["commit"] = Once(lost)
            await sums.set(NAME, "k", "5", by="ann", why="ticket 17")

    run(main())
    said = "tally gifts: set before by ann (ticket 17): its sum was 0.00 and is 5.00 at revision 1"
    assert said in caplog.messages


def test_a_store_that_is_always_slow_is_given_the_time_it_takes() -> None:
    async def main() -> None:
        store = Watched(GIFTS)

        async def slow() -> None:
            await elapse(1.4)

        store.behind["commit"] = slow
        async with instance(store) as sums:
            with pytest.raises(errors.AddUnsettled, match="it took too long"):
                await sums.add(NAME, "k0", "1")
            for number in range(1, 4):
                assert (await sums.add(NAME, f"k{number}", "1")).record.sum >= 100 * number

    run(main())


def test_an_unsettled_add_names_the_present_trouble_and_not_a_former_one() -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            store.before["commit"] = Once(lost)
            await sums.add(NAME, "k", "1")
            store.before["commit"] = store.before["tally"] = lambda: elapse(60.0)
            with pytest.raises(errors.AddUnsettled) as raised:
                async with asyncio.timeout(10):
                    await sums.add(NAME, "other", "1")
            assert "connection reset" not in str(raised.value)

    run(main())


def test_names_that_nobody_created_are_not_kept_even_if_everybody_left() -> None:
    async def main() -> None:
        store = Watched()
        async with instance(store) as sums:
            for hook in (None, lambda: elapse(60.0), lost):
                if hook is not None:
                    store.before["tally"] = hook
                for number in range(5):
                    asked = [
                        asyncio.create_task(sums.add(f"no{number}", "k", "1")),
                        asyncio.create_task(_value(sums, f"no{number}")),
                    ]
                    await elapse(0.1)
                    for task in asked:
                        task.cancel()
                    await asyncio.gather(*asked, return_exceptions=True)
            await elapse(60.0)
            assert not sums.committers
            assert not sums._reads

    run(main())


async def _value(sums: OwnTallies, name: str) -> None:
    await sums.value(name)


@pytest.mark.parametrize("loops", range(1, 7))
def test_an_end_at_any_moment_leaves_nobody_waiting(loops: int) -> None:
    """Also at one at which a task was made and has not begun."""

    async def main() -> None:
        store = Watched(GIFTS)
        store.before["commit"] = lambda: elapse(60.0)
        async with asyncio.timeout(1.0):
            async with instance(store) as sums:
                add = asyncio.create_task(sums.add(NAME, "k", "1"))
                read = asyncio.create_task(_value(sums, NAME))
                await soon(loops)
            results = await asyncio.gather(add, read, return_exceptions=True)
        assert all(
            one is None or isinstance(one, (errors.AddUnsettled, errors.Stopped)) for one in results
        ), results
        assert isinstance(results[0], errors.AddUnsettled)

    run(main())
