"""Real processes that add to one tally: clients behind a hop that loses, delays and repeats, whose
retries go to another instance with the same key, and what must hold of all that was answered.

For tests that are marked `pytest.mark.process`.
"""

import asyncio
import itertools
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from pathlib import Path

import aiohttp

from idservice.catalogue.counters import new_counter
from idservice.core.amounts import written
from idservice.stores import open_store
from idservice.stores.protocol import with_catalogue
from idservice.tallies.changes import new_tally
from tests import engines
from tests.hop import Exchange, Hop
from tests.processes import Serving, environment
from tests.prove.processes import store_of
from tests.prove.tally_history import Asked, Entry, check_history
from tests.prove.verdict import Progress, Verdict
from tests.simulation.checker import Violation
from tests.simulation.store import Faults

NAME, DECIMALS = "gifts", 2
PROCESSES, CLIENTS = 3, 12
AMOUNTS = ("12.50", "0.01", "0.29", "-3", "-0.5", "1000", "7")
FLOOR, CEILING = Decimal(-1), Decimal(2000)
ANSWER_S, PATIENCE_S = 4.0, 60.0
TRIES = 6


class TallyFire:
    """The processes, and everything that is asked of them and done to them."""

    think_s = 0.015  # how long a client waits between two adds, on average

    def __init__(self, folder: Path, address: Callable[[str], str], engine: str, seed: int) -> None:
        self.history: list[Asked] = []
        self.statuses: Counter[int] = Counter()
        self.done: Counter[str] = Counter()
        self.violations: list[str] = []
        self.front = Hop([], random.Random(f"{seed}-front"))
        self.front.on_exchange = self._note_copy
        self.front.silent = 0.2  # each silence takes a client as long as it waits for an answer
        self.hops: list[Hop] = []
        self._folder, self._address, self._engine = folder, address, engine
        self._rng = random.Random(seed)
        self._events = itertools.count(1)
        self._numbers = itertools.count()
        self._alive: dict[Serving, str] = {}
        self._begun: list[Serving] = []
        self._hopping = AsyncExitStack()
        self._session: aiohttp.ClientSession
        self._over = False

    async def burn(self, *, seconds: float, progress: Progress) -> None:
        """The whole run, to the last look at every key."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            async with self._hopping, self.front.listening(), aiohttp.ClientSession(
                timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
            ) as self._session:  # fmt: skip
                await asyncio.gather(*(self._start() for _ in range(PROCESSES)))
                async with asyncio.TaskGroup() as group:
                    for number in range(CLIENTS):
                        group.create_task(self._client(f"c{number}"))
                    group.create_task(self._operator())
                    await self._upset(time.monotonic() + seconds, progress)
                    self._over = True
                await self._look()
        finally:
            for one in self._begun:
                one.__exit__()

    # --- processes -------------------------------------------------------------------------------

    async def _start(self) -> None:
        address = self._address("")
        if self._engine:
            hop = Hop([self._engine], random.Random(self._rng.random()))
            self.hops.append(hop)
            address = self._address((await self._hopping.enter_async_context(hop.listening())).url)
        one = Serving(
            self._folder, "--store", address, "--drain", "0.3", "--allow-changes",
            env=environment(engines.ENVIRONMENT),
        )  # fmt: skip
        self._begun.append(one)
        url = f"http://127.0.0.1:{await asyncio.to_thread(lambda: one.port)}"
        self._alive[one] = url
        self.front.servers.append(url)

    async def _upset(self, end: float, progress: Progress) -> None:
        turn = 0
        while (left := end - time.monotonic()) > 0 or turn < 3:
            progress(f"{max(0.0, left):.0f} s to go, {len(self.history)} requests")
            faults = Faults.swarm(self._rng)
            faults.throttled = 0.0  # as a table says it, and no service
            faults.latency_s, faults.outages = (0.0, 0.05), []
            self.front.misbehave(faults)
            for hop in self.hops:
                hop.misbehave(Faults.swarm(self._rng))
            await asyncio.sleep(self._rng.uniform(0.3, 1.0))
            victim = self._rng.choice(list(self._alive))
            self.front.servers.remove(self._alive.pop(victim))
            kills = turn % 3 < 2
            (victim.kill if kills else victim.terminate)()
            self.done["killed" if kills else "stopped"] += 1
            await asyncio.to_thread(victim.end, 30.0)
            for hop in self.hops:
                hop.misbehave(Faults(latency_s=(0.0, 0.0)))
            await self._start()
            turn += 1

    # --- requests --------------------------------------------------------------------------------

    async def ask(self, client: str, kind: str, key: str = "", amount: str = "") -> Asked:
        """One request by way of the hop, which takes another instance each time."""
        asked = Asked(client, kind, key, amount, next(self._events))
        self.history.append(asked)
        path, method, body = f"/v1/tallies/{NAME}", "GET", None
        headers = {"Idempotency-Key": key} if key else {}
        base = self.front.url
        if kind == "add":
            path, method, body = f"{path}/add", "POST", {"amount": amount}
        elif kind == "lookup":
            path, headers = f"{path}/adds/{key}", {}
        elif kind != "read":  # an operator asks an instance itself
            base = self._rng.choice(list(self._alive.values()))
            if kind == "set":
                path, method, body = f"{path}/set", "POST", {"sum": amount}
            else:
                state = "suspended" if kind == "suspend" else "active"
                method, body = "PATCH", {"state": state}
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.request(
                method, base + path, json=body, headers=headers
            ) as response:
                told = json.loads(await response.read())
                self.statuses[response.status] += 1
                _understood(asked, response.status, told)
        asked.complete = next(self._events)
        return asked

    def _note_copy(self, exchange: Exchange) -> None:
        """A copy that the hop sent by itself may be counted or be refused for good, whatever the
        first one was told: so after a suspension. Who sent that one asked for it."""
        if not exchange.copy or not exchange.target.endswith("/add"):
            return
        told = json.loads(exchange.answer) if exchange.status in (200, 409) else {}
        if "amount" not in told:  # it left no record
            return
        mine = [one for one in self.history if one.key == told["key"] and one.kind == "add"]
        if mine:
            self.history.append(Asked("hop", "add", told["key"], told["amount"], mine[0].invoke))

    async def _client(self, name: str) -> None:
        rng = random.Random(f"{name}-{self._rng.random()}")
        used: list[tuple[str, str]] = []
        while not self._over:
            key, amount = f"k{next(self._numbers)}", rng.choice(AMOUNTS)
            used.append((key, amount))
            for _ in range(rng.choice((1, TRIES))):
                if (await self.ask(name, "add", key, amount)).outcome != "unknown":
                    break
            key, amount = rng.choice(used)
            drawn = rng.random()
            if drawn < 0.15:
                await self.ask(name, "read")
            elif drawn < 0.25:
                await self.ask(name, "add", key, rng.choice((amount, "5")))
            elif drawn < 0.35:
                await self.ask(name, "lookup", key)
            await asyncio.sleep(rng.uniform(0.0, 2 * self.think_s))

    async def _operator(self) -> None:
        number = 0
        while not self._over:
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
            if not self._alive:
                continue
            number += 1
            if number % 2:
                await self.ask("operator", "set", f"set{number}", self._rng.choice(("0", "5.5")))
            elif (await self.ask("operator", "suspend")).outcome == "ok":
                await asyncio.sleep(self._rng.uniform(0.0, 0.3))
                await self._surely("operator", "resume")

    async def _look(self) -> None:
        """The network heals, what is on its way arrives, and each key is looked up."""
        for hop in (self.front, *self.hops):
            hop.misbehave(Faults(latency_s=(0.0, 0.0)))
        while not all(hop.idle for hop in (self.front, *self.hops)):
            await asyncio.sleep(0.1)
        await self._surely("last", "resume")
        for url in self._alive.values():
            self.front.servers[:] = [url]
            await self._surely("last", "add", f"last-{url[-5:]}", "0")
        keys = sorted({one.key for one in self.history if one.kind in ("add", "set")})
        for at in range(0, len(keys), 50):
            some = keys[at : at + 50]
            await asyncio.gather(*(self._surely("last", "lookup", key) for key in some))
        await self._surely("last", "read")

    async def _surely(self, client: str, kind: str, key: str = "", amount: str = "") -> None:
        end = time.monotonic() + PATIENCE_S
        while (asked := await self.ask(client, kind, key, amount)).outcome == "unknown":
            if time.monotonic() > end:
                raise Violation("stuck", f"{asked}")


def _understood(asked: Asked, status: int, told: dict[str, object]) -> None:
    code = asked.code = str(told.get("code", ""))
    if status in (200, 409) and "amount" in told:
        counted = status == 200 and told.get("kind") not in ("refused", "set-refused")
        asked.outcome = "ok" if status == 200 else "refused"
        asked.entry = Entry(
            asked.key, counted, Decimal(str(told["amount"])), Decimal(str(told["sum"])),
            int(str(told["rev"])), str(told["at"]),
        )  # fmt: skip
        asked.replayed = bool(told.get("replayed"))
    elif status == 200:
        asked.outcome, asked.sum = "ok", Decimal(str(told["sum"]))
        asked.rev, asked.at = int(str(told["rev"])), str(told["at"])
    elif code == "key_reused":
        asked.outcome, asked.first = "reused", Decimal(str(told["amount"]))
    elif code == "unknown_add":
        asked.outcome = "absent"
    elif told.get("outcome") == "not_applied" and asked.kind in ("add", "set") and status < 500:
        asked.outcome = "not_applied"


# --- the verdict ----------------------------------------------------------------------------------


def prove_tallies(
    part: str, *, seconds: float, seed: int | None = None, quiet: bool = False
) -> Verdict:
    """Run real processes over `dynamodb` or `sqlite` for some seconds, and judge what they said."""
    seed = random.randrange(10**6) if seed is None else seed
    again = f"make prove MINUTES={seconds / 60:g} ARGS='tally --seed {seed}'"
    verdict = Verdict(f"tally, {part}", seed, again)
    if part == "dynamodb" and (missing := engines.why_no_dynoxide()):
        verdict.violations.append(f"not proven: {missing}")
        return verdict
    with tempfile.TemporaryDirectory() as folder, store_of(part, Path(folder)) as (engine, address):
        asyncio.run(_create(address(engine)))
        fire = TallyFire(Path(folder), address, engine, seed)
        try:
            asyncio.run(fire.burn(seconds=seconds, progress=Progress(part, quiet=quiet)))
            entries = check_history(fire.history, start=Decimal(0), floor=FLOOR, ceiling=CEILING)
            asyncio.run(_compare(address(engine), entries))
        except Violation as violation:
            verdict.violations.append(str(violation))
            entries = {}
        _tell(fire, entries, verdict)
    return verdict


async def _create(address: str) -> None:
    async with open_store(address, hold_s=1.0) as store:
        ours = with_catalogue(store)
        await ours.init(new_counter("default", random.Random()))
        tally = new_tally(NAME, decimals=DECIMALS, floor=str(FLOOR), ceiling=str(CEILING))
        await ours.tallies.create(tally)


async def _compare(address: str, entries: dict[str, Entry]) -> None:
    """What is in the store is what was answered: every record, and the sum of them."""
    async with open_store(address, hold_s=1.0) as store:
        tallies = with_catalogue(store).tallies
        tally = await tallies.tally(NAME)
        assert tally is not None
        total, keys = 0, set()
        async for record in tallies.every_record(NAME, tally.inc):
            entry = entries.get(record.key)
            amount = Decimal(written(record.amount, DECIMALS))
            if entry is None or (entry.counted, entry.amount) != (record.fate.counts, amount):
                raise Violation("records", f"{record}, but {entry}")
            if record.key in keys:
                raise Violation("once", f"{record} is there twice")
            keys.add(record.key)
            total += record.amount if record.fate.counts else 0
        if (total, len(keys)) != (tally.sum, tally.adds) or keys != set(entries):
            raise Violation("sum", f"{tally}, and {len(keys)} records make {total}")


def _tell(fire: TallyFire, entries: dict[str, Entry], verdict: Verdict) -> None:
    ends = Counter(f"{one.kind} {one.outcome}" for one in fire.history)
    told = ", ".join(f"{name} {number}" for name, number in sorted(ends.items()))
    counted = sum(entry.counted for entry in entries.values())
    fates = sum((hop.fates for hop in (fire.front, *fire.hops)), Counter[str]())
    verdict.figures += [
        f"{len(fire.history)} requests: {told}",
        f"{len(entries)} keys, {counted} of them counted, each once",
        f"done to processes: {dict(fire.done)}; on the way: {dict(fates)}",
    ]
    if not ends["add ok"] or not any(one.replayed for one in fire.history):
        verdict.violations.append("nothing was counted, or nothing asked for again")
