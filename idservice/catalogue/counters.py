"""Validates the configuration of a counter, and creates it without repeating an id."""

import asyncio
from random import Random

from idservice import errors
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import CreateAgain
from idservice.core.epoch import FIRST_ORDINAL, epoch_name, first_base
from idservice.core.timeouts import stale_after
from idservice.stores.protocol import IdStore, has_catalogue, with_catalogue
from idservice.stores.records import (
    DELETED,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    MOVED,
    SHARDS_MAX,
    Adopted,
    Counter,
    Position,
    check_name,
)

RUNWAY_MIN_S = 1.0
RUNWAY_MAX_S = 86_400.0
REASON_MAX = 200


def check_runway(runway: float | None) -> None:
    """Raise BadConfiguration if a runway is out of bounds."""
    if runway is not None and not RUNWAY_MIN_S <= runway <= RUNWAY_MAX_S:
        raise errors.BadConfiguration(
            why=f"runway is {runway:g} s; it must be from {RUNWAY_MIN_S:g} to {RUNWAY_MAX_S:g}"
        )


def check_reason(reason: str) -> str:
    """Return the reason of a change, if it can be logged. Raises BadConfiguration."""
    if len(reason) > REASON_MAX or not reason.isprintable():
        raise errors.BadConfiguration(
            why=f"reason is {reason[:80]!r}; it must be at most {REASON_MAX} printable characters"
        )
    return reason


def new_counter(
    name: str,
    random: Random,
    *,
    start: int = 0,
    limit: int = LIMIT_DEFAULT,
    strict: bool = False,
    shards: int = 1,
    runway: float | None = None,
    adopted: Adopted | None = None,
) -> Counter:
    """Return a counter in its first epoch, not yet in any store.

    `start` and `limit` are the first and the highest id, `runway` is in seconds. For an adopted
    counter `start` is the id its old endpoint would answer next. Raises BadName, BadConfiguration.
    """
    check_name(name)
    refuse = errors.BadConfiguration
    if not 0 <= start <= LIMIT_MAX:
        raise refuse(why=f"start is {start}; it must be from 0 to {LIMIT_MAX}")
    if not 0 <= limit <= LIMIT_MAX:
        raise refuse(why=f"limit is {limit}; it must be from 0 to {LIMIT_MAX}")
    if start > limit:
        raise refuse(why=f"start is {start}, above the limit {limit}")
    check_runway(runway)
    if not 1 <= shards <= SHARDS_MAX:
        raise refuse(why=f"shards is {shards}; it must be from 1 to {SHARDS_MAX}")
    if strict and shards > 1:
        raise refuse(
            why=f"strict with {shards} shards; a strict counter has one order, and one shard"
        )
    if adopted is not None and shards > 1:
        raise refuse(
            why=f"shards is {shards}; an adopted counter is one item, that of its old endpoint"
        )
    if adopted is not None and strict:
        raise refuse(
            why="strict; an adopted counter cannot be, because its old endpoint keeps no order"
        )
    # An old endpoint that answers the value after its increment gives id v + 1 for a stored v (I6).
    base = first_base(start, shards)
    if adopted is not None and adopted.returns == "new":
        base = 1
    return Counter(
        name=name,
        epoch=epoch_name(FIRST_ORDINAL, f"{random.getrandbits(64):016x}"),
        start=start,
        limit=limit,
        base=base,
        shards=shards,
        strict=strict,
        runway=runway,
        adopted=adopted,
    )


async def shown(store: IdStore, name: str) -> Counter | None:
    """Return the entry of a counter, to be shown. Raises as `IdStore.counter`."""
    counter = await store.counter(name)
    if counter is None or has_catalogue(store):
        return counter
    try:  # a borrowed counter differs from the entry at the service that lends it
        return await store.entry(name)
    except errors.ChangedElsewhere:
        return counter


async def positions_of(store: IdStore, counter: Counter) -> list[Position]:
    """Return the positions of all shards in order, to be shown.

    Raises PositionMissing, and as `IdStore.position`.
    """
    found = await asyncio.gather(*(store.position(counter, at) for at in range(counter.shards)))
    positions = [position for position in found if position is not None]
    if len(positions) < counter.shards:
        raise errors.PositionMissing(store=store.address, name=counter.name)
    return positions


async def ensure(
    store: IdStore, wanted: Counter, *, runway: float, random: Random, by: str = ""
) -> tuple[Counter, bool]:
    """Return the counter as the store has it, and True if this call created it.

    A deleted name is used again, for ids above the ids it handed out. `runway` (seconds) is the
    runway of a counter that names none, `by` the operator. Raises CounterDiffers if a counter of
    this name is configured otherwise, Moved if it is in another store, and NotApplied or
    OutcomeUnknown from the store.
    """
    try:
        found = await store.create(wanted)
    except errors.OutcomeUnknown as unknown:
        try:
            found = await store.create(wanted)  # its random epoch identifies our write
        except errors.NotApplied:
            raise unknown from None  # the refusal of a repeat does not tell of the first
    if found.epoch == wanted.epoch:
        return found, True
    if found.intent is not None or found.state in (DELETED, MOVED):
        changer = EpochChanger(with_catalogue(store), random=random, stale_s=stale_after(runway))
        before, found = await changer.change(wanted.name, CreateAgain(by=by, wanted=wanted))
        if before.state == DELETED and found.state != DELETED:
            return found, True
    difference = found.difference(wanted, runway=runway)
    if difference:
        raise errors.CounterDiffers(name=wanted.name, difference=difference)
    return found, False
