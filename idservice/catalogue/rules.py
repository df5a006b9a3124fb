"""Decides what each step of a change makes of an entry.

The kinds of change are in `changes`; `changer` takes the steps. PROTOCOL, as pure rules.
"""

from collections.abc import Sequence
from random import Random

from msgspec.structs import replace

from idservice.catalogue.changes import Change
from idservice.core.epoch import base_of, epoch_name, first_free, ordinal_on
from idservice.stores.records import FINISH, Counter, ShardState


def begun(
    entry: Counter, change: Change, found: Sequence[ShardState | None], random: Random
) -> Counter:
    """Return the entry with the change as its intent, or the entry itself if it is as wanted
    already.

    `found` are the shards of its epoch, and after them the shards that the counter is to have
    besides. Raises UnknownCounter, Moved, ChangeRefused.
    """
    assert entry.intent is None
    if change.is_done(entry):
        return entry
    _, free = settled(entry, found)
    change.check(entry, free)
    if (rewritten := change.rewritten(entry)) is not None:
        if rewritten is entry:
            return entry
        return replace(rewritten, last_change=change.record(entry.epoch))
    ordinal = max(entry.ordinal, *(ordinal_on(stand.epoch) for stand in found if stand), 0) + 1
    epoch = epoch_name(ordinal, f"{random.getrandbits(64):016x}")
    intent = change.intent(entry, free, epoch)
    item = found[0] if entry.adopted is not None else None
    if intent.fences and item is not None and (item.off or item.reserved is None):
        # The old endpoint cannot count in the item, or its last id is not known: the adoption ends.
        intent = replace(intent, kind=FINISH)
    revoked = entry.ordinal if change.revokes(entry, intent) else entry.revoked
    return replace(
        change.bounded(entry), intent=intent, revoked=revoked, rev=entry.rev + 1,
        last_change=change.record(epoch),
    )  # fmt: skip


def settled(entry: Counter, found: Sequence[ShardState | None]) -> tuple[Counter, int]:
    """Return the entry as the change under way, if any, leaves it, and the first id above all that
    were granted; `found` are the shards of its epoch."""
    reserved = [stand_reserved(stand) for stand in found[: entry.shards]]
    free, intent = first_free(entry.base, reserved, entry.high), entry.intent
    if intent is None:
        return entry, free
    after = replace(entry, state=intent.state, limit=intent.limit)
    return after, max(free, intent.base or intent.floor)


def stand_reserved(stand: ShardState | None) -> int:
    """Return the first index of a shard that was certainly never granted; 0 if it cannot be read.

    A fence past a number vouches for what cannot be read.
    """
    return (stand.reserved or 0) if stand is not None else 0


def to_seal(entry: Counter) -> range:
    """Return the shards to seal before a base is decided.

    They are the shards of the epoch that ends and of the epoch that opens. Shards that only the
    opening epoch has may be left from an earlier one.
    """
    assert entry.intent is not None
    return range(max(entry.shards, entry.intent.shards))


def based(entry: Counter, found: Sequence[ShardState | None], past: int | None) -> Counter:
    """Return the entry with the base of its intent decided; `found` are the sealed shards.

    `past` is a number that an operator vouches is above every id in use, beyond the intent.
    """
    intent = entry.intent
    assert intent is not None
    assert intent.base is None
    free = first_free(entry.base, [stand_reserved(stand) for stand in found], entry.high)
    floor = intent.floor if past is None else max(intent.floor, past + 1)
    base = base_of(free, floor=floor, ahead=intent.ahead, lower=intent.lower)
    return replace(entry, intent=replace(intent, base=base), rev=entry.rev + 1)


def done(entry: Counter) -> Counter:
    """Return the entry once its intent is carried out."""
    intent = entry.intent
    assert intent is not None
    assert intent.base is not None
    # A change that opens nothing leaves positions in the layout of the last open epoch. The
    # position of an adopted item is its value in every epoch; its id once the endpoint is off.
    moves = intent.opens and entry.adopted is None
    if intent.ends_adoption:
        entry = replace(entry, adopted=None, home=entry.adopted, base=0)
    if moves:
        entry = replace(entry, base=intent.base, shards=intent.shards)
    if intent.origin:
        entry = replace(entry, origins=(*entry.origins, intent.origin))
    return replace(
        entry, epoch=intent.epoch, state=intent.state, start=intent.start, limit=intent.limit,
        strict=intent.strict, runway=intent.runway, high=intent.base, intent=None, move=intent.move,
        rev=entry.rev + 1,
    )  # fmt: skip


def arrived(entry: Counter) -> Counter:
    """Return the entry of a counter that moved, once it is known to have arrived."""
    assert entry.move is not None
    return replace(entry, move=replace(entry.move, arrived=True), rev=entry.rev + 1)
