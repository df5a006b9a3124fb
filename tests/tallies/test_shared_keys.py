"""Callers of one key, and callers who leave: each is told what is true of its own request."""

import asyncio

import pytest

from idservice import errors
from idservice.core.tally import Tally, TallyState
from idservice.stores.tally_source import Told
from tests.simulation.loop import elapse, run
from tests.tallies.surroundings import NAME, Once, Watched, instance, lost, soon

GIFTS = Tally(NAME, decimals=2)


def test_an_add_is_not_refused_for_the_bad_amount_of_another_with_its_key() -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            bad = asyncio.create_task(sums.add(NAME, "k", "0.001"))
            good = asyncio.create_task(sums.add(NAME, "k", "1.00"))
            with pytest.raises(errors.BadAmount, match=r"0\.001"):
                await bad
            assert (await good).record.amount == 100

    run(main())


def test_an_add_and_a_set_with_one_key_have_one_record() -> None:
    async def main() -> None:
        async with instance(Watched(GIFTS)) as sums:
            add = asyncio.create_task(sums.add(NAME, "k", "5"))
            await asyncio.sleep(0)
            with pytest.raises(errors.KeyReused, match=r"an add of 5\.00"):
                await sums.set(NAME, "k", "5", by="me", why="")
            assert not (await add).replayed

    run(main())


def test_a_request_that_came_after_a_read_is_not_refused_by_it() -> None:
    """Its key waited already; the tally was resumed before it came."""

    async def main() -> None:
        store = Watched(Tally(NAME, state=TallyState.SUSPENDED))
        async with instance(store) as sums:
            late: list[asyncio.Task[Told]] = []

            async def resumed() -> None:
                store.items[NAME] = Tally(NAME, rev=1)
                late.append(asyncio.create_task(sums.add(NAME, "k", "1")))
                await soon()

            store.behind["tally"] = Once(resumed)
            with pytest.raises(errors.TallySuspended):
                await sums.add(NAME, "k", "1")
            assert (await late[0]).record.sum == 1

    run(main())


def test_two_callers_of_a_key_find_out_that_nobody_created_its_tally() -> None:
    """The second came amid the read that the first was refused by, so it waits for another: of the
    same committer, which is kept until both have left. What ends a task ends the service."""

    async def main() -> None:
        store = Watched()
        async with instance(store) as sums:
            late: list[asyncio.Task[Told]] = []

            async def joins() -> None:
                late.append(asyncio.create_task(sums.add(NAME, "k", "1")))
                await soon()

            store.behind["tally"] = Once(joins)
            with pytest.raises(errors.UnknownTally):
                await sums.add(NAME, "k", "1")
            with pytest.raises(errors.UnknownTally):
                await late[0]
            assert not sums.committers
            assert store.asked == ["tally", "tally"]

    run(main())


def test_requests_for_records_share_the_next_look_at_them() -> None:
    """In a file each look that finds one is a write: readers would keep everybody else out."""

    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            for key in ("a", "b"):
                await sums.add(NAME, key, "1")
            late: list[asyncio.Task[Told]] = []

            async def joins() -> None:
                late.append(asyncio.create_task(sums.recorded(NAME, "a")))
                await soon()

            looks = store.behind["records"] = Once(joins)
            keys = ["a", "b", "none"] * 20
            asked = [sums.recorded(NAME, key) for key in keys]
            told = await asyncio.gather(*asked, return_exceptions=True)
            for key, one in zip(keys, told, strict=True):
                is_there = isinstance(one, Told) and one.record.key == key
                assert is_there or (key == "none" and isinstance(one, errors.UnknownAdd))
            assert (await late[0]).record.key == "a"
            assert looks.calls == 2

    run(main())


@pytest.mark.parametrize("closed", [True, False])
def test_refusals_are_told_while_other_requests_keep_coming(closed: bool) -> None:
    """Each read finds a newer request waiting, which it cannot refuse."""

    async def main() -> None:
        state = TallyState.SUSPENDED if closed else TallyState.ACTIVE
        store = Watched(Tally(NAME, state=state))

        async def slow() -> None:
            await elapse(0.05)

        store.before["tally"] = store.before["commit"] = slow
        error = errors.TallySuspended if closed else errors.BadAmount
        async with instance(store) as sums:
            asked = []
            good = [] if closed else [asyncio.create_task(sums.add(NAME, "good", "1"))]
            for number in range(60):
                asked.append(asyncio.create_task(sums.add(NAME, f"k{number}", "0.1")))
                await elapse(0.04)
            for told in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(told, error), told
            for add in good:
                assert (await add).record.sum == 1

    run(main())


def test_a_key_whose_callers_left_amid_its_commit_is_counted_once() -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            await sums.add(NAME, "first", "1")
            again: list[asyncio.Task[Told]] = []

            async def leaves() -> None:
                leaver.cancel()
                await soon()
                again.append(asyncio.create_task(sums.add(NAME, "k", "1")))
                await soon()
                await lost()

            store.behind["commit"] = Once(leaves)
            leaver = asyncio.create_task(sums.add(NAME, "k", "1"))
            with pytest.raises(asyncio.CancelledError):
                await leaver
            await soon()
            told = await again[0]
            assert (told.record.sum, told.replayed) == (200, True)
            assert store.items[NAME].sum == 200

    run(main())


def test_the_record_of_an_incarnation_before_is_not_told_in_the_next() -> None:
    """An instance that has not heard of it asks with the old one, whose record is there."""

    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as warm:
            assert (await warm.add(NAME, "k", "5")).record.sum == 500
            before = store.items[NAME]
            store.items[NAME] = Tally(NAME, rev=before.rev + 2, inc=2)
            told = await warm.add(NAME, "k", "7")
            assert (told.record.sum, told.decimals, told.replayed) == (7, 0, False)
            assert store.items[NAME].sum == 7

    run(main())


def test_nothing_is_told_of_a_tally_that_vanished() -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            await sums.add(NAME, "k", "5")
            del store.items[NAME]
            with pytest.raises(errors.AddUnsettled, match="is missing"):
                await sums.add(NAME, "k", "5")

    run(main())


@pytest.mark.parametrize("how", ["is missing", "from 1 to 0"])
def test_no_sum_and_no_record_is_told_of_a_tally_that_went_back(how: str) -> None:
    """It would lack an add that was answered (T7), and tell that a key was never counted."""

    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            await sums.add(NAME, "k", "5")
            if how == "is missing":
                del store.items[NAME]
            else:
                store.items[NAME] = GIFTS
            for call in (sums.value(NAME), sums.recorded(NAME, "k"), sums.tally(NAME)):
                with pytest.raises(errors.TallyWentBack, match=how):
                    await call

    run(main())


def test_a_read_that_is_overtaken_by_an_add_is_told() -> None:
    """What it found is older than what the instance knows since, and was true when it was asked."""

    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            await sums.add(NAME, "k", "5")
            store.behind["tally"] = Once(lambda: sums.add(NAME, "later", "1"))
            assert (await sums.value(NAME)).sum == 500

    run(main())


def test_an_add_waits_through_a_deletion_and_is_read_by_the_new_decimals() -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            await sums.add(NAME, "first", "1")

            async def reborn() -> None:
                store.items[NAME] = Tally(NAME, decimals=3, rev=9, inc=2)

            store.before["commit"] = Once(reborn)
            told = await sums.add(NAME, "k", "1.25")
            assert (told.record.amount, told.decimals) == (1250, 3)

    run(main())


def test_a_refusal_told_again_names_no_bound_that_it_did_not_break() -> None:
    async def main() -> None:
        store = Watched(Tally(NAME, ceiling=10))
        async with instance(store) as sums:
            with pytest.raises(errors.OutOfBounds, match="above 10"):
                await sums.add(NAME, "k", "11")
            store.items[NAME] = Tally(NAME, rev=9, ceiling=99)
            with pytest.raises(errors.OutOfBounds, match="the bounds that it had then"):
                await sums.add(NAME, "k", "11")

    run(main())


def test_a_record_is_not_told_to_who_came_when_its_tally_was_another_one() -> None:
    """The first request was counted; before its answer comes the tally is created again, and then
    a second request with its key."""

    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            later: list[asyncio.Task[Told]] = []

            async def reborn() -> None:
                before = store.items[NAME]
                store.items[NAME] = Tally(NAME, rev=before.rev + 2, inc=2)
                later.append(asyncio.create_task(sums.add(NAME, "k", "5")))
                await soon()

            store.behind["commit"] = Once(reborn)
            assert (await sums.add(NAME, "k", "5")).record.amount == 500
            assert (await later[0]).record.amount == 5
            assert store.items[NAME].sum == 5

    run(main())
