"""Blocks are joined, split and handed out with every id, once and in order."""

from hypothesis import given
from hypothesis import strategies as st

from idservice.core.id_buffer import FEW, IdBuffer, joined

BLOCKS = st.builds(
    lambda start, count, step: range(start, start + count * step, step),
    st.integers(0, 2**63),
    st.integers(0, 50),
    st.integers(1, 5),
)


@given(BLOCKS, st.integers(1, 60))
def test_a_batch_splits_a_block_and_keeps_every_id_in_order(ids: range, count: int) -> None:
    buffer = IdBuffer(shared=False)
    buffer.append(ids)
    head = buffer.take_batch(count)
    assert (head is None) == (count > len(ids))
    taken = [id for block in head or [] for id in block]
    assert taken + [id for block in buffer.blocks for id in block] == [*ids]
    assert len(taken) == (0 if head is None else count)


@given(BLOCKS, st.lists(st.integers(0, 20), max_size=6))
def test_pieces_of_one_block_join_to_one_block(ids: range, cuts: list[int]) -> None:
    pieces, rest = [], ids
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    assert joined([*pieces, rest]) == ([ids] if ids else [])


@given(st.lists(BLOCKS, max_size=6))
def test_joining_changes_neither_ids_nor_order(blocks: list[range]) -> None:
    result = joined(blocks)
    assert [id for one in result for id in one] == [id for one in blocks for id in one]
    assert all(result)
    assert sum(map(len, result)) == sum(map(len, blocks))


def test_blocks_of_different_steps_or_with_a_hole_between_stay_apart() -> None:
    assert joined([range(4), range(5, 8)]) == [range(4), range(5, 8)]
    assert joined([range(4), range(4, 8, 2)]) == [range(4), range(4, 8, 2)]
    assert joined([range(4, 8), range(4)]) == [range(4, 8), range(4)]


@given(st.integers(1, 200), st.integers(0, 200), st.lists(st.integers(1, 70), max_size=9))
def test_few_ids_are_taken_only_down_to_the_mark(held: int, mark: int, counts: list[int]) -> None:
    buffer = IdBuffer(shared=False)
    buffer.append(range(held))
    buffer.stop_at(mark)
    above, taken = held - mark if mark < held else held, []
    for count in counts:
        few = buffer.take_few(count)
        assert (few is None) == (count > min(FEW, above - len(taken)))
        taken += few or ()
    assert taken == [*range(len(taken))]
