"""What an operator may wish of a counter, and what that makes of its entry."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from idservice import errors
from idservice.catalogue import rules
from idservice.catalogue.changes import (
    JUMP_MAX,
    Change,
    Configure,
    Delete,
    Fence,
    FinishAdoption,
    Reshard,
    SetNext,
)
from idservice.catalogue.counters import new_counter
from idservice.catalogue.renewals import CreateAgain
from idservice.stores.records import (
    DELETED,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    SHARDS_MAX,
    SUSPENDED,
    Adopted,
    Counter,
    ShardState,
)

RANDOM = Random(1)
SUSPEND, RESUME = Configure(state="suspended"), Configure(state="active")
DELETE = Delete()
OLD = Adopted("t", (("k", "S", "v"),), "a", "old")


def counter(**settings: object) -> Counter:
    return new_counter("orders", RANDOM, **settings)  # type: ignore[arg-type]


def stands(entry: Counter, next: int = 0, mark: int | None = None) -> list[ShardState]:
    return [ShardState(entry.epoch, next, next if mark is None else mark)]


def carried_out(entry: Counter, wish: Change, next: int = 0, mark: int | None = None) -> Counter:
    """The entry after a change, as the driver goes through its steps."""
    found = stands(entry, next, mark)
    begun = rules.begun(entry, wish, found, RANDOM)
    if begun.intent is None:
        return begun
    return rules.done(rules.based(begun, found, None))


def test_every_step_raises_the_revision_and_the_epoch_rises_with_the_last() -> None:
    entry = counter()
    begun = rules.begun(entry, SUSPEND, stands(entry), RANDOM)
    based = rules.based(begun, stands(entry), None)
    done = rules.done(based)
    assert [step.rev for step in (entry, begun, based, done)] == [0, 1, 2, 3]
    assert [step.ordinal for step in (entry, begun, based, done)] == [1, 1, 1, 2]
    assert done.intent is None


def test_a_set_goes_on_from_there_and_keeps_the_blocks_in_use() -> None:
    done = carried_out(counter(), SetNext(next=500), next=57)
    assert (done.base, done.high, done.revoked, done.state) == (500, 500, 0, "active")


def test_a_set_below_ids_in_use_is_refused_unless_somebody_answers_for_it() -> None:
    entry = counter()
    with pytest.raises(errors.ChangeRefused, match=r"ids up to 56 may be in use.*--allow-lower"):
        carried_out(entry, SetNext(next=56), next=57)
    lower = carried_out(entry, SetNext(next=56, lower=True), next=57)
    assert (lower.base, lower.revoked) == (56, 1)
    assert carried_out(entry, SetNext(next=57), next=57).base == 57


def test_permission_to_go_lower_changes_nothing_where_it_is_not_needed() -> None:
    done = carried_out(counter(), SetNext(next=100, lower=True), next=57)
    assert (done.base, done.revoked) == (100, 0)


def test_a_lower_id_is_refused_for_a_suspended_counter() -> None:
    suspended = carried_out(counter(), SUSPEND, next=57)
    with pytest.raises(errors.ChangeRefused, match=r"it is suspended.*resume it first"):
        carried_out(suspended, SetNext(next=5, lower=True), next=57)
    further = carried_out(suspended, SetNext(next=90, lower=True), next=57)
    assert carried_out(further, RESUME, next=57).base == 90


def test_a_position_below_its_mark_does_not_lower_the_base() -> None:
    with pytest.raises(errors.ChangeRefused):
        carried_out(counter(), SetNext(next=20), next=3, mark=57)
    assert carried_out(counter(), Fence(past=10), next=3, mark=57).base == 57


def test_ids_granted_between_intent_and_seal_are_not_repeated() -> None:
    entry = counter()
    begun = rules.begun(entry, SetNext(next=60), stands(entry, 57), RANDOM)
    based = rules.based(begun, stands(entry, 90), None)
    assert rules.done(based).base == 90


def test_a_long_jump_wants_to_be_forced() -> None:
    with pytest.raises(errors.ChangeRefused, match=rf"more than {JUMP_MAX}.*--force"):
        carried_out(counter(), SetNext(next=JUMP_MAX + 58), next=57)
    assert carried_out(counter(), SetNext(next=JUMP_MAX + 57), next=57).base == JUMP_MAX + 57
    forced = SetNext(next=2**50, forced=True)
    assert carried_out(counter(), forced, next=57).base == 2**50


def test_a_set_beyond_the_limit_is_refused() -> None:
    with pytest.raises(errors.ChangeRefused, match="limit 99"):
        carried_out(counter(limit=99), SetNext(next=100))
    assert carried_out(counter(limit=99), SetNext(next=99)).base == 99


def test_suspending_revokes_and_resuming_goes_on_exactly_where_it_ended() -> None:
    closed = carried_out(counter(), SUSPEND, next=57)
    assert (closed.state, closed.revoked, closed.high, closed.base) == (SUSPENDED, 1, 57, 0)
    resumed = carried_out(closed, RESUME, next=57)
    assert (resumed.state, resumed.base, resumed.revoked, resumed.ordinal) == ("active", 57, 1, 3)


def test_what_is_so_already_changes_nothing() -> None:
    entry = counter(runway=5.0)
    for wish in (RESUME, Configure(runway=5.0), Configure(limit=entry.limit)):
        assert rules.begun(entry, wish, stands(entry), RANDOM) is entry
    closed = carried_out(entry, SUSPEND)
    assert rules.begun(closed, SUSPEND, stands(closed), RANDOM) is closed


def test_a_runway_is_changed_without_an_epoch() -> None:
    entry = counter()
    changed = rules.begun(entry, Configure(runway=90.0), stands(entry), RANDOM)
    assert (changed.runway, changed.intent, changed.epoch, changed.rev) == (
        90.0, None, entry.epoch, 1,
    )  # fmt: skip


def test_a_raised_limit_keeps_blocks_and_a_lowered_one_revokes_them() -> None:
    entry = counter(limit=1000)
    raised = carried_out(entry, Configure(limit=2000), next=57)
    assert (raised.limit, raised.revoked, raised.base) == (2000, 0, 57)
    lowered = carried_out(entry, Configure(limit=100), next=57)
    assert (lowered.limit, lowered.revoked, lowered.base) == (100, 1, 57)


@pytest.mark.parametrize("limit", [LIMIT_DEFAULT + 1, LIMIT_MAX + 1, 4])
def test_a_limit_stays_on_its_side_of_what_javascript_keeps(limit: int) -> None:
    with pytest.raises(errors.ChangeRefused, match=f"from 5 to {LIMIT_DEFAULT}, not {limit}"):
        carried_out(counter(start=5), Configure(limit=limit))


def test_a_limit_above_what_javascript_keeps_stays_there_too() -> None:
    with pytest.raises(errors.ChangeRefused, match="JSON"):
        carried_out(counter(limit=2**60), Configure(limit=LIMIT_DEFAULT))
    assert carried_out(counter(limit=2**60), Configure(limit=2**61)).limit == 2**61


def test_a_deleted_name_begins_above_its_tombstone() -> None:
    gone = carried_out(counter(), DELETE, next=57)
    assert (gone.state, gone.revoked, gone.high) == (DELETED, 1, 57)
    again = carried_out(gone, CreateAgain(wanted=counter(start=10, strict=True)), next=57)
    assert (again.state, again.base, again.start, again.strict) == ("active", 57, 10, True)
    higher = carried_out(gone, CreateAgain(wanted=counter(start=1000)), next=57)
    assert higher.base == 1000


def test_a_name_whose_ids_are_above_the_limit_is_not_used_again_with_it() -> None:
    gone = carried_out(counter(), DELETE, next=1000)
    with pytest.raises(errors.ChangeRefused, match="up to 999 may be in use, and its limit 500"):
        carried_out(gone, CreateAgain(wanted=counter(limit=500)))
    with pytest.raises(errors.ChangeRefused, match="limit 999"):
        carried_out(gone, CreateAgain(wanted=counter(limit=999)))
    assert carried_out(gone, CreateAgain(wanted=counter(limit=1000))).base == 1000


def test_of_a_deleted_counter_nothing_else_can_be_changed() -> None:
    gone = carried_out(counter(), DELETE)
    for wish in (SUSPEND, RESUME, DELETE, SetNext(next=9), Configure(runway=9.0)):
        with pytest.raises(errors.UnknownCounter):
            rules.begun(gone, wish, stands(gone), RANDOM)


def test_a_name_that_somebody_else_created_meanwhile_is_left_alone() -> None:
    entry = counter()
    wish = CreateAgain(wanted=counter(start=10))
    assert rules.begun(entry, wish, stands(entry), RANDOM) is entry


def test_an_item_cannot_be_adopted_under_a_name_that_was_used() -> None:
    gone = carried_out(counter(), DELETE)
    with pytest.raises(errors.ChangeRefused, match="another name"):
        rules.begun(gone, CreateAgain(wanted=counter(adopted=OLD)), stands(gone), RANDOM)


def test_a_fence_goes_past_a_number_or_ahead_of_what_is_known_and_revokes() -> None:
    assert carried_out(counter(), Fence(past=500), next=57).base == 501
    assert carried_out(counter(), Fence(past=5), next=57).base == 57
    ahead = carried_out(counter(), Fence(ahead=1000), next=57)
    assert (ahead.base, ahead.revoked, ahead.high) == (1057, 1, 1057)


def test_a_fence_of_a_closed_counter_raises_its_first_id_only() -> None:
    for wish in (SUSPEND, DELETE):
        closed = carried_out(counter(), wish, next=57)
        fenced = carried_out(closed, Fence(past=500), next=57)
        assert (fenced.state, fenced.high, fenced.base) == (closed.state, 501, 0)


def test_a_position_of_a_later_epoch_than_the_entry_s_is_passed_by() -> None:
    entry = counter()
    found = [ShardState("7.other", 80, 80)]
    begun = rules.begun(entry, Fence(past=90), found, RANDOM)
    assert rules.done(rules.based(begun, found, None)).ordinal == 8


@pytest.mark.parametrize(
    "wish",
    [
        SUSPEND, DELETE, SetNext(next=9), Configure(limit=99),
        SetNext(next=9, lower=True),
    ],
    ids=lambda wish: wish.kind,
)  # fmt: skip
def test_an_adopted_counter_refuses_changes_its_endpoint_would_ignore(wish: Change) -> None:
    entry = counter(adopted=OLD)
    with pytest.raises(errors.ChangeRefused, match="old endpoint"):
        rules.begun(entry, wish, stands(entry), RANDOM)


def test_an_adopted_counter_is_fenced_without_a_base_of_its_own() -> None:
    entry = counter(adopted=replace(OLD, returns="new"))
    fenced = carried_out(entry, Fence(past=500), next=57)
    assert (fenced.base, fenced.high, fenced.ordinal) == (entry.base, 501, 2) == (1, 501, 2)
    assert carried_out(entry, Configure(runway=9.0)).runway == 9.0


@pytest.mark.parametrize(("returns", "free"), [("old", 57), ("new", 58)])
def test_an_adoption_ends_where_the_id_is_the_index(returns: str, free: int) -> None:
    entry = counter(adopted=replace(OLD, returns=returns))
    done = carried_out(entry, FinishAdoption(), next=57)
    assert (done.adopted, done.home, done.base) == (None, entry.adopted, 0)
    assert (done.high, done.revoked, done.shards) == (free, 0, 1)
    assert done.adopted_item == entry.adopted_item
    assert rules.begun(done, FinishAdoption(), stands(done), RANDOM) is done
    moved_on = carried_out(done, SetNext(next=500), next=free)
    assert (moved_on.base, moved_on.home) == (500, entry.adopted)


def test_only_an_adoption_in_another_attribute_can_be_finished() -> None:
    for entry, why in (
        (counter(), "not adopted"),
        (counter(adopted=replace(OLD, attribute="next")), "position itself needs"),
    ):
        with pytest.raises(errors.ChangeRefused, match=why):
            rules.begun(entry, FinishAdoption(), stands(entry), RANDOM)


# --- shards ---------------------------------------------------------------------------------------


def resharded(entry: Counter, shards: int, *nexts: int) -> Counter:
    """After a reshard that found the shards of its epoch reserved up to those indices."""
    found: list[ShardState | None] = [ShardState(entry.epoch, next, next) for next in nexts]
    found += [None] * (shards - len(nexts))
    begun = rules.begun(entry, Reshard(shards=shards), found, RANDOM)
    if begun.intent is None:
        return begun
    assert rules.to_seal(begun) == range(max(entry.shards, shards))
    return rules.done(rules.based(begun, found[: entry.shards], None))


def test_a_reshard_begins_above_all_shards_and_uses_blocks_up() -> None:
    entry = counter(shards=3, start=100)
    assert (entry.base, entry.layout(2).id(0)) == (100, 102)
    after = resharded(entry, 8, 2, 7, 0)  # the highest granted is 100 + 1 + 3 * 6
    assert (after.shards, after.ordinal, after.revoked, after.state) == (8, 2, 0, "active")
    assert after.base == 120
    assert resharded(after, 8) is after
    fewer = resharded(after, 1, *[1] * 8)
    assert (fewer.shards, fewer.base > after.layout(7).id(0)) == (1, True)


@pytest.mark.parametrize("shards", [0, SHARDS_MAX + 1, -1])
def test_a_number_of_shards_has_its_bounds(shards: int) -> None:
    with pytest.raises(errors.ChangeRefused, match=f"1 to {SHARDS_MAX} shards, not {shards}"):
        resharded(counter(), shards, 0)


def test_who_cannot_have_shards_is_told_why() -> None:
    strict = counter(strict=True)
    with pytest.raises(errors.ChangeRefused, match="strict"):
        resharded(strict, 2, 0)
    assert resharded(strict, 1, 0) is strict
    with pytest.raises(errors.ChangeRefused, match="old endpoint"):
        resharded(counter(adopted=OLD), 2, 0)
    closed = carried_out(counter(), SUSPEND)
    with pytest.raises(errors.ChangeRefused, match="resume it first"):
        resharded(closed, 2, 0)
    with pytest.raises(errors.UnknownCounter):
        resharded(carried_out(counter(), DELETE), 2, 0)
    for settings in ({"strict": True}, {"adopted": OLD}):
        with pytest.raises(errors.BadConfiguration, match="one"):
            counter(shards=2, **settings)


def test_a_reshard_that_would_leave_no_ids_is_refused() -> None:
    entry = counter(shards=4, limit=99)
    with pytest.raises(
        errors.ChangeRefused, match="up to 99 may be in use, and its limit 99 leaves none"
    ):
        resharded(entry, 2, 0, 0, 0, 25)
    assert resharded(entry, 2, 0, 0, 25, 0).base == 99


def test_a_suspended_counter_keeps_its_shards_and_resumes_above_them() -> None:
    entry = counter(shards=3)
    found = [ShardState(entry.epoch, next, next) for next in (1, 9, 4)]
    begun = rules.begun(entry, SUSPEND, found, RANDOM)
    closed = rules.done(rules.based(begun, found, None))
    assert (closed.shards, closed.base, closed.high) == (3, 0, 26)
    begun = rules.begun(closed, RESUME, found, RANDOM)
    resumed = rules.done(rules.based(begun, found, None))
    assert (resumed.shards, resumed.base) == (3, closed.high)


WISHES = st.one_of(
    st.sampled_from([SUSPEND, RESUME, DELETE]),
    st.builds(lambda n: SetNext(next=n), st.integers(0, 3000)),
    st.builds(lambda n: Fence(past=n), st.integers(0, 3000)),
    st.builds(lambda n: Fence(ahead=n), st.integers(0, 300)),
    st.builds(lambda n: CreateAgain(wanted=counter(start=n)), st.integers(0, 3000)),
    st.builds(lambda n: Configure(limit=n), st.integers(0, LIMIT_DEFAULT)),
    st.builds(lambda n: Reshard(shards=n), st.integers(1, 5)),
    st.builds(lambda n: CreateAgain(wanted=counter(shards=n)), st.integers(1, 5)),
)


@given(st.lists(st.tuples(WISHES, st.integers(0, 400), st.integers(0, 4)), max_size=12))
def test_no_sequence_of_changes_opens_an_epoch_on_ids_that_were_granted(
    changes: list[tuple[Change, int, int]],
) -> None:
    entry, free, ordinal = counter(), 0, 1
    nexts = [0]
    for wish, granted, shard in changes:
        if entry.state == "active" and granted:
            shard %= entry.shards
            nexts[shard] += granted
            free = max(free, entry.layout(shard).id(nexts[shard] - 1) + 1)
        found: list[ShardState | None] = [ShardState(entry.epoch, next, next) for next in nexts]
        found += [None] * (wish.new_shards - len(nexts))
        try:
            begun = rules.begun(entry, wish, found, RANDOM)
        except errors.IdserviceError:
            continue
        after = begun
        if begun.intent is not None:
            after = rules.done(rules.based(begun, found[: entry.shards], None))
        if after.epoch != entry.epoch:
            assert after.ordinal > ordinal
            ordinal = after.ordinal
            assert after.high >= free
            if after.state == "active":
                assert after.base >= free
                nexts = [0] * after.shards
        entry = after


def test_bounds_hold_from_the_beginning_of_a_change_and_end_with_0() -> None:
    entry = counter(request_max=5, rate_max=2.0)
    both = Configure(limit=1000, request_max=7)
    begun = rules.begun(entry, both, stands(entry), RANDOM)
    assert begun.intent is not None
    assert (begun.request_max, begun.rate_max) == (7, 2.0)
    after = carried_out(entry, both)
    assert (after.request_max, after.rate_max, after.limit) == (7, 2.0, 1000)
    assert carried_out(after, Configure(request_max=0, rate_max=0.0)).request_max is None
    assert carried_out(after, Configure(request_max=7)) is after
    only = carried_out(after, Configure(rate_max=1.0))
    assert (only.rate_max, only.ordinal, only.rev) == (1.0, after.ordinal, after.rev + 1)


def test_a_name_that_is_used_again_has_the_bounds_of_the_new_counter() -> None:
    gone = carried_out(counter(request_max=5), DELETE)
    assert gone.request_max is None, "an earlier version would use the name again with it"
    again = carried_out(gone, CreateAgain(wanted=counter(rate_max=2.0)))
    assert (again.request_max, again.rate_max) == (None, 2.0)


def test_an_adopted_counter_may_have_bounds_too() -> None:
    assert carried_out(counter(adopted=OLD), Configure(request_max=5)).request_max == 5
