"""What a client holds, on a clock of its own: expiry, epochs, and no prefetch without need."""

from dataclasses import replace
from itertools import islice
from random import Random
from typing import Any

import pytest

from idservice.client.buffer import (
    PAUSE_FIRST_S,
    PAUSE_SAID_MAX_S,
    SIZE_BELIEVED_S,
    ClientBuffer,
    NotOpen,
)
from idservice.client.protocol import NotSent, NoUsableAnswer, Refused, Reply, json
from idservice.core.id_buffer import IdBuffer
from idservice.errors import NOT_APPLIED, UNKNOWN, WaitedTooLong
from tests.client.conftest import asked


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def buffer(clock: Clock) -> ClientBuffer:
    """One that has learnt that its counter is no strict one."""
    buffer = ClientBuffer("http://c:1", "orders", timeout=2.0, hold=10.0, clock=clock)
    buffer.not_open = ""
    assert borrowed(buffer, 1) == [0]
    return buffer


def reply(target: str, *, first: int, epoch: int = 1, mode: str = "block") -> Reply:
    count, nonce = asked(target)
    body = {
        "counter": "orders", "count": count, "epoch": epoch, "mode": mode, "nonce": nonce,
        "ranges": [{"first": first, "step": 1, "count": count}],
    }  # fmt: skip
    return Reply(200, "application/json", json.dumps(body).encode())


def borrowed(buffer: ClientBuffer, count: int, first: int = 0, **rest: Any) -> list[int]:
    steps = buffer.borrow(count, 1e9)
    target = steps.send(None)
    try:
        steps.send(reply(str(target), first=first, **rest))
    except StopIteration as end:
        return list(end.value)
    raise AssertionError


def refill(
    buffer: ClientBuffer, first: int, *, waiting: int = 1, since: float | None = None, **rest: Any
) -> int:
    due = buffer.due(waiting)
    assert due is not None
    request, nonce, target = due
    at = buffer.clock() if since is None else since
    buffer.apply_refill(buffer.allocator, request, nonce, reply(target, first=first, **rest), at)
    return request.count


def test_ids_expire_so_long_after_they_were_asked_for(buffer: ClientBuffer, clock: Clock) -> None:
    clock.now = 101.0
    count = refill(buffer, 100, waiting=9, since=100.5)
    assert buffer.take_many(2) == [100, 101]
    assert buffer.expires_in() == 9.5
    clock.now = 110.4
    assert buffer.due(0) is None
    assert buffer.allocator.held == count - 2
    clock.now = 110.5
    assert buffer.due(0) is None
    assert buffer.allocator.held == 0
    assert buffer.allocator.gaps == {"expired": count - 2}
    assert buffer.expires_in() is None


def test_each_refill_expires_by_itself(buffer: ClientBuffer, clock: Clock) -> None:
    clock.now = 101.0
    refill(buffer, 100, waiting=9)
    held = buffer.allocator.held
    assert len(buffer.take_many(held - 1)) == held - 1
    clock.now = 105.0
    later = refill(buffer, 500)
    clock.now = 111.0
    assert buffer.due(0) is None
    assert buffer.allocator.held == later
    assert buffer.take() == 500
    clock.now = 115.0
    buffer.due(0)
    assert buffer.allocator.held == 0


def test_nothing_is_borrowed_for_nobody(buffer: ClientBuffer, clock: Clock) -> None:
    assert buffer.due(0) is None
    refill(buffer, 100, waiting=9)
    clock.now += 60.0
    assert buffer.due(0) is None
    assert buffer.retry_in(0) is None


def test_a_rare_caller_holds_no_more_than_it_needs(buffer: ClientBuffer, clock: Clock) -> None:
    for first in range(100, 200, 10):
        clock.now += 60.0
        assert refill(buffer, first) == 1
        assert buffer.take() == first
    assert not buffer.allocator.gaps


def test_what_is_held_is_about_what_is_used_while_it_may_be(
    buffer: ClientBuffer, clock: Clock
) -> None:
    first = 1000
    for tick in range(4000):  # 100 ids a second
        clock.now += 0.01
        due = buffer.due(0)
        if buffer.take() is None or due is not None:
            due = due or buffer.due(1)
            if due is not None:
                request, nonce, target = due
                since = clock.now
                buffer.apply_refill(
                    buffer.allocator, request, nonce, reply(target, first=first), since
                )
                first += request.count
        if tick > 2000:
            assert 0 < buffer.allocator.held <= 1000
    assert buffer.allocator.gaps.get("expired", 0) == 0


def test_a_newer_epoch_drops_what_is_held_and_an_older_one_is_not_believed(
    buffer: ClientBuffer,
) -> None:
    count = refill(buffer, 100, waiting=9)
    assert borrowed(buffer, 2, first=900, epoch=2) == [900, 901]
    assert buffer.allocator.held == 0
    assert buffer.allocator.gaps == {"epoch": count}
    refill(buffer, 300, epoch=1)
    assert buffer.allocator.held == 0
    assert isinstance(buffer.error, NoUsableAnswer)
    assert "epoch 1 has ended" in str(buffer.error)


def test_a_refill_that_turns_out_to_be_strict_is_burnt(buffer: ClientBuffer) -> None:
    count = refill(buffer, 100, waiting=9, epoch=2, mode="strict")
    assert not buffer.takes_ahead
    assert buffer.allocator.held == 0
    assert buffer.allocator.gaps == {"abandoned": count}


def test_an_answer_to_an_earlier_request_is_burnt(buffer: ClientBuffer) -> None:
    due = buffer.due(1)
    assert due is not None
    request, nonce, target = due
    answer = reply(target, first=100)
    buffer.apply_refill(buffer.allocator, request, nonce, answer, 100.0)
    held = buffer.allocator.held
    buffer.apply_refill(buffer.allocator, request, nonce, answer, 100.0)
    assert buffer.allocator.held == held
    assert buffer.allocator.gaps == {"late": request.count}


def test_failed_refills_pause_longer_and_ask_for_less(buffer: ClientBuffer, clock: Clock) -> None:
    due = buffer.due(9)
    assert due is not None
    first = due[0].count
    buffer.apply_refill(
        buffer.allocator, due[0], due[1], NoUsableAnswer(url="u", why="reset"), clock.now
    )
    assert buffer.due(9) is None
    pause = buffer.retry_in(9)
    assert pause is not None
    assert PAUSE_FIRST_S / 2 <= pause <= PAUSE_FIRST_S
    clock.now += pause
    due = buffer.due(9)
    assert due is not None
    assert due[0].count <= max(1, first // 2)


def test_an_id_that_another_thread_takes_at_any_moment_is_nobody_else_s(
    buffer: ClientBuffer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the buffer looks how much is left, somebody takes an id right after."""
    looked = IdBuffer._left_in_segment
    stolen: list[int] = []

    def look(buffer: IdBuffer) -> int:
        left = looked(buffer)
        stolen.extend(islice(buffer.cursor, 1))
        return left

    monkeypatch.setattr(IdBuffer, "_left_in_segment", look)
    rng, first, ids = Random(1), 1000, []
    for _ in range(2000):
        clock.now += rng.choice((0.0, 0.01, 0.1, 4.0))
        due = buffer.due(rng.choice((0, 1, 30)))
        if due is not None:
            request, nonce, target = due
            lost = rng.random() < 0.2
            answer = NoUsableAnswer(url="u", why="reset") if lost else reply(target, first=first)
            buffer.apply_refill(buffer.allocator, request, nonce, answer, clock.now)
            first += request.count
        ids += buffer.take_many(rng.choice((1, 3, 8)))
        id = buffer.take()
        ids += [] if id is None else [id]
    assert len(ids) > 1000
    assert len(stolen) > 1000
    assert len({*ids, *stolen}) == len(ids) + len(stolen)


LATE = Reply(
    429,
    "application/problem+json",
    json.dumps(
        {
            "type": "urn:idservice:problem:rate_exceeded", "code": "rate_exceeded",
            "retryable": True, "outcome": "not_applied", "detail": "too many",
        }
    ).encode(),
    retry_after="7",
)  # fmt: skip


def test_beyond_a_rate_a_call_waits_as_long_as_the_service_says(
    buffer: ClientBuffer, clock: Clock
) -> None:
    steps = buffer.borrow(3, deadline=clock.now + 60.0)
    steps.send(None)
    assert 7.0 <= float(steps.send(LATE)) < 8.0
    clock.now += 7.0
    target = str(steps.send(None))
    with pytest.raises(StopIteration) as end:
        steps.send(reply(target, first=50))
    assert end.value.value == [50, 51, 52]


def test_beyond_a_rate_a_call_that_cannot_wait_so_long_fails_and_used_no_id(
    buffer: ClientBuffer, clock: Clock
) -> None:
    steps = buffer.borrow(3, deadline=clock.now + 2.0)
    steps.send(None)
    with pytest.raises(WaitedTooLong, match="too many") as late:
        steps.send(LATE)
    assert late.value.outcome == NOT_APPLIED


def test_beyond_a_rate_a_refill_is_tried_again_when_the_service_says(
    buffer: ClientBuffer, clock: Clock
) -> None:
    due = buffer.due(1)
    assert due is not None
    request, nonce, _ = due
    buffer.apply_refill(buffer.allocator, request, nonce, LATE, clock.now)
    assert not buffer.refusals
    clock.now += 6.9
    assert buffer.due(1) is None
    clock.now += 1.1
    assert buffer.due(1) is not None


def test_a_rate_that_is_raised_again_is_found_out_before_a_long_pause_is_over(
    buffer: ClientBuffer, clock: Clock
) -> None:
    due = buffer.due(1)
    assert due is not None
    request, nonce, _ = due
    late = replace(LATE, retry_after="600")
    buffer.apply_refill(buffer.allocator, request, nonce, late, clock.now)
    clock.now += PAUSE_SAID_MAX_S
    assert buffer.due(1) is not None


def test_requests_that_a_bound_made_smaller_are_large_again_after_a_while(
    buffer: ClientBuffer, clock: Clock
) -> None:
    too_large = replace(LATE, status=400, body=LATE.body.replace(b"rate_exceeded", b"bad_count"))
    steps = buffer.borrow(1000, deadline=1e9)
    assert asked(str(steps.send(None)))[0] == 1000
    assert asked(str(steps.send(too_large)))[0] == 500
    assert asked(str(buffer.borrow(1000, 1e9).send(None)))[0] == 500
    clock.now += SIZE_BELIEVED_S
    assert asked(str(buffer.borrow(1000, 1e9).send(None)))[0] == 1000


REFUSED = replace(
    LATE,
    status=423,
    body=LATE.body.replace(b"rate_exceeded", b"suspended").replace(b"true", b"false"),
)


@pytest.mark.parametrize("end", [LATE, REFUSED, NotSent(url="u", why="refused")])
def test_a_call_that_fails_after_its_first_ids_may_have_used_some_up(
    buffer: ClientBuffer, clock: Clock, end: Reply | NotSent
) -> None:
    buffer.allocator.block_max = 10
    steps = buffer.borrow(30, deadline=clock.now)
    steps.send(reply(str(steps.send(None)), first=50))
    with pytest.raises((WaitedTooLong, Refused)) as failed:
        steps.send(end)
    assert failed.value.outcome == UNKNOWN


def test_ids_from_memory_are_lost_with_the_call_that_fails_after_them(
    buffer: ClientBuffer, clock: Clock
) -> None:
    steps = buffer.borrow(3, clock.now, UNKNOWN)
    steps.send(None)
    with pytest.raises(WaitedTooLong) as failed:
        steps.send(NotSent(url="u", why="refused"))
    assert failed.value.outcome == UNKNOWN


@pytest.mark.parametrize(("asked_before", "outcome"), [(False, NOT_APPLIED), (True, UNKNOWN)])
def test_a_call_that_finds_the_client_closed_says_if_it_used_ids_up(
    buffer: ClientBuffer, asked_before: bool, outcome: str
) -> None:
    steps = buffer.borrow(3, 1e9)
    answer = reply(str(steps.send(None)), first=50) if asked_before else None
    buffer.not_open = "is closed"
    with pytest.raises(NotOpen) as failed:
        steps.send(answer)
    assert failed.value.outcome == outcome


@pytest.mark.parametrize("pause", ["", "soon", "Mon, 30 Nov 2026 02:00:00 GMT", "-1", "9" * 9])
def test_a_pause_that_cannot_be_read_is_the_clients_own(buffer: ClientBuffer, pause: str) -> None:
    steps = buffer.borrow(3, deadline=1e9)
    steps.send(None)
    assert float(steps.send(replace(LATE, retry_after=pause))) <= 2 * PAUSE_FIRST_S
