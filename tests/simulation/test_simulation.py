"""The promises hold for every seed, and the checks that say so find every planted fault."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from tests.prove.histories import op
from tests.simulation import checker, mutants
from tests.simulation.checker import Violation
from tests.simulation.loop import Deadlock, elapse, run
from tests.simulation.mutants import Mutant
from tests.simulation.proof import (
    ALL_MUTANTS,
    SEEDS,
    finding_seed,
    first_violation,
    played,
    replay,
)
from tests.simulation.scenarios import Parts, World, play
from tests.simulation.store import Grant
from tests.simulation.strict import SCENARIOS

CHUNK = 25
REACHED = 12  # seeds of each scenario in which everything has gone wrong once; half would do
FOUND = [("relayed", 50888)]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What a faulty store makes the service say, a few thousand times over."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# --- the promises ---------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("scenario", "start"),
    [(name, at) for name in SCENARIOS for at in range(REACHED, SEEDS[name], CHUNK)],
)
def test_every_promise_holds_for_every_seed(scenario: str, start: int) -> None:
    """Those below `REACHED` are played, and judged, where it is seen what the scenarios reach."""
    for seed in range(start, min(start + CHUNK, SEEDS[scenario])):
        try:
            violation = first_violation(scenario, seed)
        except Exception as error:
            error.add_note(replay(scenario, seed))
            raise
        assert violation is None, f"seed {seed}: {violation}\n{replay(scenario, seed)}"


@pytest.mark.parametrize(("scenario", "seed"), FOUND)
def test_what_a_seed_once_found_it_finds_no_more(scenario: str, seed: int) -> None:
    assert first_violation(scenario, seed) is None


@pytest.mark.long
@pytest.mark.xdist_group("played")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_seed_gives_the_identical_history(scenario: str) -> None:
    first, other = played(scenario, 0), played(scenario, 1)
    again = play(scenario, 0)
    assert first.history == again.history
    assert [told(grant) for grant in first.table.ledger] == [
        told(grant) for grant in again.table.ledger
    ]
    assert first.history != other.history


def told(grant: Grant) -> tuple[object, ...]:
    return grant.epoch, grant.ids, grant.copy, grant.answered


@pytest.mark.long
@pytest.mark.xdist_group("played")
def test_the_scenarios_reach_what_they_are_there_for() -> None:
    """A run in which nothing went wrong proves nothing."""
    worlds: list[World] = [played(name, seed) for name in SCENARIOS for seed in range(REACHED)]
    history = [op for world in worlds for op in world.history]
    assert {op.outcome for op in history} == {"ok", "fail", "info"}
    assert {
        "exhausted", "counter_suspect", "waited_too_long", "gave up", "stopping",
        "suspended", "unknown_counter", "catalogue_stale",
    } <= {op.error for op in history}  # fmt: skip
    ledger = [grant for world in worlds for grant in world.table.ledger]
    assert any(grant.copy for grant in ledger)
    assert any(not grant.answered and not grant.copy for grant in ledger)
    assert any(grant.epoch.startswith("2.") and grant.answered for grant in ledger)
    sent = [sent for world in worlds for one in world.instances for sent in one.store.sent]
    outcomes = {"granted", "unknown", "not_applied", "displaced", "no_room"}
    assert {one.outcome for one in sent} == outcomes
    gaps = {
        cause
        for world in worlds
        for one in world.instances
        for supply in one.service.local_counters.values()
        for cause in supply.reading().gaps
    }
    assert {"unknown", "abandoned", "went_back", "revoked", "stale", "stop", "claim"} <= gaps
    assert max(world.table.entries[world.name].ordinal for world in worlds) > 6
    assert any(grant.claimed and grant.answered for grant in ledger)
    given_back = [back for world in worlds for _, back in world.table.given_back]
    assert {back.next < back.before for back in given_back} == {True, False}
    assert any(one.store.too_late for world in worlds for one in world.instances)
    assert any(world.serving == [] and one.crashed for world in worlds for one in world.instances)


@pytest.mark.long
def test_a_client_library_that_repeats_requests_burns_ids_and_repeats_none() -> None:
    for scenario in SCENARIOS:
        for seed in range(2):  # by which five scenarios see RetryIsTheSameBlock; a third adds none
            parts = Parts(store=mutants.RetriesTheRequest, one_try=False)
            assert first_violation(scenario, seed, parts) is None


# --- planted faults -------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("mutant", ALL_MUTANTS, ids=lambda mutant: mutant.fault.__name__)
def test_a_planted_fault_is_found(mutant: Mutant) -> None:
    finding_seed(mutant)


@pytest.mark.long
def test_an_answer_to_an_old_request_is_dropped_and_would_break_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I12. The supply hangs up on slow calls; here it does not, and passes their answers on."""
    monkeypatch.setattr(mutants.REFILLER, mutants.HearsLateAnswers)
    parts = Parts(one_try=False)
    late = 0
    for seed in range(30):
        world = play("block", seed, parts)
        for instance in world.instances:
            late += sum(
                s.reading().gaps.get("late", 0) for s in instance.service.local_counters.values()
            )
    assert late
    monkeypatch.setattr(mutants.ALLOCATOR, mutants.BelievesOldAnswers)
    found = (first_violation("block", seed, parts) for seed in range(30))
    assert any(violation and violation.check == "order" for violation in found)


# --- the checks -----------------------------------------------------------------------------------


def test_what_nobody_read_is_not_judged() -> None:
    history = [op(1, 2, 5), op(3, 4, 5, outcome="info"), op(3, 4, 1, outcome="fail")]
    checker.check_unique(history)
    checker.check_strict(history)


def test_an_id_beyond_the_limit_and_a_false_exhausted_are_refused() -> None:
    with pytest.raises(Violation, match="limit"):
        checker.check_limits([op(1, 2, 10)], start=0, limit=9)
    with pytest.raises(Violation, match="limit"):
        checker.check_limits([op(1, 2, 8, 3)], start=0, limit=9)
    checker.check_limits([op(1, 2, 8, 2)], start=8, limit=9)
    refused = op(1, 2, 0, outcome="fail", left=1)
    with pytest.raises(Violation, match="exhausted"):
        checker.check_limits([refused], start=0, limit=9)


def test_an_id_that_the_instance_was_not_granted_is_refused() -> None:
    mine, other = object(), object()
    grant = Grant("n", "1.a", range(5, 9), range(5, 9), mine, False, True)  # type: ignore[arg-type]
    stores = {"i": mine, "j": other}
    checker.check_backed_by_grants([op(1, 2, 8)], [grant], stores)
    for bad in (op(1, 2, 9), op(1, 2, 4), op(1, 2, 8, 2), op(1, 2, 8, instance="j")):
        with pytest.raises(Violation, match="grants"):
            checker.check_backed_by_grants([bad], [grant], stores)
    grant.answered = False
    with pytest.raises(Violation, match="grants"):
        checker.check_backed_by_grants([op(1, 2, 8)], [grant], stores)


# --- the loop -------------------------------------------------------------------------------------


def test_time_is_virtual_and_nobody_left_to_wake_is_an_error() -> None:
    async def sleeps() -> float:
        await elapse(86_400.0)
        return asyncio.get_running_loop().time()

    assert run(sleeps()) == pytest.approx(86_400.0)

    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run(waits_for_ever())


def test_the_seed_decides_who_runs_first() -> None:
    async def race() -> list[int]:
        order: list[int] = []

        async def runner(number: int) -> None:
            await asyncio.sleep(0)
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(runner(number))
        return order

    orders = [tuple(run(race(), seed=seed)) for seed in range(20)]
    assert len(set(orders)) > 10
    assert orders == [tuple(run(race(), seed=seed)) for seed in range(20)]


def test_a_fault_that_nobody_caught_ends_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await elapse(1.0)

    with pytest.raises(RuntimeError, match="Exception in callback"):
        run(main())


def test_a_failed_task_that_nobody_asked_ends_the_run() -> None:
    """Also one that only the garbage collector finds: its error holds the frame that holds it."""

    async def fails() -> None:
        mine = asyncio.current_task()
        raise ValueError(mine)

    async def main() -> None:
        asyncio.get_running_loop().create_task(fails())
        await elapse(1.0)

    with pytest.raises(RuntimeError, match="never retrieved"):
        run(main())
