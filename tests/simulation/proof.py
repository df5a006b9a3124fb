"""Everything that the simulation proves, by name: scenarios that must hold for every seed, and
planted faults that must be found."""

import contextlib
import functools
from collections.abc import Callable, Iterable
from unittest import mock

from idservice.stores.chained import ChainedStore
from tests.simulation.chained import chain
from tests.simulation.chained_mutants import CHAINED_MUTANTS
from tests.simulation.checker import Violation
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.scenarios import Parts, World, play
from tests.simulation.sharded_mutants import SHARDED_MUTANTS
from tests.simulation.strict import SCENARIOS
from tests.simulation.strict_mutants import STRICT_MUTANTS
from tests.simulation.tally_mutants import TallyMutant
from tests.simulation.tally_scenarios import TALLY_SCENARIOS, play_tally
from tests.simulation.tally_world import HONEST, SumWorld, TallyParts

CHAINED = "chained"  # the scenario that has sidecars
ALL_SCENARIOS = (*SCENARIOS, CHAINED)
ALL_MUTANTS = (*MUTANTS, *STRICT_MUTANTS, *SHARDED_MUTANTS, *CHAINED_MUTANTS)
# Seeds that the tests play; `make prove` plays as many as it is told to. A third of them find each
# planted fault of the scenario, or half where a run takes long: so they would a fault in the code.
SEEDS = dict.fromkeys(ALL_SCENARIOS, 30) | {
    "block": 85, "strict": 40, "turmoil": 85, "rolling": 100, "relayed": 40, "resharded": 40,
    "rushed": 40, "crowded": 60, CHAINED: 60, "summed": 40, "recreated": 55,
}  # fmt: skip


def first_violation(
    scenario: str, seed: int, parts: Parts | None = None, sums: TallyParts = HONEST
) -> Violation | None:
    """The first promise that one run broke, if any. `sums` are the parts of a tally's run."""
    try:
        if scenario in TALLY_SCENARIOS:
            play_tally(scenario, seed, sums)
        elif scenario == CHAINED:
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
    """Return one of the tests' seeds by which the check that must see a planted fault sees it.

    Raises AssertionError, which names the checks that saw something else.
    """
    planted = mock.patch(mutant.place, mutant.fault) if "." in mutant.place else None
    with planted or contextlib.nullcontext():
        return _found(mutant, lambda seed: first_violation(mutant.scenario, seed, mutant.parts))


def finding_tally_seed(mutant: TallyMutant) -> int:
    """The same of a fault that is planted in tallies."""
    with mutant.planted():
        return _found(
            mutant, lambda seed: first_violation(mutant.scenario, seed, sums=mutant.parts)
        )


def tried(first: int, seeds: int) -> Iterable[int]:
    """All seeds, beginning with one that is known to find a fault: most of the time goes by on
    those that find none."""
    return dict.fromkeys((first, *range(seeds)))


def _found(mutant: Mutant | TallyMutant, violated: Callable[[int], Violation | None]) -> int:
    seen = set()
    for seed in tried(mutant.found_by, SEEDS[mutant.scenario]):
        try:
            violation = violated(seed)
        except (RuntimeError, ExceptionGroup):
            continue  # it broke something of the simulation's own
        if violation is not None and violation.check == mutant.check:
            return seed
        seen.add(violation and violation.check)
    within = SEEDS[mutant.scenario]
    raise AssertionError(f"not seen by {mutant.check!r} within {within} seeds, only {seen}")


@functools.cache
def played_tally(scenario: str, seed: int) -> SumWorld:
    """As `played`, of a tally."""
    try:
        return play_tally(scenario, seed)
    except Exception as error:
        error.add_note(replay(scenario, seed))
        raise


@functools.cache
def played(scenario: str, seed: int) -> World:
    """A run in which no promise was broken, played once for all tests that look at it.

    They are the group `played` of pytest-xdist, so that one worker runs them.
    """
    try:
        return play(scenario, seed)
    except Exception as error:
        error.add_note(replay(scenario, seed))
        raise


def replay(scenario: str, seed: int) -> str:
    """The command that runs one seed again."""
    return f"make prove ARGS='simulation --scenario {scenario} --seed {seed}'"
