"""A strict counter loses no id to a lost answer, and the account that says so is right itself."""

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterator

import pytest

from idservice import errors
from idservice.core.writer import Batch
from tests.simulation import account, strict
from tests.simulation.account import Ask
from tests.simulation.checker import Operation, Violation
from tests.simulation.loop import elapse, run
from tests.simulation.proof import played
from tests.simulation.scenarios import World
from tests.simulation.serving import table
from tests.simulation.store import Faults, Grant, Sent, SimStore

STRICT = ("strict", "lossy", "crowded", "changed")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.long
def test_with_a_fifth_of_all_answers_lost_every_id_is_handed_out() -> None:
    """The long form: python -m tests.simulation.strict 120000 10"""
    world = strict.figure(10_000, seed=0)
    fates = world.account()
    assert set(fates) == {"answered"}
    assert fates["answered"] > 9_000
    sent = [sent for one in world.instances for sent in one.store.sent]
    lost = sum(sent.outcome == "unknown" for sent in sent)
    assert lost > 0.15 * len(sent)


@pytest.mark.long
@pytest.mark.xdist_group("played")
def test_the_scenarios_of_strict_counters_reach_what_they_are_there_for() -> None:
    worlds: list[World] = [played(name, seed) for name in STRICT for seed in range(12)]
    asks = [ask for world in worlds for one in world.instances for ask in one.store.asks]
    assert {
        "NoneType",
        "NotApplied",
        "OutcomeUnknown",
        "CancelledError",
        "EpochChanged",
        "BatchBurnt",
    } <= {type(ask.error).__name__ for ask in asks}
    fates = {fate for world in worlds for fate in world.account()}
    assert {"answered", "left", "plain", "changed"} <= fates
    sent = [sent for world in worlds for one in world.instances for sent in one.store.sent]
    assert {"granted", "unknown", "not_applied", "displaced"} == {one.outcome for one in sent}
    assert any(
        len(world.table.records.get("orders", {})) < world.table.registrations.get("orders", 0)
        for world in worlds
    ), "nobody was pruned"


@pytest.mark.long
@pytest.mark.xdist_group("played")
def test_strict_batches_are_answered_in_many_epochs_of_one_counter() -> None:
    worlds = [played("changed", seed) for seed in range(25)]
    epochs = [
        {grant.epoch for grant in world.table.ledger if grant.nonce and grant.answered}
        for world in worlds
    ]
    assert sum(len(each) >= 4 for each in epochs) > 5
    answered = [op.error for world in worlds for op in world.history]
    assert {"suspended", "unknown_counter", "waited_too_long"} <= {*answered}


def test_nobody_can_know_of_what_a_first_copy_took_before_a_change() -> None:
    """Once found by one of 70,000 runs: a repair by hand leaves no trace of the batch."""

    async def main() -> None:
        data = table(strict=True)
        counter = data.entries["orders"]
        assert data.register(counter, "w", 0)
        hop = Faults(resent=1.0, latency_s=(4.0, 4.0))  # the copies arrive after 1 s and 2 s
        store, batch = SimStore(random.Random(1), data, hop), Batch("w", 1, "nonce", 3)
        asked = store.reserve(counter, count=3, seen=0, room=9, batch=batch)
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(refused(asked))
            await elapse(1.5)
            (grant,) = data.ledger
            assert not grant.copy
            data.repair("orders", "repaired")
        assert isinstance(answer.result(), errors.EpochChanged)
        assert grant.copy

    run(main())


async def refused(call: Coroutine[object, object, object]) -> errors.NotApplied:
    """How a call was refused."""
    with pytest.raises(errors.NotApplied) as refusal:
        await call
    return refusal.value


# --- the account ----------------------------------------------------------------------------------


def grant(nonce: str, start: int, stop: int) -> Grant:
    indices = range(start, stop)
    return Grant("n", "1.a", indices, indices, None, False, nonce=nonce)


def read(start: int, stop: int) -> Operation:
    ids = [range(start, stop)]
    return Operation("c", "i", "n", stop - start, 1, 0.0, outcome="ok", complete=2, ids=ids)


def handle(*asks: tuple[Ask, str]) -> SimStore:
    """A store over which each of these was asked, with the nonces of its copies."""
    store = SimStore(random.Random(1))
    for ask, nonces in asks:
        ask.since = len(store.sent)
        store.sent += [Sent("n", 1, 0.0, nonce=nonce) for nonce in nonces]
        ask.until = len(store.sent)
        store.asks.append(ask)
    return store


UNKNOWN = errors.OutcomeUnknown(store="s", action="a", why="w")
CHANGED = errors.EpochChanged(store="s", name="n", found="2.b", epoch="1.a")


@pytest.mark.parametrize(
    ("ask", "nonces", "ledger", "fates"),
    [
        (Ask(0, got=range(3)), "aa", [grant("a", 0, 3)], {"answered": 2, "left": 1}),
        (Ask(0, got=range(3, 6)), "ab", [grant("a", 0, 3)], {"answered": 2, "lost": 1}),
        (Ask(0, error=UNKNOWN, wanted=True), "a", [grant("a", 2, 5)], {"lost": 3}),
        (Ask(0, error=UNKNOWN), "a", [grant("a", 2, 5)], {"left": 3}),
        (Ask(0, error=asyncio.CancelledError()), "a", [grant("a", 2, 5)], {"left": 3}),
        (Ask(0, error=asyncio.CancelledError(), wanted=True), "a", [grant("a", 2, 5)], {"lost": 3}),
        (Ask(0, error=CHANGED, wanted=True), "a", [grant("a", 2, 5)], {"changed": 3}),
        (Ask(0), "", [grant("", 2, 5)], {"plain": 3}),
        (
            Ask(0, got=range(2)),
            "a",
            [grant("a", 0, 2), grant("a", 2, 4)],
            {"answered": 2, "twice": 2},
        ),
    ],
)
def test_the_fate_of_every_id_is_told(
    ask: Ask, nonces: str, ledger: list[Grant], fates: dict[str, int]
) -> None:
    found = account.account([read(0, 2)], ledger, [handle((ask, nonces))])
    assert found == fates
    bad = {"lost", "twice"} & set(fates)
    if bad:
        with pytest.raises(Violation, match="lost reply"):
            account.check_account(found)
    else:
        account.check_account(found)


def test_the_account_of_thousands_of_histories_is_that_of_going_through_every_id() -> None:
    rng = random.Random(5)
    seen = set()
    for _ in range(3000):
        at, ledger, asks, history, by_id = 0, [], [], [], {}
        for number in range(rng.randint(1, 4)):
            nonces = [f"{number}{copy}" for copy in range(rng.randint(1, 2))]
            ask = Ask(0, wanted=rng.random() < 0.5)
            ranges = {}
            for nonce in nonces:
                if rng.random() < 0.7:
                    ranges[nonce] = range(at, at + rng.randint(1, 3))
                    at = ranges[nonce].stop
                    ledger.append(grant(nonce, at - len(ranges[nonce]), at))
            heard = rng.choice([*ranges, None])
            if heard is not None:
                ask.got = ranges[heard]
                taken = rng.randint(0, len(ask.got))
                if taken:
                    history.append(read(ask.got.start, ask.got.start + taken))
            else:
                ask.error = rng.choice([UNKNOWN, CHANGED, asyncio.CancelledError()])
            asks.append((ask, nonces))
            for nonce, ids in ranges.items():
                for id in ids:
                    by_id[id] = by_force(id, nonce, heard, ask, history)
        expected = {fate: [*by_id.values()].count(fate) for fate in set(by_id.values())}
        store = handle()
        for ask, nonces in asks:
            ask.since = len(store.sent)
            store.sent += [Sent("n", 1, 0.0, nonce=nonce) for nonce in nonces]
            ask.until = len(store.sent)
            store.asks.append(ask)
        assert account.account(history, ledger, [store]) == expected
        seen |= set(expected)
    assert seen == {"answered", "left", "lost", "changed"}


def by_force(id: int, nonce: str, heard: str | None, ask: Ask, history: list[Operation]) -> str:
    if any(id in block for one in history for block in one.ids):
        return "answered"
    if heard is not None:
        return "left" if heard == nonce else "lost"
    if isinstance(ask.error, errors.EpochChanged):
        return "changed"
    return "lost" if ask.wanted else "left"
