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
    first_violation,
    replay,
)

CHUNK = 25  # runs, before progress can be told


def prove_simulation(*, seeds: int, first: int = 0, scenario: str = "", cores: int = 0) -> Verdict:
    """Run `seeds` seeds in all, from `first` on, dealt out to the scenarios; then the mutants.

    With a `scenario` all of them are of this one, and no mutant is run.
    """
    again = f"make prove SEEDS={seeds} ARGS='simulation --seed {first}'"
    verdict = Verdict("simulation", first, replay(scenario, first) if scenario else again)
    progress = Progress("simulation")
    scenarios = [scenario] if scenario else list(ALL_SCENARIOS)
    chunks = list(_chunks(scenarios, seeds, first))
    mutants = [] if scenario else list(range(len(ALL_MUTANTS)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores or os.cpu_count(), mp_context=context) as pool:
        done: Counter[str] = Counter()
        runs = {pool.submit(_run, name, chunk): (name, chunk) for name, chunk in chunks}
        found = {pool.submit(_find, number): number for number in mutants}
        for future in as_completed(runs):
            name, chunk = runs[future]
            done[name] += len(chunk)
            for violation in future.result():
                verdict.violations.append(violation)
                progress.now(f"VIOLATION {violation}")
            progress(f"{done.total()} of {seeds} seeds, {len(verdict.violations)} violations")
        caught = {}
        for future in as_completed(found):
            mutant = ALL_MUTANTS[found[future]]
            name = f"{mutant.fault.__name__} in {mutant.scenario}"
            try:
                caught[name] = future.result()
            except AssertionError as error:
                verdict.violations.append(f"planted {name}: {error}")
            progress(f"{len(caught)} of {len(found)} planted faults found")
    verdict.figures.append(f"{done.total()} seeds: {_listed(done)}")
    if mutants:
        verdict.figures.append(f"{len(caught)} of {len(mutants)} planted faults found, by seed:")
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


def _find(number: int) -> int:
    logging.disable(logging.CRITICAL)
    return finding_seed(ALL_MUTANTS[number])


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items()))
