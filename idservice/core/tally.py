"""A tally is a sum that counts each key once: its state, its records, and the next commit of it.

These promises hold in every part of the project. Code and tests cite them by number.

T1  Counted once: a key is counted once at most, for ever, within a tally and its incarnation.
T2  Not lost: an add that was answered is in the sum and in its record, durably.
T3  One fate: every answer to a key says the same.
T4  Exact: sum = start + all counted amounts. Answers are linearizable by `rev`, and `at` rises.
T5  Bounds hold at every `rev`.
T6  A suspension holds at once, everywhere.
T7  A read contains every add that was answered before the read was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from idservice.core.amounts import AMOUNT_MAX

ADDS_MAX = 99  # of one commit: a transaction of DynamoDB has 100 writes, and one is the tally's


class TallyState(Enum):
    """A state of a tally. CHANGES says which change leads from one to another."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


CHANGES = {
    TallyState.ACTIVE: {TallyState.ACTIVE, TallyState.SUSPENDED, TallyState.DELETED},
    TallyState.SUSPENDED: {TallyState.ACTIVE, TallyState.SUSPENDED, TallyState.DELETED},
    TallyState.DELETED: {TallyState.ACTIVE},  # by creating it again, as another incarnation
}


class AddFate(Enum):
    """The fate of a key, written once and never changed (T3)."""

    COUNTED = "counted"
    REFUSED = "refused"  # beyond a bound
    SET = "set"  # an operator set the sum; the amount is the difference
    SET_REFUSED = "set-refused"

    @property
    def counts(self) -> bool:
        """Return True if the amount is in the sum."""
        return self in (AddFate.COUNTED, AddFate.SET)


@dataclass(frozen=True, slots=True)
class TallyChange:
    """The last change of a tally by an operator: the command, its operator, time and reason."""

    what: str
    by: str = ""
    at: int = 0  # milliseconds since 1970, UTC
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """A tally as the store has it. Amounts are in units of 10^-decimals, `at` in milliseconds since
    1970.

    `rev` rises by one with each write, also when a deleted tally is created again; then `inc`, the
    incarnation, rises too. `only` is the one amount that an add may have. `adds` counts records.
    """

    name: str
    decimals: int = 0
    floor: int | None = None
    ceiling: int | None = None
    only: int | None = None
    start: int = 0
    sum: int = 0
    rev: int = 0
    inc: int = 1
    state: TallyState = TallyState.ACTIVE
    at: int = 0
    adds: int = 0
    change: TallyChange | None = None

    @property
    def lowest(self) -> int:
        """Return the lowest sum that is allowed."""
        return -AMOUNT_MAX if self.floor is None else self.floor

    @property
    def highest(self) -> int:
        """Return the highest sum that is allowed."""
        return AMOUNT_MAX if self.ceiling is None else self.ceiling

    def allows(self, sum: int) -> bool:
        """Return True if the bounds allow this sum (T5)."""
        return self.lowest <= sum <= self.highest


@dataclass(frozen=True, slots=True)
class AddRecord:
    """The record of a key: its fate, amount, the sum then, and the `rev` and time of its commit.

    A refusal leaves the sum as it was. `by` names the operator that set the sum.
    """

    key: str
    fate: AddFate
    amount: int
    sum: int
    rev: int
    at: int
    by: str = ""

    def is_of(self, wanted: "Wanted") -> bool:
        """Return True if it is the record of this request, and not of another with the same key."""
        if self.fate in (AddFate.SET, AddFate.SET_REFUSED):
            before = self.sum - self.amount if self.fate.counts else self.sum
            return wanted.sets and before + self.amount == wanted.amount
        return not wanted.sets and self.amount == wanted.amount


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request to count `amount` under `key`, or to set the sum to it."""

    key: str
    amount: int
    sets: bool = False
    by: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """One write: the tally before and after it, and the records that it makes.

    It holds only while the tally is active and has `rev`, `inc`, sum, `adds` and time of `before`,
    and none of the records is there. Another sum or time at the same `rev` is that of a restored
    store.
    """

    before: Tally
    after: Tally
    records: tuple[AddRecord, ...]

    def holds_on(self, found: Tally) -> bool:
        """Return True if the condition holds on the tally as it was `found`."""
        return is_as_it_was(found, self.before) and found.state is TallyState.ACTIVE


def is_as_it_was(found: Tally, before: Tally) -> bool:
    """Return True if no write came since `before`, in this store or in the one that it was restored
    from. A restored store reaches the same `rev` again, with another sum or at another time."""
    now, then = ((one.rev, one.inc, one.sum, one.adds, one.at) for one in (found, before))
    return now == then


def planned(tally: Tally, wanted: Sequence[Wanted], *, now: int) -> Commit:
    """Return the commit of these requests, in their order; their keys differ.

    A request beyond the bounds becomes a record too: unrecorded, a late copy of it might be counted
    (T3). `now` is in milliseconds since 1970; the time of a tally stands still rather than fall.
    """
    assert 0 < len(wanted) <= ADDS_MAX
    sum, rev, at = tally.sum, tally.rev + 1, max(tally.at, now)
    records = []
    for one in wanted:
        amount = one.amount - sum if one.sets else one.amount
        allowed = tally.allows(sum + amount)
        sum += amount if allowed else 0
        fate = FATES[one.sets, allowed]
        records.append(AddRecord(one.key, fate, amount, sum, rev, at, one.by))
    after = replace(tally, sum=sum, rev=rev, at=at, adds=tally.adds + len(records))
    return Commit(tally, after, tuple(records))


FATES = {
    (False, True): AddFate.COUNTED,
    (False, False): AddFate.REFUSED,
    (True, True): AddFate.SET,
    (True, False): AddFate.SET_REFUSED,
}


def changed(
    tally: Tally,
    *,
    state: TallyState,
    floor: int | None,
    ceiling: int | None,
    change: TallyChange,
) -> Tally:
    """Return the tally after an operator's change; its sum and its records stay.

    Raises ValueError with the reason if the change is not allowed.
    """
    if state not in CHANGES[tally.state]:
        raise ValueError(f"it is {tally.state.value}")
    at = max(tally.at, change.at)
    after = replace(
        tally, state=state, floor=floor, ceiling=ceiling, rev=tally.rev + 1, at=at, change=change
    )
    # A sum that was made anew of its records may be beyond the bounds; the tally can be suspended.
    others = (floor, ceiling) != (tally.floor, tally.ceiling)
    if others and state is not TallyState.DELETED and not after.allows(tally.sum):
        raise ValueError("its sum is outside of these bounds")  # T5
    return after


def gone_back(known: Tally, found: Tally | None) -> str:
    """Return in words how a tally in the store is older than the `known` one; empty if it is not.

    `rev` is dense, so another state at the same `rev` was made from an older one.
    """
    if found is None:
        return "is missing"
    if found.rev < known.rev:
        return f"went back from {known.rev} to {found.rev}"
    now, before = ((one.inc, one.state, one.sum, one.adds, one.at) for one in (found, known))
    if found.rev == known.rev and now != before:
        return f"is not as it was at revision {found.rev}"
    return ""


def reborn(before: Tally, wanted: Tally) -> Tally:
    """Return a deleted tally created again as `wanted`: another incarnation, in which every key is
    new. Its `rev` goes on, so that no late commit of the one before holds."""
    assert before.state is TallyState.DELETED
    at = max(before.at, wanted.at)
    return replace(wanted, rev=before.rev + 1, inc=before.inc + 1, at=at)
