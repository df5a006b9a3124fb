"""Usage of three simulated runs at a time, over as many seeds as asked for, and planted faults."""

import logging

from tests.prove.verdict import Progress, Verdict
from tests.simulation.usage_mutants import USAGE_MUTANTS
from tests.simulation.usage_world import usage_violation

SHARE = 10  # seeds asked for, for each run here: a run has minutes of virtual time
SEEDS_MIN = 60  # to find each planted fault


def prove_usage(*, seeds: int, first: int = 0) -> Verdict:
    """Run a share of the seeds, from `first` on; then plant each fault and look for it."""
    logging.disable(logging.CRITICAL)
    verdict = Verdict("usage", first, f"make prove SEEDS={seeds} ARGS='usage --seed {first}'")
    progress = Progress("usage")
    runs = max(SEEDS_MIN, seeds // SHARE)
    for seed in range(first, first + runs):
        violation = usage_violation(seed)
        if violation is not None:
            verdict.violations.append(f"seed {seed}: {violation}")
        progress(f"{seed - first} of {runs} seeds")
    found = []
    for mutant in USAGE_MUTANTS:
        with mutant.planted():
            violations = (usage_violation(seed, mutant.parts) for seed in range(runs))
            if mutant.check in (getattr(violation, "check", "") for violation in violations):
                found.append(mutant.name)
            else:
                verdict.violations.append(f"planted {mutant.name}: not seen by {mutant.check!r}")
    planted = f"{len(found)} of {len(USAGE_MUTANTS)} planted faults found"
    verdict.figures.append(f"{runs} seeds; {planted}")
    return verdict
