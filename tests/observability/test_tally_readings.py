"""What is counted of tallies: rates, sums over names and workers, and the lines of metrics."""

import pytest

from idservice.observability import prometheus
from idservice.observability.latency import Latency
from idservice.observability.readings import Snapshot
from idservice.observability.tally_readings import (
    RecentRate,
    TallySample,
    TallyStats,
    capped_tallies,
)


def sample(name: str, **values: object) -> TallySample:
    stats = TallyStats({"done": 3, "beaten": 1}, {"counted": 7, "unsettled": 2})
    stats.commit_seconds.observe(0.004)
    return TallySample(name, stats, **values)  # type: ignore[arg-type]


def page(*samples: TallySample, most: int = 9) -> list[str]:
    snapshot = Snapshot([], True, Latency(), "1", tallies=list(samples), tally_reads=5)
    text = b"".join(prometheus.pieces(snapshot, counters_max=most)).decode()
    return [line for line in text.splitlines() if line.startswith("idservice_tally")]


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rate = RecentRate()
    assert rate.per_second(0.0) == 0.0
    for tenth in range(1000, 1200):
        rate.count(tenth / 10)
    assert rate.per_second(120.0) == pytest.approx(10.0, rel=0.05)
    assert rate.per_second(122.5) == pytest.approx(5.0, rel=0.05)
    assert rate.per_second(140.0) == 0.0


def test_each_tally_has_its_metrics_and_none_is_its_sum() -> None:
    lines = page(sample("gifts", waiting=4), sample("refunds", code="tally_went_back"))
    for line in (
        'idservice_tally_commits_total{result="beaten",tally="gifts"} 1.0',
        'idservice_tally_adds_total{result="unsettled",tally="gifts"} 2.0',
        'idservice_tally_waiting{tally="gifts"} 4.0',
        'idservice_tally_suspect{tally="gifts"} 0.0',
        'idservice_tally_suspect{tally="refunds"} 1.0',
        'idservice_tally_commit_seconds_bucket{le="0.005"} 2.0',
        "idservice_tally_commit_seconds_count 2.0",
        "idservice_tally_reads_total 5.0",
    ):
        assert line in lines
    assert not [line for line in lines if "sum{" in line]


def test_tallies_beyond_the_most_are_one_that_is_as_bad_as_the_worst() -> None:
    bad = sample("c", code="tally_went_back", why="it went back", waiting=2)
    kept, rest = capped_tallies([sample("a"), sample("b", waiting=1), bad], 1)
    assert (kept.tally, rest.tally, rest.waiting) == ("a", "_rest", 3)
    assert (rest.why, rest.stats.adds["counted"]) == ("it went back", 14)
    assert 'idservice_tally_suspect{tally="_rest"} 1.0' in page(sample("a"), bad, most=0)
    assert capped_tallies([bad], 1) == [bad]


def test_the_share_of_lost_commits_is_not_known_before_the_first() -> None:
    assert sample("a").lost_share == 0.25
    assert TallySample("a", TallyStats()).lost_share is None
