"""Quantiles against a sorted list."""

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from idservice.cli.bench.results import NS_MAX, Histogram

durations = st.lists(
    st.integers(0, 400) | st.integers(0, 10**12) | st.integers(0, NS_MAX), min_size=1, max_size=60
)
shares = st.sampled_from([0.0001, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0])


def filled(ns: list[int]) -> Histogram:
    histogram = Histogram()
    for one in ns:
        histogram.record(one)
    return histogram


@given(durations, shares)
def test_a_quantile_is_at_most_1_percent_above_the_true_one(ns: list[int], share: float) -> None:
    true = sorted(ns)[max(1, ceil(share * len(ns))) - 1]
    assert true <= filled(ns).quantile(share) <= true + true // 100


@given(durations)
def test_the_highest_is_exact(ns: list[int]) -> None:
    assert filled(ns).max == filled(ns).quantile(1.0) == max(ns)


@given(durations, durations, shares)
def test_a_difference_has_what_was_recorded_since(
    ns: list[int], later: list[int], share: float
) -> None:
    histogram = filled(ns)
    before = histogram.copy()
    for one in later:
        histogram.record(one)
    assert before.total == len(ns)
    since = histogram.since(before)
    assert since.total == len(later)
    true = sorted(later)[max(1, ceil(share * len(later))) - 1]
    assert true <= since.quantile(share) <= true + true // 100


def test_nothing_measured_is_0_and_what_is_out_of_bounds_is_at_the_edge() -> None:
    assert Histogram().quantile(0.5) == 0
    assert filled([-5]).quantile(1.0) == 0
    assert filled([2**70]).quantile(1.0) == NS_MAX
