"""Defines the kinds of change: a class each, with its checks and the intent that it becomes.

To add a kind, add a class here, and a row to COMMANDS unless `idservice KIND NAME` finishes it.
`renewals` has the kinds that use a name again. `rules` has the steps that all kinds share; commands
and routes begin changes.
"""

import shlex
from datetime import datetime
from typing import ClassVar

import msgspec
from msgspec.structs import replace

from idservice import errors
from idservice.core.epoch import base_of
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
    SUSPENDED,
    VALUE,
    Counter,
    Intent,
    LastChange,
    Move,
)

REASON_MAX = 200
JUMP_MAX = 1_000_000  # ids that a `set` may skip without being forced to
NONE_ABOVE = "ids up to {} may be in use, and its limit {} leaves none above"
# By kind: the command that finishes a change that stands still; see `command`.
COMMANDS = {
    "set": "set {name} --next {i.floor}{lower}",
    "reshard": "reshard {name} --shards {i.shards}",
    "fence": "fence {name} --past {past}",
    "limit": "configure {name} --limit {i.limit}",
    FINISH: "adopt --finish {name}",
    MOVE: "move {name} --to {to}",
    ARRIVE: "fence {name} --ahead 0",
}

# The command that begins a change, for each kind that is not named after its command.
WORDS = {
    "limit": "configure",
    "runway": "configure",
    "bounds": "configure",
    FINISH: "adopt --finish",
    ARRIVE: MOVE,
}


def word_of(kind: str) -> str:
    """Return the command that begins a change of this kind, as messages and the log name it."""
    return WORDS.get(kind, kind)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one counter. `by` is the operator, `why` the reason and `at` the time (UTC), as
    the entry and the log tell them."""

    drops: ClassVar[bool] = False  # see `revokes`
    by: str = ""
    why: str = ""
    at: datetime | None = None

    @property
    def kind(self) -> str:
        """The word for this kind in entries, logs and commands."""
        raise NotImplementedError

    @property
    def vouched(self) -> int | None:
        """A number that the operator vouches is above every id in use; None if there is none."""
        return None

    @property
    def new_shards(self) -> int:
        """The number of shards that the counter is to have; 0 if it keeps those it has."""
        return 0

    def record(self, epoch: str) -> LastChange:
        """Return the record of this change, which opens the epoch or is made in it."""
        return LastChange(word_of(self.kind), epoch, by=self.by, at=self.at, reason=self.why)

    def is_done(self, entry: Counter) -> bool:
        """Return True if the entry is as wanted, by whatever change."""
        return False

    def check(self, entry: Counter, free: int) -> None:
        """Refuse what is not possible; `free` is above every id granted so far.

        Raises UnknownCounter, Moved, ChangeRefused.
        """
        check_present(entry)
        check_not_adopted(entry, self.kind)

    def rewritten(self, entry: Counter) -> Counter | None:
        """Return the entry after a change that needs no epoch; None if this one opens one."""
        return None

    def bounded(self, entry: Counter) -> Counter:
        """Return the entry with the bounds of requests that hold from the change's beginning on."""
        return entry

    def intent(self, entry: Counter, free: int, epoch: str) -> Intent:
        """Return the intent. By default it leaves the counter as it is, in another epoch."""
        return Intent(
            epoch=epoch, kind=self.kind, state=entry.state, start=entry.start, limit=entry.limit,
            shards=entry.shards, strict=entry.strict, runway=entry.runway, by=self.by,
            why=self.why, move=entry.move,
        )  # fmt: skip

    def revokes(self, entry: Counter, intent: Intent) -> bool:
        """Return True if instances must drop the ids that they have in memory."""
        return self.drops


class SetNext(Change, frozen=True, kw_only=True):
    """Goes on from the id `next`.

    `lower` allows ids that may be in use, `forced` a jump over more than JUMP_MAX ids.
    """

    next: int
    lower: bool = False
    forced: bool = False
    kind: ClassVar = "set"

    def check(self, entry: Counter, free: int) -> None:
        super().check(entry, free)
        why, lower, skips = "", self.next < free, self.next - free
        if not 0 <= self.next <= entry.limit:
            why = f"it can go on from 0 to its limit {entry.limit}, not from {self.next}"
        elif lower and not self.lower:
            why = f"ids up to {free - 1} may be in use, so going on from {self.next} would repeat"
            why += " them; name a higher number, or add --allow-lower (allow_lower) to repeat them"
        elif lower and entry.state != ACTIVE:  # it opens nothing before it is resumed, see `done`
            why = f"it is {entry.state}, and resuming it goes on above every id in use; resume it"
            why += f" first, and let it go on from {self.next} then"
        elif skips > JUMP_MAX and not self.forced:
            why = f"going on from {self.next} would skip {skips} ids, more than {JUMP_MAX}; check"
            why += " the number, and add --force (force) if it is right"
        refuse(entry, why)

    def intent(self, entry: Counter, free: int, epoch: str) -> Intent:
        lower = self.lower and self.next < free
        return replace(super().intent(entry, free, epoch), floor=self.next, lower=lower)

    def revokes(self, entry: Counter, intent: Intent) -> bool:
        return intent.lower


class Configure(Change, frozen=True, kw_only=True):
    """Suspends or resumes a counter, or changes its limit, its runway or its bounds.

    A field that is None stays as it was, and 0 removes a bound. `forced` allows a limit that leaves
    no ids.
    """

    state: str | None = None
    limit: int | None = None
    runway: float | None = None
    request_max: int | None = None
    rate_max: float | None = None
    forced: bool = False

    @property
    def kind(self) -> str:
        if self.state is not None:
            return "suspend" if self.state == SUSPENDED else "resume"
        if self.limit is not None:
            return "limit"
        return "runway" if self.runway is not None else "bounds"

    def check(self, entry: Counter, free: int) -> None:
        check_present(entry)
        if self.state is not None or self.limit is not None:
            check_not_adopted(entry, self.kind)
        if self.limit is None:
            return
        low, high = entry.start, LIMIT_DEFAULT
        if entry.limit > LIMIT_DEFAULT:
            low, high = max(entry.start, LIMIT_DEFAULT + 1), LIMIT_MAX
        if not low <= self.limit <= high:
            why = f"its limit can be from {low} to {high}, not {self.limit}. A limit cannot be"
            why += f" below the start {entry.start}, and cannot cross {LIMIT_DEFAULT}, above which"
            why += " ids in JSON are strings"
            refuse(entry, why)
        if self.limit < free and self.limit != entry.limit and not self.forced:
            why = f"ids up to {free - 1} may be in use, so with the limit {self.limit} it is"
            why += " exhausted at once; name a higher limit, or add --force (force) if that is"
            why += " meant"
            refuse(entry, why)

    def rewritten(self, entry: Counter) -> Counter | None:
        if (self.state or entry.state, self._limit(entry)) != (entry.state, entry.limit):
            return None
        runway = entry.runway if self.runway is None else self.runway
        after = replace(self.bounded(entry), runway=runway)
        return entry if after == entry else replace(after, rev=entry.rev + 1)

    def bounded(self, entry: Counter) -> Counter:
        request_max, rate_max = entry.request_max, entry.rate_max
        if self.request_max is not None:
            request_max = self.request_max or None
        if self.rate_max is not None:
            rate_max = self.rate_max or None
        return replace(entry, request_max=request_max, rate_max=rate_max)

    def intent(self, entry: Counter, free: int, epoch: str) -> Intent:
        return replace(
            super().intent(entry, free, epoch),
            state=self.state or entry.state,
            limit=self._limit(entry),
            runway=entry.runway if self.runway is None else self.runway,
        )

    def revokes(self, entry: Counter, intent: Intent) -> bool:
        return self.state == SUSPENDED or intent.limit < entry.limit

    def _limit(self, entry: Counter) -> int:
        return entry.limit if self.limit is None else self.limit


class Delete(Change, frozen=True):
    """Deletes a counter; its entry stays as a tombstone, so that no id is repeated."""

    kind: ClassVar = "delete"
    drops: ClassVar = True

    def bounded(self, entry: Counter) -> Counter:
        """Drop the bounds: an earlier version that uses the name again would not know of them."""
        return replace(entry, request_max=None, rate_max=None)

    def intent(self, entry: Counter, free: int, epoch: str) -> Intent:
        return replace(super().intent(entry, free, epoch), state=DELETED)


class Reshard(Change, frozen=True, kw_only=True):
    """Goes on with another number of shards."""

    shards: int
    kind: ClassVar = "reshard"

    @property
    def new_shards(self) -> int:
        return self.shards

    def check(self, entry: Counter, free: int) -> None:
        super().check(entry, free)
        why = ""
        if not 1 <= self.shards <= SHARDS_MAX:
            why = f"it can have 1 to {SHARDS_MAX} shards, not {self.shards}"
        elif self.shards == entry.shards:
            return
        elif entry.strict:
            why = "it is strict, and a strict counter has one shard"
        elif entry.state != ACTIVE:
            why = f"it is {entry.state}; resume it first"
        elif free > entry.limit:
            why = NONE_ABOVE.format(free - 1, entry.limit)
        refuse(entry, why)

    def rewritten(self, entry: Counter) -> Counter | None:
        return entry if self.shards == entry.shards else None

    def intent(self, entry: Counter, free: int, epoch: str) -> Intent:
        return replace(super().intent(entry, free, epoch), shards=self.shards)


class Fence(Change, frozen=True, kw_only=True):
    """Opens an epoch above every id that may be in use.

    `past` is the highest such id; `ahead` is the number of ids to skip beyond those that the store
    knows of. Exactly one of the two is given. `forced` allows a jump over more than JUMP_MAX ids,
    and one that leaves no ids.
    """

    past: int | None = None
    ahead: int | None = None
    forced: bool = False
    kind: ClassVar = "fence"
    drops: ClassVar = True

    @property
    def vouched(self) -> int | None:
        return self.past

    def first(self, free: int) -> int:
        """Return the id to go on from, if `free` is above every id granted so far."""
        floor = 0 if self.past is None else self.past + 1
        return base_of(free, floor=floor, ahead=self.ahead or 0, lower=False)

    def check(self, entry: Counter, free: int) -> None:
        """Refuse only a number that may be a mistake: a fence repairs any counter."""
        if self.forced or entry.state in (DELETED, MOVED):
            return
        why, first = "", self.first(free)
        if first > entry.limit >= free:
            why = (
                f"if it goes on from {first}, it is exhausted at once: its limit is {entry.limit}."
            )
            why += " Check the number, raise the limit first, or add --force if that is meant"
        elif first - free > JUMP_MAX:
            why = f"going on from {first} would skip {first - free} ids above those that the store"
            why += f" knows of, more than {JUMP_MAX}; check the number, and add --force if it is"
            why += " right"
        refuse(entry, why)

    def intent(self, entry: Counter, free: int, epoch: str) -> Intent:
        floor = 0 if self.past is None else self.past + 1
        return replace(super().intent(entry, free, epoch), floor=floor, ahead=self.ahead or 0)


class FinishAdoption(Change, frozen=True):
    """Ends an adoption: the old endpoint can count no more."""

    kind: ClassVar = FINISH

    def is_done(self, entry: Counter) -> bool:
        return entry.home is not None

    def check(self, entry: Counter, free: int) -> None:
        check_present(entry)
        if entry.adopted is None:
            refuse(entry, "it was not adopted, so there is no old endpoint to end")
        elif entry.adopted.attribute == VALUE:
            why = f"its old endpoint counts in the attribute {VALUE!r}, which the position itself"
            why += " needs, so the endpoint cannot be stopped. Switch it off, and create a counter"
            why += " of another name with --start above its ids"
            refuse(entry, why)


class MoveAway(Change, frozen=True, kw_only=True):
    """Closes a counter in this store, because it moves to the store at the address `to`."""

    to: str
    kind: ClassVar = MOVE
    drops: ClassVar = True

    def is_done(self, entry: Counter) -> bool:
        return entry.move is not None and entry.move.to == self.to

    def intent(self, entry: Counter, free: int, epoch: str) -> Intent:
        move = Move(to=self.to, token=epoch, state=entry.state)
        return replace(super().intent(entry, free, epoch), state=MOVED, move=move)


def check_reason(
    reason: str, refused: type[errors.RequestRefused] = errors.BadConfiguration
) -> str:
    """Return the reason of a change, if it can be logged. Raises the error that is named."""
    if len(reason) > REASON_MAX or not reason.isprintable():
        raise refused(
            why=f"reason is {reason[:80]!r}; it must be at most {REASON_MAX} printable characters"
        )
    if errors.without_secrets(reason) != reason:  # it would be kept, and shown (K4)
        raise refused(why="reason has an access key or a password in it; leave that out")
    return reason


def command(name: str, intent: Intent) -> str:
    """Return the command that finishes a change, without its `--store`."""
    past, lower = max(0, intent.floor - 1), " --allow-lower" * intent.lower
    to = shlex.quote(intent.move.to) if intent.move else ""
    template = COMMANDS.get(intent.kind, "{i.kind} {name}")
    return template.format(name=name, i=intent, past=past, lower=lower, to=to)


def refuse(entry: Counter, why: str) -> None:
    """Raise ChangeRefused if there is a reason."""
    if why:
        raise errors.ChangeRefused(name=entry.name, why=why)


def check_present(entry: Counter) -> None:
    """Refuse a counter that is elsewhere or deleted. Raises UnknownCounter, Moved."""
    if entry.state == MOVED:
        raise errors.Moved(name=entry.name, why=entry.whereabouts)
    if entry.state == DELETED:
        raise errors.UnknownCounter(name=entry.name)


def check_not_adopted(entry: Counter, kind: str) -> None:
    """Refuse a change of which an old endpoint would not know. Raises ChangeRefused."""
    if entry.adopted is not None:
        why = f"its old endpoint, which may still count on the item, would not notice {kind}."
        why += f" Until `idservice adopt --finish {entry.name}` ends the adoption, only its runway"
        why += " and bounds can be changed, and fence raises its position"
        refuse(entry, why)
