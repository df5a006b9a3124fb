"""How fast a counter moves on, as one instance sees it."""

from idservice.core.sizing import PACE_MIN_S, PACE_SPAN_S, Pace


def test_nothing_is_said_of_a_pace_before_there_is_time_to_measure_it() -> None:
    pace = Pace()
    assert pace.highest is None
    assert pace.per_second(1000.0) == 0
    pace.saw(99, 1000.0)
    assert pace.highest == 99
    assert pace.per_second(1000.0 + PACE_MIN_S / 2) == 0


def test_what_others_took_in_between_counts() -> None:
    pace = Pace()
    pace.saw(99, 0.0)
    pace.saw(10_099, 100.0)  # of which a hundred are ours
    assert pace.per_second(100.0) == 100.0
    assert pace.per_second(200.0) == 50.0, "and it fades while nothing happens"


def test_an_id_below_one_that_was_seen_moves_nothing() -> None:
    """Of two shards, or lent by two services."""
    pace = Pace()
    pace.saw(500, 0.0)
    pace.saw(300, 50.0)
    assert pace.highest == 500
    assert pace.per_second(100.0) == 0


def test_a_pace_of_long_ago_is_forgotten() -> None:
    pace, id, now = Pace(), 0, 0.0
    for _ in range(100):  # 1,000 ids a second for a while
        pace.saw(id, now)
        id, now = id + 60_000, now + 60.0
    assert round(pace.per_second(now)) == 990
    while now < 100 * 60.0 + 3 * PACE_SPAN_S:  # then one
        pace.saw(id, now)
        id, now = id + 60, now + 60.0
    assert 0.9 < pace.per_second(now) < 1.1
