"""Range arithmetic keeps every id, once and in order."""

from hypothesis import given
from hypothesis import strategies as st

from idservice.core import ranges

BLOCKS = st.builds(
    lambda start, count, step: range(start, start + count * step, step),
    st.integers(0, 2**63),
    st.integers(0, 50),
    st.integers(1, 5),
)


@given(BLOCKS, st.integers(0, 60))
def test_a_split_keeps_every_id_and_the_order(ids: range, count: int) -> None:
    head, tail = ranges.split(ids, count)
    assert [*head, *tail] == [*ids]
    assert len(head) == min(count, len(ids))


@given(BLOCKS, st.lists(st.integers(0, 20), max_size=6))
def test_pieces_of_one_block_join_to_one_block(ids: range, cuts: list[int]) -> None:
    pieces, rest = [], ids
    for cut in cuts:
        head, rest = ranges.split(rest, cut)
        pieces.append(head)
    joined = ranges.joined([*pieces, rest])
    assert joined == ([ids] if ids else [])


@given(st.lists(BLOCKS, max_size=6))
def test_joining_changes_neither_ids_nor_order(blocks: list[range]) -> None:
    joined = ranges.joined(blocks)
    assert [id for one in joined for id in one] == [id for one in blocks for id in one]
    assert all(joined)
    assert sum(map(len, joined)) == sum(map(len, blocks))


def test_blocks_of_different_steps_or_with_a_hole_between_stay_apart() -> None:
    assert ranges.joined([range(4), range(5, 8)]) == [range(4), range(5, 8)]
    assert ranges.joined([range(4), range(4, 8, 2)]) == [range(4), range(4, 8, 2)]
    assert ranges.joined([range(4, 8), range(4)]) == [range(4, 8), range(4)]
