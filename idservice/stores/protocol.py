"""What the service asks of a store: a handful of atomic operations and the records they carry."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import msgspec

from idservice.core.epoch import Layout, ordinal_of
from idservice.core.writer import Batch
from idservice.exchange import ID_MAX, NUMBER_MAX

LIMIT_DEFAULT = NUMBER_MAX
LIMIT_MAX = ID_MAX  # the position behind the highest id must still fit SQLite's integers
DEFAULT_COUNTER = "default"


class Adopted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an existing counter's value lives, and what its old endpoint answers."""

    table: str
    key: tuple[tuple[str, str, str], ...]  # (attribute, DynamoDB type "S" or "N", value) each
    attribute: str
    returns: str  # "old": the value before the increment is the id; "new": the value after it
    table_id: str | None = None  # the table's identity when it was adopted, where it has one


class Counter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A counter's catalogue entry: what it is, and its current epoch.

    `start` is the first id, `limit` the highest; both 0 .. LIMIT_MAX. `runway` is in seconds, None
    for what the serving instance is set to. `base` and `shards` are those of the current epoch.
    """

    name: str
    epoch: str
    start: int = 0
    limit: int = LIMIT_DEFAULT
    base: int = 0
    shards: int = 1
    strict: bool = False
    runway: float | None = None
    state: str = "active"
    adopted: Adopted | None = None

    @property
    def ordinal(self) -> int:
        """The ordinal of the current epoch."""
        return ordinal_of(self.epoch)

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
            if mine != theirs:
                found.append(f"{field} is {mine}, not {theirs}")
        return "; ".join(found)


class Position(msgspec.Struct, frozen=True):
    """A shard as it stands in the store: `next` is the first index that nobody reserved."""

    next: int
    mark: int
    rev: int
    epoch: str


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

    async def counter(self, name: str) -> Counter | None:
        """The entry of a counter, read consistently; None where there is none."""
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
    ) -> range | Loan:
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

    async def close_gone_back(self, counter: Counter, found: str, shard: int = 0) -> None:
        """Replace the epoch `found` on a position that went back by one that grants nothing.

        Conditional on `found` still being there, so it may be repeated; silent where it is not.
        """
        ...
