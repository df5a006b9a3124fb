"""Planted faults of sidecars and of their way to the centrals, which the simulation must find."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from idservice.client import protocol
from idservice.client.protocol import ClientAnswer, Reply
from idservice.core.allocator import Allocator
from idservice.core.epoch import Layout
from idservice.stores.chained import ChainedStore
from idservice.stores.records import Loan
from tests.simulation.mutants import Mutant


def keeps_for_ever(self: Allocator, now: float) -> None:
    """Lets nothing expire."""
    self._loans.clear()


def keeps_older_epochs(self: Allocator, layout: Layout, *, strict: bool) -> None:
    """Goes on with what it held when a newer epoch is told of."""
    self._strict = strict


def believes_older_epochs(answer: ClientAnswer, *, url: str, ordinal: int, strict: bool) -> bool:
    """Takes ids of whatever epoch."""
    return answer.ordinal != ordinal


def believes_any_nonce(reply: Reply, *, nonce: str, **rest: Any) -> ClientAnswer:
    """Does not look whether the answer is to this request."""
    if reply.status == 200:
        reply = Reply(200, reply.content_type, _with_nonce(reply.body, nonce))
    return _read_answer(reply, nonce=nonce, **rest)


_read_answer: Callable[..., ClientAnswer] = protocol.read_answer


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
EXCHANGE = "idservice.client.protocol"
CHAINED_MUTANTS = [
    Mutant(keeps_for_ever, f"{ALLOCATOR}.expire", "chained", "expired"),
    Mutant(keeps_older_epochs, f"{ALLOCATOR}.renew", "chained", "epoch", found_by=3),
    Mutant(believes_older_epochs, f"{EXCHANGE}.is_newer", "chained", "epoch", found_by=22),
    Mutant(believes_any_nonce, f"{EXCHANGE}.read_answer", "chained", "unique", found_by=16),
    Mutant(OneNonceForAll, "store", "chained", "unique", found_by=16),
    Mutant(HoldsStrictIds, "store", "chained", "order", found_by=4),
    Mutant(CountsFromTheAnswer, "store", "chained", "expired"),
]
