"""The meaning of a reservation's failed condition: the position, read in the only safe order.

First, was the write applied, as an earlier copy of the same batch? Then the epoch, because in
another one nothing else can be trusted; then, did the position go back? Then the limit.
"""

from dataclasses import dataclass
from typing import NoReturn

from idservice import errors
from idservice.core.writer import Batch, Record
from idservice.stores.records import Counter, Grant, Position


@dataclass(frozen=True, slots=True)
class SentReservation:
    """A reservation as it was sent to `store`."""

    store: str
    counter: Counter
    count: int
    seen: int
    room: int
    batch: Batch | None = None

    @property
    def action(self) -> str:
        """Return a description for messages."""
        return f"reserving {self.count} ids of counter {self.counter.name}"

    def interpret_failure(self, found: Position | None, record: Record | None) -> Grant:
        """Return the grant of an earlier copy of the same batch; raise otherwise.

        Raises as `IdStore.reserve`, and OutcomeUnknown if the condition holds and yet failed.
        """
        if found is None:
            raise errors.PositionMissing(store=self.store, name=self.counter.name)
        if found.epoch != self.counter.epoch:
            self.raise_other_epoch(found.epoch, record)
        got = self.batch.got(record) if self.batch is not None else None
        above = max(found.mark, self.seen, got.stop if got is not None else 0)
        if found.next < above:
            back = errors.WentBack(
                store=self.store,
                name=self.counter.name,
                position=found.next,
                above=above,
                epoch=found.epoch,
            )
            back.applied = got is not None  # an earlier copy of the batch was, and is burnt
            raise back
        if got is not None:
            return Grant(got, found.rev, found.returned)
        if found.next > self.room:
            raise errors.NoRoom(
                store=self.store,
                name=self.counter.name,
                position=found.next,
                rev=found.rev,
                returned=found.returned,
            )
        if self.batch is not None and (record is None or record.seq != self.batch.seq - 1):
            raise errors.OutOfTurn(
                store=self.store,
                name=self.counter.name,
                action=self.action,
                writer=self.batch.writer,
                record=record,
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
