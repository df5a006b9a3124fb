"""Real processes under fire: clients, kills, pauses, restarts, operators and a network that loses,
delays and repeats, and what must hold of all the ids that were answered.

The seed decides what is done in which order, not how long each thing takes: a run with the same
seed is alike, and not the same. For tests that are marked `pytest.mark.process`.
"""

import asyncio
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from idservice.server.exits import EXIT_STORE
from tests import engines
from tests.hammer import BROKEN, Hammer
from tests.hop import Exchange, Hop
from tests.processes import Serving, environment
from tests.prove.changes import Operators
from tests.prove.ledger import Ledger
from tests.simulation import checker
from tests.simulation.store import Faults
from tests.web.wire import ask

OPERATED, PLAIN, STRICT = "default", "plain", "strict"  # counters; the second is never changed
WORKERS = 2  # of one of the instances
STATUSES = {200, 404, 423, 503}
PATIENCE_S = 60.0  # for everything to be served again, on a busy machine
STORE_WAIT_S = 15
START_TRIES = 5  # a start that meets a store out of reach for too long ends with 3


class Fire(Hammer):
    """Three instances, one of them of two workers, and everything that is done to them."""

    upsets: tuple[str, ...] = ("weather", "kill", "freeze", "terminate", "kill inside")
    think_s = 0.01  # what the machine has left is for processes that start
    targets = tuple((name, f"/v1/counters/{name}/next") for name in (OPERATED, PLAIN, STRICT))

    def __init__(
        self, folder: Path, store: Callable[[str], str], *, seed: int, planted: Mapping[str, str]
    ) -> None:
        env = environment(engines.ENVIRONMENT | planted)
        super().__init__(folder, "", env=env, arguments=(), seed=seed)
        self.address = store  # of the store, from the address of the hop
        self.progress: Callable[[str], None] = lambda words: None
        self.engine = ""  # the address behind the hops, if any
        self.ledgers = {name: Ledger(name) for name in (PLAIN, STRICT)}
        self.done: Counter[str] = Counter()  # of what was done to the processes
        self.operators = Operators(
            OPERATED, random.Random(f"{seed}-operator"), folder=folder, env=self._env,
            ports=lambda: list(self._ports.values()), highest=self._highest,
        )  # fmt: skip
        self.violations: list[str] = []
        self.clean: dict[str, Serving] = {}  # that were stopped, by name
        self.dead: set[str] = set()  # names of those that were killed, or lost a worker
        self.counted: dict[tuple[str, str], Counter[str]] = {}  # gaps by process and counter
        self.hops: list[Hop] = []
        self._begun = 0
        self._names: dict[Serving, str] = {}
        self._hopping = AsyncExitStack()
        self._starts: set[asyncio.Task[None]] = set()

    async def burn(self, *, processes: int, clients: int, seconds: float) -> None:
        """The whole run, to the clean stop of the last process."""
        try:
            async with self._hopping, asyncio.TaskGroup() as group:
                self.operators.store = await self._hop("operator")
                await asyncio.gather(
                    *(self._start_one(WORKERS if at == 0 else 1) for at in range(processes))
                )
                for number in range(clients):
                    rng = random.Random(f"{self.report.seed}-{number}")
                    group.create_task(self._client(rng))
                operating = group.create_task(self.operators.work())
                await self._upset(time.monotonic() + seconds)
                operating.cancel()
                await self._end()
        finally:
            for instance in self._instances:
                with suppress(ProcessLookupError):
                    instance.process.send_signal(signal.SIGCONT)
                instance.__exit__()

    # --- processes -------------------------------------------------------------------------------

    async def _hop(self, name: str) -> str:
        """The address of the store for one of them, over a hop of its own where there is any."""
        if not self.engine:
            return self.address("")
        hop = Hop([self.engine], random.Random(f"{self.report.seed}-{name}"))

        def note(exchange: Exchange) -> None:
            for ledger in self.ledgers.values():
                ledger.note(name, exchange)

        hop.on_exchange = note
        self.hops.append(hop)
        return self.address((await self._hopping.enter_async_context(hop.listening())).url)

    async def _start_one(self, workers: int) -> None:
        for _ in range(START_TRIES):
            self._begun += 1
            name = f"i{self._begun}{'w' if workers > 1 else ''}"
            instance = Serving(
                self._folder, "--store", await self._hop(name), "--drain", "0.3",
                "--store-wait", f"{STORE_WAIT_S}", "--allow-changes",
                "--workers", str(workers), env=self._env,
            )  # fmt: skip
            self._instances.append(instance)
            self._names[instance] = name
            try:
                port = await asyncio.to_thread(lambda it=instance: it.port)
            except AssertionError:
                await self._gave_up(instance)
                continue
            self._ports[instance] = port
            return
        self.violations.append("no process could be started")

    async def _gave_up(self, instance: Serving) -> None:
        """It never listened: the store was out of reach for too long, which ends with a 3."""
        self.done["start in vain"] += 1
        try:
            code = await asyncio.to_thread(instance.end, PATIENCE_S)
        except subprocess.TimeoutExpired:
            code = None
        if code != EXIT_STORE:
            self.violations.append(f"a start ended with {code}: {instance.output[-1000:]}")

    def _replace(self, victim: Serving) -> None:
        """Start another one of its kind, in the background: the store may be out of reach."""
        workers = WORKERS if self._names[victim].endswith("w") else 1
        task = asyncio.create_task(self._start_one(workers))
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    def _name(self, instance: Serving, connection: str) -> str:
        # Which worker has a connection is not told; ids rise on each.
        name = self._names[instance]
        return f"{name}/{connection}" if name.endswith("w") else name

    def _inside(self, victim: Serving) -> int:
        """A process of it that serves."""
        if not self._names[victim].endswith("w"):
            return victim.pid
        children: list[str] = []
        with suppress(OSError):  # it ended by itself
            children = Path(f"/proc/{victim.pid}/task/{victim.pid}/children").read_text().split()
        return int(self._random.choice(children)) if children else victim.pid

    def _highest(self) -> int:
        answered = checker.answered(self.report.history)
        return max((op.last for op in answered if op.counter == OPERATED), default=0)

    # --- what is done to them --------------------------------------------------------------------

    async def _upset(self, end: float) -> None:
        turn = 0
        while time.monotonic() < end or turn < len(self.upsets) or not self._enough(end):
            await asyncio.sleep(self._random.uniform(0.2, 0.8))
            if self.upsets and len(self._ports) > 1:
                upset = self.upsets[turn % len(self.upsets)]
                victim = self._random.choice(list(self._ports))
                self.done[upset] += await getattr(self, f"_{upset.replace(' ', '_')}")(victim)
                turn += 1
            answered = len(self.report.history)
            self.progress(f"{max(0.0, end - time.monotonic()):.0f} s to go, {answered} requests")

    def _enough(self, end: float) -> bool:
        """Whether something was changed, or will not be."""
        return bool(self.operators.done) or time.monotonic() > end + PATIENCE_S

    # Each of these says whether there was anything to do it to.

    async def _weather(self, victim: Serving) -> bool:
        for hop in self.hops:
            hop.misbehave(Faults.swarm(self._random))
        return bool(self.hops)

    async def _kill(self, victim: Serving) -> bool:
        self._dies(victim)
        del self._ports[victim]
        victim.kill()
        await asyncio.to_thread(victim.end)
        self._replace(victim)
        return True

    async def _kill_inside(self, victim: Serving) -> bool:
        """One worker, which its parent replaces once all have served."""
        for one in self._ports:
            inside = self._inside(one)
            if inside != one.pid and len(one.records("worker_started")) >= WORKERS:
                self._dies(one)
                os.kill(inside, signal.SIGKILL)
                return True
        return False

    def _dies(self, victim: Serving) -> None:
        self._killed.add(victim)
        self.dead.add(self._names[victim])

    async def _freeze(self, victim: Serving) -> bool:
        inside = self._inside(victim)
        with suppress(ProcessLookupError):  # it ended by itself
            os.kill(inside, signal.SIGSTOP)
            try:
                await asyncio.sleep(self._random.uniform(0.3, 3.0))
            finally:
                os.kill(inside, signal.SIGCONT)
            return True
        return False

    async def _terminate(self, victim: Serving) -> bool:
        await self._stop(victim)
        self._replace(victim)
        return True

    async def _stop(self, victim: Serving) -> None:
        name = self._names[victim]
        with suppress(*BROKEN):
            page = (await ask(self._ports[victim], "/metrics")).text
            self.counted |= {(name, counter): gaps(page, counter) for counter in self.ledgers}
        # Workers that have not all served end together where one cannot start.
        codes = {0}
        if victim.records("workers_stopping") or victim.process.poll() is not None:
            self.done["ended by themselves"] += 1
            codes = {0, 1, 3, -signal.SIGTERM}
        victim.terminate()
        code = await asyncio.to_thread(victim.end, 30.0)
        del self._ports[victim]
        self.clean[name] = victim
        if code not in codes:
            self.violations.append(f"a clean stop ended with {code}: {victim.output[-4000:]}")

    # --- the end ---------------------------------------------------------------------------------

    async def _end(self) -> None:
        """The network heals; all must be served again; then all stop, one after the other."""
        for hop in self.hops:
            hop.misbehave(Faults(latency_s=(0.0, 0.0)))
        for victim in [one for one in self._ports if one.process.poll() is not None]:
            await self._terminate(victim)  # it ended by itself
        while self._starts:
            await asyncio.wait(self._starts)
        try:
            await self._served_again()
        finally:
            self._over = True
        for victim in list(self._ports):
            await self._stop(victim)

    async def _served_again(self) -> None:
        """What the last operators left half-way may still come about, and is put right again."""
        since, end = self._event, time.monotonic() + PATIENCE_S
        counters = [counter for counter, _ in self.targets]
        waiting = {(self._names[one], counter) for one in self._ports for counter in counters}
        while waiting and time.monotonic() < end:
            await self.operators.put_right()
            await asyncio.sleep(0.2)
            waiting -= {
                (op.instance.partition("/")[0], op.counter)
                for op in checker.answered(self.report.history)
                if op.invoke > since
            }
        if waiting:
            self.violations.append(f"never served again: {waiting}")


def gaps(page: str, counter: str) -> Counter[str]:
    """What a page of metrics counts of a counter's gaps, by cause."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "idservice_gap_ids_total" and sample.labels["counter"] == counter:
                found[sample.labels["cause"]] += int(sample.value)
    return found
