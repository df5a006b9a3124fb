"""Planted faults in tallies: one rule broken each, which the simulation must find."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from idservice import errors
from idservice.core import tally as plans
from idservice.core.amounts import units
from idservice.core.tally import AddRecord, Commit, Tally, TallyState, Wanted
from idservice.stores.tally_source import Told
from idservice.stores.tally_store import Beaten, TallyStore
from idservice.tallies import pending_add
from idservice.tallies.audit import TallyAudit
from idservice.tallies.committer import Check, Committer
from idservice.tallies.pending_add import PendingAdd
from idservice.tallies.shared_read import SharedRead
from tests.simulation.tally_store import SimTallies, TallyTable
from tests.simulation.tally_world import HONEST, TallyParts

planned, told, closed = plans.planned, pending_add.told, pending_add.closed

# --- the store ------------------------------------------------------------------------------------


class WithoutRevision(TallyTable):
    """Has no condition on `rev`."""

    def holds(self, found: Tally, before: Tally) -> bool:
        return (found.inc, found.state) == (before.inc, TallyState.ACTIVE)


class WithoutNotThere(TallyTable):
    """Writes records over others."""

    def judge(self, commit: Commit) -> Beaten | None:
        beaten = super().judge(commit)
        if beaten is None or beaten.tally is not None or beaten.missing:
            return beaten
        return None


class WithoutRefusals(TallyTable):
    """Keeps no record of a refusal."""

    def write(self, after: Tally, inc: int, records: tuple[AddRecord, ...]) -> None:
        counted = tuple(one for one in records if one.fate.counts)
        super().write(replace(after, adds=after.adds - len(records) + len(counted)), inc, counted)


class WithoutState(TallyTable):
    """Has no condition on the state."""

    def holds(self, found: Tally, before: Tally) -> bool:
        return (found.rev, found.inc) == (before.rev, before.inc)


def closed_if_missing(tally: Tally | None, name: str) -> errors.RequestRefused | None:
    """Looks at no suspension: the condition alone is to hold an add back."""
    suspended = tally is not None and tally.state is TallyState.SUSPENDED
    return None if suspended else closed(tally, name)


class WithoutIncarnation(TallyTable):
    """Names records without the incarnation."""

    def write(self, after: Tally, inc: int, records: tuple[AddRecord, ...]) -> None:
        super().write(after, inc, records)
        self.made |= {(after.name, 0, one.key): one for one in records}

    def records(self, tally: Tally, keys: Sequence[str]) -> dict[str, AddRecord]:
        return super().records(replace(tally, inc=0), keys)


class ClaimsBefore(SimTallies):
    """Writes the records first, and then the sum."""

    async def commit(self, commit: Commit) -> Beaten | None:
        def claim(copy: bool) -> Beaten | None:
            before = commit.before
            there = self.table.records(before, [one.key for one in commit.records])
            if there:
                return Beaten(records=there)
            self.made |= {(before.name, before.inc, one.key): one for one in commit.records}
            return None

        def count(copy: bool) -> Beaten | None:
            found = self.items[commit.before.name]
            if not self.table.holds(found, commit.before):
                return Beaten(tally=found)
            self.table.write(commit.after, commit.before.inc, commit.records)
            return None

        beaten: Beaten | None = await self.call("commit", claim)
        return beaten or await self.call("commit", count)


class ClaimsAfter(SimTallies):
    """Writes the sum first, and then the records."""

    async def commit(self, commit: Commit) -> Beaten | None:
        def count(copy: bool) -> Beaten | None:
            beaten = self.table.judge(commit)
            if beaten is None:
                self.table.write(commit.after, commit.before.inc, ())
            return beaten

        def claim(copy: bool) -> None:
            before = commit.before
            self.made |= {(before.name, before.inc, one.key): one for one in commit.records}

        beaten: Beaten | None = await self.call("commit", count)
        if beaten is None:
            await self.call("commit", claim)
        return beaten


class ReadsOneOff(SimTallies):
    """Reads the reasons one action too early."""

    async def commit(self, commit: Commit) -> Beaten | None:
        beaten = await super().commit(commit)
        if beaten is None or not beaten.records:
            return beaten
        keys = [one.key for one in commit.records]
        shifted = {}
        for record in beaten.records.values():
            key = keys[keys.index(record.key) - 1]
            shifted[key] = replace(record, key=key)
        return replace(beaten, records=shifted)


# --- the service ----------------------------------------------------------------------------------


class RefusesFromMemory(Committer):
    """Refuses by the sum as it was last seen, without a commit."""

    def _judged(
        self, pending: PendingAdd, shut: errors.RequestRefused | None
    ) -> Wanted | errors.RequestRefused:
        judged = super()._judged(pending, shut)
        if not isinstance(judged, Wanted) or self.tally is None:
            return judged
        record = planned(self.tally, [judged], now=0).records[0]
        try:
            told(self.tally, record, judged, replayed=False)
        except errors.OutOfBounds as beyond:
            return beyond
        return judged


class TakesMixedForRefusal(Committer):
    """Takes a conflict beside other reasons for a tally that is closed."""

    async def _commit(self, batch: list[Wanted]) -> float:
        commit, store = self._context.store.commit, self._context.store
        self._context = replace(self._context, store=Overheard(store, commit))
        try:
            pause_s = await super()._commit(batch)
            heard: Any = self._context.store
            beaten = heard.beaten
        finally:
            self._context = replace(self._context, store=store)
        if beaten is not None and beaten.conflict and (beaten.records or beaten.tally):
            for wanted in batch:
                pending = self._waiting.pop(wanted.key, None)
                if pending is not None:
                    pending.refuse(errors.TallySuspended(name=self.name, by="by somebody"))
        return pause_s


class Overheard:
    """A store whose last answer to a commit is remembered."""

    def __init__(self, store: TallyStore, commit: Any) -> None:
        self._commit = commit
        self.beaten: Beaten | None = None
        self.tally, self.records = store.tally, store.records

    async def commit(self, commit: Commit) -> Beaten | None:
        self.beaten = await self._commit(commit)
        return self.beaten


class AnswersBefore(Committer):
    """Tells what it means to commit."""

    async def _commit(self, batch: list[Wanted]) -> float:
        assert self.tally is not None
        for record in planned(self.tally, batch, now=0).records:
            pending = self._waiting[record.key]
            pending.settle(self.tally, record, replayed=False, seen=10**9)
        return await super()._commit(batch)


class TakesUnknownForNotApplied(Committer):
    """Says of a commit whose answer was lost that nothing was counted."""

    def _after_failure(self, error: Any) -> float:
        for pending in self._batch():
            del self._waiting[pending.key]
            pending.refuse(errors.TallyNotChanged(name=self.name, why="the store did not answer"))
        return super()._after_failure(error)


def of_any_incarnation(beaten: Beaten, inc: int) -> bool:
    """Tells the records that are there, of whichever incarnation."""
    return True


class RefusesByOldReads(Committer):
    """Refuses by a read those that came after it had begun, too."""

    def _learn(self, found: Tally | None, arrivals: int, check: Check) -> None:
        super()._learn(found, self._arrivals, check)


def holds_for_any(self: PendingAdd, other: PendingAdd) -> bool:
    """Tells every caller of a key the refusal of one."""
    return True


def told_with_todays_sum(tally: Tally, record: AddRecord, asked: Wanted, *, replayed: bool) -> Told:
    """Answers a replay with the sum as it is now."""
    return told(
        tally, replace(record, sum=tally.sum) if replayed else record, asked, replayed=replayed
    )


def of_any_amount(self: AddRecord, wanted: Wanted) -> bool:
    """Compares no amount."""
    return True


def units_by_float(text: str, decimals: int) -> int:
    """Goes by way of a float."""
    units(text, decimals)
    return int(float(text) * 10**decimals)


def planned_by_any_clock(tally: Tally, wanted: Sequence[Wanted], *, now: int) -> Commit:
    """Takes the clock as it is."""
    commit = planned(tally, wanted, now=now)
    records = tuple(replace(one, at=now) for one in commit.records)
    return replace(commit, after=replace(commit.after, at=now), records=records)


class JoinsTheReadUnderWay(SharedRead[Any]):
    """Lets a request share a read that had begun before it came."""

    _under_way: "asyncio.Future[Any] | None" = None

    async def begun_from_now(self, *keys: str) -> Any:
        if self._under_way is not None and not self._under_way.done():
            return await asyncio.shield(self._under_way)
        waits = asyncio.ensure_future(super().begun_from_now(*keys))
        self._under_way = waits
        return await asyncio.shield(waits)


async def audited_by_itself(store: TallyStore, tally: Tally) -> TallyAudit:
    """Believes the tally, and counts no record."""
    return TallyAudit(tally, tally.sum, tally.adds, tally.rev, tally.at)


def new_key(key: str, attempt: int) -> str:
    """Takes a new key for each try."""
    return f"{key}.{attempt}" if attempt else key


# --- which are looked for, and where --------------------------------------------------------------

COMMITTER, PLANNED, TOLD = (
    "idservice.tallies.own.Committer",
    "idservice.tallies.committer.planned",
    "idservice.tallies.committer.told",
)
STORE, IS_OF = "tests.simulation.store.SimTallies", "idservice.core.tally.AddRecord.is_of"
HOLDS_FOR = "idservice.tallies.pending_add.PendingAdd.refusal_holds_for"


@dataclass(frozen=True, slots=True)
class TallyMutant:
    """Faults, each where it is put; the scenario in which they show; the check that must see it."""

    name: str
    scenario: str
    check: str
    patches: dict[str, Any] = field(default_factory=dict)
    parts: TallyParts = HONEST
    found_by: int = 0  # the seed that is tried first

    def planted(self) -> ExitStack:
        """Plant it, until the stack is closed."""
        stack = ExitStack()
        for place, fault in self.patches.items():
            stack.enter_context(mock.patch(place, fault))
        return stack


def _mutant(fault: Any, place: str, scenario: str, check: str, found_by: int = 0) -> TallyMutant:
    parts = TallyParts(fault) if place == "table" else HONEST
    patches = {} if place == "table" else {place: fault}
    return TallyMutant(fault.__name__, scenario, check, patches, parts, found_by)


TALLY_MUTANTS = [
    _mutant(WithoutRevision, "table", "summed", "sum"),
    _mutant(WithoutNotThere, "table", "summed", "once"),
    _mutant(WithoutRefusals, "table", "summed", "lost"),
    _mutant(RefusesFromMemory, COMMITTER, "summed", "lost"),
    _mutant(told_with_todays_sum, TOLD, "summed", "fate"),
    TallyMutant(
        "WithoutState", "summed", "closed",
        {"idservice.tallies.committer.closed": closed_if_missing}, TallyParts(WithoutState),
    ),
    _mutant(ClaimsBefore, STORE, "summed", "sum"),
    _mutant(ClaimsAfter, STORE, "summed", "sum"),
    TallyMutant("new_key", "summed", "once", parts=TallyParts(key_of_try=new_key)),
    _mutant(of_any_amount, IS_OF, "summed", "amount", 2),
    _mutant(TakesMixedForRefusal, COMMITTER, "summed", "stale", 2),
    _mutant(ReadsOneOff, STORE, "summed", "amount"),
    _mutant(AnswersBefore, COMMITTER, "summed", "lost"),
    _mutant(TakesUnknownForNotApplied, COMMITTER, "summed", "not_applied"),
    _mutant(JoinsTheReadUnderWay, "idservice.tallies.own.SharedRead", "summed", "read"),
    _mutant(WithoutIncarnation, "table", "recreated", "incarnation", 3),
    _mutant(
        of_any_incarnation, "idservice.tallies.committer.are_of_now", "recreated", "incarnation",
        16,
    ),
    _mutant(RefusesByOldReads, COMMITTER, "recreated", "stale", 6),
    _mutant(holds_for_any, HOLDS_FOR, "summed", "stale", 5),
    _mutant(units_by_float, "idservice.tallies.pending_add.units", "summed", "asked"),
    _mutant(audited_by_itself, "idservice.tallies.audit.audited", "summed", "audit"),
    _mutant(planned_by_any_clock, PLANNED, "summed", "at"),
]  # fmt: skip
