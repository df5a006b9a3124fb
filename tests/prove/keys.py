"""Access keys on three simulated instances, over as many seeds as asked for, and planted faults."""

import logging

from tests.prove.verdict import Progress, Verdict
from tests.simulation.key_mutants import KEY_MUTANTS
from tests.simulation.key_world import key_violation

SHARE = 10  # seeds asked for, for each run here: a run has minutes of virtual time


def prove_keys(*, seeds: int, first: int = 0) -> Verdict:
    """Run a share of the seeds, from `first` on; then plant each fault and look for it."""
    logging.disable(logging.CRITICAL)
    verdict = Verdict("keys", first, f"make prove SEEDS={seeds} ARGS='keys --seed {first}'")
    progress = Progress("keys")
    runs = max(20, seeds // SHARE)
    for seed in range(first, first + runs):
        violation = key_violation(seed)
        if violation is not None:
            verdict.violations.append(f"seed {seed}: {violation}")
        progress(f"{seed - first} of {runs} seeds")
    found = []
    for mutant in KEY_MUTANTS:
        with mutant.planted():
            seen = (getattr(key_violation(seed), "check", "") for seed in range(runs))
            if mutant.check in seen:
                found.append(mutant.name)
            else:
                verdict.violations.append(f"planted {mutant.name}: not seen by {mutant.check!r}")
    planted = f"{len(found)} of {len(KEY_MUTANTS)} planted faults found"
    verdict.figures.append(f"{runs} seeds; {planted}")
    return verdict
