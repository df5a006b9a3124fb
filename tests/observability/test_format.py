"""How figures are worded."""

import pytest

from idservice.observability import format

DAY = 86_400.0
NOW = 1_764_000_000.0  # 2025-11-24


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"), (0.04, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (119.4, "119 s"),
        (120, "2 min"), (3600, "60 min"), (7200, "2 h"), (47 * 3600, "47 h"), (2 * DAY, "2 d"),
        (4000 * DAY, "4,000 d"),
    ],
)  # fmt: skip
def test_a_time_is_said_in_the_unit_that_fits(seconds: float, said: str) -> None:
    assert format.span(seconds) == said


@pytest.mark.parametrize(
    ("used", "said"),
    [
        (None, "–"), (0.0, "0.0 %"), (1e-9, "<0.1 %"), (0.5, "50.0 %"), (0.9999999, "99.9 %"),
        (1.0, "100 %"),
    ],
)  # fmt: skip
def test_a_limit_is_used_up_only_where_nothing_is_left(used: float | None, said: str) -> None:
    assert format.share(used) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"), (0.0, "now"), (3600.0, "in 60 min"), (2 * DAY, "2025-11-26"),
        (400 * DAY, "2026-12-29"), (format.CENTURY_S, ">100 years"), (1e15, ">100 years"),
    ],
)  # fmt: skip
def test_the_end_of_a_limit_is_a_date(seconds: float | None, said: str) -> None:
    assert format.ends(seconds, NOW) == said


@pytest.mark.parametrize(
    ("rate", "said"),
    [(None, "–"), (0, "0"), (0.04, "<0.1"), (3.14, "3.1"), (10, "10"), (12_345.6, "12,346")],
)
def test_ids_a_second_are_said_as_far_as_they_are_known(rate: float | None, said: str) -> None:
    assert format.rate(rate) == said


def test_a_time_within_which_reservations_ended_is_an_upper_end() -> None:
    assert format.reserve(None) == "–"
    assert format.reserve({"p50": 0.0025, "p99": 2.5}) == "2.5 ms / 2.5 s"
    assert format.reserve({"p50": 0.1, "p99": None}) == "100 ms / >5 s"


def test_the_largest_gap_comes_first() -> None:
    assert format.gaps({}) == "0"
    assert format.gaps({"late": 3, "unknown": 1200}) == "1,200 unknown, 3 late"


def test_a_line_has_a_step_for_each_value_and_a_blank_where_none_is_known() -> None:
    assert format.spark([None, 0, 30, 60, 90], 60) == " ▁▅██"
