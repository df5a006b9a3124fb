"""Access keys and usage, each on three simulated instances: seeds, and planted faults."""

import logging
from collections.abc import Callable, Mapping

from tests.prove.verdict import Progress, Verdict
from tests.simulation.checker import Violation
from tests.simulation.key_mutants import KEY_MUTANTS, KeyMutant
from tests.simulation.key_world import key_violation
from tests.simulation.usage_mutants import USAGE_MUTANTS, UsageMutant
from tests.simulation.usage_world import usage_violation

SHARE = 10  # seeds asked for, for each run here: a run has minutes of virtual time
# By part, the least number of seeds by which each planted fault is found.
SEEDS_MIN: Mapping[str, int] = {"keys": 25, "usage": 60}


def prove_world(part: str, *, seeds: int, first: int = 0) -> Verdict:
    """Run a share of the seeds, from `first` on; then plant each fault and look for it."""
    logging.disable(logging.CRITICAL)
    verdict = Verdict(part, first, f"make prove SEEDS={seeds} ARGS='{part} --seed {first}'")
    progress = Progress(part)
    runs = max(SEEDS_MIN[part], seeds // SHARE)
    violated: Callable[[int], Violation | None]
    violated = key_violation if part == "keys" else usage_violation
    for seed in range(first, first + runs):
        violation = violated(seed)
        if violation is not None:
            verdict.violations.append(f"seed {seed}: {violation}")
        progress(f"{seed - first} of {runs} seeds")
    mutants = KEY_MUTANTS if part == "keys" else USAGE_MUTANTS
    found = []
    for mutant in mutants:
        if _is_found(mutant, runs):
            found.append(mutant.name)
        else:
            verdict.violations.append(f"planted {mutant.name}: not seen by {mutant.check!r}")
    planted = f"{len(found)} of {len(mutants)} planted faults found"
    verdict.figures.append(f"{runs} seeds; {planted}")
    return verdict


def _is_found(mutant: KeyMutant | UsageMutant, runs: int) -> bool:
    """Whether the check that must see a planted fault sees it."""
    with mutant.planted():
        for seed in range(runs):
            if isinstance(mutant, UsageMutant):
                violation = usage_violation(seed, mutant.parts)
            else:
                violation = key_violation(seed)
            if violation is not None and violation.check == mutant.check:
                return True
    return False
