"""The scenarios of shards show what they are there for, and the checks of shards are right."""

import logging
from collections import Counter as Tally
from collections.abc import Iterator
from random import Random

import pytest

from idservice.catalogue import rules
from idservice.catalogue.changes import Reshard
from idservice.core import epoch as epochs
from tests.prove.histories import op
from tests.simulation import checker, sharded
from tests.simulation.checker import Operation, Violation
from tests.simulation.loop import run
from tests.simulation.proof import played
from tests.simulation.scenarios import NAME, Parts, World
from tests.simulation.store import Grant


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.long
@pytest.mark.xdist_group("played")
def test_the_scenarios_of_shards_reach_what_they_are_there_for() -> None:
    names = ("wandering", "relayed", "resharded", "rushed")
    assert set(names) <= set(sharded.SCENARIOS)
    worlds: list[World] = [played(name, seed) for name in names for seed in range(8)]
    moves: Tally[str] = Tally()
    for world in worlds:
        for instance in world.instances:
            if NAME in instance.service.local_counters:
                moves.update(instance.service.local_counters[NAME].stats.moves)
    assert min(moves["throttled"], moves["exhausted"]) > 20
    ledger = [grant for world in worlds for grant in world.table.ledger]
    assert {grant.shard for grant in ledger} == {0, 1, 2, 3, 4}
    assert {grant.ids.step for grant in ledger} == {1, 2, 3, 4, 5}
    assert any(grant.claimed and grant.answered and grant.shard for grant in ledger)
    back = [back for world in worlds for _, back in world.table.given_back]
    assert {one.next < one.before for one in back if one.shard} == {True, False}
    answers = [one for world in worlds for one in world.history if one.outcome == "ok"]
    assert any(len({ids.start % ids.step for ids in one.ids}) > 1 for one in answers), "of two"
    assert any(one.error == "exhausted" for world in worlds for one in world.history)


def granted(first: int, count: int, shard: int, epoch: str = "1.a") -> Grant:
    indices = range(first, first + count)
    ids = range(shard + 2 * first, shard + 2 * (first + count), 2)
    return Grant("n", epoch, indices, ids, None, False, True, shard=shard)


LEDGER = [granted(0, 10, 0), granted(0, 10, 1)]


def test_ids_may_fall_from_shard_to_shard_and_not_within_one() -> None:
    checker.check_rising_per_shard([op(1, 2, 8), op(3, 4, 1), op(5, 6, 10)], LEDGER)
    with pytest.raises(Violation, match="order"):
        checker.check_rising_per_shard([op(1, 2, 8), op(3, 4, 1), op(5, 6, 6)], LEDGER)
    with pytest.raises(Violation, match="order"):
        checker.check_rising_per_shard([op(1, 2, 3), op(3, 4, 8), op(5, 6, 1)], LEDGER)
    other = op(5, 6, 6)
    other.instance = "j"
    checker.check_rising_per_shard([op(1, 2, 8), op(3, 4, 1), other], LEDGER)


@pytest.mark.parametrize(
    ("blocks", "holds"),
    [
        ([range(8, 12, 2), range(1, 5, 2)], True),
        ([range(8, 10, 2), range(1, 3, 2), range(10, 12, 2)], True),
        ([range(8, 10, 2), range(1, 3, 2), range(6, 8, 2)], False),
    ],
)
def test_a_batch_of_two_shards_rises_within_each(blocks: list[range], *, holds: bool) -> None:
    batch: Operation = op(1, 2, 8)
    batch.ids = blocks
    if holds:
        checker.check_rising_per_shard([batch], LEDGER)
    else:
        with pytest.raises(Violation, match="batch"):
            checker.check_rising_per_shard([batch], LEDGER)


def test_an_id_is_looked_for_in_the_last_grant_that_has_it() -> None:
    """What was given back belongs to nobody, and may come again in another epoch and shard."""
    before = Grant("n", "1.a", range(20), range(20), None, False, True)
    after = [
        Grant("n", "2.b", range(9), range(5 + at, 32, 3), None, False, True, shard=at)
        for at in range(3)
    ]
    found = checker.Ranges([before, *after])
    assert [found.of(id).epoch for id in (4, 5, 19)] == ["1.a", "2.b", "2.b"]  # type: ignore[union-attr]
    assert found.of(40) is None
    checker.check_rising_per_shard([op(1, 2, 12), op(3, 4, 10)], [before, *after])


def test_an_epoch_that_begins_below_the_highest_of_any_shard_is_refused() -> None:
    later = Grant("n", "2.b", range(5), range(20, 25), None, False, True)
    checker.check_epochs([*LEDGER, later])
    with pytest.raises(Violation, match="epochs"):
        checker.check_epochs([LEDGER[0], granted(0, 11, 1), later])


def test_a_hole_or_an_overlap_within_one_shard_is_refused() -> None:
    checker.check_ledger([*LEDGER, granted(10, 2, 1), granted(10, 1, 0)], start=0)
    for wrong in (granted(11, 2, 1), granted(9, 2, 0)):
        with pytest.raises(Violation, match="ledger"):
            checker.check_ledger([*LEDGER, wrong], start=0)


@pytest.mark.parametrize("left", [0, 4])
def test_a_change_leaves_what_the_epoch_before_had_until_it_is_done(left: int) -> None:
    async def main() -> None:
        world = World(1, Parts())
        world.create(limit=9, shards=2)
        table, before = world.table, world.table.entries[NAME]
        stands = [table.shard_state(before, shard) for shard in range(2)]
        entry = rules.begun(before, Reshard(shards=1), stands, Random(1))
        table.rewrite(before, entry)
        table.reserve(before, count=5, seen=0, room=0, shard=0)
        table.reserve(before, count=5 - left, seen=0, room=left, shard=1)
        assert entry.intent is not None
        seal = epochs.sealed(entry.intent.epoch)
        for shard in range(2):
            assert world._left(entry) == left
            table.seal(entry, shard, table.shard_state(entry, shard), seal)
        assert world._left(entry) == left
        based = rules.based(entry, [table.shard_state(entry, shard) for shard in range(2)], None)
        table.rewrite(entry, based)
        assert world._left(based) == left
        table.open_shard(based, 0, seal, entry.intent.epoch)
        assert world._left(based) == left
        after = rules.done(based)
        table.rewrite(based, after)
        assert world._left(based) is None, "it does not know yet"
        assert world._left(after) == (1 if left else 0), "below the highest of any shard is lost"

    run(main())
