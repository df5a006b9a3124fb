"""Ids over sidecars: unique whatever the hop does, gone when their time is over, and none of an
epoch that is; and the checks find every planted fault."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from idservice import exchange
from idservice.core.allocator import Allocator
from idservice.core.epoch import Layout
from idservice.exchange import Answer, Reply
from idservice.stores.chained import ChainedStore
from idservice.stores.protocol import Loan
from tests.simulation.chained import Chain, chain
from tests.simulation.checker import Violation

SEEDS = 300
CHUNK = 100
MUTANT_SEEDS = 150  # within these, a mutant must be found


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def first_violation(seed: int, store: type[ChainedStore] = ChainedStore) -> Violation | None:
    try:
        chain(seed, store)
    except Violation as violation:
        return violation
    return None


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_every_promise_holds_over_sidecars(start: int, request: pytest.FixtureRequest) -> None:
    one = request.config.getoption("--seed", default=None)
    for seed in range(start, start + CHUNK) if one is None else [one]:
        violation = first_violation(seed)
        assert violation is None, f"seed {seed}: {violation}\nreplay: pytest {__file__} --seed"


def test_the_same_seed_gives_the_identical_history_over_sidecars() -> None:
    for seed in range(5):
        assert chain(seed).history == chain(seed).history != chain(seed + 1).history


def test_the_runs_reach_what_they_are_there_for() -> None:
    worlds: list[Chain] = [chain(seed) for seed in range(40)]
    outcomes = Counter(op.outcome for world in worlds for op in world.history)
    assert {"ok", "fail", "info"} <= set(outcomes)
    gaps: Counter[str] = Counter()
    for world in worlds:
        for sidecar in world.sidecars:
            for supply in sidecar.service.supplies.values():
                gaps.update(supply.reading().gaps)
    assert {"expired", "unknown", "epoch", "abandoned", "stop"} <= set(gaps)
    assert {world.strict for world in worlds} == {True, False}
    steps = {block.step for world in worlds for one in world.heard for block in one.blocks}
    assert {1, 3} <= steps
    assert any(one.crashed for world in worlds for one in world.instances)
    assert any(one.crashed for world in worlds for one in world.sidecars)
    assert any(op.epoch.startswith("2.") for world in worlds for op in world.history)


# --- planted faults -------------------------------------------------------------------------------


def keeps_for_ever(self: Allocator, now: float) -> None:
    """Lets nothing expire."""
    self._loans.clear()


def keeps_older_epochs(self: Allocator, layout: Layout, *, strict: bool) -> None:
    """Goes on with what it held when a newer epoch is told of."""
    self._strict = strict


def believes_older_epochs(answer: Answer, *, url: str, ordinal: int, strict: bool) -> bool:
    """Takes ids of whatever epoch."""
    return answer.ordinal != ordinal


def believes_any_nonce(reply: Reply, *, nonce: str, **rest: Any) -> Answer:
    """Does not look whether the answer is to this request."""
    if reply.status == 200:
        reply = Reply(200, reply.content_type, _with_nonce(reply.body, nonce))
    return _read_answer(reply, nonce=nonce, **rest)


_read_answer: Callable[..., Answer] = exchange.read_answer


def _with_nonce(body: bytes, nonce: str) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(body), "nonce": nonce})


class OneNonceForAll(ChainedStore):
    """Sends every request with one nonce, so that an old answer fits a new request."""

    def __init__(self, *arguments: Any, **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        self._nonce = lambda: "always"


class HoldsStrictIds(ChainedStore):
    """Takes every counter for one whose ids may be held."""

    async def reserve(self, *arguments: Any, **rest: Any) -> Loan:
        loan = await super().reserve(*arguments, **rest)
        counter = msgspec.structs.replace(loan.counter, strict=False)
        return Loan(counter, loan.blocks, loan.since)


class CountsFromTheAnswer(ChainedStore):
    """Takes the time at which ids came for the time at which they were asked for."""

    async def reserve(self, *arguments: Any, **rest: Any) -> Loan:
        loan = await super().reserve(*arguments, **rest)
        return Loan(loan.counter, loan.blocks, asyncio.get_running_loop().time())


ALLOCATOR = "idservice.core.allocator.Allocator"


@pytest.mark.parametrize(
    ("place", "fault", "check"),
    [
        (f"{ALLOCATOR}.expire", keeps_for_ever, "expired"),
        (f"{ALLOCATOR}.renew", keeps_older_epochs, "epoch"),
        ("idservice.exchange.is_newer", believes_older_epochs, "epoch"),
        ("idservice.exchange.read_answer", believes_any_nonce, "unique"),
        ("store", OneNonceForAll, "unique"),
        ("store", HoldsStrictIds, "order"),
        ("store", CountsFromTheAnswer, "expired"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_fault_of_the_chain_is_found(
    place: str, fault: Any, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fault if place == "store" else ChainedStore
    if place != "store":
        monkeypatch.setattr(place, fault)
    seen = set()
    for seed in range(MUTANT_SEEDS):
        violation = first_violation(seed, store)
        if violation is not None and violation.check == check:
            return
        seen.add(violation and violation.check)
    pytest.fail(f"not seen by {check!r} within {MUTANT_SEEDS} seeds, only {seen}")
