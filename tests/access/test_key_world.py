"""K1 and K3 hold for every seed, and the checks that say so find planted faults."""

import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.key_mutants import KEY_MUTANTS, KeyMutant
from tests.simulation.key_world import key_violation, play_keys
from tests.simulation.proof import tried

SEEDS, REACHED, CHUNK = 60, 8, 26


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.long
@pytest.mark.parametrize("start", range(REACHED, SEEDS, CHUNK))
def test_every_promise_of_keys_holds_for_every_seed(start: int) -> None:
    """Those below `REACHED` are played, and judged, where it is seen what the runs reach."""
    for seed in range(start, min(start + CHUNK, SEEDS)):
        violation = key_violation(seed)
        assert violation is None, f"seed {seed}: {violation}"


@pytest.mark.long
def test_the_runs_reach_what_they_are_there_for() -> None:
    worlds = [play_keys(seed) for seed in range(REACHED)]
    refused = sum((Counter(world.refused) for world in worlds), Counter[str]())
    assert {
        "key_malformed", "key_unknown", "key_expired", "key_not_enough", "catalogue_stale",
        "store_unavailable",
    } <= set(refused), refused  # fmt: skip
    assert sum(world.served for world in worlds) > 1000
    assert sum(len(world.table.revoked) for world in worlds) > 20


@pytest.mark.long
@pytest.mark.parametrize("mutant", KEY_MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_planted_in_keys_is_found(mutant: KeyMutant) -> None:
    seen = set()
    with mutant.planted():
        for seed in tried(mutant.found_by, SEEDS):
            violation = key_violation(seed)
            if violation is not None and violation.check == mutant.check:
                return
            seen.add(violation and violation.check)
    raise AssertionError(f"not seen by {mutant.check!r}, only {seen}")
