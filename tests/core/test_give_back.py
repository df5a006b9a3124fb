"""What is unused goes back whole, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idservice.core.epoch import Layout
from idservice.core.give_back import RETURNED_MAX, merged, merged_below, planned

USED, MINE, RETURNED, OTHER = range(4)  # what an index of a shard is


def stretches(owners: list[int], owner: int) -> list[range]:
    return merged(range(at, at + 1) for at, each in enumerate(owners) if each == owner)


OWNERS = st.lists(st.sampled_from([USED, MINE, MINE, RETURNED, OTHER]), max_size=60)


@given(OWNERS, st.booleans())
def test_every_index_is_where_it_was_or_given_back_and_nobody_has_it_twice(
    owners: list[int], own: bool
) -> None:
    """Every index below `next` is used, another's, unused by us, or in the list already."""
    unused, before = stretches(owners, MINE), stretches(owners, RETURNED)
    if len(before) > RETURNED_MAX:
        return
    plan = planned(unused, next=len(owners), returned=before, own=own)
    listed = {index for each in plan.returned for index in each}
    back = {*range(plan.next, len(owners))}
    mine = {index for each in unused for index in each}
    assert not back & listed
    assert back <= mine
    assert {index for each in before for index in each} <= listed
    given_back = back | (listed & mine)
    assert listed - mine == {index for each in before for index in each}
    assert (plan.count, plan.too_many) == (len(given_back), len(mine - given_back))
    assert len(plan.returned) <= RETURNED_MAX
    if not own:
        assert plan.next == len(owners)
    elif owners and owners[-1] == MINE:
        assert plan.next == unused[-1].start, "the longest stretch that ends at `next`"
    if len(before) + len(unused) <= RETURNED_MAX:
        assert plan.too_many == 0


def test_what_was_used_does_not_go_back_with_the_rest_of_its_block() -> None:
    plan = planned([range(13, 20)], next=20, returned=(), own=True)
    assert (plan.next, plan.returned, plan.count) == (13, (), 7)


def test_blocks_that_follow_each_other_go_back_as_one_stretch() -> None:
    plan = planned([range(5, 10), range(10, 30)], next=30, returned=(), own=True)
    assert (plan.next, plan.count) == (5, 25)


def test_what_is_below_somebody_else_s_block_is_for_others_to_claim() -> None:
    plan = planned([range(5, 10), range(20, 30)], next=30, returned=(), own=True)
    assert (plan.next, plan.returned, plan.count) == (20, (range(5, 10),), 15)


def test_once_others_wrote_nothing_ends_at_next_any_more_even_if_it_seems_so() -> None:
    plan = planned([range(5, 10)], next=10, returned=(), own=False)
    assert (plan.next, plan.returned, plan.count) == (10, (range(5, 10),), 5)


def test_a_full_list_takes_the_longest_pieces_and_the_rest_is_counted() -> None:
    before = [range(10 * at, 10 * at + 1) for at in range(RETURNED_MAX - 1)]
    unused = [range(102, 104), range(106, 116), range(118, 119)]
    plan = planned(unused, next=200, returned=before, own=True)
    assert plan.returned == (*before, range(106, 116))
    assert (plan.count, plan.too_many) == (10, 3)


def test_a_list_that_has_some_of_ours_already_is_not_believed() -> None:
    for returned, next in (
        ([range(5, 8)], 10),
        ([range(12, 14)], 10),
        ([range(3), range(2, 4)], 9),
    ):
        with pytest.raises(ValueError, match=r"share|below"):
            planned([range(7, 9)], next=next, returned=returned, own=True)
    with pytest.raises(ValueError, match="below"):
        planned([range(7, 12)], next=10, returned=(), own=False)


def test_ranges_are_claimed_in_rising_order_and_only_from_below() -> None:
    assert merged_below([range(20, 25), range(3, 5), range(5, 9)], 25) == [
        range(3, 9),
        range(20, 25),
    ]
    with pytest.raises(ValueError, match="below"):
        merged_below([range(3, 5)], 4)


@given(
    st.integers(0, 50), st.integers(1, 5), st.integers(0, 4), st.integers(0, 99), st.integers(1, 99)
)
def test_ids_lead_back_to_their_indices_and_those_of_another_layout_do_not(
    base: int, shards: int, shard: int, start: int, count: int
) -> None:
    shard %= shards
    layout = Layout(base=base, limit=10**6, shard=shard, shards=shards)
    indices = range(start, start + count)
    ids = layout.ids(indices)
    assert layout.indices(ids) == indices
    assert Layout(base=ids[-1] + 1, limit=10**6, shards=shards).indices(ids) is None
    for later in range(1, count):  # an epoch that begins within them
        above = Layout(base=ids[later], limit=10**6, shards=shards)
        assert above.indices(ids) == range(count - later)
        assert above.ids(range(count - later)) == ids[later:]
    if shards > 1:
        assert Layout(base=ids.start + 1, limit=10**6, shards=shards).indices(ids) is None
    assert Layout(base=base, limit=10**6, shards=shards + 1).indices(ids) is None
