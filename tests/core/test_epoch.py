"""Epoch names are read strictly, and indices become ids that no other shard has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idservice.core.epoch import Layout, epoch_name, gone_back, ordinal_of

LAYOUTS = st.integers(1, 7).flatmap(
    lambda shards: st.builds(
        Layout,
        base=st.integers(0, 1000),
        limit=st.integers(0, 3000),
        shard=st.integers(0, shards - 1),
        shards=st.just(shards),
    )
)


def test_an_epoch_is_an_ordinal_and_a_random_part() -> None:
    assert epoch_name(3, "a5") == "3.a5"
    assert ordinal_of("3.a5") == 3
    assert ordinal_of("12.a.b") == 12
    assert gone_back("3.a5") == "gone-back:3"


@pytest.mark.parametrize(
    "epoch",
    [
        "",
        "3",
        "3.",
        ".a",
        "a.b",
        "-3.a",
        "+3.a",
        " 3.a",
        "٣.a",
        "3_0.a",
        "sealed:3.a",
        "gone-back:3",
    ],
)
def test_what_is_no_open_epoch_has_no_ordinal(epoch: str) -> None:
    with pytest.raises(ValueError, match="not an epoch"):
        ordinal_of(epoch)
    with pytest.raises(ValueError, match="not an epoch"):
        gone_back(epoch)


@given(LAYOUTS)
def test_the_end_is_the_first_index_beyond_the_limit(layout: Layout) -> None:
    assert layout.id(layout.end) > layout.limit
    if layout.end:
        assert not layout.id(layout.end - 1) > layout.limit


@given(LAYOUTS, st.integers(0, 400), st.integers(0, 50))
def test_a_stretch_of_indices_becomes_its_ids_in_order(
    layout: Layout, start: int, count: int
) -> None:
    ids = layout.ids(range(start, start + count))
    assert [*ids] == [layout.id(index) for index in range(start, start + count)]


@given(st.integers(1, 7), st.integers(0, 50), st.integers(0, 40))
def test_the_shards_of_an_epoch_share_out_every_id_from_the_base_to_the_limit(
    shards: int, base: int, more: int
) -> None:
    limit = base + more
    ids: list[int] = []
    for shard in range(shards):
        layout = Layout(base=base, limit=limit, shard=shard, shards=shards)
        ids += layout.ids(range(layout.end))
    assert sorted(ids) == [*range(base, limit + 1)]


def test_an_unsharded_first_epoch_has_ids_equal_to_indices() -> None:
    layout = Layout(base=0, limit=2**53 - 1)
    assert layout.ids(range(5, 8)) == range(5, 8)
    assert layout.end == 2**53
