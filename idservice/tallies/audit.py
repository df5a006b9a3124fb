"""Compares a tally with its records, and repairs one that an incomplete restore left behind."""

import logging
from dataclasses import dataclass, replace

from idservice import errors
from idservice.core.amounts import written
from idservice.core.tally import AddRecord, Tally, TallyChange
from idservice.stores.tally_store import TallyStore

log = logging.getLogger("idservice.change")


@dataclass(frozen=True, slots=True)
class TallyAudit:
    """A tally beside its records: the sum that they make, their number, and the highest `rev` and
    time among them. Records that were made after the tally was read are left out."""

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
        """Return the tally as its records have it, with a `rev` above all of theirs.

        The bounds are not judged: what was answered was counted (T2).
        """
        change = TallyChange("audit", at=self.at, reason="its sum was made anew of its records")
        return replace(
            self.tally, sum=self.sum, adds=self.records, rev=max(self.tally.rev, self.rev) + 1,
            at=max(self.tally.at, self.at), change=change,
        )  # fmt: skip


async def audited(store: TallyStore, tally: Tally) -> TallyAudit:
    """Read every record of a tally. Adds may go on meanwhile. Raises NotApplied."""
    known = every = TallyAudit(tally, tally.start, 0, 0, 0)
    async for record in store.every_record(tally.name, tally.inc):
        every = _with(every, record)
        if record.rev <= tally.rev:
            known = _with(known, record)
    if every.rev == known.rev:
        return known
    # Some records are newer than the tally as it was read. If the tally has their `rev` by now,
    # they are adds that were made meanwhile. If not, it is older than its records.
    now = await store.tally(tally.name)
    made_meanwhile = now is not None and now.rev >= every.rev
    return known if made_meanwhile else every


def _with(audit: TallyAudit, record: AddRecord) -> TallyAudit:
    return replace(
        audit,
        sum=audit.sum + (record.amount if record.fate.counts else 0),
        records=audit.records + 1,
        rev=max(audit.rev, record.rev),
        at=max(audit.at, record.at),
    )


async def all_audited(store: TallyStore) -> list[TallyAudit]:
    """Return the audits of all tallies, deleted ones too. An incomplete restore leaves some that
    disagree with their records. All records are read. Raises NotApplied."""
    return [await audited(store, tally) for tally in await store.tallies()]


async def repair(store: TallyStore, audit: TallyAudit, *, by: str) -> Tally:
    """Write a tally as its records have it, and return it.

    Raises TallyNotChanged if adds are made meanwhile; NotApplied; OutcomeUnknown.
    """
    before, after = audit.tally, audit.repaired
    assert after.change is not None
    after = replace(after, change=replace(after.change, by=by))
    if not await store.rewrite(before, after):
        why = "adds to it go on; stop all instances, and run the same command again"
        raise errors.TallyNotChanged(name=before.name, why=why)
    log.warning(
        "tally %s: its sum is %s instead of %s, made anew of its %d records by %s; it is at"
        " revision %d",
        after.name, written(after.sum, after.decimals), written(before.sum, before.decimals),
        after.adds, by, after.rev, extra={"action": "tally_changed"},
    )  # fmt: skip
    return after
