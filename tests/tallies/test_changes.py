"""What is told of a change whose write was refused because a copy of it had come first (I7)."""

import pytest

from idservice import errors
from idservice.core.tally import Tally, TallyState
from idservice.tallies.changes import TallyChanger, TallyPatch
from tests.simulation.loop import run

from .surroundings import NAME, Watched, instance

PATCHES = {
    "suspend": TallyPatch(state=TallyState.SUSPENDED),
    "configure": TallyPatch(ceiling="9"),
    "delete": TallyPatch(state=TallyState.DELETED),
}


class Copying(Watched):
    """A store behind a proxy that sends each write twice, and tells what the second one did."""

    async def rewrite(self, before: Tally, after: Tally) -> bool:
        await super().rewrite(before, after)
        return await super().rewrite(before, after)


@pytest.mark.parametrize("what", PATCHES)
def test_a_change_that_a_copy_made_first_is_done_and_made_once(what: str) -> None:
    async def main() -> None:
        store = Copying(Tally(NAME))
        async with instance(store) as own:
            changer = TallyChanger(store, lambda: 0, own.check_from_now)
            after = await changer.change(NAME, PATCHES[what], what, by="ann", why="")
            assert store.items[NAME] == after
            assert after.rev == 1

    run(main())


def test_a_tally_that_a_copy_created_first_was_created() -> None:
    class Twice(Watched):
        async def create(self, tally: Tally) -> Tally:
            await super().create(tally)
            return Tally(**{name: getattr(tally, name) for name in tally.__slots__})

    async def main() -> None:
        store = Twice()
        async with instance(store) as own:
            changer = TallyChanger(store, lambda: 0, own.check_from_now)
            assert (await changer.create(Tally(NAME), by="ann"))[1]

    run(main())


def test_a_failure_after_a_write_that_was_refused_is_unknown() -> None:
    async def main() -> None:
        store = Copying(Tally(NAME))
        calls = iter(range(9))

        async def throttled_later() -> None:
            if next(calls):
                raise errors.NotApplied(store="sim:", action="reading", why="it is throttled")

        store.before["tally"] = throttled_later
        async with instance(store) as own:
            changer = TallyChanger(store, lambda: 0, own.check_from_now)
            with pytest.raises(errors.OutcomeUnknown, match="it is throttled"):
                await changer.change(NAME, PATCHES["delete"], "delete", by="ann", why="")
            assert store.items[NAME].state is TallyState.DELETED

    run(main())
