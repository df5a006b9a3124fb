"""A tally that is older in the store than it was known here is believed by nobody (T2, T7)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from idservice import errors
from idservice.core.tally import Tally, TallyState
from idservice.tallies.audit import all_audited, repair
from idservice.tallies.changes import TallyChanger, TallyPatch
from idservice.tallies.own import OwnTallies
from tests.simulation.loop import run

from .surroundings import NAME, Once, Watched, instance

GIFTS = Tally(NAME, decimals=2)
OTHER = Tally("other", sum=3)

Way = Callable[[OwnTallies, TallyChanger], Awaitable[object]]
WAYS: dict[str, Way] = {
    "sum": lambda own, _: own.value(NAME),
    "record": lambda own, _: own.recorded(NAME, "k1"),
    "configuration, as for an audit": lambda own, _: own.tally(NAME),
    "bounds": lambda _, to: to.change(NAME, TallyPatch(ceiling="9"), "configure", by="", why=""),
    "deletion": lambda _, to: to.change(
        NAME, TallyPatch(state=TallyState.DELETED), "delete", by="", why=""
    ),
    "creation": lambda _, to: to.create(GIFTS, by=""),
}


def changer(store: Watched, own: OwnTallies) -> TallyChanger:
    return TallyChanger(store, lambda: 0, own.check_from_now)


def restored(store: Watched, at: int) -> None:
    """Set the tally and its records back to a revision; below 0 the tally is missing."""
    for place, record in [*store.made.items()]:
        if record.rev > at:
            del store.made[place]
    if at < 0:
        del store.items[NAME]
    else:
        last = max((one.sum for one in store.made.values()), default=0)
        store.items[NAME] = replace(GIFTS, sum=last, rev=at, adds=at)


@pytest.mark.parametrize("at", [1, 0, -1])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_told_or_changed_of_a_tally_that_went_back(way: str, at: int) -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as own:
            for number in range(3):
                await own.add(NAME, f"k{number}", "5")
            restored(store, at)
            left = dict(store.items)
            with pytest.raises(errors.TallyWentBack, match="missing" if at < 0 else f"3 to {at}"):
                await WAYS[way](own, changer(store, own))
            assert store.items == left

    run(main())


OTHERS = [{"sum": 2}, {"adds": 7}, {"inc": 2}, {"state": "suspended"}, {"at": 77}]


@pytest.mark.parametrize("other", OTHERS)
def test_another_state_at_the_same_revision_is_one_that_went_back(other: dict[str, object]) -> None:
    """It was restored, and written since by somebody who did not know."""

    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as own:
            await own.add(NAME, "k", "5")
            if "state" in other:
                other["state"] = TallyState.SUSPENDED
            store.items[NAME] = replace(store.items[NAME], **other)  # type: ignore[arg-type]
            with pytest.raises(errors.TallyWentBack, match="not as it was at revision 1"):
                await own.value(NAME)
            with pytest.raises(errors.AddUnsettled, match="not as it was at revision 1"):
                await own.add(NAME, "more", "5")

    run(main())


@pytest.mark.parametrize("at", [1, -1])
def test_a_list_shows_which_one_went_back_and_the_others_as_they_are(at: int) -> None:
    async def main() -> None:
        store = Watched(GIFTS, OTHER)
        async with instance(store) as own:
            for key in "ab":
                await own.add(NAME, key, "5")
            restored(store, at)
            gifts, other = await own.listed()
            assert (gifts.tally.name, gifts.tally.rev, gifts.went_back) == (NAME, 2, True)
            assert (other.tally, other.went_back) == (OTHER, False)
            assert own.committers[NAME].sample().went_back, "the alert tells it, too"

    run(main())


def test_a_change_that_is_overtaken_by_an_add_is_made() -> None:
    """What its look finds is older than what is known since, and was true when it was asked."""

    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as own:
            await own.add(NAME, "k", "5")
            store.behind["tally"] = Once(lambda: own.add(NAME, "later", "1"))
            patch = TallyPatch(state=TallyState.SUSPENDED)
            after = await changer(store, own).change(NAME, patch, "suspend", by="", why="")
            assert (after.rev, after.sum) == (3, 600)

    run(main())


@pytest.mark.parametrize("looks", ["value", "listed"])
def test_a_tally_that_was_put_right_is_in_order_from_the_next_read_on(looks: str) -> None:
    """One that is only read would be called wrong for ever."""

    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as own:
            await own.add(NAME, "k", "5")
            right = store.items[NAME]
            store.items[NAME] = GIFTS
            with pytest.raises(errors.TallyWentBack):
                await own.value(NAME)
            assert own.committers[NAME].sample().code == "tally_went_back"
            store.items[NAME] = right
            await (own.value(NAME) if looks == "value" else own.listed())
            shown = own.committers[NAME].sample()
            assert (shown.code, shown.why, "went back" in shown.trouble) == ("", "", True)

    run(main())


@pytest.mark.parametrize("torn", [True, False])
def test_the_way_out_after_a_restore_counts_each_add_once(torn: bool) -> None:
    """`fence --all` makes a torn sum anew, above every revision that was told: all go on. One that
    is whole stays as it was in the copy, and the instances that refuse it are started again."""

    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as own:
            for number in range(3):
                await own.add(NAME, f"k{number}", "5")
            if torn:
                store.items[NAME] = replace(GIFTS, sum=500, rev=1, adds=1)
            else:
                restored(store, 1)
            with pytest.raises(errors.TallyWentBack):
                await own.value(NAME)
            for audit in await all_audited(store):
                assert audit.agrees is not torn
                if torn:
                    await repair(store, audit, by="me")
            if torn:
                assert (await own.value(NAME)).sum == 1500
        async with instance(store) as again:
            told = [await again.add(NAME, f"k{number}", "5") for number in range(4)]
            assert [one.replayed for one in told] == [True, torn, torn, False]
            assert (await again.value(NAME)).sum == 2000

    run(main())


def test_a_tally_that_went_back_is_logged_once_each_time(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as own:
            await own.add(NAME, "k", "5")
            right = store.items[NAME]
            for _ in range(2):
                store.items[NAME] = GIFTS
                for _ in range(3):
                    told = await asyncio.gather(own.value(NAME), return_exceptions=True)
                    assert isinstance(told[0], errors.TallyWentBack)
                store.items[NAME] = right
                await own.value(NAME)
        actions = [record.action for record in caplog.records]  # type: ignore[attr-defined]
        assert actions.count("tally_went_back") == 2

    run(main())
