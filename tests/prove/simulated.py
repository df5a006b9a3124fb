"""The simulation over as many seeds as asked for, on all cores, and every planted fault."""

import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.prove.verdict import Progress, Verdict
from tests.simulation.proof import (
    ALL_MUTANTS,
    ALL_SCENARIOS,
    finding_seed,
    finding_tally_seed,
    first_violation,
    replay,
)
from tests.simulation.tally_mutants import TALLY_MUTANTS
from tests.simulation.tally_scenarios import TALLY_SCENARIOS

CHUNK = 25  # runs, before progress can be told


SIMULATION, TALLY = "simulation", "tally"  # parts that are simulated


def prove_simulation(
    *, seeds: int, first: int = 0, scenario: str = "", cores: int = 0, part: str = SIMULATION
) -> Verdict:
    """Run `seeds` seeds in all, from `first` on, dealt out to the scenarios; then the mutants.

    With a `scenario` all of them are of this one, and no mutant is run.
    """
    again = f"make prove SEEDS={seeds} ARGS='{part} --seed {first}'"
    verdict = Verdict(part, first, replay(scenario, first) if scenario else again)
    progress = Progress(part)
    every = ALL_SCENARIOS if part == SIMULATION else TALLY_SCENARIOS
    scenarios = [scenario] if scenario else list(every)
    chunks = list(_chunks(scenarios, seeds, first))
    names = [] if scenario else _planted(part)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores or os.cpu_count(), mp_context=context) as pool:
        done: Counter[str] = Counter()
        runs = {pool.submit(_run, name, chunk): (name, chunk) for name, chunk in chunks}
        found = {pool.submit(_find, part, number): name for number, name in enumerate(names)}
        for future in as_completed(runs):
            name, chunk = runs[future]
            done[name] += len(chunk)
            for violation in future.result():
                verdict.violations.append(violation)
                progress.now(f"VIOLATION {violation}")
            progress(f"{done.total()} of {seeds} seeds, {len(verdict.violations)} violations")
        caught = {}
        for future in as_completed(found):
            name = found[future]
            try:
                caught[name] = future.result()
            except AssertionError as error:
                verdict.violations.append(f"planted {name}: {error}")
            progress(f"{len(caught)} of {len(found)} planted faults found")
    verdict.figures.append(f"{done.total()} seeds: {_listed(done)}")
    if names:
        verdict.figures.append(f"{len(caught)} of {len(names)} planted faults found, by seed:")
        verdict.figures.append(_listed(caught))
    return verdict


def _chunks(scenarios: list[str], seeds: int, first: int) -> Iterator[tuple[str, range]]:
    for at, name in enumerate(scenarios):
        share = seeds // len(scenarios) + (at < seeds % len(scenarios))
        for start in range(first, first + share, CHUNK):
            yield name, range(start, min(start + CHUNK, first + share))


def _run(scenario: str, seeds: range) -> list[str]:
    """What was broken, and how to see it again."""
    logging.disable(logging.CRITICAL)
    broken = []
    for seed in seeds:
        try:
            violation: object = first_violation(scenario, seed)
        except Exception as error:  # reported with its seed, and the rest still run
            violation = repr(error)
        if violation is not None:
            broken.append(f"{scenario}, seed {seed}: {violation}\n      {replay(scenario, seed)}")
    return broken


def _planted(part: str) -> list[str]:
    if part == TALLY:
        return [f"{mutant.name} in {mutant.scenario}" for mutant in TALLY_MUTANTS]
    return [f"{mutant.fault.__name__} in {mutant.scenario}" for mutant in ALL_MUTANTS]


def _find(part: str, number: int) -> int:
    logging.disable(logging.CRITICAL)
    if part == TALLY:
        return finding_tally_seed(TALLY_MUTANTS[number])
    return finding_seed(ALL_MUTANTS[number])


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items()))
