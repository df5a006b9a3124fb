"""The log of a tally, as one reads it after a night: once that adds hang, and once that they go."""

import asyncio

import pytest

from idservice import errors
from idservice.stores.tally_store import Beaten
from tests.simulation.loop import elapse, run

from .surroundings import NAME, Once, Watched, instance, lost
from .test_ends import GIFTS

ACTIONS = (
    "adds_unsettled", "adds_settled", "tally_contended", "tally_went_back", "tally_trusted",
)  # fmt: skip


def story(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.action for record in caplog.records if record.action in ACTIONS]  # type: ignore[attr-defined]


def test_an_outage_is_told_once_and_then_how_many_were_told_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            await sums.add(NAME, "before", "1")
            store.before["commit"] = lost
            asked = [asyncio.create_task(sums.add(NAME, f"k{n}", "1")) for n in range(5)]
            ended = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(one, errors.AddUnsettled) for one in ended)
            during = sums.committers[NAME].sample()
            assert (during.code, during.stats.adds["unsettled"]) == ("add_unsettled", 5)
            assert "connection reset" in during.why
            del store.before["commit"]
            await sums.add(NAME, "k0", "1")
            after = sums.committers[NAME].sample()
            assert (after.code, after.trouble) == ("", during.why)
            assert after.stats.adds["counted"] == 2
            assert story(caplog) == ["adds_unsettled", "adds_settled"]
            assert "5 callers were told" in caplog.text

    run(main())


def test_commits_that_are_always_beaten_are_told_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            await sums.add(NAME, "first", "1")

            async def conflict(_: object) -> Beaten:
                await elapse(0.01)
                return Beaten(conflict=True)

            store.commit = conflict  # type: ignore[method-assign, assignment]
            for key in range(30):
                with pytest.raises(errors.AddUnsettled):
                    await sums.add(NAME, f"k{key}", "1")
            share = sums.committers[NAME].sample().lost_share
            assert share is not None
            assert share > 0.9
        contended = [one for one in story(caplog) if one == "tally_contended"]
        assert 1 <= len(contended) <= 2, "a minute went by"
        assert "Let one service write it" in caplog.text

    run(main())


def test_a_tally_that_went_back_is_told_once_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            for key in "ab":
                await sums.add(NAME, key, "1")
            store.items[NAME] = GIFTS
            for key in "cd":
                with pytest.raises(errors.AddUnsettled):
                    await sums.add(NAME, key, "1")
            shown = sums.committers[NAME].sample()
            assert (shown.went_back, shown.code) == (True, "tally_went_back")
        assert story(caplog).count("tally_went_back") == 1

    run(main())


def test_when_a_tally_went_back_and_when_it_was_right_again_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            await sums.add(NAME, "k", "5")
            for _ in range(2):
                right, store.items[NAME] = store.items[NAME], GIFTS
                with pytest.raises(errors.AddUnsettled):
                    await sums.add(NAME, "more", "5")
                store.items[NAME] = right
                await sums.add(NAME, "more", "5")
        wanted = ["tally_went_back", "adds_unsettled", "tally_trusted", "adds_settled"]
        assert story(caplog) == 2 * wanted

    run(main())


@pytest.mark.parametrize("way", ["read", "commit"])
def test_a_look_that_began_before_a_doubt_does_not_end_it(
    caplog: pytest.LogCaptureFixture, way: str
) -> None:
    async def main() -> None:
        store = Watched(GIFTS)
        async with instance(store) as sums:
            await sums.add(NAME, "k", "5")

            async def restored_meanwhile() -> None:
                store.items[NAME] = GIFTS
                assert (await sums.listed())[0].went_back

            if way == "read":
                store.behind["tally"] = Once(restored_meanwhile)
                await sums.value(NAME)
            else:
                store.behind["commit"] = Once(restored_meanwhile)
                await sums.add(NAME, "more", "5")
            assert sums.committers[NAME].sample().code == "tally_went_back"
            assert story(caplog) == ["tally_went_back"]

    run(main())
