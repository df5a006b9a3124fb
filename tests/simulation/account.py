"""What became of every id that a strict counter's store granted, and what must not.

The store's ledger says what was granted, an instance's `asks` which batches it sent for whom and
what it made of the answers, the history who read which id.
"""

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from idservice import errors
from idservice.allocation.strict import StrictReserver
from idservice.core.allocator import Request
from idservice.stores import records
from idservice.stores.records import Counter
from tests.simulation.checker import Operation, Violation, answered
from tests.simulation.store import Grant, SimStore

SOON_S = 1e-6  # who leaves at the same instant has left by then


@dataclass(slots=True)
class Ask:
    """One call of `StrictReserver.reserve`: its copies are `sent[since:until]` of its store."""

    since: int
    until: int = 0
    got: range | None = None
    error: BaseException | None = None
    wanted: bool = False  # whether somebody still waited who was to be served by it


@contextmanager
def watched() -> Iterator[None]:
    """While this lasts, `store.asks` of each handle keeps what was asked over it."""
    real = StrictReserver.reserve

    async def reserve(
        self: StrictReserver, counter: Counter, request: Request, *, wanted: Callable[[], bool]
    ) -> Any:
        store: Any = self._store
        ask = Ask(len(store.sent))
        store.asks.append(ask)

        def look() -> None:
            ask.wanted = wanted()

        try:
            got = await real(self, counter, request, wanted=wanted)
            ask.got = got.indices if isinstance(got, records.Grant) else None
            return got
        except BaseException as error:
            ask.error = error
            asyncio.get_running_loop().call_later(SOON_S, look)
            raise
        finally:
            ask.until = len(store.sent)

    with mock.patch.object(StrictReserver, "reserve", reserve):
        yield


def account(
    history: Iterable[Operation], ledger: Iterable[Grant], stores: Iterable[SimStore]
) -> dict[str, int]:
    """How many ids of each fate; together they are all that were granted.

    `answered`: somebody read it. `left`: nobody waited any more, be it that the process ended.
    `changed`: the epoch or the position was another. `plain`: not one of a batch, and not read.
    `twice`: a batch was applied once more. `lost`: somebody waited, and was given others or none.
    """
    read = {id for op in answered(history) for block in op.ids for id in block}
    by_nonce = {
        sent.nonce: ask
        for store in stores
        for ask in store.asks
        for sent in store.sent[ask.since : ask.until]
        if sent.nonce
    }
    seen: set[str] = set()
    fates: Tally[str] = Tally()
    for grant in ledger:
        unread = sum(id not in read for id in grant.ids)
        fates["answered"] += len(grant.ids) - unread
        fates[_fate(grant, by_nonce.get(grant.nonce), twice=grant.nonce in seen)] += unread
        if grant.nonce:
            seen.add(grant.nonce)
    return {fate: ids for fate, ids in fates.items() if ids}


def _fate(grant: Grant, ask: Ask | None, *, twice: bool) -> str:
    """What became of the ids of a grant that nobody read."""
    if not grant.nonce or ask is None:
        return "plain"
    if twice:
        return "twice"
    if ask.got == grant.indices:
        return "left"
    match ask.error:
        case None:  # its waiters were given another batch
            return "lost"
        case errors.EpochChanged() | errors.WentBack() | errors.PositionMissing():
            return "changed"
        case _:
            return "lost" if ask.wanted else "left"


def check_closed(ledger: Iterable[Grant]) -> None:
    """What a batch got is told while its epoch lasts, and burnt from then on."""
    for grant in ledger:
        if grant.closed:
            raise Violation("closed", f"told when its epoch was over: {grant}")


def check_account(fates: dict[str, int]) -> None:
    """No gap through a lost reply while the process and its waiters live."""
    for fate in ("twice", "lost"):
        if fates.get(fate):
            raise Violation("lost reply", f"{fate}: {fates}")
