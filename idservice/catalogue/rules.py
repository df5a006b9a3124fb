"""What may be changed on a counter, and what each step of a change makes of its entry. Pure rules;
`change` carries them out."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from msgspec.structs import replace

from idservice import errors
from idservice.core.epoch import base_of, epoch_name, first_free, ordinal_on
from idservice.stores.records import (
    ACTIVE,
    ARRIVE,
    DELETED,
    FINISH,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    MOVE,
    MOVED,
    SHARDS_MAX,
    VALUE,
    Counter,
    Intent,
    Move,
    ShardState,
)

REVOKING = ("suspend", "delete", "fence", MOVE, ARRIVE)  # blocks in memory are dropped
JUMP_MAX = 1_000_000  # ids that a `set` may skip without being forced to
NONE_ABOVE = "ids up to {} may be in use, and its limit {} leaves none above"


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants of one counter, and who and why.

    `kind` is the word that is logged: set, suspend, resume, limit, runway, reshard, delete, create,
    fence, finish (an adoption), move or arrive. Only what belongs to the kind is given: for `set`
    the id `next`, whether it may be `lower` than ids in use, and whether the jump is `forced`; for
    `fence` one of `past`, the highest id in use, and `ahead`, how many ids to go beyond what the
    store knows of; for `create` the counter `wanted`; for `move` the address it goes `to`; for
    `arrive` the counter `wanted`, its `state`, the id `next` to begin at or above, and the `origin`
    it comes by.
    """

    kind: str
    by: str = ""
    why: str = ""
    state: str | None = None
    limit: int | None = None
    runway: float | None = None
    shards: int | None = None
    next: int | None = None
    lower: bool = False
    forced: bool = False
    past: int | None = None
    ahead: int | None = None
    wanted: Counter | None = None
    to: str = ""
    origin: str = ""

    @property
    def wished_shards(self) -> int:
        """How many shards the counter is to have; 0 where that is as it was."""
        return self.wanted.shards if self.wanted is not None else self.shards or 0


# --- the first step -------------------------------------------------------------------------------


def begun(
    entry: Counter, wish: Wish, found: Sequence[ShardState | None], random: Random
) -> Counter:
    """The entry with what is wished as its intent; the entry itself where it is so already.

    `found` is how the shards of its epoch stand, and after them those that it is to have besides.
    Raises UnknownCounter, ChangeRefused.
    """
    assert entry.intent is None
    if _is_done(entry, wish):
        return entry
    _check_there(entry, wish)
    if wish.kind == ARRIVE:
        _check_arrival(entry, wish)
    _check_adopted(entry, wish)
    reserved = [stand_reserved(stand) for stand in found[: entry.shards]]
    free = first_free(entry.base, reserved, entry.high)
    _check_limit(entry, wish, free)
    if wish.kind == "set":
        _check_set(entry, wish, free)
    if wish.kind == "reshard":
        _check_shards(entry, wish, free)
    runway = wish.runway if wish.runway is not None else entry.runway
    if not _changes_epoch(entry, wish):
        if runway == entry.runway:
            return entry
        return replace(entry, runway=runway, rev=entry.rev + 1)
    ordinal = max(entry.ordinal, *(ordinal_on(stand.epoch) for stand in found if stand), 0) + 1
    limit = entry.limit if wish.limit is None else wish.limit
    intent = Intent(
        epoch=epoch_name(ordinal, f"{random.getrandbits(64):016x}"),
        kind=wish.kind,
        state=wish.state or entry.state,
        start=entry.start,
        limit=limit,
        shards=wish.shards or entry.shards,
        strict=entry.strict,
        runway=runway,
        floor=_floor(wish),
        ahead=wish.ahead or 0,
        lower=wish.lower and wish.next is not None and wish.next < free,
        by=wish.by,
        why=wish.why,
        move=entry.move,
        origin=wish.origin,
    )
    if wish.kind == MOVE:
        move = Move(to=wish.to, token=intent.epoch, state=entry.state)
        intent = replace(intent, state=MOVED, move=move)
    if wish.wanted is not None:
        new = wish.wanted
        intent = replace(
            intent, state=wish.state or ACTIVE, move=None, start=new.start, limit=new.limit,
            shards=new.shards, strict=new.strict, runway=new.runway,
        )  # fmt: skip
    revokes = wish.kind in REVOKING or intent.lower or limit < entry.limit
    revoked = entry.ordinal if revokes else entry.revoked
    return replace(entry, intent=intent, revoked=revoked, rev=entry.rev + 1)


def _floor(wish: Wish) -> int:
    if wish.kind == "create":
        assert wish.wanted is not None
        return wish.wanted.start
    if wish.past is not None:
        return wish.past + 1
    return wish.next or 0


def _changes_epoch(entry: Counter, wish: Wish) -> bool:
    """Whether more than a runway is another one."""
    if wish.kind in ("set", "fence", "create", FINISH, MOVE, ARRIVE):
        return True
    if wish.state is not None and wish.state != entry.state:
        return True
    if wish.shards is not None and wish.shards != entry.shards:
        return True
    return wish.limit is not None and wish.limit != entry.limit


def _is_done(entry: Counter, wish: Wish) -> bool:
    """Whether it is so already, by whoever it was."""
    match wish.kind:
        case "create":
            return entry.state not in (DELETED, MOVED)
        case "finish":
            return entry.home is not None
        case "move":
            return entry.move is not None and entry.move.to == wish.to
        case "arrive":
            return wish.origin in entry.origins
    return False


def _check_there(entry: Counter, wish: Wish) -> None:
    if wish.kind in ("fence", ARRIVE):
        return
    if entry.state == MOVED:
        raise errors.Moved(name=entry.name, why=entry.whereabouts)
    if entry.state == DELETED and wish.kind != "create":
        raise errors.UnknownCounter(name=entry.name)


def _check_arrival(entry: Counter, wish: Wish) -> None:
    """A counter arrives where only a tombstone has its name: two in use have numbers twice."""
    why, shards = "", wish.wished_shards
    if entry.move is not None and not entry.move.arrived:
        why = entry.whereabouts
    elif entry.state not in (DELETED, MOVED):
        why = (
            "there is one of this name, in use, with ids of its own. If they may be taken for this"
            f" one's, delete it there first (`idservice delete {entry.name}`), and move then: ids"
            " go on above both"
        )
    elif wish.state != ACTIVE and shards != entry.shards:  # it opens none, see `done`
        why = f"it is {wish.state} with {shards} shards, and its name had {entry.shards} there"
        why += f". Resume it first, or create one with {shards} there and delete it"
    if why:
        raise errors.ChangeRefused(name=entry.name, why=why)


def _check_adopted(entry: Counter, wish: Wish) -> None:
    if wish.wanted is not None and wish.wanted.adopted is not None:
        raise errors.ChangeRefused(
            name=entry.name,
            why="it was deleted, and its name can only be used for ids above those it handed out,"
            " which an old endpoint knows nothing of; adopt under another name",
        )
    if wish.kind == FINISH:
        _check_finish(entry)
    elif entry.adopted is not None and wish.kind not in ("fence", "runway"):
        raise errors.ChangeRefused(
            name=entry.name,
            why=f"{wish.kind} would go unnoticed by its old endpoint, which may still count on the"
            " item; only its runway can be changed, and fence raises its position, until"
            f" `idservice adopt --finish {entry.name}` ends that",
        )


def _check_finish(entry: Counter) -> None:
    if entry.adopted is None:
        raise errors.ChangeRefused(
            name=entry.name, why="it was not adopted, so there is no old endpoint to be ended"
        )
    if entry.adopted.attribute == VALUE:
        raise errors.ChangeRefused(
            name=entry.name,
            why=f"its old endpoint counts in the attribute {VALUE!r}, which the position itself"
            " needs, so that it could not be stopped; switch it off, and create a counter of"
            " another name with --start above its ids",
        )


def _check_limit(entry: Counter, wish: Wish, free: int) -> None:
    if wish.kind == "create" and wish.wanted is not None and free > wish.wanted.limit:
        why = NONE_ABOVE.format(free - 1, wish.wanted.limit)
        raise errors.ChangeRefused(name=entry.name, why=why)
    if wish.limit is None:
        return
    low, high = entry.start, LIMIT_DEFAULT
    if entry.limit > LIMIT_DEFAULT:
        low, high = max(entry.start, LIMIT_DEFAULT + 1), LIMIT_MAX
    if not low <= wish.limit <= high:
        raise errors.ChangeRefused(
            name=entry.name,
            why=f"its limit can be from {low} to {high}, not {wish.limit}: not below its start"
            f" {entry.start}, and on its side of {LIMIT_DEFAULT}, where ids in JSON turn from"
            " numbers into strings",
        )


def _check_set(entry: Counter, wish: Wish, free: int) -> None:
    assert wish.next is not None
    why, lower, skips = "", wish.next < free, wish.next - free
    if not 0 <= wish.next <= entry.limit:
        why = f"it can go on from 0 to its limit {entry.limit}, not from {wish.next}"
    elif lower and not wish.lower:
        why = f"ids up to {free - 1} may be in use, so going on from {wish.next} would repeat them;"
        why += " name a higher number, or add --allow-lower (allow_lower) and answer for it"
    elif lower and entry.state != ACTIVE:  # it opens nothing before it is resumed, see `done`
        why = f"it is {entry.state}, and resuming it goes on above every id in use; resume it"
        why += f" first, and let it go on from {wish.next} then"
    elif skips > JUMP_MAX and not wish.forced:
        why = f"going on from {wish.next} would skip {skips} ids, more than {JUMP_MAX}; see whether"
        why += " the number is right, and add --force (force) if it is"
    if why:
        raise errors.ChangeRefused(name=entry.name, why=why)


def _check_shards(entry: Counter, wish: Wish, free: int) -> None:
    why = ""
    if wish.shards is None or not 1 <= wish.shards <= SHARDS_MAX:
        why = f"it can have 1 to {SHARDS_MAX} shards, not {wish.shards}"
    elif wish.shards == entry.shards:
        return
    elif entry.strict:
        why = "it is strict, and one order has one shard"
    elif entry.state != ACTIVE:
        why = f"it is {entry.state}; resume it first"
    elif free > entry.limit:
        why = NONE_ABOVE.format(free - 1, entry.limit)
    if why:
        raise errors.ChangeRefused(name=entry.name, why=why)


def stand_reserved(stand: ShardState | None) -> int:
    """The first index of a shard that was surely never granted, as far as it can be read; who
    fences past a number vouches for the rest."""
    return (stand.reserved or 0) if stand is not None else 0


# --- the further steps ----------------------------------------------------------------------------


def to_seal(entry: Counter) -> range:
    """The shards to be sealed before a base is decided: those of the epoch that ends, and those of
    the one that opens, which may be left from an earlier one."""
    assert entry.intent is not None
    return range(max(entry.shards, entry.intent.shards))


def based(entry: Counter, found: Sequence[ShardState | None], past: int | None) -> Counter:
    """The entry with the base of its intent decided; `found` is how the sealed shards stand.

    `past` is a number that somebody vouches for, beyond what the intent says.
    """
    intent = entry.intent
    assert intent is not None
    assert intent.base is None
    free = first_free(entry.base, [stand_reserved(stand) for stand in found], entry.high)
    floor = intent.floor if past is None else max(intent.floor, past + 1)
    base = base_of(free, floor=floor, ahead=intent.ahead, lower=intent.lower)
    return replace(entry, intent=replace(intent, base=base), rev=entry.rev + 1)


def done(entry: Counter) -> Counter:
    """The entry once its intent is carried out."""
    intent = entry.intent
    assert intent is not None
    assert intent.base is not None
    # What opens nothing leaves positions that are read by the layout of the last open epoch; the
    # position of an adopted item is its value, whatever the epoch, and the id itself once its old
    # endpoint is off.
    moves = intent.opens and entry.adopted is None
    if intent.finishes:
        entry = replace(entry, adopted=None, home=entry.adopted, base=0)
    return replace(
        entry,
        epoch=intent.epoch,
        state=intent.state,
        start=intent.start,
        limit=intent.limit,
        base=intent.base if moves else entry.base,
        shards=intent.shards if moves else entry.shards,
        strict=intent.strict,
        runway=intent.runway,
        high=intent.base,
        intent=None,
        rev=entry.rev + 1,
        move=intent.move,
        origins=entry.origins + ((intent.origin,) if intent.origin else ()),
    )


def arrived(entry: Counter) -> Counter:
    """The entry of a counter that was moved, once it is known to be where it went."""
    assert entry.move is not None
    return replace(entry, move=replace(entry.move, arrived=True), rev=entry.rev + 1)
