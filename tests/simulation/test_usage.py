"""Usage is never above what was handed out, nor below it by more than a crash may lose."""

import logging
from collections.abc import Iterator

import pytest

from idservice.core.usage import RunEnd, UsageKind
from tests.simulation.proof import tried
from tests.simulation.usage_mutants import USAGE_MUTANTS, UsageMutant
from tests.simulation.usage_world import DAY, UsageWorld, play_usage, usage_violation

SEEDS, REACHED, CHUNK = 60, 8, 13


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.long
@pytest.mark.parametrize("start", range(REACHED, SEEDS, CHUNK))
def test_usage_is_as_handed_out_for_every_seed(start: int) -> None:
    for seed in range(start, min(start + CHUNK, SEEDS)):
        assert usage_violation(seed) is None, f"play_usage({seed})"


@pytest.mark.long
def test_the_worlds_reach_what_they_are_there_for() -> None:
    worlds: list[UsageWorld] = [play_usage(seed) for seed in range(REACHED)]
    processes = [process for world in worlds for process in world.processes]
    assert any(process.stopped for process in processes)
    assert any(not process.stopped for process in processes)
    assert any(not done for process in processes for _, done in process.writes)
    assert sum(world.wasted for world in worlds)
    assert sum(world.replayed for world in worlds)
    parts = [part for world in worlds for part in world.data.usage.values()]
    assert {part.day for part in parts} == {DAY, DAY + 1}
    assert {part.end for part in parts} == set(RunEnd)
    assert {row.kind for part in parts for row in part.rows} == set(UsageKind)
    both = [part.run for part in parts if part.day == DAY and part.end is RunEnd.MIDNIGHT]
    assert any(part.day > DAY and part.run in both for part in parts)
    lost = [process for process in processes if process.lost_from < float("inf")]
    assert any(at > process.lost_from for process in lost for at, *_ in process.given)


@pytest.mark.long
@pytest.mark.parametrize("mutant", USAGE_MUTANTS, ids=lambda mutant: mutant.name)
def test_every_planted_fault_is_found(mutant: UsageMutant) -> None:
    seen = set()
    with mutant.planted():
        for seed in tried(mutant.found_by, SEEDS):
            violation = usage_violation(seed, mutant.parts)
            seen.add(violation and violation.check)
            if violation is not None and violation.check == mutant.check:
                return
    pytest.fail(f"not seen by {mutant.check!r} within {SEEDS} seeds, only {seen}")
