"""Instances that are busy on one tally leave each other their turn."""

import asyncio
from random import Random

import pytest

from idservice.core.tally import Commit, Tally
from idservice.stores.tally_store import Beaten
from idservice.tallies.own import OwnTallies
from idservice.tallies.turns import ALONE_S, CROWD_MAX, KNOWN_S, CommitTurns
from tests.simulation.loop import elapse, run
from tests.simulation.tally_store import SimTallies
from tests.tallies.surroundings import NAME, instance

CALL_S, LOAD_S = 0.005, 5.0


class OneAtATime(SimTallies):
    """Commits take 5 ms, about. One that meets another one is cancelled with a conflict."""

    def __init__(self) -> None:
        super().__init__()
        self._busy = False
        self._random = Random(1)

    async def commit(self, commit: Commit) -> Beaten | None:
        await elapse(CALL_S * self._random.uniform(0.1, 0.3))
        beaten: Beaten | None = Beaten(conflict=True)
        if not self._busy:
            beaten = await super().commit(commit)
            self._busy = beaten is None
            await elapse(CALL_S * 0.6)
            if beaten is None:
                self._busy = False
        await elapse(CALL_S * self._random.uniform(0.1, 0.3))
        return beaten


async def busy(sums: OwnTallies, name: str) -> int:
    """Add as fast as it goes; an add that waits for too long fails the test."""
    loop, counted = asyncio.get_running_loop(), 0
    while loop.time() < LOAD_S:
        await asyncio.gather(*(sums.add(NAME, f"{name}{counted}.{n}", "1") for n in range(2)))
        counted += 1
    return counted


def test_instances_that_are_always_busy_take_turns() -> None:
    async def main() -> list[int]:
        store = OneAtATime()
        await store.create(Tally(NAME))
        async with (
            instance(store) as one,
            instance(store) as two,
            instance(store) as three,
        ):
            instances = {"one": one, "two": two, "three": three}
            return await asyncio.gather(*(busy(each, name) for name, each in instances.items()))

    counted = run(main())
    assert min(counted) > sum(counted) / 6
    assert sum(counted) > LOAD_S / CALL_S / 4


def test_an_instance_alone_stays_off_now_and_then() -> None:
    turns, took = CommitTurns(Random(1)), ALONE_S / 100
    pauses = [turns.after_commit(took, 10.0 + n * took) for n in range(1000)]
    assert sum(pause > 0 for pause in pauses) == pytest.approx(10, abs=1)


def test_single_adds_with_time_between_them_are_not_held_up() -> None:
    turns, took = CommitTurns(Random(1)), ALONE_S / 100
    assert not any(turns.after_commit(took, 10.0 + n * took * 3) for n in range(1000))


def test_while_others_are_known_it_stays_off_after_each_commit() -> None:
    turns = CommitTurns(Random(1))
    turns.beaten(10.0)
    assert min(turns.after_commit(0.01, 10.0 + n * KNOWN_S / 100) for n in range(100)) > 0
    assert turns.after_commit(0.01, 10.0 + KNOWN_S) == 0


def test_conflicts_lengthen_the_pauses_up_to_a_limit() -> None:
    turns = CommitTurns(Random(1))
    pauses = [turns.after_conflict(0.01, 10.0) for _ in range(100)]
    assert max(pauses[:2]) < max(pauses) <= 0.01 * CROWD_MAX * 1.5
    for _ in range(100):
        turns.after_commit(0.01, 11.0)
    assert turns.after_conflict(0.01, 11.0) == pytest.approx(0.0125, abs=0.01)
