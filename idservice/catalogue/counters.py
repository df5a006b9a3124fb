"""Validates the configuration of a counter, creates it without repeating an id, and shows it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from time import time

import msgspec
from msgspec.structs import replace

from idservice import errors
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.renewals import CreateAgain
from idservice.core.epoch import FIRST_ORDINAL, epoch_name, first_base
from idservice.core.gap_causes import GapCause
from idservice.core.timeouts import stale_after
from idservice.stores.protocol import IdStore, has_catalogue, with_catalogue
from idservice.stores.records import (
    ACTIVE,
    CHANGING,
    DELETED,
    EXHAUSTED,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    MOVED,
    SHARDS_MAX,
    Adopted,
    Counter,
    LastChange,
    Position,
    check_name,
)

RUNWAY_MIN_S = 1.0
RUNWAY_MAX_S = 86_400.0
REQUEST_MAX_MAX = 100_000_000  # ids; as many as a service gives at most (--range-max)
RATE_MAX = 1e12  # ids/s


def check_runway(runway: float | None) -> None:
    """Raise BadConfiguration if a runway is out of bounds."""
    if runway is not None and not RUNWAY_MIN_S <= runway <= RUNWAY_MAX_S:
        raise errors.BadConfiguration(
            why=f"runway is {runway:g} s; it must be from {RUNWAY_MIN_S:g} to {RUNWAY_MAX_S:g}"
        )


def check_bounds(request_max: int | None, rate_max: float | None) -> None:
    """Raise BadConfiguration if what requests may take is out of bounds; 0 means no bound."""
    if request_max is not None and not 0 <= request_max <= REQUEST_MAX_MAX:
        raise errors.BadConfiguration(
            why=f"request_max is {request_max}; it must be from 1 to {REQUEST_MAX_MAX}, or 0 for"
            " no bound"
        )
    if rate_max is not None and not 0 <= rate_max <= RATE_MAX:
        raise errors.BadConfiguration(
            why=f"rate_max is {rate_max:g}; it must be at most {RATE_MAX:g} ids/s, or 0 for no"
            " bound"
        )


def new_counter(
    name: str,
    random: Random,
    *,
    start: int = 0,
    limit: int = LIMIT_DEFAULT,
    strict: bool = False,
    shards: int = 1,
    runway: float | None = None,
    request_max: int | None = None,
    rate_max: float | None = None,
    adopted: Adopted | None = None,
) -> Counter:
    """Return a counter in its first epoch, not yet in any store.

    `start` and `limit` are the first and the highest id, `runway` is in seconds. `request_max`
    and `rate_max` bound what requests may take, in ids and ids/s; 0 means no bound. For an adopted
    counter `start` is the id its old endpoint would answer next. Raises BadName, BadConfiguration.
    """
    check_name(name)
    check_runway(runway)
    check_bounds(request_max, rate_max)
    why = ""
    if not 0 <= start <= LIMIT_MAX:
        why = f"start is {start}; it must be from 0 to {LIMIT_MAX}"
    elif not 0 <= limit <= LIMIT_MAX:
        why = f"limit is {limit}; it must be from 0 to {LIMIT_MAX}"
    elif start > limit:
        why = f"start is {start}, above the limit {limit}"
    elif not 1 <= shards <= SHARDS_MAX:
        why = f"shards is {shards}; it must be from 1 to {SHARDS_MAX}"
    elif strict and shards > 1:
        why = f"strict with {shards} shards; a strict counter has one order, and one shard"
    elif adopted is not None and shards > 1:
        why = f"shards is {shards}; an adopted counter is one item, that of its old endpoint"
    elif adopted is not None and strict:
        why = "strict; an adopted counter cannot be, because its old endpoint keeps no order"
    if why:
        raise errors.BadConfiguration(why=why)
    # An old endpoint that answers the value after its increment gives id v + 1 for a stored v (I6).
    base = first_base(start, shards)
    if adopted is not None and adopted.returns == "new":
        base = 1
    epoch = epoch_name(FIRST_ORDINAL, f"{random.getrandbits(64):016x}")
    return Counter(
        name=name, epoch=epoch, start=start, limit=limit, base=base, shards=shards, strict=strict,
        runway=runway, request_max=request_max or None, rate_max=rate_max or None, adopted=adopted,
    )  # fmt: skip


async def ensure(
    store: IdStore,
    wanted: Counter,
    *,
    runway: float,
    random: Random,
    by: str = "",
    why: str = "",
    clock: Callable[[], float] = time,
) -> tuple[Counter, bool]:
    """Return the counter as the store has it, and True if this call created it.

    A deleted name is used again, for ids above the ids it handed out. `runway` (seconds) is the
    runway of a counter that names none, `by` the operator, `why` the reason. Raises CounterDiffers
    if a counter of this name is configured otherwise, Moved if it is in another store, and
    NotApplied or OutcomeUnknown from the store.
    """
    if by:
        at = datetime.fromtimestamp(int(clock()), UTC)
        created = LastChange("create", wanted.epoch, by=by, at=at, reason=why)
        wanted = replace(wanted, last_change=created)
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
        changer = EpochChanger(
            with_catalogue(store), random=random, stale_s=stale_after(runway), clock=clock
        )
        before, found = await changer.change(
            wanted.name, CreateAgain(by=by, why=why, wanted=wanted)
        )
        if before.state == DELETED and found.state != DELETED:
            return found, True
    difference = found.difference(wanted, runway=runway)
    if difference:
        raise errors.CounterDiffers(name=wanted.name, difference=difference)
    return found, False


async def shown(store: IdStore, name: str) -> Counter | None:
    """Return the entry of a counter, to be shown. Raises as `IdStore.counter`."""
    if has_catalogue(store):
        return await store.counter(name)
    try:  # `counter` asks first if it may be used, which a key that may read it need not permit
        return await store.entry(name)
    except errors.ChangedElsewhere:
        return await store.counter(name)


async def positions_of(store: IdStore, counter: Counter) -> list[Position]:
    """Return the positions of all shards in order, to be shown.

    Raises PositionMissing, and as `IdStore.position`.
    """
    found = await asyncio.gather(*(store.position(counter, at) for at in range(counter.shards)))
    positions = [position for position in found if position is not None]
    if len(positions) < counter.shards:
        raise errors.PositionMissing(store=store.address, name=counter.name)
    return positions


def described(
    counter: Counter, runway: float, positions: Sequence[Position] = ()
) -> dict[str, object]:
    """Return a counter's configuration and state as JSON values; `runway` if it names none.

    With the positions of its shards, `next` is the lowest id that is not reserved, `next_by_shard`
    that of each of several shards, and `returned` counts ids that were given back and not claimed.
    The state is then `exhausted` if every shard is at its limit, and `suspect` if a position has
    another epoch for no known reason: the store grants no ids. `change` is a change under way,
    and the state `changing` if it closes the counter for a time; `home` is the item that the
    counter was adopted from, once that is finished.
    """
    body: dict[str, object] = {
        "counter": counter.name,
        "state": counter.state,
        "epoch": counter.ordinal,
        "start": number(counter, counter.start),
        "limit": number(counter, counter.limit),
        "strict": counter.strict,
        "shards": counter.shards,
        "runway": counter.runway or runway,
    }
    change = counter.last_change
    if counter.request_max is not None:
        body["request_max"] = counter.request_max
    if counter.rate_max is not None:
        body["rate_max"] = counter.rate_max
    if counter.intent is not None:
        body["change"] = counter.intent.kind
        if counter.intent.closes:
            body["state"] = CHANGING
    if change is not None:
        body["last_change"] = change_described(change, under_way=counter.intent is not None)
    if counter.state == ACTIVE and counter.high > counter.limit:
        body["state"] = EXHAUSTED
    if positions:
        in_use = counter.state == ACTIVE and counter.intent is None
        there = [counter.layout(shard).id(each.next) for shard, each in enumerate(positions)]
        body["next"] = number(counter, min(there) if in_use else max(*there, counter.high))
        if counter.shards > 1:
            body["next_by_shard"] = [number(counter, each) for each in there]
        returned = sum(len(ids) for each in positions for ids in each.returned)
        if in_use and returned:
            body["returned"] = returned
        elif in_use and all(
            each.next >= counter.layout(shard).end for shard, each in enumerate(positions)
        ):
            body["state"] = EXHAUSTED
        if in_use and any(each.epoch != counter.epoch for each in positions):
            body["state"] = "suspect"
    if counter.move is not None:
        body["moved_to"] = counter.move.to
        body["arrived"] = counter.move.arrived
    body.update(_item_described(counter))
    return body


def _item_described(counter: Counter) -> dict[str, object]:
    """Return the item that the counter was adopted from, if it was, as JSON values."""
    item = counter.adopted_item
    if item is None:
        return {}
    about = {"table": item.table, "key": {name: value for name, _, value in item.key}}
    if counter.adopted is None:
        return {"home": about}
    return {"adopted": {**about, "attribute": item.attribute, "returns": item.returns}}


def change_described(change: LastChange, *, under_way: bool) -> dict[str, object]:
    """Return the last change of a counter as JSON values."""
    about = {"what": change.what, "by": change.by, "at": change.at, "reason": change.reason}
    if under_way and change.until is not None:
        about["until"] = change.until
    values: dict[str, object] = msgspec.to_builtins(about)
    return values


def number(counter: Counter, value: int) -> int | str:
    """Return a number for JSON: a string if JavaScript would round the counter's highest ids."""
    return str(value) if as_strings(counter) else value


def as_strings(counter: Counter) -> bool:
    """Return True if all numbers of a counter are strings in JSON."""
    return counter.limit > LIMIT_DEFAULT


def gaps_described(gaps: Mapping[str, int]) -> dict[str, object]:
    """Return the number of ids lost since the start and the meaning of each cause, by cause."""
    return {cause: {"ids": ids, "why": GapCause(cause).text} for cause, ids in sorted(gaps.items())}
