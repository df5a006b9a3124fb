"""The proof runs the whole simulation on all cores, and says what it saw."""

import pytest

from tests.prove import simulated
from tests.prove.simulated import prove_simulation
from tests.simulation.checker import Violation
from tests.simulation.proof import ALL_SCENARIOS

pytestmark = [pytest.mark.process]


def test_the_seeds_are_dealt_out_to_every_scenario() -> None:
    chunks = list(simulated._chunks(list(ALL_SCENARIOS), 1003, 5))
    runs = [(name, seed) for name, chunk in chunks for seed in chunk]
    assert len(runs) == len(set(runs)) == 1003
    assert {name for name, _ in runs} == set(ALL_SCENARIOS)
    assert min(seed for _, seed in runs) == 5


def test_one_seed_of_one_scenario_is_run_again_by_name() -> None:
    verdict = prove_simulation(seeds=2, first=3, scenario="block", cores=1)
    assert verdict.holds, verdict
    assert verdict.figures == ["2 seeds: block 2"]
    assert verdict.replay.endswith("'simulation --scenario block --seed 3'")


def test_what_is_broken_is_told_with_the_command_that_shows_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks(scenario: str, seed: int) -> Violation | None:
        if seed == 4:
            raise RuntimeError("a deadlock")
        return Violation("unique", "7 went to two") if seed == 5 else None

    monkeypatch.setattr(simulated, "first_violation", breaks)
    monkeypatch.setattr(simulated.logging, "disable", lambda level: None)
    deadlock, twice = simulated._run("block", range(3, 7))
    assert "seed 4" in deadlock
    assert "a deadlock" in deadlock
    assert "block, seed 5: unique: 7 went to two" in twice
    assert "simulation --scenario block --seed 5" in twice
