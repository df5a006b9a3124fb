"""What several workers counted, as one: sums that are right and never fall."""

import random
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from idservice.observability import prometheus
from idservice.observability.latency import Latency
from idservice.observability.readings import (
    PIECE,
    CatalogueAge,
    CounterSample,
    CounterStats,
    Readiness,
    Snapshot,
    capped,
    capping,
)
from idservice.observability.tally_readings import TallySample, TallyStats
from idservice.server.workers.totals import Totals, WorkerStatus

READY = Readiness("", "")


def reading(counter: str = "a", **values: object) -> CounterSample:
    return replace(CounterSample(counter, 0, 0, 0, 0.0, 0, {}, CounterStats()), **values)


def report(
    *readings: CounterSample, readiness: Readiness = READY, store_up: bool = True
) -> WorkerStatus:
    return WorkerStatus(readiness, Snapshot(list(readings), store_up, Latency(), "x"))


def of(totals: Totals, counter: str = "a") -> CounterSample:
    [found] = [one for one in totals.snapshot([], restarts=0).readings if one.counter == counter]
    return found


def test_counts_are_summed_per_counter() -> None:
    totals = Totals()
    stats = CounterStats(
        {"granted": 2}, {"bad_count": 1}, waits=3, wait_seconds=0.5, moves={"throttled": 4}
    )
    totals.reported(0, report(reading(issued=3, reserved=10, held=7, waiting=1, stats=stats)))
    totals.reported(1, report(reading("b", issued=1), reading(issued=4, reserved=9, held=5)))
    totals.reported(2, report(reading(stats=stats, gaps={"late": 2})))
    assert of(totals) == reading(
        issued=7, reserved=19, held=12, waiting=1, gaps={"late": 2},
        stats=CounterStats({"granted": 4}, {"bad_count": 2}, waits=6, wait_seconds=1.0,
                    moves={"throttled": 8}),
    )  # fmt: skip
    assert of(totals, "b").issued == 1


def test_a_newer_report_takes_the_place_of_the_one_before() -> None:
    totals = Totals()
    totals.reported(0, report(reading(issued=3)))
    totals.reported(0, report(reading(issued=5)))
    assert of(totals).issued == 5
    totals.reported(0, WorkerStatus(Readiness("why", ""), None))  # asked for readiness alone
    assert of(totals).issued == 5
    assert totals.readiness([0]).not_ready == "why"


def test_the_ids_of_a_killed_worker_are_a_gap() -> None:
    totals = Totals()
    totals.reported(0, report(reading(issued=3, reserved=10, held=7, rate=2.0, waiting=2)))
    totals.ended(0)
    assert of(totals) == reading(issued=3, reserved=10, gaps={"killed": 7})
    totals.reported(0, report(reading(issued=1, reserved=10, held=9)))
    totals.ended(0)
    assert of(totals) == reading(issued=4, reserved=20, gaps={"killed": 16})


def test_a_worker_that_stopped_cleanly_leaves_no_such_gap() -> None:
    totals = Totals()
    totals.reported(0, report(reading(issued=3, reserved=10, gaps={"stop": 7})))
    totals.ended(0)
    assert of(totals) == reading(issued=3, reserved=10, gaps={"stop": 7})


def test_a_worker_that_never_reported_may_end() -> None:
    totals = Totals()
    totals.ended(5)
    assert totals.snapshot([], restarts=1).readings == []


def test_the_runway_of_all_is_what_they_hold_over_what_they_use() -> None:
    totals = Totals()
    totals.reported(0, report(reading(held=100, rate=10.0)))
    totals.reported(1, report(reading(held=50, rate=0.0)))
    assert of(totals).runway_s == 15.0
    totals.ended(0)
    assert of(totals).runway_s == float("inf")
    totals.ended(1)
    assert of(totals).runway_s == 0.0


def test_the_runway_of_the_counters_beyond_the_cap_is_the_shortest_of_them() -> None:
    rows = [reading("a"), reading("b", held=100, rate=10.0), reading("c", held=50, rate=50.0)]
    assert capped(rows, 1)[1].runway_s == 1.0
    assert capped([*rows, reading("d", held=0, rate=1.0)], 1)[1].runway_s == 0.0
    assert capped([reading("a"), reading("b", held=1)], 1)[1].runway_s == float("inf")


def test_the_counters_beyond_the_cap_are_summed_up_a_few_at_a_time() -> None:
    rows = [reading(str(at), issued=1) for at in range(2 * PIECE + 5)]
    summed_up = [step[1].issued for step in capping(rows, 1)]
    assert summed_up == [PIECE, 2 * PIECE, 2 * PIECE + 4]


def test_one_worker_that_is_not_ready_makes_all_not_ready() -> None:
    totals = Totals()
    totals.reported(0, report())
    totals.reported(1, report(readiness=Readiness("suspect", ""), store_up=False))
    assert totals.readiness([0, 1]) == Readiness("suspect", "")
    assert totals.readiness([0]) == READY
    assert totals.readiness([]).not_ready == "no worker serves"
    assert totals.readiness([7]).not_ready == "no worker serves"
    assert not totals.snapshot([0, 1], restarts=0).store_up
    assert totals.snapshot([0], restarts=0).store_up


def test_a_new_worker_is_not_as_ready_as_the_one_was_whose_number_it_has() -> None:
    totals = Totals()
    for readiness in (READY, Readiness("suspect", "")):
        totals.reported(0, report())
        totals.reported(1, report(readiness=readiness))
        totals.ended(1)
        assert totals.readiness([1]).not_ready == "no worker serves"  # but has not reported
        assert totals.readiness([0, 1]) == READY


def test_a_degraded_worker_degrades_all() -> None:
    totals = Totals()
    totals.reported(0, report())
    totals.reported(1, report(readiness=Readiness("", "no answer")))
    assert totals.readiness([0, 1]) == Readiness("", "no answer")


def counted(snapshot: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of the page that must never fall."""
    body = b"".join(prometheus.pieces(snapshot, counters_max=3))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if family.type in ("counter", "histogram")
    }


def test_no_sum_falls_when_a_worker_dies_or_a_counter_comes() -> None:
    rng = random.Random(7)
    totals = Totals()
    workers: dict[int, list[CounterSample]] = {}
    latencies: dict[int, Latency] = {}
    restarts = 0
    before = counted(totals.snapshot([], restarts=0))
    for _ in range(150):
        worker = rng.randrange(3)
        if rng.random() < 0.1 and worker in workers:
            totals.ended(worker)
            del workers[worker], latencies[worker]
            restarts += 1
        readings = workers.setdefault(worker, [])
        latency = latencies.setdefault(worker, Latency())
        name = rng.choice("abcdef")
        if name not in [one.counter for one in readings]:
            readings.append(reading(name))  # in the order of first use, other in each worker
        index = [one.counter for one in readings].index(name)
        old = readings[index]
        count = rng.randrange(10)
        gaps = {**old.gaps, "late": old.gaps.get("late", 0) + rng.randrange(2)}
        readings[index] = replace(
            old, issued=old.issued + count, reserved=old.reserved + 2 * count,
            held=rng.randrange(9), gaps=gaps,
        )  # fmt: skip
        latency.observe(rng.random() * 10)
        seen = Latency(list(latency.counts), latency.total)
        totals.reported(
            worker, WorkerStatus(READY, Snapshot(list(readings), True, seen, "x", lag=seen))
        )
        after = counted(totals.snapshot(list(workers), restarts=restarts))
        assert [key for key, value in before.items() if after.get(key, -1) < value] == []
        before = after


def test_the_oldest_catalogue_and_a_worker_that_stops_are_shown() -> None:
    totals = Totals()
    for worker, (seconds, most) in enumerate([(1.0, 60.0), (50.0, 60.0), (90.0, 900.0)]):
        heard = Snapshot([], True, Latency(), "x", catalogue_age=CatalogueAge(seconds, most))
        totals.reported(worker, WorkerStatus(READY, heard))
    seen = totals.snapshot([0, 1, 2], restarts=0)
    assert (seen.catalogue_age, seen.draining) == (CatalogueAge(50.0, 60.0), False)
    totals.reported(2, WorkerStatus(READY, Snapshot([], True, Latency(), "x", draining=True)))
    assert totals.snapshot([0, 1], restarts=0).draining
    totals = Totals()
    totals.reported(0, report())
    assert totals.snapshot([0], restarts=0).catalogue_age is None


def test_the_worker_whose_usage_is_longest_behind_is_shown() -> None:
    totals = Totals()
    for worker, seconds in enumerate((0.0, 70.0, 5.0)):
        behind = Snapshot([], True, Latency(), "x", usage_behind_s=seconds)
        totals.reported(worker, WorkerStatus(READY, behind))
    assert totals.snapshot([0, 1, 2], restarts=0).usage_behind_s == 70.0
    totals = Totals()
    totals.reported(0, report())
    assert totals.snapshot([0], restarts=0).usage_behind_s is None  # a sidecar's


def test_tallies_are_summed_and_what_an_ended_worker_counted_stays() -> None:
    totals = Totals()

    def told(worker: int, adds: int, **more: object) -> None:
        one = TallySample("gifts", TallyStats({"done": adds}, {"counted": adds}), **more)  # type: ignore[arg-type]
        snapshot = Snapshot([], True, Latency(), "x", tallies=[one], tally_reads=adds)
        totals.reported(worker, WorkerStatus(READY, snapshot))

    told(0, 3, waiting=1, adds_rate=2.0)
    told(1, 5, waiting=2, code="add_unsettled", why="no answer")
    both = totals.snapshot([0, 1], restarts=0)
    (gifts,) = both.tallies
    assert (gifts.stats.adds, gifts.waiting, gifts.why) == ({"counted": 8}, 3, "no answer")
    assert (gifts.adds_rate, both.tally_reads) == (2.0, 8)
    totals.ended(1)
    (gifts,) = totals.snapshot([0], restarts=1).tallies
    assert (gifts.stats.commits, gifts.waiting, gifts.code) == ({"done": 8}, 1, "")


def test_a_worker_may_end_that_did_not_use_the_tally_of_another() -> None:
    """What fails here ends the supervisor, and with it all workers."""
    totals = Totals()
    stats = TallyStats({"done": 3}, {"counted": 3})
    stats.commit_seconds.observe(0.01)
    gifts = TallySample("gifts", stats)
    none = Snapshot([], True, Latency(), "x")
    totals.reported(0, WorkerStatus(READY, replace(none, tallies=[gifts])))
    totals.reported(1, WorkerStatus(READY, none))
    totals.ended(1)
    (left,) = totals.snapshot([0], restarts=1).tallies
    assert (left.stats.adds, left.stats.commit_seconds.total) == ({"counted": 3}, 0.01)
