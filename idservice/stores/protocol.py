"""What the service asks of a store: a handful of atomic operations and the records they carry."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import msgspec

from idservice.client.protocol import ID_MAX, NUMBER_MAX
from idservice.core.epoch import Layout, ordinal_of, sealed
from idservice.core.writer import Batch
from idservice.stores.findings import Clock, Finding

LIMIT_DEFAULT = NUMBER_MAX
LIMIT_MAX = ID_MAX  # the position behind the highest id must still fit SQLite's integers
# A counter is created in one transaction, which on DynamoDB holds 100 writes: its entry, the
# catalogue's revision and its shards. So many shards take more writes than a table does by default.
SHARDS_MAX = 64
DEFAULT_COUNTER = "default"
VALUE = "next"  # what the first index that nobody reserved is called, wherever it is written
FINISH = "finish"  # the kind of a change that ends an adoption
MOVE, ARRIVE = "move", "arrive"  # the two changes that take a counter from one store to another
# States of a counter.
ACTIVE, SUSPENDED, DELETED, MOVED = "active", "suspended", "deleted", "moved"


class Adopted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an existing counter's value lives, and what its old endpoint answers."""

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
    """Where a counter goes: the address of a store, and the state it has there.

    `token` is what the counter there names as its origin; `arrived` is whether it is known to be
    there, so that nothing is left to do.
    """

    to: str
    token: str
    state: str
    arrived: bool = False


class Intent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A change under way: the epoch it opens, and what the counter is to be once it is done.

    The epoch begins at `floor` or above, and at least `ahead` beyond every id ever granted; with
    `lower` exactly at `floor`. `base` says where, once that is decided, which is once. `by` and
    `why` are the operator's name and reason. `move` is where the counter goes, `origin` the token
    of the move that brings it.
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
    def finishes(self) -> bool:
        """Whether it ends an adoption: the old endpoint can count no more afterwards."""
        return self.kind == FINISH

    @property
    def opens(self) -> bool:
        """Whether anybody is granted ids afterwards."""
        return self.state == ACTIVE


class Counter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A counter's catalogue entry: what it is, and its current epoch.

    `start` is the first id, `limit` the highest; both 0 .. LIMIT_MAX. `runway` is in seconds, None
    for what the serving instance is set to. `base` and `shards` are those of the current epoch, or,
    while the counter is not active, of the last one that was open. `rev` rises with every write of
    the entry. Blocks of epochs up to `revoked` must not be used. `high` is above every id granted
    before the current epoch. `home` is what it was adopted from, once its old endpoint is off: the
    position of its first shard stays there. `move` is where it went, `origins` the tokens of all
    moves that ever brought it here.
    """

    name: str
    epoch: str
    start: int = 0
    limit: int = LIMIT_DEFAULT
    base: int = 0
    shards: int = 1
    strict: bool = False
    runway: float | None = None
    state: str = ACTIVE
    adopted: Adopted | None = None
    rev: int = 0
    revoked: int = 0
    high: int = 0
    intent: Intent | None = None
    home: Adopted | None = None
    move: Move | None = None
    origins: tuple[str, ...] = ()

    @property
    def wished_state(self) -> str:
        """The state it has, or is on its way to."""
        return self.state if self.intent is None else self.intent.state

    @property
    def carried(self) -> str:
        """What its positions are created with: its epoch where it is in use, else a seal."""
        return self.epoch if self.state == ACTIVE else sealed(self.epoch)

    @property
    def whereabouts(self) -> str:
        """Where it was moved, for who asks for it here, and what to do."""
        move = self.move if self.intent is None else self.intent.move
        assert move is not None
        if move.arrived:
            return f"it was moved to {move.to}; serve it with --store {move.to!r}"
        return (
            f"it is being moved to {move.to}; until `idservice move {self.name} --to {move.to!r}`"
            " finishes that, nobody hands out its ids"
        )

    @property
    def ordinal(self) -> int:
        """The ordinal of the current epoch."""
        return ordinal_of(self.epoch)

    @property
    def elsewhere(self) -> Adopted | None:
        """The item that holds the position of its first shard, where that is none of ours."""
        return self.adopted or self.home

    def layout(self, shard: int = 0) -> Layout:
        """How this epoch's indices become ids."""
        return Layout(base=self.base, limit=self.limit, shard=shard, shards=self.shards)

    def difference(self, other: "Counter", *, runway: float) -> str:
        """What `other` is configured to otherwise, in words; empty where nothing.

        `runway` stands in for the one that a counter leaves open.
        """
        found = []
        for field in ("start", "limit", "strict", "shards", "runway", "adopted"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if field == "runway":
                mine, theirs = mine or runway, theirs or runway
            if field == "start" and self.adopted:
                continue  # read from the adopted item, which moves on
            if field == "adopted":
                mine, theirs = mine or "no item", theirs or "no item"
            if mine != theirs:
                found.append(f"{field} is {mine}, not {theirs}")
        return "; ".join(found)


class Position(msgspec.Struct, frozen=True):
    """A shard as it stands in the store: `next` is the first index that nobody reserved.

    `returned` are ranges of indices below it that were given back, and nobody has claimed yet.
    """

    next: int
    mark: int
    rev: int
    epoch: str
    returned: tuple[range, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """Indices that are the caller's, and `rev` and `returned` of the position after that write; of
    a strict batch that was granted before, as they are by now."""

    indices: range
    rev: int
    returned: tuple[range, ...] = ()


@dataclass(frozen=True, slots=True)
class Writers:
    """Who is registered on a strict counter's position: how often anybody ever was in this epoch,
    and the number of the last batch of each who still is, by name."""

    registrations: int
    seqs: dict[str, int]


@dataclass(frozen=True, slots=True)
class Loan:
    """Ids that another service has reserved, and lends: they expire, and come in no order."""

    counter: Counter  # as the answer has it: epoch and mode
    blocks: tuple[range, ...]
    since: float  # loop time at which they were asked for


class Stand(msgspec.Struct, frozen=True):
    """A shard as a change finds it, whatever somebody made of it: None is what cannot be read."""

    epoch: str | None
    next: int | None
    mark: int | None

    @property
    def reserved(self) -> int | None:
        """The first index that was surely never granted."""
        if self.next is None or self.mark is None:
            return None
        return max(self.next, self.mark)


class Store(Protocol):
    """A place that holds counters and their positions.

    Entering opens connections, leaving closes them; neither looks at what the store holds. Every
    operation raises `NotApplied` (nothing happened) or `OutcomeUnknown` (it may have; a write may
    even be applied later), and never repeats a write by itself (I7). A call that is cancelled has
    an unknown outcome.
    """

    address: str  # how messages name the store
    hold_s: float | None  # for how long its loans may be held; None where it grants for good

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def init(self, first: Counter) -> bool:
        """Create what is missing: the table or file, the identity record and the first counter.

        False, with nothing changed, where the store is initialised already. May be repeated after
        any failure. Raises StoreUnready.
        """
        ...

    async def verify(self) -> None:
        """Reach the store and compare its identity with the recorded one.

        Raises StoreUnready (missing, denied, not initialised, not reachable; `waiting_helps` says
        whether to try again) or StoreReplaced. Changes nothing.
        """
        ...

    async def accept(self) -> None:
        """Record the identity that the store has now: the last step of fencing every counter.

        May be repeated. Raises StoreUnready.
        """
        ...

    async def examine(self, clock: Clock, *, thorough: bool) -> list[Finding]:
        """What there is to say of the place itself, for who runs it.

        Changes nothing, and raises nothing: a question without an answer is a finding. Without
        `thorough` it is quick, and asks nothing that serving needs no permission for.
        """
        ...

    async def examine_item(self, counter: Counter) -> list[Finding]:
        """The same of where the item of an adopted counter lives; nothing for any other."""
        ...

    async def counter(self, name: str) -> Counter | None:
        """The entry of a counter that is to be used, read consistently; None where there is none.

        Raises NotApplied also where what it was adopted from is no longer what it was.
        """
        ...

    async def entry(self, name: str) -> Counter | None:
        """The entry as it is written, read consistently; for changing it."""
        ...

    async def counters(self) -> list[Counter]:
        """Every entry, by name."""
        ...

    async def create(self, counter: Counter) -> Counter:
        """Create a counter with its position, in one step that happens whole or not at all.

        Answers the entry as it stands: the one given, or the one that was there before (the caller
        compares the epochs). May be repeated with the same `counter`: its random epoch tells
        its own work from another's.
        """
        ...

    async def revision(self) -> int | None:
        """The catalogue's revision, read consistently; every write of an entry moves it.

        None where the store keeps no catalogue of its own, so that there is nothing to look at.
        """
        ...

    async def rewrite(self, before: Counter, after: Counter) -> bool:
        """Write an entry, and move the catalogue's revision with it, in one step.

        Conditional on the entry still having the `rev` of `before`; False where it has another.
        `after.rev` is one more, so a copy that arrives late does nothing. May be repeated.
        """
        ...

    async def renewed(self, counter: Counter) -> Counter:
        """The same entry with the identity that the table of its item has now. Writes nothing.

        Raises NotApplied.
        """
        ...

    async def stand(self, counter: Counter, shard: int) -> Stand | None:
        """A shard as it stands, read consistently; None where it is missing."""
        ...

    async def seal(self, counter: Counter, shard: int, found: Stand | None, seal: str) -> None:
        """Replace the epoch on a shard, so that nobody is granted anything there.

        Conditional on exactly the epoch in `found`; a missing shard is created so, with nothing
        reserved, conditional on being missing still. Silent where the condition fails: the caller
        looks again. May be repeated, and a late copy does nothing once the epoch is another.
        """
        ...

    async def open_shard(
        self, counter: Counter, shard: int, seal: str, epoch: str, *, value: int
    ) -> None:
        """Begin an epoch on a sealed shard, at index 0, with nothing left of the epoch before.

        The position of an adopted counter is never reset: it is raised to `value`, where it is
        below. Conditional on `seal` still being there, and silent where it is not. May be repeated,
        and a late copy does nothing: a seal never returns.
        """
        ...

    async def finish_adoption(self, counter: Counter, seal: str, epoch: str, *, first: int) -> None:
        """Begin an epoch on the sealed item of an adopted counter, in which its old endpoint can
        count no more.

        One write: the position, as an id, moves out of the old endpoint's value, where that may
        have been counted on to any moment, and is `first` where the value is below; the value
        becomes a text, to which nothing can be added. Conditional on `seal` still being there, and
        silent where it is not. May be repeated; a late copy does nothing.
        """
        ...

    async def position(self, counter: Counter, shard: int = 0) -> Position | None:
        """A shard's position, read consistently; None where it is missing. For people to look at:
        no id is ever derived from it (I4). Raises PositionIllFormed."""
        ...

    async def reserve(
        self,
        counter: Counter,
        *,
        count: int,
        seen: int,
        room: int,
        shard: int = 0,
        batch: Batch | None = None,
    ) -> Grant | Loan:
        """Move a position forward by `count` in one conditional write; the indices granted.

        Where the store is another service it is asked instead, and lends ids.

        Conditions: the position's epoch is the counter's, `seen` <= next <= `room`, and next is
        not below its own mark. 0 < count, seen <= room.

        Raises, each with nothing applied: PositionMissing (I10), EpochChanged, PositionIllFormed,
        WentBack (next below its mark or below `seen`), NoRoom (next above `room`);
        where ids are lent also UnknownCounter and Withheld. Not safe to repeat: after
        OutcomeUnknown the range is burnt (I4) and another is asked for.

        With a `batch` of as many it *is* safe: one more condition is that its writer's record bears
        the number before, the same write makes the record the batch's own, and the same call again
        answers with what the batch got. Raises, read after all of the above, OutOfTurn: it is not
        applied and never will be. BatchBurnt, before any of them: it was, in an epoch that is over.
        """
        ...

    async def writers(self, counter: Counter) -> Writers | None:
        """The registered writers, read consistently; None where the position is missing."""
        ...

    async def register(self, counter: Counter, name: str, *, registrations: int) -> bool:
        """Register a writer under a name that was never used, with number 0.

        Conditional on the epoch, on so many registrations and on the name; raises their number by
        one, so a copy that arrives late does nothing. False where the condition failed: the caller
        reads again, as after an unknown outcome.
        """
        ...

    async def prune(self, counter: Counter, name: str, seq: int) -> None:
        """Take away the record of a writer that stands still at `seq`.

        Conditional on that number being there still, and silent where it is not. May be repeated.
        """
        ...

    async def give_back(
        self,
        counter: Counter,
        found: Position,
        *,
        next: int,
        returned: tuple[range, ...],
        shard: int = 0,
    ) -> bool:
        """Let a position stand at `next`, its mark too where that is lower than `found`, and hold
        `returned` for others to claim, in one conditional write; whether that was done.

        Conditions: the position's epoch is the counter's, and its `rev` and its `next` are those of
        `found`, which was just read. False, with nothing changed, where they do not hold; a late
        copy does nothing, because `rev` never returns. Never to be sent again, whatever the answer
        (I5). Where ids are lent it does nothing.
        """
        ...

    async def claim(self, counter: Counter, rev: int, shard: int = 0) -> tuple[range, ...]:
        """Take all ranges that were given back, in one conditional write.

        Conditions: the position's epoch is the counter's, and its `rev` is this one. None are
        taken where they do not hold; after OutcomeUnknown they are burnt, as with `reserve`. Where
        ids are lent there are none.
        """
        ...

    async def close_gone_back(self, counter: Counter, found: str, shard: int = 0) -> None:
        """Replace the epoch `found` on a position that went back by one that grants nothing.

        Conditional on `found` still being there, so it may be repeated; silent where it is not.
        """
        ...
