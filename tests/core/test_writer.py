"""A writer's numbers, and what it makes of the record it finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idservice.core.writer import OPEN_MAX, Batch, Burnt, Record, Writer


def registered() -> Writer:
    writer = Writer()
    writer.registered("w")
    return writer


def test_batches_are_numbered_one_after_another_as_they_are_applied() -> None:
    writer = registered()
    for seq in (1, 2, 3):
        batch = writer.next_batch(5, f"n{seq}")
        assert batch == Batch("w", seq, f"n{seq}", 5)
        writer.applied(batch)


def test_a_batch_that_was_refused_leaves_its_number_to_the_next_one() -> None:
    writer = registered()
    assert writer.next_batch(5, "a").seq == 1
    assert writer.next_batch(7, "b") == Batch("w", 1, "b", 7)


def test_a_record_tells_what_its_own_batch_got_and_nothing_of_others() -> None:
    batch = Batch("w", 4, "mine", 5)
    assert batch.got(Record(4, 100, "mine")) == range(95, 100)
    for record in (None, Record(4, 100, "other"), Record(5, 100, "mine"), Record(3, 95, "old")):
        assert batch.got(record) is None


def test_who_finds_its_number_taken_by_a_batch_left_open_knows_that_one_to_be_burnt() -> None:
    writer = registered()
    assert writer.left_open(writer.next_batch(3, "a")) == Burnt()
    assert writer.left_open(writer.next_batch(4, "b")) == Burnt()
    assert writer.displaced(Record(1, 4, "b")) == Burnt(known=4)
    assert writer.name == "w"
    assert writer.next_batch(1, "c").seq == 2
    assert writer.unregister() == Burnt(), "the other one was never applied, and is no gap"


def test_a_batch_that_is_applied_shows_that_none_left_open_was() -> None:
    writer = registered()
    writer.left_open(writer.next_batch(3, "a"))
    writer.applied(writer.next_batch(4, "b"))
    assert writer.unregister() == Burnt()


@pytest.mark.parametrize("record", [None, Record(1, 9, "another's"), Record(7, 9, "a"), Record(0)])
def test_a_writer_whose_record_is_gone_or_another_s_registers_anew(record: Record | None) -> None:
    writer = registered()
    writer.left_open(writer.next_batch(3, "a"))
    writer.left_open(writer.next_batch(5, "b"))
    assert writer.displaced(record) == Burnt(unknown=5), "one of them, it is not known which"
    assert writer.name == ""
    writer.registered("v")
    assert writer.next_batch(1, "c") == Batch("v", 1, "c", 1)


def test_an_outage_of_any_length_is_remembered_in_bounds() -> None:
    writer = registered()
    for number in range(OPEN_MAX):
        assert writer.left_open(writer.next_batch(2, f"n{number}")) == Burnt()
    assert writer.left_open(writer.next_batch(9, "last")) == Burnt(unknown=9)
    assert writer.name == ""


STEPS = st.lists(
    st.tuples(st.sampled_from(["heard", "unheard", "never", "pruned"]), st.integers(1, 9)),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_each_index_goes_to_one_batch_and_every_gap_is_counted(
    steps: list[tuple[str, int]],
) -> None:
    """Against a position of which nothing but the protocol's condition is modelled."""
    writer, position, record = Writer(), 0, None
    got: list[int] = []
    known = unknown = pruned_at = 0

    def count(burnt: Burnt) -> None:
        nonlocal known, unknown
        known += burnt.known
        unknown += burnt.unknown

    for number, (step, size) in enumerate(steps):
        if step == "pruned":
            record = None
            continue
        while True:
            if not writer.name:
                writer.registered(f"w{number}.{pruned_at}")
                record = Record(0)
            pruned_at += 1
            batch = writer.next_batch(size, f"{number}.{pruned_at}")
            if record is not None and record.seq == batch.seq - 1:
                break
            count(writer.displaced(record))
        if step != "never":
            position += size
            record = Record(batch.seq, position, batch.nonce)
        if step == "heard":
            indices = batch.got(record)
            assert indices is not None
            writer.applied(batch)
            got += indices
        else:
            count(writer.left_open(batch))
    count(writer.unregister())
    assert got == sorted(set(got))
    gaps = position - len(got)
    assert known <= gaps <= known + unknown
