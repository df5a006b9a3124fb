"""The plan of a commit: sums, bounds, fates and the order of everything, before any store."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idservice.core.amounts import AMOUNT_MAX
from idservice.core.tally import (
    ADDS_MAX,
    AddFate,
    AddRecord,
    Tally,
    TallyChange,
    TallyState,
    Wanted,
    changed,
    planned,
    reborn,
)

SMALL = st.integers(-20, 20)
BOUND = st.none() | st.integers(0, 30)
WANTED = st.lists(st.tuples(SMALL, st.booleans()), min_size=1, max_size=ADDS_MAX)


@st.composite
def tallies(draw: st.DrawFn) -> Tally:
    """An active tally whose sum is within its bounds."""
    floor, ceiling = draw(BOUND.map(lambda b: None if b is None else -b)), draw(BOUND)
    at_sum = draw(
        st.integers(-(30 if floor is None else -floor), 30 if ceiling is None else ceiling)
    )
    rev, at = draw(st.integers(0, 99)), draw(st.integers(0, 1000))
    return Tally("t", floor=floor, ceiling=ceiling, sum=at_sum, rev=rev, at=at, adds=rev)


@given(tallies(), WANTED, st.integers(0, 1000))
def test_a_plan_counts_each_request_in_turn_or_refuses_it_within_the_bounds(
    tally: Tally, asked: list[tuple[int, bool]], now: int
) -> None:
    wanted = [Wanted(f"k{at}", value, sets, "me") for at, (value, sets) in enumerate(asked)]
    commit = planned(tally, wanted, now=now)
    assert commit.before == tally
    sum = tally.sum
    for one, record in zip(wanted, commit.records, strict=True):
        there = one.amount if one.sets else sum + one.amount
        allowed = (tally.floor is None or there >= tally.floor) and (
            tally.ceiling is None or there <= tally.ceiling
        )
        assert record.fate.counts == allowed
        assert (record.fate in (AddFate.SET, AddFate.SET_REFUSED)) == one.sets
        assert record.amount == there - sum
        sum = there if allowed else sum
        assert (record.key, record.sum, record.by) == (one.key, sum, "me")
        assert (record.rev, record.at) == (tally.rev + 1, max(tally.at, now))
        assert record.is_of(one)
    counted = [record.amount for record in commit.records if record.fate.counts]
    after = replace(
        tally, sum=tally.sum + _total(counted), rev=tally.rev + 1, at=max(tally.at, now),
        adds=tally.adds + len(wanted),
    )  # fmt: skip
    assert commit.after == after
    assert commit.after.allows(commit.after.sum)


def _total(amounts: list[int]) -> int:
    return sum(amounts)


@given(tallies(), SMALL, st.booleans(), SMALL, st.booleans())
def test_a_record_is_of_a_request_only_if_amount_and_kind_are_the_same(
    tally: Tally, amount: int, sets: bool, other: int, other_sets: bool
) -> None:
    record = planned(tally, [Wanted("k", amount, sets)], now=0).records[0]
    same = (amount, sets) == (other, other_sets)
    assert record.is_of(Wanted("k", other, other_sets, "somebody")) == same


def test_sums_without_bounds_end_where_a_store_would() -> None:
    for sign in (1, -1):
        tally = Tally("t", sum=sign * (AMOUNT_MAX - 1))
        commit = planned(tally, [Wanted("a", sign), Wanted("b", sign)], now=0)
        assert [record.fate for record in commit.records] == [AddFate.COUNTED, AddFate.REFUSED]
        assert commit.after.sum == sign * AMOUNT_MAX


@pytest.mark.parametrize("count", [0, ADDS_MAX + 1])
def test_a_commit_has_from_1_to_99_records(count: int) -> None:
    with pytest.raises(AssertionError):
        planned(Tally("t"), [Wanted(f"{n}", 1) for n in range(count)], now=0)


@given(tallies(), BOUND, BOUND, st.integers(0, 1000))
def test_a_change_keeps_the_sum_and_refuses_bounds_that_leave_it_out(
    tally: Tally, floor: int | None, ceiling: int | None, at: int
) -> None:
    change = TallyChange("configure", "me", at)
    fits = (floor is None or floor <= tally.sum) and (ceiling is None or tally.sum <= ceiling)
    for state in TallyState:
        if not fits and state is not TallyState.DELETED:
            with pytest.raises(ValueError, match="outside of these bounds"):
                changed(tally, state=state, floor=floor, ceiling=ceiling, change=change)
            continue
        after = changed(tally, state=state, floor=floor, ceiling=ceiling, change=change)
        assert after == replace(
            tally, state=state, floor=floor, ceiling=ceiling, change=change, rev=tally.rev + 1,
            at=max(tally.at, at),
        )  # fmt: skip


def test_a_tally_that_a_repair_left_beyond_its_bounds_can_be_suspended() -> None:
    full = Tally("t", ceiling=10, sum=15)
    for state in (TallyState.SUSPENDED, TallyState.ACTIVE):
        after = changed(full, state=state, floor=None, ceiling=10, change=TallyChange("suspend"))
        assert (after.state, after.sum) == (state, 15)
    with pytest.raises(ValueError, match="outside of these bounds"):
        changed(full, state=full.state, floor=0, ceiling=10, change=TallyChange("configure"))


def test_a_deleted_tally_is_changed_by_nothing_but_its_creation() -> None:
    gone = Tally("t", state=TallyState.DELETED)
    for state in (TallyState.SUSPENDED, TallyState.DELETED):
        with pytest.raises(ValueError, match="it is deleted"):
            changed(gone, state=state, floor=None, ceiling=None, change=TallyChange("x"))


@given(tallies(), tallies())
def test_a_tally_created_again_starts_anew_above_every_revision(old: Tally, new: Tally) -> None:
    gone = replace(old, state=TallyState.DELETED, inc=3)
    again = reborn(gone, new)
    assert again == replace(new, rev=old.rev + 1, inc=4, at=max(old.at, new.at))
    with pytest.raises(AssertionError):
        reborn(old, new)


def test_only_counted_fates_are_in_the_sum() -> None:
    counts = {fate for fate in AddFate if fate.counts}
    assert counts == {AddFate.COUNTED, AddFate.SET}
    record = AddRecord("k", AddFate.SET_REFUSED, 5, 10, 1, 0)
    assert record.is_of(Wanted("k", 15, sets=True))
    assert not record.is_of(Wanted("k", 5, sets=True))
