"""Everything that the simulation proves, by name: scenarios that must hold for every seed, and
planted faults that must be found."""

import contextlib
from unittest import mock

from idservice.stores.chained import ChainedStore
from tests.simulation.chained import chain
from tests.simulation.chained_mutants import CHAINED_MUTANTS
from tests.simulation.checker import Violation
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.scenarios import Parts, play
from tests.simulation.sharded_mutants import SHARDED_MUTANTS
from tests.simulation.strict import SCENARIOS
from tests.simulation.strict_mutants import STRICT_MUTANTS

CHAINED = "chained"  # the scenario that has sidecars
ALL_SCENARIOS = (*SCENARIOS, CHAINED)
ALL_MUTANTS = (*MUTANTS, *STRICT_MUTANTS, *SHARDED_MUTANTS, *CHAINED_MUTANTS)
MUTANT_SEEDS = 150  # within these, a mutant must be found


def first_violation(scenario: str, seed: int, parts: Parts | None = None) -> Violation | None:
    """The first promise that one run broke, if any."""
    try:
        if scenario == CHAINED:
            store = parts.store if parts is not None else ChainedStore
            chain(seed, store if issubclass(store, ChainedStore) else ChainedStore)
        else:
            play(scenario, seed, parts)
    except Violation as violation:
        return violation
    except BaseExceptionGroup as group:
        found = group.subgroup(Violation)
        if found is None:
            raise
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        assert isinstance(found, Violation)
        return found
    return None


def finding_seed(mutant: Mutant) -> int:
    """The first seed by which a planted fault is found, by the check that must see it.

    Raises AssertionError, which names the checks that saw something else.
    """
    planted = mock.patch(mutant.place, mutant.fault) if "." in mutant.place else None
    seen = set()
    with planted or contextlib.nullcontext():
        for seed in range(MUTANT_SEEDS):
            try:
                violation = first_violation(mutant.scenario, seed, mutant.parts)
            except (RuntimeError, ExceptionGroup):
                continue  # it broke something of the simulation's own
            if violation is not None and violation.check == mutant.check:
                return seed
            seen.add(violation and violation.check)
    raise AssertionError(f"not seen by {mutant.check!r} within {MUTANT_SEEDS} seeds, only {seen}")


def replay(scenario: str, seed: int) -> str:
    """The command that runs one seed again."""
    return f"make prove ARGS='simulation --scenario {scenario} --seed {seed}'"
