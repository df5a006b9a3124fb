"""What requests may take of a counter: in one request, and per second."""

from hypothesis import given
from hypothesis import strategies as st

from idservice.core.allowance import BURST_S, Allowance

RATES = st.floats(0.001, 1e6)
STEPS = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 100)), max_size=60)


@given(RATES, STEPS)
def test_in_no_stretch_of_time_more_is_taken_than_the_burst_and_the_rate(
    rate: float, steps: list[tuple[float, int]]
) -> None:
    allowance, now, taken = Allowance(None, rate, now=0.0), 0.0, [(0.0, 0)]
    for pause, count in steps:
        now += pause
        if allowance.take(count, now):
            taken.append((now, count))
    for first in range(len(taken)):
        since = taken[first][0]
        total = sum(count for _, count in taken[first:])
        assert total <= max(1.0, rate * BURST_S) + rate * (now - since) + 1e-6 * total


@given(RATES, st.integers(1, 1000))
def test_what_is_refused_may_be_taken_once_the_time_told_is_over(rate: float, count: int) -> None:
    allowance = Allowance(None, rate, now=0.0)
    count = min(count, allowance.most)
    assert allowance.take(allowance.most, 0.0)
    assert not allowance.take(count, 0.0)
    seconds = allowance.wait_s(count, 0.0)
    assert seconds <= max(BURST_S, 1 / rate) * 1.001
    assert allowance.take(count, seconds * 1.001 + 1e-6)


def test_a_request_larger_than_its_bound_is_never_served() -> None:
    for allowance, most in (
        (Allowance(5, None, now=0.0), 5),
        (Allowance(5, 100.0, now=0.0), 5),
        (Allowance(500, 100.0, now=0.0), 100),
        (Allowance(None, 0.5, now=0.0), 1),
    ):
        assert allowance.most == most
        assert not allowance.take(most + 1, 1e9)
        assert allowance.take(most, 1e9)


def test_without_a_rate_any_number_of_requests_is_served() -> None:
    allowance = Allowance(5, None, now=0.0)
    assert all(allowance.take(5, 0.0) for _ in range(100))
    assert allowance.wait_s(5, 0.0) == 0.0
