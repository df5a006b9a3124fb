"""Real processes on one store: the run, the checks over all that was answered, and the verdict."""

import asyncio
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from idservice.catalogue.counters import new_counter
from idservice.core.gap_causes import FROM_MEMORY
from idservice.stores import open_store
from idservice.stores.records import Position
from tests import engines
from tests.processes import Serving
from tests.prove.account import HANDED_OUT, KILLED, WAITING, Account, account
from tests.prove.fire import OPERATED, PLAIN, STATUSES, STRICT, Fire
from tests.prove.verdict import Progress, Verdict
from tests.simulation import checker
from tests.simulation.checker import Operation, Violation

PROCESSES, CLIENTS = 3, 16
TABLE = "proof"
RISING = (PLAIN, STRICT)  # counters of one shard; the operated one is resharded


def prove_processes(
    part: str,
    *,
    seconds: float,
    seed: int | None = None,
    planted: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> Verdict:
    """Run the part `dynamodb` or `sqlite` for some seconds. `planted` is put into the environment
    of the processes."""
    seed = random.randrange(10**6) if seed is None else seed
    again = f"make prove MINUTES={seconds / 60:g} ARGS='{part} --seed {seed}'"
    verdict = Verdict(part, seed, again)
    if part == "dynamodb" and (missing := engines.why_no_dynoxide()):
        verdict.violations.append(f"not proven: {missing}")
        return verdict
    with tempfile.TemporaryDirectory() as folder, store_of(part, Path(folder)) as (engine, address):
        fire = Fire(Path(folder), address, seed=seed, planted=planted or {})
        fire.engine, fire.progress = engine, Progress(part, quiet=quiet)
        asyncio.run(_create(address(engine)))
        asyncio.run(fire.burn(processes=PROCESSES, clients=CLIENTS, seconds=seconds))
        _judge(fire, verdict)
        for counter in fire.ledgers:
            position = asyncio.run(_position(address(engine), counter))
            (_account if engine else _estimate)(fire, verdict, counter, position)
    return verdict


@contextmanager
def store_of(part: str, folder: Path) -> Iterator[tuple[str, Callable[[str], str]]]:
    """The address of the engine, if there is any, and what it makes the store's address."""
    if part == "sqlite":
        yield "", lambda url: f"sqlite:{folder / 'ids.db'}"
        return
    with engines.dynoxide(folder) as engine:
        yield engine, lambda url: f"dynamodb:{TABLE}?region={engines.REGION}&endpoint={url}"


async def _create(address: str) -> None:
    rng = random.Random()
    async with open_store(address, hold_s=1.0) as store:
        await store.init(new_counter(OPERATED, rng))
        await store.create(new_counter(PLAIN, rng))
        await store.create(new_counter(STRICT, rng, strict=True))


async def _position(address: str, name: str) -> Position:
    async with open_store(address, hold_s=1.0) as store:
        counter = await store.counter(name)
        assert counter is not None
        found = await store.position(counter)
        assert found is not None
        return found


# --- what must hold -------------------------------------------------------------------------------


def _judge(fire: Fire, verdict: Verdict) -> None:
    report = fire.report
    answered = checker.answered(report.history)
    by_counter = Counter(op.counter for op in answered for _ in range(op.count))
    verdict.violations += fire.violations + fire.operators.faults
    for check in (
        partial(checker.check_unique, rising=False),
        lambda history: checker.check_unique(op for op in history if op.counter in RISING),
        lambda history: checker.check_rising_per_instance(
            op for op in history if op.counter in RISING
        ),
        lambda history: checker.check_strict(op for op in history if op.counter == STRICT),
    ):
        try:
            check(report.history)
        except Violation as violation:
            verdict.violations.append(str(violation))
    if not set(report.statuses) <= STATUSES:
        verdict.violations.append(f"statuses {dict(report.statuses)}")
    if report.torn:
        verdict.violations.append(f"{report.torn} requests broke, and nobody killed who had them")
    for counter in (OPERATED, PLAIN, STRICT):
        if not by_counter[counter]:
            verdict.violations.append(f"no id of {counter}, so nothing is proven")
    if not fire.operators.done:
        verdict.violations.append("no change succeeded, so nothing is proven")
    fates = sum((hop.fates for hop in fire.hops), Counter[str]())
    asked, statuses = len(report.history), _told(report.statuses)
    verdict.figures += [
        f"{by_counter.total()} ids answered in {asked} requests: {_told(by_counter)}",
        f"statuses {statuses}; requests broken by kills {report.broken}",
        f"done to processes: {_told(fire.done)}; changes: {_told(fire.operators.ended)}",
    ]
    if fates:
        verdict.figures.append(f"requests to the store: {_told(fates)}")


def _told(numbers: Counter[str] | Counter[int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items()))


# --- gaps -----------------------------------------------------------------------------------------


def _account(fire: Fire, verdict: Verdict, counter: str, position: Position) -> None:
    """Each id of a counter that nobody changed is found: by the hops, who was granted what, and by
    the processes, what they say they lost."""
    history = [_named(op) for op in fire.report.history if op.counter == counter]
    try:
        found = account(fire.ledgers[counter].writes(), history, start=0, killed=fire.dead)
    except Violation as violation:
        verdict.violations.append(f"{counter}: {violation}")
        return
    passed = found.fates.total()
    if passed != position.next:
        verdict.violations.append(f"ledger: {passed} ids accounted for of {position.next}")
    # What a strict counter loses at a stop is counted, and nobody can look any more.
    if counter != STRICT and (short := uncounted(fire, counter, found)):
        verdict.violations.append(f"gaps of {counter} without being counted: {short}")
    verdict.figures.append(
        f"counter {counter!r}, every id of {position.next}: {_told(found.fates)}"
    )


def _named(op: Operation) -> Operation:
    return replace(op, instance=op.instance.partition("/")[0])


def uncounted(fire: Fire, counter: str, found: Account) -> dict[str, str]:
    """Which processes lost more than they say, of those that ended in order."""
    short = {}
    for name, lost in found.clean.items():
        counted = fire.counted.get((name, counter), Counter())  # the last look before the stop
        said = sum(counted[cause] for cause in (*FROM_MEMORY, "late", "unknown", "claim"))
        said += dropped(fire.clean[name], counter) if name in fire.clean else 0
        if lost > said:
            short[name] = f"{lost} lost, {said} counted"
    return short


def _estimate(fire: Fire, verdict: Verdict, counter: str, position: Position) -> None:
    """Without a hop nobody knows what a killed process held: it is what nobody counted."""
    answered = checker.answered(fire.report.history)
    read = sum(op.count for op in answered if op.counter == counter)
    waiting = sum(map(len, position.returned))
    counted = sum(dropped(one, counter) for one in fire.clean.values())
    killed = position.next - read - waiting - counted
    if killed < 0:
        verdict.violations.append(f"ledger: {-killed} ids of {counter} that were never reserved")
    verdict.figures.append(
        f"counter {counter!r}, every id of {position.next}: counted at clean stops {counted},"
        f" {HANDED_OUT} {read}, {WAITING} {waiting}, and by subtraction {KILLED} {killed}"
    )


def dropped(instance: Serving, counter: str) -> int:
    """How many ids of a counter it said it dropped when it stopped."""
    messages = [line["message"] for line in instance.records("ids_dropped")]
    found = [re.match(rf"counter {counter}: (\d+) ids", message) for message in messages]
    return sum(int(one[1]) for one in found if one is not None)
