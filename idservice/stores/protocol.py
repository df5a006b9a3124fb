"""The operations of a store. An `IdStore` gives ids; a `CatalogueStore` also keeps the counters.

Each is atomic: it happens whole or not at all. An operation raises NotApplied (nothing happened) or
OutcomeUnknown (it may have; a write may even be applied later). None repeats a write by itself
(I7). A call that is cancelled has an unknown outcome.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, Self, TypeGuard

from idservice import errors
from idservice.core.writer import Batch, Record
from idservice.stores.findings import Clock, Finding
from idservice.stores.key_store import KeyStore
from idservice.stores.records import Adopted, Counter, Grant, Loan, Position, ShardState, Writers
from idservice.stores.tally_source import TallySource
from idservice.stores.tally_store import TallyStore
from idservice.stores.usage_store import UsageStore


class IdStore(Protocol):
    """A source of ids: a store of our own, or another service that lends them.

    Entering opens connections, leaving closes them; neither reads the store.
    """

    address: str  # how messages name the store
    hold_s: float | None  # seconds for which its loans may be held; None: it grants for good

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *failure: Any) -> None: ...

    @property
    def tallies(self) -> TallyStore | TallySource:
        """The tallies here; those of another service are a `TallySource`."""

    async def verify(self) -> None:
        """Reach the store and compare its identity with the recorded one. Changes nothing.

        Raises StoreReplaced, or StoreUnready (missing, denied, not initialised, not reachable), in
        which `waiting_helps` says whether to try again.
        """

    async def examine(self, clock: Clock, *, thorough: bool) -> list[Finding]:
        """Judge the file, table or service itself. Changes nothing, and raises nothing.

        A question without an answer is a finding. Every check of `verify` is among them. Without
        `thorough` it is quick, and asks nothing that serving needs no permission for.
        """

    async def counter(self, name: str) -> Counter | None:
        """Return the entry of a counter that is to be used, read consistently; None: there is none.

        Raises NotApplied also if the item that it was adopted from is in another table now.
        """

    async def entry(self, name: str) -> Counter | None:
        """Return the entry as it is written, read consistently; to be shown or changed."""

    async def counters(self) -> list[Counter]:
        """Return every entry, by name."""

    async def page(self, after: str, most: int) -> list[Counter]:
        """Return the first `most` entries after a name that are not deleted, by name."""

    async def create(self, counter: Counter) -> Counter:
        """Create a counter with its position, in one step that happens whole or not at all.

        Returns the entry that is there now: the one given, or an earlier one. The caller compares
        the epochs. May be repeated with the same `counter`: its random epoch tells its own work
        from another's.
        """

    async def position(self, counter: Counter, shard: int = 0) -> Position | None:
        """Return a shard's position, read consistently; None: it is missing.

        It is shown to operators: no id is ever derived from it (I4). Raises PositionIllFormed.
        """

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
        """Move a position forward by `count` in one conditional write; return the indices granted.

        A store that is another service lends ids instead.

        Conditions: the position's epoch is the counter's, `seen` <= next <= `room`, and next is
        not below its own mark. 0 < count, seen <= room.

        Raises, each with nothing applied: PositionMissing (I10), EpochChanged, PositionIllFormed,
        WentBack (next below its mark or below `seen`), NoRoom (next above `room`); of loans also
        UnknownCounter and Withheld. Not safe to repeat: after OutcomeUnknown the range is burnt
        (I4) and another is requested.

        With a `batch` of `count` ids it *is* safe. One more condition is then that the record of
        the batch's writer has the number before. The same write makes the record the batch's own,
        and the same call again answers with the ids of the batch. If none of the above errors
        applies, OutOfTurn is raised: the batch is not applied and never will be. BatchBurnt comes
        before any of them: the batch was applied, in an epoch that is over.
        """


class CatalogueStore(IdStore, Protocol):
    """A store of our own: it keeps the catalogue of counters, their positions, tallies, access keys
    and usage."""

    @property
    def tallies(self) -> TallyStore:
        """The tallies in this store."""

    @property
    def keys(self) -> KeyStore:
        """The access keys in this store."""

    @property
    def usage(self) -> UsageStore:
        """The usage that instances wrote into this store."""

    async def init(self, first: Counter) -> bool:
        """Create what is missing: the table or file, the identity record and the first counter.

        False, with nothing changed, if the store is initialised already. May be repeated after any
        failure. Raises StoreUnready.
        """

    async def accept_identity(self) -> None:
        """Record the identity that the store has now: the last step of fencing every counter.

        May be repeated. Raises StoreReplaced if it has another one than at the last `verify`,
        StoreUnready.
        """

    async def examine_item(self, counter: Counter) -> list[Finding]:
        """Judge the table that an adopted counter's item is in, as `examine`; else nothing."""

    # --- the catalogue, and changes of it --------------------------------------------------------

    async def revision(self) -> int:
        """Return the catalogue's revision, read consistently; every write of an entry moves it.

        Each instance reads it every two seconds. Raises StoreReplaced if the store is another one
        now.
        """

    async def rewrite(self, before: Counter, after: Counter) -> bool:
        """Write an entry, and move the catalogue's revision with it, in one step.

        Conditional on the entry still having the `rev` of `before`; False if it has another.
        `after.rev` is one more, so a copy that arrives late does nothing. May be repeated.
        """

    async def with_table_identity(self, counter: Counter) -> Counter:
        """Return the entry with the identity that the table of its item has now. Writes nothing.

        Raises NotApplied.
        """

    async def shard_state(self, counter: Counter, shard: int) -> ShardState | None:
        """Return a shard as it is written, read consistently; None: it is missing."""

    async def seal(self, counter: Counter, shard: int, found: ShardState | None, seal: str) -> None:
        """Replace the epoch on a shard, so that no instance is granted ids there.

        Conditional on exactly the epoch in `found`. A missing shard is created so, with nothing
        reserved, conditional on being missing still. Silent if the condition fails: the caller
        looks again. May be repeated, and a late copy does nothing once the epoch is another.
        """

    async def open_shard(
        self, counter: Counter, shard: int, seal: str, epoch: str, *, value: int
    ) -> None:
        """Begin an epoch on a sealed shard, at index 0, with nothing left of the epoch before.

        The position of an adopted counter is never reset: it is raised to `value` if it is below.
        Conditional on `seal` still being there, and silent if it is not. May be repeated, and a
        late copy does nothing: a seal never returns.
        """

    async def finish_adoption(self, counter: Counter, seal: str, epoch: str, *, first: int) -> None:
        """Begin an epoch on the sealed item of an adopted counter; its old endpoint counts no more.

        One write moves the position, as an id, out of the old endpoint's value, which may have been
        counted on until then; it is `first` if the value is below. The value becomes a text, to
        which nothing can be added. Conditional on `seal` still being there, and silent if it is
        not. May be repeated; a late copy does nothing.
        """

    async def locate(
        self, table: str, key: Mapping[str, str], attribute: str, returns: str
    ) -> tuple[Adopted, int]:
        """Find the item of a counter that is to be adopted, and its value.

        `key` holds every key attribute of `table` and its value. Raises Usage if it cannot be
        adopted, NotApplied if that could not be found out.
        """

    # --- positions -------------------------------------------------------------------------------

    async def writers(self, counter: Counter) -> Writers | None:
        """Return the registered writers, read consistently; None: the position is missing."""

    async def register(self, counter: Counter, name: str, *, registrations: int) -> bool:
        """Register a writer under a name that was never used, with number 0.

        Conditional on the epoch, on this count of registrations and on the name. Raises the count
        by one, so a copy that arrives late does nothing. False if the condition failed: the caller
        reads again, as after an unknown outcome.
        """

    async def prune(self, counter: Counter, name: str, seq: int) -> None:
        """Remove the record of a writer if its number is still `seq`; silent if it is not.

        May be repeated.
        """

    async def give_back(
        self,
        counter: Counter,
        found: Position,
        *,
        next: int,
        returned: tuple[range, ...],
        shard: int = 0,
    ) -> bool:
        """Set a position to `next`, its mark too if that is lower than in `found`, and hold
        `returned` for others to claim, in one conditional write; return True if that was done.

        Conditions: the position's epoch is the counter's, and its `rev` and its `next` are those of
        `found`, which was just read. False, with nothing changed, if they do not hold; a late copy
        does nothing, because `rev` never returns. Never to be sent again, whatever the answer (I5).
        """

    async def claim(self, counter: Counter, rev: int, shard: int = 0) -> tuple[range, ...]:
        """Take all ranges that were given back, in one conditional write.

        Conditions: the position's epoch is the counter's, and its `rev` is this one. No range is
        taken if they do not hold; after OutcomeUnknown the ranges are burnt, as with `reserve`.
        """

    async def close_gone_back(self, counter: Counter, found: str, shard: int = 0) -> None:
        """Replace the epoch `found` on a position that went back by one that grants nothing.

        Conditional on `found` still being there, so it may be repeated; silent if it is not.
        """


def has_catalogue(store: IdStore) -> TypeGuard[CatalogueStore]:
    """Return True if the store keeps its counters itself, and grants for good.

    The only question about the kind of a store. The other kind is a service that lends ids.
    """
    return store.hold_s is None


def with_catalogue(store: IdStore) -> CatalogueStore:
    """Return a store whose counters can be changed. Raises ChangedElsewhere."""
    if has_catalogue(store):
        return store
    raise errors.ChangedElsewhere(store=store.address)


def reserving(count: int, name: str) -> str:
    """Return a description of a reservation for messages."""
    return f"reserving {count} id{'' if count == 1 else 's'} of counter {name}"


@dataclass(frozen=True, slots=True)
class SentReservation:
    """A reservation as it was sent to `store`, and the meaning of its failed condition.

    The position is read in the only safe order. First, was the write applied, as an earlier copy of
    the same batch? Then the epoch, because in another one nothing else can be trusted; then, did
    the position go back? Then the limit.
    """

    store: str
    counter: Counter
    count: int
    seen: int
    room: int
    batch: Batch | None = None

    @property
    def action(self) -> str:
        """Return a description for messages."""
        return reserving(self.count, self.counter.name)

    def interpret_failure(self, found: Position | None, record: Record | None) -> Grant:
        """Return the grant of an earlier copy of the same batch; raise otherwise.

        Raises as `IdStore.reserve`, and OutcomeUnknown if the condition holds and yet failed.
        """
        about = {"store": self.store, "name": self.counter.name}
        if found is None:
            raise errors.PositionMissing(**about)
        if found.epoch != self.counter.epoch:
            self.raise_other_epoch(found.epoch, record)
        got = self.batch.got(record) if self.batch is not None else None
        above = max(found.mark, self.seen, got.stop if got is not None else 0)
        if found.next < above:
            back = errors.WentBack(**about, position=found.next, above=above, epoch=found.epoch)
            back.applied = got is not None  # an earlier copy of the batch was, and is burnt
            raise back
        if got is not None:
            return Grant(got, found.rev, found.returned)
        if found.next > self.room:
            raise errors.NoRoom(
                **about, position=found.next, rev=found.rev, returned=found.returned
            )
        if self.batch is not None and (record is None or record.seq != self.batch.seq - 1):
            raise errors.OutOfTurn(
                **about, action=self.action, writer=self.batch.writer, record=record
            )
        raise self.unknown("it refused a condition that holds")

    def raise_other_epoch(self, found: str, record: Record | None) -> NoReturn:
        """Raise BatchBurnt if the batch was granted in that ended epoch, else EpochChanged."""
        burnt = self.batch is not None and self.batch.got(record) is not None
        kind = errors.BatchBurnt if burnt else errors.EpochChanged
        raise kind(store=self.store, name=self.counter.name, found=found, epoch=self.counter.epoch)

    def unknown(self, why: str) -> errors.OutcomeUnknown:
        """Return the error of an answer that proves nothing (I4)."""
        return errors.OutcomeUnknown(store=self.store, action=self.action, why=why)
