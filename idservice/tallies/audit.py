"""Compares a tally with its records, and repairs one that an incomplete restore left behind."""

from dataclasses import dataclass, replace

from idservice.core.tally import Tally, TallyChange
from idservice.stores.tally_store import TallyStore


@dataclass(frozen=True, slots=True)
class TallyAudit:
    """A tally beside its records: the sum that they make, their number, and the highest `rev` and
    time among them."""

    tally: Tally
    sum: int
    records: int
    rev: int
    at: int

    @property
    def agrees(self) -> bool:
        """Return True if sum and number are the tally's, and no record is newer than it."""
        tally = self.tally
        return (self.sum, self.records) == (tally.sum, tally.adds) and self.rev <= tally.rev

    @property
    def repaired(self) -> Tally:
        """Return the tally as its records have it, above every `rev` that they name.

        The bounds are not judged: what was answered was counted (T2).
        """
        change = TallyChange("audit", at=self.at, reason="its sum was made anew of its records")
        return replace(
            self.tally, sum=self.sum, adds=self.records, rev=max(self.tally.rev, self.rev) + 1,
            at=max(self.tally.at, self.at), change=change,
        )  # fmt: skip


async def audited(store: TallyStore, tally: Tally) -> TallyAudit:
    """Read every record of a tally. Adds that are made meanwhile may make it disagree, so let none
    be made, or repeat it. Raises NotApplied."""
    total, records, rev, at = tally.start, 0, 0, 0
    async for record in store.every_record(tally.name, tally.inc):
        total += record.amount if record.fate.counts else 0
        records += 1
        rev, at = max(rev, record.rev), max(at, record.at)
    return TallyAudit(tally, total, records, rev, at)
