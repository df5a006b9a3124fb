"""Ids over sidecars: unique whatever the hop does, gone when their time is over, and none of an
epoch that is."""

import functools
import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.chained import Chain, chain
from tests.simulation.proof import CHAINED, SEEDS, first_violation, replay

REACHED = 40  # seeds in which everything has gone wrong once

played = functools.cache(chain)  # the tests that look at such runs are one group


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.long
def test_every_promise_holds_over_sidecars() -> None:
    """Those below `REACHED` are played, and judged, where it is seen what the runs reach."""
    for seed in range(REACHED, SEEDS[CHAINED]):
        violation = first_violation(CHAINED, seed)
        assert violation is None, f"seed {seed}: {violation}\n{replay(CHAINED, seed)}"


@pytest.mark.long
@pytest.mark.xdist_group("played over sidecars")
def test_the_same_seed_gives_the_identical_history_over_sidecars() -> None:
    for seed in range(5):
        assert chain(seed).history == played(seed).history != played(seed + 1).history


@pytest.mark.long
@pytest.mark.xdist_group("played over sidecars")
def test_the_runs_reach_what_they_are_there_for() -> None:
    worlds: list[Chain] = [played(seed) for seed in range(REACHED)]
    outcomes = Counter(op.outcome for world in worlds for op in world.history)
    assert {"ok", "fail", "info"} <= set(outcomes)
    gaps: Counter[str] = Counter()
    for world in worlds:
        for sidecar in world.sidecars:
            for supply in sidecar.service.local_counters.values():
                gaps.update(supply.reading().gaps)
    assert {"expired", "unknown", "epoch", "abandoned", "stop"} <= set(gaps)
    assert {world.strict for world in worlds} == {True, False}
    steps = {block.step for world in worlds for one in world.heard for block in one.blocks}
    assert {1, 3} <= steps
    assert any(one.crashed for world in worlds for one in world.instances)
    assert any(one.crashed for world in worlds for one in world.sidecars)
    assert any(op.epoch.startswith("2.") for world in worlds for op in world.history)
