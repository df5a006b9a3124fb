"""Planted faults in what makes a strict counter's batches safe, which the simulation must find."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from idservice import errors
from idservice.allocation.strict import StrictReserver
from idservice.core.allocator import Request
from idservice.core.writer import Batch, Burnt, Record, Writer
from idservice.stores.protocol import SentReservation
from idservice.stores.records import Counter, Grant, Writers
from tests.simulation.mutants import Mutant, WithoutEpoch
from tests.simulation.store import Table

BATCHES, MEANT = (
    "idservice.allocation.refiller.StrictReserver",
    "idservice.stores.protocol.SentReservation.interpret_failure",
)
interpret_failure = SentReservation.interpret_failure


def got_without_nonce(self: Batch, record: Record | None) -> range | None:
    """Takes any batch with its number for its own."""
    if record is None or record.seq != self.seq:
        return None
    return range(record.top - self.count, record.top)


def interpret_from_next(self: SentReservation, found: Any, record: Record | None) -> Grant:
    """Computes what an earlier copy got from where the position is now."""
    got = interpret_failure(self, found, record)
    return replace(got, indices=range(found.next - len(got.indices), found.next))


def interpret_in_any_epoch(self: SentReservation, found: Any, record: Record | None) -> Grant:
    """Tells what an earlier copy got, without a look at the epoch."""
    got = self.batch.got(record) if self.batch is not None else None
    return Grant(got, found.rev) if got is not None else interpret_failure(self, found, record)


class OrNotThere(Table):
    """Has the condition "or the record is not there"."""

    def follows(self, batch: Batch | None, record: Record | None) -> bool:
        return record is None or super().follows(batch, record)


class WithoutNumber(Table):
    """Has no condition on the writer's number: each copy is a reservation."""

    def follows(self, batch: Batch | None, record: Record | None) -> bool:
        return True


class PrunesAnyway(Table):
    """Prunes without a condition."""

    def prune(self, counter: Counter, name: str, seq: int) -> None:
        found = self.writers(counter)
        super().prune(counter, name, found.seqs.get(name, seq) if found else seq)


class PrunesAtSight(StrictReserver):
    """Prunes whoever it finds, without having watched that they stand still."""

    async def _prune(self, counter: Counter, before: Writers) -> None:
        try:
            for name, seq in before.seqs.items():
                if name != self._writer.name:
                    await self._store.prune(counter, name, seq)
        except errors.StoreError:
            pass
        finally:
            self._watching = self._full = False


class SendsAnew(StrictReserver):
    """Takes another nonce for each copy."""

    async def _call(self, counter: Counter, request: Request, batch: Batch | None) -> Any:
        if batch is not None:
            batch = Batch(batch.writer, batch.seq, self._unique(), batch.count)
        return await super()._call(counter, request, batch)


class SendsOnce(StrictReserver):
    """Does not send a batch again."""

    async def _repeat(self, call: Any, wanted: Callable[[], bool]) -> Any:
        return await super()._repeat(call, lambda: False)


class NumbersItsNonces(StrictReserver):
    """Makes nonces that a copy of the process makes too."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        unique = self._unique

        def counted() -> str:
            return f"{self._writer._seq}" if self._writer.name else unique()

        self._unique = counted


class TakesOpenForApplied(Writer):
    """Believes that a batch which was left open took its number."""

    def left_open(self, batch: Batch) -> Burnt:
        self.applied(batch)
        return Burnt(known=batch.count)


class CountsNoneAsChanged(StrictReserver):
    """Does not count what was granted before a change and not told."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        burnt = self._burnt
        self._burnt = lambda count, cause: burnt(0 if cause == "epoch" else count, cause)


class ForgetsOpen(Writer):
    """Does not count what it left open and learns to have been applied."""

    def displaced(self, record: Record | None) -> Burnt:
        super().displaced(record)
        return Burnt()


WRITER, GOT = "idservice.allocation.strict.Writer", "idservice.core.writer.Batch.got"
STRICT_MUTANTS = [
    Mutant(got_without_nonce, GOT, "crowded", "unique"),
    Mutant(got_without_nonce, GOT, "lossy", "unique"),
    Mutant(interpret_from_next, MEANT, "lossy", "unique"),
    Mutant(OrNotThere, "table", "crowded", "lost reply"),
    Mutant(WithoutNumber, "table", "lossy", "lost reply"),
    Mutant(PrunesAnyway, "table", "crowded", "lost reply", found_by=29),
    Mutant(PrunesAtSight, BATCHES, "crowded", "lost reply"),
    Mutant(SendsAnew, BATCHES, "lossy", "lost reply"),
    Mutant(SendsOnce, BATCHES, "lossy", "lost reply"),
    Mutant(NumbersItsNonces, BATCHES, "crowded", "unique"),
    Mutant(TakesOpenForApplied, WRITER, "lossy", "gaps"),
    Mutant(ForgetsOpen, WRITER, "lossy", "gaps"),
    Mutant(interpret_in_any_epoch, MEANT, "changed", "closed"),
    Mutant(WithoutEpoch, "table", "changed", "unique", found_by=8),
    Mutant(CountsNoneAsChanged, BATCHES, "changed", "gaps", found_by=2),
    Mutant(got_without_nonce, GOT, "changed", "unique", found_by=2),
    Mutant(interpret_from_next, MEANT, "changed", "unique"),
    Mutant(WithoutNumber, "table", "changed", "lost reply"),
    Mutant(PrunesAtSight, BATCHES, "changed", "lost reply", found_by=3),
]
