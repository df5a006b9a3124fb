"""People who change a counter in use: commands, some of which die on the way, and hands."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from idservice import errors
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Change, Configure, Delete, Fence, Reshard, SetNext
from idservice.catalogue.counters import new_counter
from idservice.catalogue.renewals import CreateAgain
from idservice.core.timeouts import stale_after
from idservice.stores.records import ACTIVE, DELETED, LIMIT_DEFAULT, SUSPENDED
from tests.simulation.checker import Violation
from tests.simulation.loop import elapse

if TYPE_CHECKING:
    from tests.simulation.scenarios import World

COMMAND_MAX_S = 30.0


async def operate(
    world: "World",
    *,
    changes: int,
    wishes: Sequence[Change] = (),
    lasting: bool = False,
    pause_s: float = 2.0,
) -> None:
    """One operator's commands, one after the other; without `lasting` some die on the way."""
    rng = world.rng
    for number in range(changes):
        wish = wishes[number] if wishes else a_wish(world)
        command = asyncio.create_task(changer(world).change(world.name, wish))
        dies = not lasting and rng.random() < 0.5
        await asyncio.wait({command}, timeout=rng.uniform(0.0, 1.5) if dies else COMMAND_MAX_S)
        command.cancel()
        (ended,) = await asyncio.gather(command, return_exceptions=True)
        if isinstance(ended, Exception) and not isinstance(ended, errors.IdserviceError):
            raise ended
        await elapse(rng.uniform(0.0, pause_s))


def changer(world: "World") -> EpochChanger:
    """A command, with a connection of its own."""
    store = world.parts.store(Random(world.rng.getrandbits(64)), world.table, world.faults)
    stale_s = stale_after(world.limits.runway)
    return EpochChanger(store, random=Random(world.rng.getrandbits(64)), stale_s=stale_s)


def a_wish(world: "World") -> Change:
    """Something that can be wished of the counter as it stands."""
    rng = world.rng
    shards = rng.randint(1, 4) if world.sharded else 1
    wanted = new_counter(
        world.name, rng, start=rng.randint(0, 2000), strict=world.strict, shards=shards
    )
    fences = [Fence(past=rng.randint(0, 3000)), Fence(ahead=rng.randint(0, 50))]
    state = world.table.entries[world.name].target_state
    if state == SUSPENDED:
        resume = Configure(state=ACTIVE)
        return rng.choice([resume, resume, resume, Delete(), *fences])
    if state == DELETED:
        create = CreateAgain(wanted=wanted)
        return rng.choice([create, create, create, *fences])
    if world.sharded and rng.random() < 0.5:
        return Reshard(shards=rng.randint(1, 5))
    ahead = max((grant.ids.stop for grant in world.table.ledger), default=0) + rng.randint(0, 60)
    return rng.choice(
        [
            SetNext(next=ahead),
            SetNext(next=ahead),
            Configure(state=SUSPENDED),
            Configure(state=SUSPENDED),
            Delete(),
            Configure(limit=LIMIT_DEFAULT - rng.randint(0, 9)),
            Configure(runway=rng.choice((1.0, 4.0, 30.0))),
            *fences,
        ]
    )


async def move_back(world: "World") -> None:
    """A hand that writes a lower position into the store, now and then."""
    for _ in range(world.rng.randint(1, 3)):
        await elapse(world.rng.uniform(0.3, 4.0))
        shard = world.rng.randrange(world.table.entries[world.name].shards)
        there = world.table.positions[world.name, shard].next
        lower = world.rng.randint(0, max(0, there - 1))
        world.table.set_by_hand(world.name, shard, next=lower)


async def put_right(world: "World") -> None:
    """Leave the counter in use, with nothing on its way that could change it again."""
    world.faults.heal()
    try:
        async with asyncio.timeout(10 * COMMAND_MAX_S):
            while True:
                # Written last, it leaves nothing under way that could still apply.
                _, entry = await changer(world).change(world.name, Fence(ahead=0))
                if entry.state == ACTIVE:
                    return
                wish = Configure(state=ACTIVE)
                if entry.state == DELETED:
                    wanted = new_counter(world.name, world.rng, strict=world.strict)
                    wish = CreateAgain(wanted=wanted)
                await changer(world).change(world.name, wish)
    except (errors.IdserviceError, TimeoutError) as error:
        raise Violation("resumes", f"it cannot be put right: {error!r}") from error
