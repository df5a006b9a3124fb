"""Runs of several instances over one faulty store, each decided by a seed, and what they must show.

A scenario is a coroutine that drives a `World`; `play` runs it on the virtual loop and checks it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from idservice import errors
from idservice.allocation.catalogue_watch import POLL_S
from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.catalogue.changes import Configure, Fence, FinishAdoption, Reshard
from idservice.catalogue.counters import new_counter
from idservice.core.epoch import EXHAUSTED_RECHECK_S
from idservice.core.timeouts import REFILL_MAX_S, stale_after
from idservice.server.startup import build_instance
from idservice.stores.records import Adopted, Counter
from tests.simulation import account, checker
from tests.simulation.checker import Operation, Violation
from tests.simulation.loop import elapse, run
from tests.simulation.operators import move_back, operate, put_right
from tests.simulation.store import Barred, Faults, SimStore, Table

NAME = "orders"
SERVED_AGAIN_S = 15.0  # after faults end: the longest pause, call and second look, and a request
FINISHED_S = 12.0  # after faults end, for a change that nobody is at any more
BELIEVED_S = EXHAUSTED_RECHECK_S + REFILL_MAX_S  # "no room" was said by a call that took as long
LANDED_S = 13.0  # by then the latest request on its way has arrived


@dataclass(frozen=True)
class Parts:
    """What a run is built of; a planted mutant replaces one of these."""

    table: type[Table] = Table
    store: type[SimStore] = SimStore
    one_try: bool = True  # whether requests to the store are what the service meant to send


class Instance:
    """One process: a service over its own handle of the store."""

    def __init__(self, name: str, store: SimStore) -> None:
        self.name = name
        self.store = store
        self.service: Service
        self.up = asyncio.Event()
        self.over = asyncio.Event()
        self.crashed = False
        self.leaving: list[asyncio.Timeout] = []  # clients that leave when its next answer comes
        self.task: asyncio.Task[None]

    @property
    def serves(self) -> bool:
        return not self.over.is_set()


class World:
    """A table, the instances over it, and the history of what clients saw."""

    def __init__(self, seed: int, parts: Parts, *, block_max: int = 10_000_000) -> None:
        self.name = NAME
        self.rng = Random(seed)
        self.parts = parts
        self.faults = Faults.swarm(self.rng)
        self.table = parts.table()
        self.history: list[Operation] = []
        self.instances: list[Instance] = []
        self.strict = False
        self.sharded = False  # whether it may have several shards at any time
        self.limits = Limits(
            runway=self.rng.choice((1.0, 4.0, 30.0)), wait=2.0, block_max=block_max
        )
        self.revocations: list[tuple[float, int]] = []
        self.table.on_entry = self._note_entry
        self.old = object()  # what the old endpoint's increments are written down as
        self._event = 0
        self._loop = asyncio.get_running_loop()

    def create(
        self,
        *,
        start: int = 0,
        limit: int = 2**53 - 1,
        strict: bool = False,
        shards: int = 1,
        adopted: Adopted | None = None,
    ) -> None:
        self.start, self.limit, self.strict = start, limit, strict
        counter = new_counter(
            NAME, self.rng, start=start, limit=limit, strict=strict, shards=shards, adopted=adopted
        )
        self.table.init(counter)

    def _note_entry(self, entry: Counter) -> None:
        """Remember what the catalogue was told, for the checks."""
        self.limit = max(self.limit, entry.limit)
        if not self.revocations or entry.revoked > self.revocations[-1][1]:
            self.revocations.append((self._loop.time(), entry.revoked))

    def event(self) -> int:
        self._event += 1
        return self._event

    # --- instances -------------------------------------------------------------------------------

    async def begin(self) -> Instance:
        store = self.parts.store(Random(self.rng.getrandbits(64)), self.table, self.faults)
        instance = Instance(f"i{len(self.instances)}", store)
        store.on_answer = partial(self._leave, instance)
        self.instances.append(instance)
        instance.task = asyncio.create_task(self._live(instance))
        await instance.up.wait()
        return instance

    async def _live(self, instance: Instance) -> None:
        random = Random(self.rng.getrandbits(64))
        service, _, _ = build_instance(instance.store, self.limits, random=random)
        async with service:
            instance.service = service
            instance.up.set()
            await instance.over.wait()

    async def stop(self, instance: Instance) -> None:
        """A clean stop."""
        instance.over.set()
        await instance.task

    def crash(self, instance: Instance) -> None:
        """From now on nobody hears of it; what it had sent may still arrive."""
        instance.crashed = True
        instance.over.set()

    @property
    def serving(self) -> list[Instance]:
        return [instance for instance in self.instances if instance.serves]

    # --- clients ---------------------------------------------------------------------------------

    def _leave(self, instance: Instance) -> None:
        """Some leave at the very moment at which their ids come: an answer is on its way through
        the tasks, and so is this, and the seed decides which is first."""
        leaving, instance.leaving = instance.leaving, []
        for timeout in leaving:
            self._loop.call_soon(_end, timeout)

    async def ask(
        self,
        client: str,
        instance: Instance,
        *,
        count: int = 1,
        patience: float | None = None,
        leaves: bool = False,
    ) -> Operation:
        """One request, given up by the client after `patience` seconds."""
        service = instance.service
        cold = NAME not in service.local_counters
        began = self._loop.time()
        op = Operation(client, instance.name, NAME, count, self.event(), began, cold=cold)
        self.history.append(op)
        try:
            async with asyncio.timeout(patience) as timeout:
                if leaves:
                    instance.leaving.append(timeout)
                supply = await service.local_counter(NAME)
                op.epoch = supply.counter.epoch
                if count == 1:
                    id = await supply.next_id()
                    blocks = [range(id, id + 1)]
                else:
                    blocks = await supply.next_batch(count)
            if not instance.crashed:
                op.outcome, op.ids = "ok", blocks
        except TimeoutError:
            op.error = "gave up"
        except errors.IdserviceError as error:
            op.error = error.code
            op.outcome = "fail" if error.outcome == errors.NOT_APPLIED else "info"
            if isinstance(error, errors.Exhausted):
                op.left = self._left(supply.counter)
        op.complete, op.ended = self.event(), self._loop.time()
        return op

    def _left(self, counter: Counter) -> int | None:
        """How many were left at any moment of the last seconds: they may have been given back when
        the store had said that there are none. Unknown to who knows of another epoch than the
        store.

        A change begins its epoch at index 0 of one shard after the other, and is in the catalogue
        only once it is done. Until then nobody is granted anything of that epoch: what is left is
        what the one before had when it was sealed. Counted from the new positions, an epoch that
        was used up would seem full; not counted at all, "exhausted" could be said of any change.
        """
        if self.table.entries[NAME] != counter:
            return None
        since = self._loop.time() - BELIEVED_S
        left = 0
        for shard in range(counter.shards):
            before = (
                back.before
                for _, back in self.table.given_back
                if back.at >= since and back.shard == shard and back.epoch == counter.epoch
            )
            highest = max(self.table.reached(counter, shard), *before, 0)
            left += max(0, counter.layout(shard).end - highest)
        return left

    async def client(
        self, name: str, requests: int, *, counts: tuple[int, ...], pause_s: float, hasty: float
    ) -> None:
        """Asks one instance after another, one request at a time; moves on when one is gone."""
        instance = self.rng.choice(self.instances)
        for _ in range(requests):
            if not instance.serves:
                if not self.serving:
                    return
                instance = self.rng.choice(self.serving)
            patience = self.rng.uniform(0.0, 0.5) if self.rng.random() < hasty else None
            leaves = patience is not None and self.rng.random() < 0.5
            await self.ask(
                name, instance, count=self.rng.choice(counts), patience=patience, leaves=leaves
            )
            if self.rng.random() < 0.5:
                await elapse(self.rng.uniform(0.0, pause_s))

    async def clients(
        self,
        count: int,
        requests: int,
        *,
        counts: tuple[int, ...] = (1,),
        pause_s: float = 0.5,
        hasty: float = 0.0,
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(
                    self.client(f"c{number}", requests, counts=counts, pause_s=pause_s, hasty=hasty)
                )

    # --- the end ---------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Faults end; everybody must be served again by itself; late requests land; all stop."""
        self.faults.heal()
        async with asyncio.TaskGroup() as group:
            for instance in self.serving:
                group.create_task(self._served_again(instance))
        await elapse(LANDED_S)
        for instance in self.serving:
            await self.ask("last", instance)
        for instance in self.serving:
            await self.stop(instance)
        for instance in self.instances:
            await instance.task

    async def _served_again(self, instance: Instance) -> None:
        until = self._loop.time() + SERVED_AGAIN_S
        while True:
            op = await self.ask("again", instance)
            if op.outcome == "ok" or op.error == "exhausted":
                return
            if self._loop.time() > until:
                self.check_unique()
                raise Violation("resumes", f"{instance.name} still refuses: {op}")
            await elapse(0.25)

    def check_unique(self) -> None:
        """Looked at before a lesser fault is told, of which an id given twice may be the cause."""
        checker.check_unique(self.history, rising=not self.sharded)

    def check(self, *, need_max: int, revoked_within_s: float | None = None) -> None:
        history, ledger = self.history, self.table.ledger
        self.check_unique()
        if self.strict:
            checker.check_strict(history)
            if self.parts.one_try:  # else a refusal of the second try hides what the first one did
                account.check_account(self.account())
            account.check_closed(self.table.ledger)
        if self.sharded:
            checker.check_rising_per_shard(history, ledger)
        else:
            checker.check_rising_per_instance(history)
        checker.check_limits(history, start=self.start, limit=self.limit)
        checker.check_deadlines(history, wait_s=self.limits.wait)
        checker.check_backed_by_grants(
            history,
            ledger,
            {"old": self.old} | {instance.name: instance.store for instance in self.instances},
        )
        checker.check_ledger(ledger, start=self.start, given_back=self.table.given_back)
        checker.check_epochs(ledger, self.table.given_back)
        if revoked_within_s is not None:
            checker.check_revoked(history, ledger, self.revocations, within_s=revoked_within_s)
        for instance in self.instances:
            if self.parts.one_try:
                checker.check_requests(instance.store.sent, need_max=need_max, strict=self.strict)
            supply = instance.service.local_counters.get(NAME)
            if supply is not None and not instance.crashed:
                checker.check_gaps(
                    history,
                    ledger,
                    instance=instance.name,
                    store=instance.store,
                    reading=supply.reading(),
                    one_try=self.parts.one_try,
                )

    def account(self) -> dict[str, int]:
        """What became of every id that was granted."""
        stores = [instance.store for instance in self.instances]
        return account.account(self.history, self.table.ledger, stores)


def _end(timeout: asyncio.Timeout) -> None:
    if timeout.when() is not None and not timeout.expired():
        with contextlib.suppress(RuntimeError):  # it was left in the meantime
            timeout.reschedule(0.0)


# --- the scenarios --------------------------------------------------------------------------------


async def block(world: World) -> None:
    """Many instances share a block counter."""
    world.create(start=world.rng.choice((0, 1, 1000)))
    for _ in range(world.rng.randint(2, 4)):
        await world.begin()
    await world.clients(6, 30, pause_s=world.rng.choice((0.01, 0.3)))
    await world.finish()
    world.check(need_max=1)


async def strict(world: World) -> None:
    """Many instances share a strict counter; some clients leave before they are answered."""
    world.create(strict=True)
    for _ in range(world.rng.randint(2, 3)):
        await world.begin()
    await world.clients(6, 16, counts=(1, 1, 1, 3), pause_s=0.2, hasty=world.rng.choice((0, 0.3)))
    await world.finish()
    world.check(need_max=3)


async def turmoil(world: World) -> None:
    """Batches and single ids, clients that leave, instances that crash, stop and start, a limit
    within reach, a position that somebody moves back or deletes and repairs later."""
    rng = world.rng
    start = rng.choice((0, 17))
    limited = rng.random() < 0.5
    limit = start + rng.randint(30, 400) if limited else 2**53 - 1
    world.create(start=start, limit=limit, strict=rng.random() < 0.25)
    for _ in range(3):
        await world.begin()
    meddling = [asyncio.create_task(_comings_and_goings(world))]
    if not limited and rng.random() < 0.6:
        meddling.append(asyncio.create_task(_meddling(world)))
    counts = rng.choice(((1, 1, 1, 7), (1, 30), (5, 11)))
    await world.clients(5, 16, counts=counts, pause_s=0.6, hasty=rng.choice((0.0, 0.3)))
    for task in meddling:
        await task
    await world.finish()
    world.check(need_max=max(counts))


async def _comings_and_goings(world: World) -> None:
    for _ in range(4):
        await elapse(world.rng.uniform(0.1, 1.5))
        instance = world.rng.choice(world.serving)
        if world.rng.random() < 0.5:
            world.crash(instance)
        else:
            await world.stop(instance)
        await world.begin()


async def _meddling(world: World) -> None:
    """A hand moves the position back or deletes it; a while later somebody repairs it."""
    rng, table = world.rng, world.table
    await elapse(rng.uniform(0.2, 2.0))
    if rng.random() < 0.7:
        there = table.positions[NAME, 0].next
        table.set_by_hand(NAME, next=rng.randint(0, max(0, there - 1)))
    else:
        del table.positions[NAME, 0]
    cold = await world.begin()  # it has reserved nothing that would tell
    await world.ask("cold", cold)
    await elapse(rng.uniform(0.5, 4.0))
    table.repair(NAME, "repaired")


async def rolling(world: World) -> None:
    """Instances stop and others start, one after the other or two at once, while clients ask, those
    that stop too; in some runs an old endpoint counts on the same item, in some nothing fails."""
    rng = world.rng
    quiet = rng.random() < 0.3
    if quiet:
        world.faults.heal()
    else:
        world.faults.unsure_back = rng.choice((0.0, 0.6))
    limited = rng.random() < 0.25
    world.create(limit=rng.randint(60, 300) if limited else 2**53 - 1)
    for _ in range(rng.choice((3, 3, 8))):
        await world.begin()
    asking = [
        asyncio.create_task(insisting(world, f"c{number}", rng.choice((0.02, 0.1, 1.0))))
        for number in range(3)
    ]
    if not limited and rng.random() < 0.4:
        asking.append(asyncio.create_task(_old_endpoint(world)))
    for _ in range(12):
        await elapse(rng.choice((0.01, rng.uniform(0.0, 1.0))))
        leaving = rng.sample(world.serving, rng.choice((1, 1, 2)))
        for instance in leaving:
            instance.over.set()
        if rng.random() < 0.5:
            await asyncio.gather(*(instance.task for instance in leaving))
        while len(world.serving) < 3:
            begun = await world.begin()
            asking.append(asyncio.create_task(warm(world, begun)))
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await world.finish()
    world.check(need_max=4)
    if world.parts.one_try:
        _check_nothing_is_lost(world, quiet=quiet)


async def warm(world: World, instance: Instance) -> None:
    """The first request of an instance."""
    await world.ask("first", instance)


async def insisting(world: World, name: str, pause_s: float) -> None:
    """Asks whoever answers, also those that are about to stop."""
    rng = world.rng
    while True:
        instance = rng.choice([one for one in world.instances if not one.task.done()])
        await world.ask(name, instance, count=rng.choice((1, 1, 1, 4)))
        if rng.random() < 0.7:
            await elapse(rng.uniform(0.0, pause_s))


async def _old_endpoint(world: World) -> None:
    loop, rng = asyncio.get_running_loop(), world.rng
    while True:
        await elapse(rng.choice((0.002, 0.02, 0.5)))
        op = Operation("old", "old", NAME, 1, world.event(), loop.time())
        try:
            id = world.table.count_elsewhere(NAME, world.old)
        except Barred:
            return
        op.outcome, op.ids = "ok", [range(id, id + 1)]
        op.complete, op.ended = world.event(), loop.time()
        world.history.append(op)


def _check_nothing_is_lost(world: World, *, quiet: bool) -> None:
    found = world.table.positions[NAME, 0]
    served = [one for one in world.instances if NAME in one.service.local_counters]
    readings = {one.name: one.service.local_counters[NAME].reading() for one in served}
    checker.check_accounted(
        world.history, world.table.ledger, readings.values(),
        start=world.start, reached=found.next, returned=found.returned, exact=quiet,
    )  # fmt: skip
    for one in served if quiet else ():
        lost = dict(readings[one.name].gaps)
        lost.pop("full", None)
        if lost and not one.store.too_late:
            raise Violation("clean stop", f"{one.name} lost {lost}, and nobody interfered")


async def restored(world: World) -> None:
    """An older copy of the item is written over it, mark and all, while instances run that have
    reserved above it; later somebody repairs it."""
    rng, table = world.rng, world.table
    # An old request that arrives after the restore was sent by one who could not know.
    world.faults.repeated = world.faults.late_request = 0.0
    world.create()
    for _ in range(2):
        await world.begin()

    async def restore() -> None:
        await elapse(rng.uniform(0.2, 1.5))
        supplies = [instance.service.local_counters.get(NAME) for instance in world.instances]
        lowest = min((supply.allocator.shards.present.seen if supply else 0) for supply in supplies)
        if lowest:  # else somebody could not know
            there = rng.randrange(lowest)
            table.set_by_hand(NAME, next=there, mark=there)
        await elapse(rng.uniform(0.5, 3.0))
        table.repair(NAME, "repaired")

    restoring = asyncio.create_task(restore())
    await world.clients(4, 20, counts=(1, 4), pause_s=0.3)
    await restoring
    await world.finish()
    world.check(need_max=4)


async def rewound(world: World) -> None:
    """An older copy of the item is written over it, mark and all, while instances hold ids and
    nobody asks. A runway later others begin, who cannot know; later still somebody repairs it."""
    rng, table = world.rng, world.table
    world.faults.repeated = world.faults.late_request = 0.0  # as in `restored`
    world.create()
    for _ in range(rng.randint(1, 3)):
        await world.begin()
    await world.clients(3, 6, counts=(1, 4), pause_s=0.3)
    await elapse(LANDED_S)
    world.faults.heal()
    supplies = [instance.service.local_counters.get(NAME) for instance in world.instances]
    highest = max((supply.allocator.shards.present.seen if supply else 0) for supply in supplies)
    if highest:  # else nobody could know
        there = rng.randrange(highest)
        table.set_by_hand(NAME, next=there, mark=there)
        await elapse(world.limits.runway + 3 * POLL_S)
        cold = await world.begin()
        for _ in range(3):
            await world.ask("cold", cold, count=rng.choice((1, 30)))
        for instance in world.serving:
            await world.ask("warm", instance)
        table.repair(NAME, "repaired")
    await world.finish()
    world.check(need_max=30)


async def outage(world: World) -> None:
    """The store goes away twice: shorter than the runway, which nobody notices, and for longer."""
    rng, faults = world.rng, world.faults
    faults.heal()
    runway = rng.choice((8.0, 20.0))
    world.limits = Limits(runway=runway, wait=2.0)
    world.create()
    for _ in range(2):
        await world.begin()
    loop = asyncio.get_running_loop()
    short = loop.time() + 4 * runway
    long = short + 5 * runway
    # A runway less the time that one hanging call and one pause take.
    faults.outages = [(short, short + runway - 4.5), (long, long + 3 * runway)]

    async def steady(instance: Instance, name: str) -> None:
        while loop.time() < long + 3 * runway:
            await world.ask(name, instance)
            await elapse(runway / 24)

    async with asyncio.TaskGroup() as group:
        for instance in world.instances:
            group.create_task(steady(instance, f"{instance.name}c"))
    for op in world.history:
        if op.outcome != "ok" and op.began < long:
            raise Violation("available", f"within the runway: {op}")
    if not any(op.outcome != "ok" for op in world.history):
        raise Violation("available", "the long outage was not felt, so it proves nothing")
    await world.finish()
    world.check(need_max=1)
    for instance in world.instances:
        tries = [sent for sent in instance.store.sent if long < sent.at < long + 3 * runway]
        # Doubling pauses up to 2 s, each try between a reset at once and the patience.
        if world.parts.one_try and len(tries) > 20 + 3 * runway:
            raise Violation("tight loop", f"{len(tries)} tries in an outage of {3 * runway} s")


async def operated(world: World) -> None:
    """Operators change the counter at once, and some of them die between any two steps; a hand
    moves the position back. Whatever they left, it is finished, and ids go on above."""
    rng = world.rng
    # Small blocks, so that somebody reserves between any two steps, and many a late copy.
    world.limits = Limits(
        runway=rng.choice((1.0, 30.0)), wait=2.0, block_max=rng.choice((3, 12, 1000))
    )
    world.faults.repeated = rng.choice((0.0, 0.3, 0.6))
    world.create(
        start=rng.choice((0, 1000)),
        strict=not world.sharded and rng.random() < 0.25,
        shards=rng.randint(1, 4) if world.sharded else 1,
    )
    for _ in range(3):
        await world.begin()
    operators = [asyncio.create_task(operate(world, changes=rng.randint(2, 5))) for _ in range(2)]
    if rng.random() < 0.7:
        operators.append(asyncio.create_task(move_back(world)))
    if rng.random() < 0.5:
        operators.append(asyncio.create_task(_relieve(world)))
    await world.clients(5, 40, counts=(1, 1, 3), pause_s=0.25, hasty=rng.choice((0.0, 0.2)))
    for operator in operators:
        await operator
    world.faults.heal()
    await elapse(LANDED_S + FINISHED_S)
    in_use = any(NAME in instance.service.local_counters for instance in world.serving)
    if in_use and world.table.entries[NAME].intent is not None:
        raise Violation("standing", f"nobody finished {world.table.entries[NAME]}")
    await put_right(world)
    await world.finish()
    world.check(need_max=3)


async def _relieve(world: World) -> None:
    """Stop instances cleanly, which give back what others may claim, in whatever epoch."""
    for _ in range(6):
        await elapse(world.rng.uniform(0.0, 1.5))
        world.rng.choice(world.serving).over.set()
        await world.begin()


async def taken_over(world: World) -> None:
    """An old endpoint counts on the item until the very write that makes its value a text. Several
    operators finish the adoption at once, some of whom die; then everything can be changed."""
    rng = world.rng
    world.limits = Limits(
        runway=rng.choice((1.0, 30.0)), wait=2.0, block_max=rng.choice((3, 12, 1000))
    )
    start = rng.randint(1, 50)
    key = (("id", "S", "x"),)
    adopted = Adopted("old", key, "counterValue", rng.choice(("old", "new")))
    world.create(start=start, adopted=adopted)
    for _ in range(3):
        await world.begin()
    old = asyncio.create_task(_old_endpoint(world))
    clients = asyncio.create_task(world.clients(4, 40, counts=(1, 1, 3), pause_s=0.25))
    await elapse(rng.uniform(0.0, 3.0))
    wishes = [Fence(ahead=3), *[FinishAdoption()] * 3]
    operators = [operate(world, changes=4, wishes=rng.sample(wishes, 4)) for _ in range(2)]
    await asyncio.gather(*operators)
    await operate(world, changes=1, wishes=[FinishAdoption()], lasting=True)
    await operate(world, changes=rng.randint(0, 3))
    await clients
    await put_right(world)
    if world.table.entries[NAME].home is None:
        await operate(world, changes=1, wishes=[FinishAdoption()], lasting=True)
    await world.finish()
    if not old.done() or world.table.entries[NAME].home != adopted:
        raise Violation("finish", f"the old endpoint goes on: {world.table.entries[NAME]}")
    world.check(need_max=3)


async def hurried(world: World) -> None:
    """One change after the other on a network, quick or slow, that repeats nearly everything."""
    rng = world.rng
    world.faults.heal()
    world.faults.latency_s, world.faults.repeated = (0.0, rng.choice((0.3, 1.5))), 0.8
    world.limits = Limits(runway=1.0, wait=2.0, block_max=rng.choice((1, 3)))
    limit = 2**53 - 10
    world.create(limit=limit)
    for _ in range(3):
        await world.begin()
    # Each opens an epoch exactly where the one before ended, and drops nothing.
    wishes = [Configure(limit=limit + at) for at in range(1, 9)]
    operators = [asyncio.create_task(operate(world, changes=8, wishes=wishes, pause_s=0.1))]
    await world.clients(6, 30, pause_s=0.1)
    for operator in operators:
        await operator
    for op in world.history:
        if op.error == "counter_suspect":
            raise Violation("false alarm", f"nobody moved it back: {op}")
    await put_right(world)
    await world.finish()
    world.check(need_max=1)


async def prompt(world: World) -> None:
    """On a store that answers, whatever is revoked is dropped everywhere within three seconds."""
    rng = world.rng
    world.faults.heal()
    world.faults.repeated = rng.choice((0.0, 0.3))
    world.create()
    for _ in range(3):
        await world.begin()
    clients = asyncio.create_task(world.clients(3, 80, pause_s=0.4))
    await elapse(rng.uniform(3.0, 6.0))
    for _ in range(3):
        await operate(world, changes=2, lasting=True, pause_s=1.0)
        await elapse(rng.uniform(0.0, 4.0))
    await clients
    await put_right(world)
    await world.finish()
    world.check(need_max=1, revoked_within_s=3.0)


async def cut_off(world: World) -> None:
    """An instance that cannot reach the store knows nothing of a suspension: it stops by itself
    once it has not heard for too long, and serves again when it hears."""
    rng = world.rng
    world.faults.heal()
    world.limits = Limits(runway=30.0, wait=2.0)
    world.sharded = rng.random() < 0.5
    world.create(shards=3 if world.sharded else 1)
    near, far = await world.begin(), await world.begin()
    far.store.faults = Faults()
    loop = asyncio.get_running_loop()

    async def use(instance: Instance, until: float, *, pause_s: float) -> None:
        while loop.time() < until:
            await world.ask(f"{instance.name}c", instance)
            await elapse(rng.uniform(0.5, 1.0) * pause_s)

    await asyncio.gather(use(near, 60.0, pause_s=0.5), use(far, 60.0, pause_s=0.5))
    quick, far.store.faults.latency_s = far.store.faults.latency_s, (0.0, 8.0)
    await use(far, loop.time() + 3.0, pause_s=0.5)
    far.store.faults.latency_s = quick  # the answer to its last look may be on the way still
    cut = loop.time()
    far.store.faults.outages = [(cut, cut + 100.0)]
    using = asyncio.gather(use(far, cut + 130.0, pause_s=3.0), use(near, cut + 130.0, pause_s=3.0))
    await elapse(rng.uniform(0.0, 5.0))
    wishes = [Fence(ahead=3)]
    if world.sharded:
        wishes.insert(rng.randint(0, 1), Reshard(shards=rng.choice((1, 2, 5))))
    await operate(world, changes=len(wishes), wishes=wishes, lasting=True)
    await using
    if not any(op.error == "catalogue_stale" for op in world.history):
        raise Violation("stale", f"{far.name} never noticed that it heard nothing")
    far.store.faults = world.faults
    await world.finish()
    world.check(need_max=1, revoked_within_s=stale_after(30.0))


Scenario = Callable[[World], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {  # those of `tests.simulation.strict` join it
    "block": block,
    "strict": strict,
    "turmoil": turmoil,
    "rolling": rolling,
    "restored": restored,
    "rewound": rewound,
    "outage": outage,
    "operated": operated,
    "taken_over": taken_over,
    "hurried": hurried,
    "prompt": prompt,
    "cut_off": cut_off,
}


def play(scenario: str, seed: int, parts: Parts | None = None) -> World:
    """Run one scenario with one seed, and check it. Raises Violation."""

    async def main() -> World:
        world = World(seed, parts or Parts())
        await SCENARIOS[scenario](world)
        return world

    with account.watched():
        return run(main(), seed=seed)
