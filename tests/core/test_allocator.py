"""The state machine hands out exactly what was granted, once, rising, whatever happens to it."""

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idservice.core.allocator import Allocator, Request
from idservice.core.epoch import EXHAUSTED_RECHECK_S, Layout, Shards
from idservice.core.gap_causes import FROM_MEMORY, GapCause

LAYOUT = Layout(base=0, limit=2**53 - 1)


def new(layout: Layout = LAYOUT, *, strict: bool = False, block_max: int = 1000) -> Allocator:
    return Allocator(Shards(layout), now=0.0, runway_s=10.0, block_max=block_max, strict=strict)


def take(allocator: Allocator) -> int | None:
    """As the supply does it."""
    id = allocator.buffer.take()
    if id is None:
        allocator.buffer.advance()
        id = allocator.buffer.take()
    return id


def grant(allocator: Allocator, request: Request | None, start: int = 0) -> range:
    assert request is not None
    indices = range(start, start + request.count)
    assert allocator.granted(request.token, indices)
    return indices


# --- the property ---------------------------------------------------------------------------------


class Driven:
    """An allocator, a store that others reserve from too, and what ought to be in memory."""

    def __init__(self, layout: Layout, *, strict: bool, block_max: int) -> None:
        self.layout, self.strict, self.block_max = layout, strict, block_max
        self.allocator = new(layout, strict=strict, block_max=block_max)
        self.now = 0.0
        self.position = 0
        self.outstanding: Request | None = None
        self.old: list[Request] = []
        self.memory: deque[int] = deque()
        self.issued: list[int] = []
        self.granted = 0
        self.lost = 0  # dropped from memory
        self.late = 0
        self.unknown: Request | None = None  # the last request, where its outcome was unknown
        self.burnt = 0
        self.retired = False

    def take(self, _: int) -> None:
        id = take(self.allocator)
        assert id == (self.memory.popleft() if self.memory else None)
        if id is not None:
            self.issued.append(id)

    def batch(self, number: int) -> None:
        count = 1 + number
        blocks = self.allocator.take_batch(count)
        if count > len(self.memory):
            assert blocks is None
            return
        assert blocks is not None
        assert all(blocks)
        ids = [id for block in blocks for id in block]
        assert ids == [self.memory.popleft() for _ in range(count)]
        self.issued += ids

    def due(self, number: int) -> None:
        waiting = number if number % 3 else 0
        first = min(waiting, 1 + number % 5)
        before, room = self.allocator.held, self.allocator.shards.room(self.now)
        request = self.allocator.due(self.now, waiting=waiting, first=first)
        if self.outstanding is not None or self.retired:
            assert request is None
            return
        if request is None:
            return
        assert request.count > 0
        assert 0 <= request.seen <= request.room
        assert self.layout.id(request.room + request.count - 1) <= self.layout.limit
        assert request.count <= max(self.block_max, waiting)
        if self.strict:
            assert request.count <= waiting
        if self.unknown is not None and not self.strict:
            assert request.count <= max(self.unknown.count // 2, first, 1)
        assert request.count >= min(first, room) - before
        self.outstanding = request

    def answer(self, number: int) -> None:
        request = self.outstanding
        if request is None:
            return
        # Others have reserved in the meantime.
        self.position = max(self.position, request.seen) + (number if number % 2 else 0)
        if self.position > request.room:
            self.allocator.no_room(request.token, self.position, self.now)
            self.outstanding = None
            if not self.retired:
                assert self.allocator.shards.room(self.now) == max(
                    0, self.layout.end - self.position
                )
            return
        indices = range(self.position, self.position + request.count)
        self.position = indices.stop
        taken = self.allocator.granted(request.token, indices)
        assert taken is not self.retired
        if self.retired:
            self.late += len(indices)
            return
        self.close()
        self.unknown = None
        self.granted += len(indices)
        self.memory.extend(self.layout.ids(indices))

    def close(self) -> None:
        assert self.outstanding is not None
        self.old.append(self.outstanding)
        self.outstanding = None

    def refuse(self, number: int) -> None:
        if self.outstanding is None:
            return
        unknown = number % 2 == 0
        self.allocator.refused(self.outstanding.token, unknown=unknown)
        if unknown and not self.allocator.numbered:  # else `burnt` tells, once it is known
            self.burnt += self.outstanding.count
            self.unknown = self.outstanding
        self.close()

    def old_answer(self, number: int) -> None:
        """Of a request that is over, or that never was (I12)."""
        token = self.old[number % len(self.old)].token if self.old else 10_000
        indices = range(self.position, self.position + 1 + number)
        assert not self.allocator.granted(token, indices)
        self.late += len(indices)
        self.allocator.refused(token, unknown=True)
        self.allocator.no_room(token, self.position, self.now)

    def wrong_answer(self, number: int) -> None:
        """Of another length, below `seen`, or beyond the limit."""
        request = self.outstanding
        if request is None or self.retired:
            return
        start = max(self.position, request.seen)
        wrong = [
            range(start, start + request.count + 1),
            range(start, start + request.count - 1),
            range(self.layout.end - request.count + 1, self.layout.end + 1),
        ]
        if request.seen:
            wrong.append(range(request.seen - 1, request.seen - 1 + request.count))
        with pytest.raises(ValueError, match="asked for"):
            self.allocator.granted(request.token, wrong[number % len(wrong)])

    def settle(self, _: int) -> None:
        self.allocator.settle()
        if self.strict:
            self.drop()

    def retire(self, number: int) -> None:
        if number == 7:  # rarely, as nothing happens after it
            dropped = self.allocator.gaps.get(GapCause.EPOCH, 0) + len(self.memory)
            self.allocator.retire(GapCause.EPOCH)
            assert self.allocator.gaps.get(GapCause.EPOCH, 0) == dropped
            self.drop()
            self.retired = True

    def drop(self) -> None:
        self.lost += len(self.memory)
        self.memory.clear()

    def wait(self, number: int) -> None:
        self.now += number / 10

    def check(self) -> None:
        allocator = self.allocator
        assert allocator.held == len(self.memory)
        assert allocator.granted_ids == self.granted
        assert allocator.issued_ids == len(self.issued)
        assert sum(allocator.gaps.get(cause, 0) for cause in FROM_MEMORY) == self.lost
        assert allocator.gaps.get("late", 0) == self.late
        assert allocator.gaps.get("unknown", 0) == self.burnt
        assert allocator.issued_ids + allocator.held + self.lost == self.granted
        assert self.retired or allocator.waits_for_store == (self.outstanding is not None)


STEPS = ["take", "take", "take", "batch", "due", "due", "answer", "answer", "refuse", "old_answer",
         "wrong_answer", "settle", "retire", "wait"]  # fmt: skip
LAYOUTS = st.integers(1, 3).flatmap(
    lambda shards: st.builds(
        Layout,
        base=st.integers(0, 50),
        limit=st.one_of(st.integers(50, 400), st.just(2**53 - 1)),
        shard=st.integers(0, shards - 1),
        shards=st.just(shards),
    )
)


@pytest.mark.long
@settings(max_examples=400, deadline=None)
@given(
    LAYOUTS,
    st.booleans(),
    st.sampled_from([1, 7, 1000]),
    st.binary(
        min_size=40, max_size=240
    ),  # two a step: to draw each of them takes four times as long
)
def test_what_is_granted_is_handed_out_once_and_rising_whatever_happens(
    layout: Layout, strict: bool, block_max: int, drawn: bytes
) -> None:
    driven = Driven(layout, strict=strict, block_max=block_max)
    for step, number in zip(drawn[::2], drawn[1::2], strict=False):
        getattr(driven, STEPS[step % len(STEPS)])(number % 41)
        driven.check()
    assert driven.issued == sorted(set(driven.issued))
    assert not driven.issued or driven.issued[-1] <= layout.limit


@settings(max_examples=100, deadline=None)
@given(LAYOUTS.filter(lambda layout: layout.limit < 1000), st.integers(1, 40), st.booleans())
def test_a_limit_is_reached_exactly_and_not_passed(
    layout: Layout, block_max: int, batches: bool
) -> None:
    """Also where it is no multiple of any block (I3)."""
    allocator = new(layout, block_max=block_max)
    position, issued = 0, []
    while (request := allocator.due(0.0, waiting=1, first=1)) is not None:
        position = grant(allocator, request, position).stop
        while allocator.held:
            count = min(3, allocator.held)
            if batches and (blocks := allocator.take_batch(count)):
                issued += [id for block in blocks for id in block]
            elif (id := take(allocator)) is not None:
                issued.append(id)
    first = layout.base + layout.shard
    assert issued == [*range(first, layout.limit + 1, layout.shards)]
    assert allocator.shards.room(0.0) == 0
    assert layout.id(position) > layout.limit
    assert take(allocator) is None


# --- requests -------------------------------------------------------------------------------------


def test_one_request_at_a_time_is_outstanding() -> None:
    allocator = new()
    request = allocator.due(0.0)
    assert request is not None
    assert allocator.due(0.0, waiting=100, first=100) is None
    allocator.refused(request.token, unknown=False)
    again = allocator.due(0.0)
    assert again is not None
    assert again.token > request.token


def test_an_answer_to_an_old_request_changes_nothing_and_is_counted() -> None:
    allocator = new()
    first = allocator.due(0.0)
    assert first is not None
    allocator.refused(first.token, unknown=True)
    second = allocator.due(0.0)
    assert second is not None
    assert not allocator.granted(first.token, range(first.count))
    assert allocator.held == 0
    assert allocator.waits_for_store
    assert allocator.gaps == {"unknown": first.count, "late": first.count}
    grant(allocator, second, first.count)
    assert take(allocator) == first.count


def test_after_unknown_outcomes_requests_halve_down_to_what_the_first_in_line_needs() -> None:
    allocator = new()
    position = 0
    for _ in range(6):  # grow
        request = allocator.due(0.0, waiting=1, first=1)
        position = grant(allocator, request, position).stop
        while allocator.held:
            take(allocator)
    counts = []
    for _ in range(12):
        request = allocator.due(0.0, waiting=30, first=3)
        assert request is not None
        counts.append(request.count)
        allocator.refused(request.token, unknown=True)
    assert counts[0] > 500
    for before, after in pairwise(counts):
        assert after == max(before // 2, 3)
    assert sum(counts) <= 2 * counts[0] + 3 * len(counts)
    assert allocator.gaps["unknown"] == sum(counts)


@pytest.mark.parametrize(
    ("strict", "hold_s", "burnt"),
    [(False, None, 5), (False, 9.0, 5), (True, None, 0), (True, 9.0, 5)],
)
def test_an_unknown_outcome_burns_all_but_a_batch_that_may_be_sent_again(
    strict: bool, hold_s: float | None, burnt: int
) -> None:
    allocator = Allocator(
        Shards(LAYOUT), now=0.0, runway_s=1.0, block_max=5, strict=strict, hold_s=hold_s
    )
    request = allocator.due(0.0, waiting=5, first=5)
    assert request is not None
    allocator.refused(request.token, unknown=True)
    assert allocator.gaps.get("unknown", 0) == burnt


def test_a_smaller_request_in_between_does_not_end_the_halving() -> None:
    allocator = new()
    request = allocator.due(0.0, waiting=40, first=1)
    assert request is not None
    allocator.refused(request.token, unknown=True)
    small = allocator.due(0.0)
    assert small is not None
    assert small.count < request.count // 2
    allocator.refused(small.token, unknown=False)
    again = allocator.due(0.0, waiting=40, first=1)
    assert again is not None
    assert again.count == request.count // 2


def test_when_the_store_answers_again_requests_grow_back_at_once_to_what_is_wanted() -> None:
    allocator = new(block_max=100_000)
    position, now = 0, 0.0
    for _ in range(8):  # 1000 a second
        request = allocator.due(now, waiting=1, first=1)
        position = grant(allocator, request, position).stop
        allocator.take_batch(min(allocator.held, 1000))
        now += 1.0
    for _ in range(20):
        request = allocator.due(now, waiting=1, first=1)
        assert request is not None
        allocator.refused(request.token, unknown=True)
    counts = []
    while (request := allocator.due(now)) is not None:
        counts.append(request.count)
        position = grant(allocator, request, position).stop
    assert counts[0] == 1
    assert all(after <= 8 * before for before, after in pairwise(counts))
    assert len(counts) <= 7
    assert allocator.held >= 10 * allocator.rate


def test_a_refusal_that_was_not_applied_costs_no_ids_and_halves_nothing() -> None:
    allocator = new()
    request = allocator.due(0.0, waiting=500, first=500)
    assert request is not None
    allocator.refused(request.token, unknown=False)
    again = allocator.due(0.0, waiting=500, first=500)
    assert again is not None
    assert again.count == request.count
    assert allocator.gaps == {}


def test_a_failed_refill_stays_due_and_half_of_the_rest_used_is_a_reminder() -> None:
    allocator = new()
    grant(allocator, allocator.due(0.0, waiting=100, first=100))
    while (request := allocator.due(0.0)) is None:
        take(allocator)
    held = allocator.held
    allocator.refused(request.token, unknown=True)
    for _ in range(held - held // 2):
        assert allocator.buffer.take() is not None
    assert allocator.buffer.take() is None, "nobody would ask"
    assert allocator.held == held // 2
    again = allocator.due(0.0)
    assert again is not None
    allocator.refused(again.token, unknown=False)
    assert allocator.due(0.0) is not None


def test_no_room_is_believed_for_a_second_and_then_asked_again() -> None:
    allocator = new(Layout(base=0, limit=99))
    request = allocator.due(0.0)
    assert request is not None
    allocator.no_room(request.token, 97, 0.0)
    assert allocator.shards.room(0.0) == 3
    request = allocator.due(0.0)
    assert request == Request(token=2, count=3, seen=0, room=97)
    allocator.no_room(request.token, 100, 0.0)
    assert allocator.shards.room(0.5) == 0
    assert allocator.due(0.5, waiting=5, first=5) is None
    assert allocator.due(EXHAUSTED_RECHECK_S, waiting=5, first=5) is not None


def test_an_empty_range_of_ids_is_never_asked_for() -> None:
    allocator = new(Layout(base=10, limit=5))
    assert allocator.due(0.0, waiting=1, first=1) is None


# --- strict ---------------------------------------------------------------------------------------


def test_a_strict_counter_asks_for_exactly_what_waits_and_keeps_nothing() -> None:
    allocator = new(strict=True)
    assert allocator.due(0.0) is None
    request = allocator.due(0.0, waiting=5, first=2)
    assert request is not None
    assert request.count == 5
    grant(allocator, request)
    assert allocator.take_batch(2) == [range(2)]
    allocator.settle()
    assert allocator.held == 0
    assert take(allocator) is None
    assert allocator.gaps == {"abandoned": 3}
    assert allocator.due(0.0) is None


def test_a_block_counter_keeps_the_rest() -> None:
    allocator = new()
    grant(allocator, allocator.due(0.0, waiting=5, first=5))
    assert allocator.take_batch(2)
    held = allocator.held
    allocator.settle()
    assert allocator.held == held > 0


# --- ends -----------------------------------------------------------------------------------------


def test_a_retired_allocator_hands_out_nothing_and_burns_what_still_comes() -> None:
    allocator = new()
    grant(allocator, allocator.due(0.0))
    request = allocator.due(0.0, waiting=5, first=5)
    assert request is not None
    held = allocator.held
    allocator.retire(GapCause.WENT_BACK)
    assert allocator.gaps == {GapCause.WENT_BACK: held}
    assert take(allocator) is None
    assert allocator.take_batch(1) is None
    assert not allocator.granted(request.token, range(50, 50 + request.count))
    assert take(allocator) is None
    assert allocator.due(0.0, waiting=9, first=9) is None
    assert allocator.gaps == {"went_back": held, "late": request.count}


def test_ids_of_a_client_that_left_are_a_gap() -> None:
    allocator = new()
    grant(allocator, allocator.due(0.0))
    assert allocator.take_batch(4)
    allocator.record_wasted(4)
    assert allocator.issued_ids == 0
    assert allocator.gaps == {"abandoned": 4}


def test_blocks_that_do_not_follow_each_other_stay_apart_in_a_batch() -> None:
    allocator = new()
    first = allocator.due(0.0)
    assert first is not None
    grant(allocator, first)
    second = allocator.due(0.0, waiting=5, first=5)
    grant(allocator, second, 1000)
    assert allocator.take_batch(first.count + 2) == [range(first.count), range(1000, 1002)]


def test_ids_beyond_64_bits_of_machine_words_are_counted_exactly() -> None:
    high = 2**63 - 100
    shards = Shards(Layout(base=0, limit=2**63 - 2))
    shards.present.seen = high
    allocator = Allocator(shards, now=0.0, runway_s=1.0, block_max=1000)
    request = allocator.due(0.0, waiting=1, first=1)
    assert request is not None
    issued, position = [], high
    while request is not None:
        position = grant(allocator, request, position).stop
        while (id := take(allocator)) is not None:
            issued.append(id)
        request = allocator.due(0.0, waiting=1, first=1)
    assert issued == [*range(high, 2**63 - 1)]


# --- what is shown of it --------------------------------------------------------------------------


def test_the_present_rate_is_that_of_late_and_fades_when_nobody_asks() -> None:
    allocator = new()
    grant(allocator, allocator.due(0.0, waiting=3, first=3))
    assert take(allocator) == 0
    assert allocator.rate > 1000, "as the first refill measures it, within no time"
    assert allocator.present_rate(1000.0) < 0.01, "but it is none that lasts"
    fast = new()
    position, now = 0, 0.0
    while now < 60.0:  # 20 ids a second
        request = fast.due(now, waiting=0 if fast.held else 1, first=1)
        if request is not None:
            assert fast.granted(request.token, range(position, position + request.count))
            position += request.count
        assert take(fast) is not None
        now += 0.05
    assert 15 < fast.present_rate(now) < 25
    assert fast.present_rate(now + 600.0) < 1
    assert new(strict=True).present_rate(1.0) == 0


def test_what_is_held_after_a_grant_and_where_the_next_refill_begins_is_told() -> None:
    allocator = new()
    assert (allocator.stock, allocator.pace.highest) == (0, None)
    granted = grant(allocator, allocator.due(0.0, waiting=3, first=3), start=100)
    assert allocator.stock == len(granted) == allocator.held
    assert allocator.pace.highest == granted[-1]
    assert allocator.low == len(granted) // 2
    for _ in range(4):
        take(allocator)
    assert (allocator.stock, allocator.held) == (len(granted), len(granted) - 4)


@pytest.mark.parametrize("keep", [True, False])
def test_an_allocator_goes_on_with_the_counts_of_the_one_before(keep: bool) -> None:
    before, after = new(), new(Layout(base=5000, limit=10**6))
    grant(before, before.due(0.0))
    taken = before.take_batch(3)
    outstanding = before.due(0.0, waiting=50, first=50)
    assert taken == [range(3)]
    assert outstanding is not None
    held, granted = before.held, before.granted_ids
    after.take_over_from(before, GapCause.EPOCH, keep=keep)
    assert (after.granted_ids, after.issued_ids, after.held) == (granted, 3, held if keep else 0)
    assert after.gaps == ({} if keep else {GapCause.EPOCH: held})
    assert not before.granted(outstanding.token, range(100, 100 + outstanding.count))
    assert after.gaps[GapCause.LATE] == outstanding.count
    assert after.issued_ids == 3
