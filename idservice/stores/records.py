"""The records that a store keeps and gives: entries, positions, grants, loans."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from idservice import errors
from idservice.core.access_key import fits
from idservice.core.epoch import Layout, ordinal_of, sealed
from idservice.core.limits import ID_MAX, NAME, NUMBER_MAX
from idservice.core.limits import SHARDS_MAX as SHARDS_MAX

T = TypeVar("T")

LIMIT_DEFAULT = NUMBER_MAX
LIMIT_MAX = ID_MAX
DEFAULT_COUNTER = "default"
VALUE = "next"  # name of the first free index in every store

BOUNDS = ("request_max", "rate_max")  # of what requests may take
NO_BOUNDS = dict.fromkeys(BOUNDS)
FIELDS = ("start", "limit", "strict", "shards", "runway", *BOUNDS, "adopted")  # of a configuration

# Kinds of change.
FINISH = "finish"  # ends an adoption
MOVE, ARRIVE = "move", "arrive"  # the two changes that take a counter from one store to another
# States of a counter.
ACTIVE, SUSPENDED, DELETED, MOVED = "active", "suspended", "deleted", "moved"
# And those that are only shown: without ids up to the limit, and closed by a change for a time.
EXHAUSTED, CHANGING = "exhausted", "changing"


class Adopted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The item that holds an existing counter's value, and which value its old endpoint returns."""

    table: str
    key: tuple[tuple[str, str, str], ...]  # (attribute, DynamoDB type "S" or "N", value) each
    attribute: str
    returns: str  # "old": the value before the increment is the id; "new": the value after it
    table_id: str | None = None  # the table's identity when it was adopted, where it has one

    def __str__(self) -> str:
        key = ",".join(f"{attribute}={value}" for attribute, _, value in self.key)
        table = f"{self.table} (id {self.table_id})" if self.table_id else self.table
        return f"{self.attribute} of {key} in table {table}, answered {self.returns}"


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The destination of a counter: the address of a store, and the state it has there.

    `token` is the origin that the counter there names. `arrived` says that it is known to be there,
    so that nothing is left to do.
    """

    to: str
    token: str
    state: str
    arrived: bool = False


class Intent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A change under way: the epoch it opens, and the configuration of the counter afterwards.

    The epoch begins at `floor` or above, and at least `ahead` beyond every id ever granted; with
    `lower` exactly at `floor`. `base` is its beginning, once that is decided; it is decided once.
    `by` and `why` are the operator's name and reason. `move` is the counter's destination, `origin`
    the token of the move that brings it.
    """

    epoch: str
    kind: str
    state: str
    start: int
    limit: int
    shards: int = 1
    strict: bool = False
    runway: float | None = None
    floor: int = 0
    ahead: int = 0
    lower: bool = False
    base: int | None = None
    by: str = ""
    why: str = ""
    move: Move | None = None
    origin: str = ""

    @property
    def ends_adoption(self) -> bool:
        """Return True if it ends an adoption: the old endpoint cannot count any more afterwards."""
        return self.kind == FINISH

    @property
    def fences(self) -> bool:
        """Return True if it is a fence, which may also end an adoption; see `rules.begun`."""
        return self.kind == "fence" or (self.ends_adoption and bool(self.floor or self.ahead))

    @property
    def closes(self) -> bool:
        """Return True if the counter is closed until it is done, which takes about a minute."""
        return self.lower and self.opens

    @property
    def opens(self) -> bool:
        """Return True if ids are granted afterwards."""
        return self.state == ACTIVE


class LastChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last change of a counter: the command, its operator, time (UTC) and reason.

    `epoch` is the epoch that it opens, or the current one if it opens none. `until` is when ids are
    to come again after a change that closes the counter for a time.
    """

    what: str
    epoch: str
    by: str = ""
    at: datetime | None = None  # not known of a change by an earlier version
    reason: str = ""
    until: datetime | None = None

    def __str__(self) -> str:
        at = f" at {utc(self.at)}" if self.at is not None else ""
        reason = f" ({self.reason})" if self.reason else ""
        return f"by {self.by or 'an operator'}{at}{reason}"


def utc(at: datetime) -> str:
    """Return a time as messages show it."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


class Counter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A counter's catalogue entry: its configuration, and its current epoch.

    `start` is the first id, `limit` the highest; both 0 .. LIMIT_MAX. `runway` is in seconds; None
    means the setting of the serving instance. `base` and `shards` are those of the current epoch
    or, while the counter is not active, of the last open one. `rev` rises with every write of the
    entry. Blocks of epochs up to `revoked` must not be used. `high` is above every id granted
    before the current epoch. `request_max` and `rate_max` bound what requests may take, in ids and
    ids/s. `home` is the item it was adopted from, once its old endpoint is off:
    the position of its first shard stays there. `move` is its destination, `origins` the tokens of
    all moves that ever brought it here.
    """

    name: str
    epoch: str
    start: int = 0
    limit: int = LIMIT_DEFAULT
    base: int = 0
    shards: int = 1
    strict: bool = False
    runway: float | None = None
    request_max: int | None = None
    rate_max: float | None = None
    state: str = ACTIVE
    adopted: Adopted | None = None
    rev: int = 0
    revoked: int = 0
    high: int = 0
    intent: Intent | None = None
    home: Adopted | None = None
    move: Move | None = None
    origins: tuple[str, ...] = ()
    last_change: LastChange | None = None

    @property
    def target_epoch(self) -> str:
        """Return the epoch it is in, or the one that its change opens."""
        return self.epoch if self.intent is None else self.intent.epoch

    @property
    def target_state(self) -> str:
        """Return the state it has, or the one that its change leads to."""
        return self.state if self.intent is None else self.intent.state

    @property
    def initial_epoch(self) -> str:
        """Return the epoch of new positions: its own if it is active, else a seal."""
        return self.epoch if self.state == ACTIVE else sealed(self.epoch)

    @property
    def whereabouts(self) -> str:
        """Return, for a caller that asks here, where it was moved and what to do."""
        move = self.move if self.intent is None else self.intent.move
        assert move is not None
        if move.arrived:
            return f"it was moved to {move.to}; serve it with --store {move.to!r}"
        return (
            f"it is being moved to {move.to}; until `idservice move {self.name} --to {move.to!r}`"
            " finishes that, no instance hands out its ids"
        )

    def being_changed(self) -> errors.Changing:
        """Return the error of a request that the change under way refuses."""
        change = self.last_change
        if change is None or self.intent is None:
            return errors.Changing(name=self.name, why="an operator changes it")
        why, until = f"{change.what} {change}", 0.0
        if change.until is not None:
            why, until = f"{why}, until about {utc(change.until)}", change.until.timestamp()
        return errors.Changing(name=self.name, why=why, until=until)

    @property
    def ordinal(self) -> int:
        """Return the ordinal of the current epoch."""
        return ordinal_of(self.epoch)

    @property
    def adopted_item(self) -> Adopted | None:
        """Return the foreign item that holds the position of its first shard, if there is one."""
        return self.adopted or self.home

    def layout(self, shard: int = 0) -> Layout:
        """Return how this epoch's indices become ids."""
        return Layout(base=self.base, limit=self.limit, shard=shard, shards=self.shards)

    def difference(self, other: "Counter", *, runway: float) -> str:
        """Return in words how the configuration of `other` differs; empty if it does not.

        `runway` stands in for one that a counter leaves open.
        """
        found = []
        for field in FIELDS:
            mine, theirs = getattr(self, field), getattr(other, field)
            if field == "runway":
                mine, theirs = mine or runway, theirs or runway
            if field == "start" and self.adopted:
                continue  # read from the adopted item, which moves on
            if field == "adopted":
                mine, theirs = mine or "no item", theirs or "no item"
            if field in BOUNDS:
                mine, theirs = mine or "none", theirs or "none"
            if mine != theirs:
                found.append(f"{field} is {mine}, not {theirs}")
        return "; ".join(found)


def differences(before: Counter, after: Counter) -> str:
    """Return in words what a change, begun or done, makes of a counter."""
    aim = after if after.intent is None else after.intent
    found = []
    for field in ("state", "start", "limit", "strict", "shards", "runway"):
        old, new = getattr(before, field), getattr(aim, field)
        if old != new:
            if field == "runway":  # None: each instance has that of its --runway
                old, new = (f"{one:g} s" if one else "the instance's own" for one in (old, new))
            found.append(f"{field} {old} -> {new}")
    for field in BOUNDS:  # they hold from the beginning of a change on
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            found.append(f"{field} {old or 'none'} -> {new or 'none'}")
    if before.epoch != aim.epoch:
        found.append(f"epoch {before.ordinal} -> {ordinal_of(aim.epoch)}")
    if before.epoch != aim.epoch and after.intent is None and after.state == ACTIVE:
        found.append(f"ids from {after.high}")
    if after.intent is not None and after.intent.floor:
        how = "from" if after.intent.lower else "from at least"
        found.append(f"ids {how} {after.intent.floor}")
    if after.intent is not None and after.intent.ahead:
        found.append(f"{after.intent.ahead} ids further on")
    return ", ".join(found)


def encoded(counter: Counter) -> tuple[str, str]:
    """Return two texts as stores write them: an entry, and its last change and bounds. They are
    apart because earlier versions refuse an entry with a field that they do not know. The second
    text is empty if there is neither."""
    entry, change = replace(counter, **NO_BOUNDS, last_change=None), counter.last_change
    beside = {name: value for name in BOUNDS if (value := getattr(counter, name)) is not None}
    if change is not None:
        beside |= msgspec.to_builtins(change)
    words = msgspec.json.encode(beside).decode() if beside else ""
    return msgspec.json.encode(entry).decode(), words


def decoded(entry: str, change: str | None) -> Counter:
    """Return the counter that was written so. Raises msgspec.DecodeError.

    A change that opened another epoch is not the last one: an earlier version made others since.
    """
    counter = msgspec.json.decode(entry, type=Counter)
    last, bounds = _beside(change, LastChange), _beside(change, _Bounds) or _Bounds()
    if last is not None and last.epoch != counter.target_epoch:
        last = None
    intent = counter.intent
    if last is None and intent is not None:
        last = LastChange(intent.kind, intent.epoch, by=intent.by, reason=intent.why)
    return replace(
        counter, last_change=last, request_max=bounds.request_max, rate_max=bounds.rate_max
    )


class _Bounds(msgspec.Struct, frozen=True):
    """The bounds of what requests may take of a counter, as they are written beside its entry."""

    request_max: int | None = None
    rate_max: float | None = None


def _beside(words: str | None, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(words or "null", type=kind | None)
    except msgspec.DecodeError:  # written by hand, say; the counter is served all the same
        return None


class Position(msgspec.Struct, frozen=True):
    """The position of a shard in the store: `next` is the first index that is not reserved.

    `returned` are ranges of indices below it that were given back and not claimed yet.
    """

    next: int
    mark: int
    rev: int
    epoch: str
    returned: tuple[range, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """Indices that are now the caller's, with `rev` and `returned` of the position after the write.

    Of a strict batch that was granted before, `rev` and `returned` are the present ones.
    """

    indices: range
    rev: int
    returned: tuple[range, ...] = ()


@dataclass(frozen=True, slots=True)
class Writers:
    """The writers of a strict counter's position.

    `registrations` counts all registrations in this epoch; `seqs` has the number of the last batch
    of each writer that is still registered, by name.
    """

    registrations: int
    seqs: dict[str, int]


@dataclass(frozen=True, slots=True)
class Loan:
    """Ids that another service has reserved and lends: they expire, and come in no order."""

    counter: Counter  # as the answer has it: epoch and mode
    blocks: tuple[range, ...]
    since: float  # loop time at which they were requested


class ShardState(msgspec.Struct, frozen=True):
    """A shard as a change finds it; None stands for an attribute that cannot be read.

    `off` is True if the value of an adopted item is not a number, so that its old endpoint fails.
    """

    epoch: str | None
    next: int | None
    mark: int | None
    off: bool = False

    @property
    def reserved(self) -> int | None:
        """Return the first index that was certainly never granted."""
        if self.next is None or self.mark is None:
            return None
        return max(self.next, self.mark)


def check_name(name: str) -> str:
    """Return the name itself. Raises BadName."""
    if not fits(NAME, name):
        raise errors.BadName(value=name[:80])
    return name
