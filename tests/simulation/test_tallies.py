"""The promises of tallies hold for every seed, and the checks that say so find planted faults."""

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import chain

import pytest

from tests.simulation.proof import SEEDS, finding_tally_seed, first_violation, played_tally, replay
from tests.simulation.tally_mutants import TALLY_MUTANTS, TallyMutant
from tests.simulation.tally_scenarios import TALLY_SCENARIOS, play_tally
from tests.simulation.tally_world import SumWorld

CHUNK = 25
REACHED = 15  # seeds of each scenario in which everything has gone wrong once


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.long
@pytest.mark.parametrize(
    ("scenario", "start"),
    [(name, at) for name in TALLY_SCENARIOS for at in range(REACHED, SEEDS[name], CHUNK)],
)
def test_every_promise_of_tallies_holds_for_every_seed(scenario: str, start: int) -> None:
    """Those below `REACHED` are played, and judged, where it is seen what the scenarios reach."""
    for seed in range(start, min(start + CHUNK, SEEDS[scenario])):
        try:
            violation = first_violation(scenario, seed)
        except Exception as error:
            error.add_note(replay(scenario, seed))
            raise
        assert violation is None, f"seed {seed}: {violation}\n{replay(scenario, seed)}"


@pytest.mark.long
@pytest.mark.xdist_group("played")
def test_the_scenarios_of_tallies_reach_what_they_are_there_for() -> None:
    worlds: list[SumWorld] = [
        played_tally(name, seed) for name in TALLY_SCENARIOS for seed in range(REACHED)
    ]
    history = list(chain.from_iterable(world.history for world in worlds))
    ends = Counter((one.kind, one.code or one.outcome) for one in history)
    assert {
        ("add", "ok"), ("add", "out_of_bounds"), ("add", "key_reused"), ("add", "bad_amount"),
        ("add", "tally_suspended"), ("add", "unknown_tally"), ("add", "add_unsettled"),
        ("add", "gave up"), ("set", "ok"), ("set", "out_of_bounds"), ("lookup", "ok"),
        ("lookup", "unknown_add"), ("read", "ok"), ("suspend", "ok"), ("resume", "ok"),
    } <= set(ends), ends  # fmt: skip
    assert any(one.replayed for one in history if one.kind == "add")
    assert any(one.crashed for world in worlds for one in world.instances)
    writes = list(chain.from_iterable(world.table.log for world in worlds))
    assert max(len(write.records) for write in writes) > 3
    assert max(write.after.inc for write in writes) > 2
    results = Counter[str]()
    for world in worlds:
        results += world.results
    assert {"done", "beaten", "replayed", "conflict", "unknown", "refused"} <= set(results), results


@pytest.mark.xdist_group("played")
@pytest.mark.parametrize("scenario", TALLY_SCENARIOS)
def test_the_same_seed_gives_the_identical_history_of_a_tally(scenario: str) -> None:
    first, other = played_tally(scenario, 0), played_tally(scenario, 1)
    again = play_tally(scenario, 0)
    assert first.history == again.history
    assert first.table.log == again.table.log
    assert first.history != other.history


@pytest.mark.long
@pytest.mark.parametrize("mutant", TALLY_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_planted_in_tallies_is_found(mutant: TallyMutant) -> None:
    finding_tally_seed(mutant)
