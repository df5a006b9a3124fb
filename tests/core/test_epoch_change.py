"""A new epoch begins above every id that any shard of the one before can have granted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idservice.core.epoch import (
    Layout,
    base_of,
    epoch_name,
    first_free,
    gone_back,
    ordinal_on,
    sealed,
)

RESERVED = st.lists(st.integers(0, 500), min_size=1, max_size=6)


@given(st.integers(1, 10**9), st.text("0123456789abcdef.", min_size=1, max_size=20))
def test_an_ordinal_is_read_from_whatever_a_position_carries(ordinal: int, random: str) -> None:
    epoch = epoch_name(ordinal, random)
    for written in (epoch, sealed(epoch), gone_back(epoch)):
        assert ordinal_on(written) == ordinal


@pytest.mark.parametrize(
    "written", [None, "", "sealed:", "sealed:3", "gone-back:", "gone-back:x", "3", "text", "-1.a"]
)
def test_what_nobody_of_ours_wrote_is_below_every_epoch(written: str | None) -> None:
    assert ordinal_on(written) == 0


def test_a_seal_names_the_epoch_that_is_to_open() -> None:
    assert sealed("3.a5") == "sealed:3.a5"
    for wrong in ("sealed:3.a5", "gone-back:3", "3", ""):
        with pytest.raises(ValueError, match="not an epoch"):
            sealed(wrong)


@given(st.integers(0, 1000), RESERVED, st.integers(0, 5000))
def test_what_is_free_lies_above_every_id_of_every_shard(
    base: int, reserved: list[int], high: int
) -> None:
    free = first_free(base, reserved, high)
    granted: list[int] = []
    for shard, index in enumerate(reserved):
        layout = Layout(base=base, limit=10**6, shard=shard, shards=len(reserved))
        granted += layout.ids(range(index))
    assert free == max(high, max(granted, default=base - 1) + 1), "and nothing more is skipped"


@given(st.integers(0, 1000), st.integers(0, 500), st.integers(0, 200))
def test_an_unsharded_epoch_goes_on_exactly_where_it_ended(
    base: int, index: int, high: int
) -> None:
    assert first_free(base, [index], high) == max(base + index, high)


@given(st.integers(0, 1000), st.integers(0, 2000), st.integers(0, 50))
def test_an_epoch_never_begins_below_what_is_free_unless_told_to(
    free: int, floor: int, ahead: int
) -> None:
    base = base_of(free, floor=floor, ahead=ahead, lower=False)
    assert base >= floor
    assert base >= free + ahead
    assert base in (floor, free + ahead)
    assert base_of(free, floor=floor, ahead=0, lower=True) == floor
