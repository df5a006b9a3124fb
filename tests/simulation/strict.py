"""Scenarios of strict counters: answers are lost, writers die, are pruned and copied."""

import asyncio
import copy
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from idservice.allocation import strict
from tests.simulation import account
from tests.simulation.loop import elapse, run
from tests.simulation.operators import operate, put_right
from tests.simulation.scenarios import NAME, SCENARIOS, Instance, Parts, World

WAIT_S, STANDS_STILL_S = 1.0, 1.1  # the latter longer than requests wait


async def lossy(world: World) -> None:
    """A fifth of all answers is lost at least, everything else goes wrong too, nobody leaves."""
    world.faults.lost_after = max(0.2, world.faults.lost_after)
    world.create(strict=True)
    for _ in range(3):
        await world.begin()
    await world.clients(5, 14, counts=(1, 1, 3), pause_s=0.2)
    await world.finish()
    world.check(need_max=3)


async def crowded(world: World) -> None:
    """There is place for three writers, more instances come and go, and requests arrive late and
    twice; some processes are copied while they run, some clients leave, and the epoch changes."""
    rng, faults = world.rng, world.faults
    faults.lost_after = rng.choice((0.2, 0.4))
    faults.late_request, faults.repeated = rng.choice(((0.0, 0.3), (0.15, 0.3), (0.15, 0.0)))
    if rng.random() < 0.7:
        faults.latency_s = (0.0, 0.02)
    world.limits = replace(world.limits, wait=WAIT_S)
    world.create(strict=True)
    with _few_writers():
        for _ in range(rng.randint(2, 4)):
            await world.begin()
        pruning = [asyncio.create_task(_prunes(world)) for _ in range(2)]
        meddling = [asyncio.create_task(_copies(world)), asyncio.create_task(_restarts(world))]
        if rng.random() < 0.3:
            meddling.append(asyncio.create_task(_changes(world)))
        hasty = rng.choice((0.0, 0.3))
        await world.clients(
            5, 18, counts=(1, 1, 4), pause_s=rng.choice((0.1, 2.0, 5.0)), hasty=hasty
        )
        for task in meddling:
            await task
        for task in pruning:
            task.cancel()
        await world.finish()
        world.check(need_max=4)


async def changed(world: World) -> None:
    """Two operators change the counter at once, and some of them die between any two steps; what
    writers and operators send is lost, late and sent again, and processes come and go."""
    rng, faults = world.rng, world.faults
    if rng.random() < 0.8:  # else whatever else goes wrong leaves few that are answered
        faults.heal()
        faults.latency_s = rng.choice(((0.001, 0.01), (0.0, 0.3)))
    faults.lost_after = rng.choice((0.1, 0.2))
    faults.late_request, faults.repeated = rng.choice(((0.0, 0.3), (0.05, 0.6), (0.05, 0.0)))
    world.limits = replace(world.limits, wait=WAIT_S)
    world.create(strict=True)
    with _few_writers():
        for _ in range(rng.randint(2, 3)):
            await world.begin()
        meddling = [asyncio.create_task(_restarts(world))] if rng.random() < 0.5 else []
        pause_s = rng.choice((1.0, 6.0))
        meddling += [
            asyncio.create_task(operate(world, changes=rng.randint(2, 5), pause_s=pause_s))
            for _ in range(2)
        ]
        pause_s, hasty = rng.choice((0.1, 1.5, 1.5)), rng.choice((0.0, 0.2))
        await world.clients(5, 50, counts=(1, 1, 3), pause_s=pause_s, hasty=hasty)
        for task in meddling:
            await task
        await put_right(world)
        await world.finish()
        world.check(need_max=3)


@contextmanager
def _few_writers() -> Iterator[None]:
    """There is place for three, who are pruned soon."""
    with (
        mock.patch.object(strict, "WRITERS_MAX", 3),
        mock.patch.object(strict, "WRITERS_FEW", 1),
        mock.patch.object(strict, "STANDS_STILL_S", STANDS_STILL_S),
    ):
        yield


async def _restarts(world: World) -> None:
    for _ in range(3):
        await elapse(world.rng.uniform(0.5, 4.0))
        instance = world.rng.choice(world.serving)
        if world.rng.random() < 0.6:
            world.crash(instance)
        else:
            await world.stop(instance)
        await world.begin()


async def _copies(world: World) -> None:
    """A process goes on with what another one knows, as after a snapshot of its machine."""
    for _ in range(4):
        await elapse(world.rng.uniform(0.2, 2.5))
        one, other = (_batches(world.rng.choice(world.serving)) for _ in range(2))
        if one is not None and other is not None and not other._busy:
            other.forget()  # and counts what it does not know
            other._writer = copy.deepcopy(one._writer)
            other._writer._open.clear()  # which the first one counts


async def _prunes(world: World) -> None:
    """Somebody watches who stands still, and prunes them, by requests that may arrive late."""
    rng, table, counter = world.rng, world.table, world.table.entries[NAME]
    while True:
        before = table.writers(counter)
        await elapse(STANDS_STILL_S)
        after = table.writers(counter)
        for name, seq in before.seqs.items() if before and after else ():
            if after is not None and after.seqs.get(name) == seq:
                late_s = rng.uniform(0.0, 6.0)
                asyncio.get_running_loop().call_later(late_s, table.prune, counter, name, seq)


def _batches(instance: Instance) -> strict.StrictReserver | None:
    supply = instance.service.local_counters.get(NAME)
    return supply.refiller.batches if supply is not None else None


async def _changes(world: World) -> None:
    """Somebody seals the position, and a while later the next epoch opens."""
    await elapse(world.rng.uniform(0.5, 3.0))
    world.table.set_by_hand(NAME, epoch="sealed:2.repaired")
    await elapse(world.rng.uniform(0.2, 2.0))
    world.table.repair(NAME, "repaired")


SCENARIOS |= {"lossy": lossy, "crowded": crowded, "changed": changed}


# --- the figure -----------------------------------------------------------------------------------

LOST = 0.2


async def _steady(world: World, requests: int) -> None:
    """A fifth of all answers is lost, requests are repeated, and many clients ask all the time."""
    world.faults.heal()
    world.faults.lost_after, world.faults.repeated = LOST, 0.05
    world.limits = replace(world.limits, wait=20.0)  # nobody leaves
    world.create(strict=True)
    for _ in range(3):
        await world.begin()
    await world.clients(30, requests, counts=(1, 1, 1, 5), pause_s=0.01)
    await world.finish()
    world.check(need_max=5)


def figure(ids: int, *, seed: int) -> World:
    """A run of about so many ids, checked. Raises Violation."""

    async def main() -> World:
        world = World(seed, Parts())
        await _steady(world, ids // 60)
        return world

    with account.watched():
        return run(main(), seed=seed)


def told(world: World) -> str:
    """What the run came to."""
    fates = world.account()
    sent = [sent for one in world.instances for sent in one.store.sent]
    again = len(sent) - len({one.nonce for one in sent})
    return (
        f"{fates['answered']} ids answered, {len(sent)} writes sent, {again} of them again;"
        f" answers lost: {LOST:.0%}; duplicates: 0; gaps through lost replies:"
        f" {fates.get('lost', 0)}; all ids granted: {fates}"
    )


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    for seed in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1):
        print(f"seed {seed}: {told(figure(int(sys.argv[1]), seed=seed))}", flush=True)
