"""How long calls to the store may take, and the pauses after those that failed."""

from math import inf

import pytest

from idservice.core import timeouts
from idservice.core.timeouts import (
    ATTEMPT_MIN_S,
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    REFILL_MAX_S,
    REFILL_MIN_S,
    backoff,
)


def test_pauses_double_up_to_the_longest_and_are_spread_over_their_upper_half() -> None:
    longest = [timeouts.pause(n, lasts_s=inf, spread=1.0) for n in range(1, 2000)]
    assert longest[:4] == [BACKOFF_FIRST_S * factor for factor in (1, 2, 4, 8)]
    assert max(longest) == longest[-1] == BACKOFF_MAX_S
    assert timeouts.pause(3, lasts_s=inf, spread=0.0) == longest[2] / 2


def test_there_are_several_tries_before_memory_is_empty() -> None:
    lasts_s = timeouts.lasts(held=100, rate=50.0)
    assert lasts_s == 2.0
    assert timeouts.pause(50, lasts_s=lasts_s, spread=1.0) == 0.5
    assert timeouts.pause(50, lasts_s=0.01, spread=1.0) == BACKOFF_FIRST_S


@pytest.mark.parametrize(("held", "rate"), [(0, 50.0), (100, 0.0)])
def test_with_nothing_in_memory_or_nobody_who_takes_it_there_is_no_hurry(
    held: int, rate: float
) -> None:
    assert timeouts.lasts(held=held, rate=rate) == inf


def test_a_call_in_the_background_may_take_a_quarter_of_the_time_left() -> None:
    assert timeouts.in_background(lasts_s=12.0, runway_s=30.0) == 3.0
    assert timeouts.in_background(lasts_s=inf, runway_s=12.0) == 3.0
    assert timeouts.in_background(lasts_s=0.1, runway_s=30.0) == REFILL_MIN_S
    assert timeouts.in_background(lasts_s=inf, runway_s=3600.0) == REFILL_MAX_S


def test_a_call_that_is_waited_for_may_take_as_long_as_the_waiter() -> None:
    assert timeouts.waited_for(1.5) == 1.5
    assert timeouts.waited_for(1.5, most_s=1.0) == 1.0
    assert timeouts.waited_for(-3.0) == ATTEMPT_MIN_S


def test_a_back_off_doubles_up_to_its_most() -> None:
    pauses = [backoff(failures, first_s=0.1, max_s=1.0) for failures in range(1, 2000)]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert set(pauses[4:]) == {1.0}


def test_a_back_off_is_spread_over_its_upper_half() -> None:
    assert backoff(3, first_s=0.1, max_s=1.0, spread=0.0) == 0.2
    assert backoff(3, first_s=0.1, max_s=1.0, spread=0.5) == 0.4 * 0.75
