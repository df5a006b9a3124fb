"""Scenarios of counters with shards: instances wander, operators change the number of shards."""

import asyncio

from idservice.allocation.context import Limits
from idservice.catalogue.changes import Reshard
from tests.simulation.checker import Violation
from tests.simulation.loop import elapse
from tests.simulation.operators import operate, put_right
from tests.simulation.scenarios import (
    NAME,
    SCENARIOS,
    World,
    insisting,
    operated,
    warm,
)


async def wandering(world: World) -> None:
    """Shards become too hot and cool down, some are near their end, and instances come, stop and
    crash: nobody is told that no ids are left while there are any."""
    rng = world.rng
    world.sharded = True
    start, shards = rng.choice((0, 1000)), rng.randint(2, 5)
    limited = rng.random() < 0.6
    limit = start + rng.randint(20, 300) if limited else 2**53 - 1
    world.limits = Limits(
        runway=rng.choice((1.0, 30.0)), wait=2.0, block_max=rng.choice((3, 20, 1000))
    )
    world.create(start=start, limit=limit, shards=shards)
    for _ in range(rng.randint(2, 4)):
        await world.begin()
    meddling = [
        asyncio.create_task(_heat(world, shards)),
        asyncio.create_task(_comings_and_goings(world)),
    ]
    counts = rng.choice(((1,), (1, 1, 4), (1, 9)))
    await world.clients(5, 25, counts=counts, pause_s=0.3, hasty=rng.choice((0.0, 0.2)))
    for task in meddling:
        await task
    await world.finish()
    world.check(need_max=max(counts))


async def _heat(world: World, shards: int) -> None:
    for _ in range(8):
        world.faults.hot = set(world.rng.sample(range(shards), world.rng.randint(0, shards - 1)))
        await elapse(world.rng.uniform(0.1, 1.5))
    world.faults.hot = set()


async def _comings_and_goings(world: World) -> None:
    for _ in range(5):
        await elapse(world.rng.uniform(0.1, 1.5))
        instance = world.rng.choice(world.serving)
        if world.rng.random() < 0.3:
            world.crash(instance)
        else:
            instance.over.set()
        await world.begin()


async def relayed(world: World) -> None:
    """Instances stop cleanly and others start, one after the other or several at once: what they
    give back to a shard is claimed there, and in some runs an epoch ends meanwhile."""
    rng = world.rng
    world.sharded = True
    if rng.random() < 0.4:
        world.faults.heal()
    else:
        world.faults.unsure_back = rng.choice((0.0, 0.6))
    limited = rng.random() < 0.25
    world.create(limit=rng.randint(60, 300) if limited else 2**53 - 1, shards=rng.randint(2, 3))
    for _ in range(rng.choice((3, 6))):
        await world.begin()
    asking = [
        asyncio.create_task(insisting(world, f"c{number}", rng.choice((0.02, 0.1, 1.0))))
        for number in range(3)
    ]
    wishes = [Reshard(shards=shards) for shards in rng.sample((1, 2, 3), 2)]
    changes = rng.choice((0, 0, 2))
    operating = asyncio.create_task(
        operate(world, changes=changes, wishes=wishes, lasting=True, pause_s=3.0)
    )
    for _ in range(12):
        await elapse(rng.choice((0.01, rng.uniform(0.0, 1.0))))
        for instance in rng.sample(world.serving, rng.choice((1, 2, 2))):
            instance.over.set()
        while len(world.serving) < 3:
            begun = await world.begin()
            asking.append(asyncio.create_task(warm(world, begun)))
    await operating
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await put_right(world)
    await world.finish()
    world.check(need_max=4)


async def resharded(world: World) -> None:
    """As `operated`, and the operators reshard more often than anything else."""
    world.sharded = True
    await operated(world)


async def rushed(world: World) -> None:
    """One reshard after the other on a slow network that repeats nearly everything, late."""
    rng = world.rng
    world.sharded = True
    world.faults.heal()
    world.faults.latency_s, world.faults.repeated = (0.0, rng.choice((0.3, 1.5))), 0.8
    world.limits = Limits(runway=1.0, wait=2.0, block_max=rng.choice((1, 3)))
    world.create(shards=rng.randint(1, 3))
    for _ in range(3):
        await world.begin()
    order = rng.sample((1, 2, 3, 4), 4)
    wishes = [Reshard(shards=shards) for shards in order * 2]
    operating = asyncio.create_task(operate(world, changes=8, wishes=wishes, pause_s=0.1))
    await world.clients(6, 30, pause_s=0.1)
    await operating
    world.check_unique()
    for op in world.history:
        if op.error == "counter_suspect":
            raise Violation("false alarm", f"nobody moved it back: {op}")
    await put_right(world)
    await world.finish()
    world.check(need_max=1)


async def online(world: World) -> None:
    """1 -> 8 -> 2 shards on a store that answers, under steady load of old and new instances: every
    request is served out of what is in memory."""
    rng = world.rng
    world.sharded = True
    world.faults.heal()
    world.faults.latency_s = (0.005, rng.choice((0.02, 0.2)))
    world.limits = Limits(runway=8.0, wait=2.0)
    world.create()
    for _ in range(2):
        await world.begin()
    loop = asyncio.get_running_loop()
    until = loop.time() + 60.0

    async def steady(number: int) -> None:
        while loop.time() < until:
            await world.ask(f"c{number}", world.instances[number % 2])
            await elapse(world.rng.uniform(0.1, 0.4))

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(steady(number))
        await elapse(20.0)
        waits = sum(one.service.local_counters[NAME].stats.waits for one in world.instances)
        for shards in (8, 2):
            wish = Reshard(shards=shards)
            await operate(world, changes=1, wishes=(wish,), lasting=True)
            begun = await world.begin()
            await world.ask("new", begun)
            await elapse(rng.uniform(0.0, 12.0))
    for op in world.history:
        if op.outcome != "ok":
            raise Violation("available", f"a reshard was noticed: {op}")
    after = sum(one.service.local_counters[NAME].stats.waits for one in world.instances[:2])
    if after > waits:
        raise Violation("available", f"{after - waits} requests had to wait for the store")
    await world.finish()
    world.check(need_max=1)


SCENARIOS |= {
    "wandering": wandering,
    "relayed": relayed,
    "resharded": resharded,
    "rushed": rushed,
    "online": online,
}
