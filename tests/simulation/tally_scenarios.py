"""Scenarios of a tally, and the checks that each run must pass."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

from idservice import errors
from idservice.core.amounts import written
from idservice.core.tally import TallyState
from idservice.tallies import audit
from idservice.tallies.changes import TallyPatch, new_tally
from tests.prove.tally_history import check_history
from tests.simulation.checker import Violation
from tests.simulation.loop import elapse, run
from tests.simulation.tally_checker import Answers, check_intents, check_writes, torn
from tests.simulation.tally_store import SimTallies
from tests.simulation.tally_world import NAME, SumWorld, TallyParts

TRIES = 8  # of an operator who is not answered


async def summed(world: SumWorld) -> None:
    """Clients add, instances come and go, and an operator sets, suspends and resumes the sum."""
    await _begun(world)
    operators = [_operates(world, _sets, _suspends)]
    await _worked(world, operators)
    first, low, high = world.first, None, None
    if first.floor is not None:
        low = Decimal(written(first.floor, first.decimals))
    if first.ceiling is not None:
        high = Decimal(written(first.ceiling, first.decimals))
    start = Decimal(written(first.start, first.decimals))
    check_history(world.history, start=start, floor=low, ceiling=high)


async def recreated(world: SumWorld) -> None:
    """The bounds change too, and the tally is deleted and created again with other decimals."""
    await _begun(world)
    operators = [_operates(world, _sets, _suspends, _binds), _operates(world, _deletes)]
    await _worked(world, operators)


TALLY_SCENARIOS = {"summed": summed, "recreated": recreated}


async def _begun(world: SumWorld) -> None:
    world.table.create(world.first)
    for _ in range(world.rng.randint(2, 3)):
        await world.begin()


async def _worked(world: SumWorld, operators: list[Awaitable[None]]) -> None:
    meddling = asyncio.gather(_restarts(world), _clocks(world), *operators)
    watching = asyncio.create_task(world.watch())
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(world.client(f"c{number}", 9))
    await meddling
    watching.cancel()
    await world.finish()
    check(world)
    await _check_audit(world)
    await world.stop()


def check(world: SumWorld) -> None:
    """Every promise, over the writes and the answers. Raises Violation."""
    check_writes(world.table)
    Answers(world.table).check(world.history)
    check_intents(world.table, [frozenset(one.keys) for one in world.intents.values()])


async def _check_audit(world: SumWorld) -> None:
    """A tally that was put back below its records is found, and made anew of them."""
    for instance in world.serving:
        if not (found := await instance.tallies.audit(NAME)).agrees:
            raise Violation("audit", f"{found}")
    tally = world.table.items[NAME]
    log = world.table.log
    earlier = [at for at, one in enumerate(log) if one.after.inc == tally.inc]
    table = torn(world.table, NAME, world.rng.choice(earlier))
    found = await audit.audited(SimTallies(table), table.items[NAME])
    newest = max((one.rev for one in table.every_record(NAME, tally.inc)), default=0)
    if found.agrees != (newest <= table.items[NAME].rev):
        raise Violation("audit", f"{found} of {table.items[NAME]}")
    repaired = found.repaired
    if (repaired.sum, repaired.adds) != (tally.sum, tally.adds) or repaired.rev <= newest:
        raise Violation("audit", f"{repaired}, but {tally}")


# --- what is done meanwhile -----------------------------------------------------------------------


async def _restarts(world: SumWorld) -> None:
    for _ in range(world.rng.randint(0, 3)):
        await elapse(world.rng.uniform(0.2, 4.0))
        world.end(world.any_instance(), crashed=world.rng.random() < 0.7)
        await world.begin()


async def _clocks(world: SumWorld) -> None:
    for _ in range(4):
        await elapse(world.rng.uniform(0.2, 3.0))
        world.any_instance().skew += world.rng.choice((-60.0, -0.5, 5.0))


Change = Callable[[SumWorld, int], Awaitable[None]]


async def _operates(world: SumWorld, *changes: Change) -> None:
    for number in range(world.rng.randint(1, 4)):
        await elapse(world.rng.uniform(0.1, 3.0))
        await world.rng.choice(changes)(world, number)


async def _sets(world: SumWorld, number: int) -> None:
    key, sum = f"set{number}-{world.event()}", world.rng.choice(("0", "3", "0.57", "50"))
    for _ in range(TRIES):
        asked = await world.ask("operator", "set", key, sum)
        if asked.outcome != "unknown":
            return


async def _suspends(world: SumWorld, number: int) -> None:
    if (await world.ask("operator", "suspend")).outcome != "ok":
        return
    await elapse(world.rng.uniform(0.0, 4.0))
    for _ in range(TRIES):
        if (await world.ask("operator", "resume")).outcome == "ok":
            return


async def _binds(world: SumWorld, number: int) -> None:
    rng = world.rng
    patch = TallyPatch(floor=rng.choice((None, "", "-5", "0")), ceiling=rng.choice(("", "20")))
    await _changed(world, world.any_instance().tallies.change(NAME, patch, "configure"))


async def _deletes(world: SumWorld, number: int) -> None:
    gone = TallyPatch(state=TallyState.DELETED)
    await _changed(world, world.any_instance().tallies.change(NAME, gone, "delete"))
    await elapse(world.rng.uniform(0.0, 1.0))
    again = new_tally(NAME, decimals=world.rng.choice((0, 1, 2, 3)), start="7")
    for _ in range(TRIES):
        await _changed(world, world.any_instance().tallies.create(replace(again)))
        if world.table.items[NAME].state is not TallyState.DELETED:
            break
    # Somebody counts the same again, at instances that may have heard of nothing.
    intents = list(world.intents.values())
    some = world.rng.sample(intents, min(4, len(intents)))
    await asyncio.gather(*(world.ask("again", "add", one.key, one.amount) for one in some))


async def _changed(world: SumWorld, change: Awaitable[object]) -> None:
    with suppress(errors.IdserviceError):  # the writes are checked, whoever may hear of them
        await change


# --- a run ----------------------------------------------------------------------------------------


def play_tally(scenario: str, seed: int, parts: TallyParts | None = None) -> SumWorld:
    """Run a scenario with one seed, and check it. Raises Violation."""

    async def main() -> SumWorld:
        world = SumWorld(seed, parts or TallyParts())
        await TALLY_SCENARIOS[scenario](world)
        return world

    return run(main(), seed=seed)
