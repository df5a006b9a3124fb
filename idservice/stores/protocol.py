"""What the service asks of a store: a handful of atomic operations and the records they carry."""

from types import TracebackType
from typing import Protocol, Self

from idservice.core.writer import Batch
from idservice.stores.findings import Clock, Finding
from idservice.stores.records import Counter, Grant, Loan, Position, ShardState, Writers


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

    async def stand(self, counter: Counter, shard: int) -> ShardState | None:
        """A shard as it stands, read consistently; None where it is missing."""
        ...

    async def seal(self, counter: Counter, shard: int, found: ShardState | None, seal: str) -> None:
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
