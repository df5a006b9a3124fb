"""Plain integers that the service counts in, and how Prometheus reads them at a scrape.

Counting must cost nothing on the way of an id: `prometheus_client` counters are 5 to 50 times as
dear as an integer, so its registry is used only to write the page.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
REST = "_rest"  # label of the counters beyond the cap; no counter can be called so


@dataclass(slots=True)
class Tally:
    """What is counted for one counter, besides what its allocator knows itself."""

    reservations: dict[str, int] = field(default_factory=dict)  # by result
    refusals: dict[str, int] = field(default_factory=dict)  # by error code
    waits: int = 0
    wait_seconds: float = 0.0
    claimed: int = 0  # ids that others gave back, and that were taken over


@dataclass(slots=True)
class Latency:
    """A histogram of seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        self.total += seconds


@dataclass(frozen=True, slots=True)
class Reading:
    """One counter at the moment of a scrape."""

    counter: str
    issued: int
    reserved: int
    held: int
    rate: float  # ids per second, as last measured
    waiting: int
    gaps: dict[str, int]
    tally: Tally
    returned: int = 0  # ids that went back to the store at the stop

    @property
    def runway_s(self) -> float:
        """How long what is held lasts at that rate."""
        if not self.held:
            return 0.0
        return self.held / self.rate if self.rate else float("inf")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at the moment of a scrape."""

    readings: list[Reading]
    store_up: bool
    latency: Latency
    version: str
    lag: Latency = field(default_factory=Latency)  # of the event loop; see `pulse`
    workers: int = 1  # that serve
    restarts: int = 0  # of workers that ended by themselves


def count(counts: dict[str, int], key: str) -> None:
    """Add one under `key`."""
    counts[key] = counts.get(key, 0) + 1


def capped(readings: list[Reading], most: int) -> list[Reading]:
    """The first `most` readings, and all others summed up as one.

    In the order in which the counters came into use: one that moved between its own label and the
    sum would look like a burst or a restart.
    """
    kept, rest = readings[:most], readings[most:]
    if not rest:
        return kept
    # What they hold together serves none of them longer: the shortest runway stands for all.
    shortest = min(reading.runway_s for reading in rest)
    together = summed(REST, rest)
    rate = together.held / shortest if shortest else float("inf")
    return [*kept, replace(together, rate=rate)]


def summed(counter: str, readings: list[Reading]) -> Reading:
    """Several readings as one of `counter`."""
    gaps: dict[str, int] = {}
    tally = Tally()
    for reading in readings:
        _add(gaps, reading.gaps)
        _add(tally.reservations, reading.tally.reservations)
        _add(tally.refusals, reading.tally.refusals)
        tally.waits += reading.tally.waits
        tally.wait_seconds += reading.tally.wait_seconds
        tally.claimed += reading.tally.claimed
    return Reading(
        counter=counter,
        issued=sum(reading.issued for reading in readings),
        reserved=sum(reading.reserved for reading in readings),
        held=sum(reading.held for reading in readings),
        rate=sum(reading.rate for reading in readings),
        waiting=sum(reading.waiting for reading in readings),
        gaps=gaps,
        tally=tally,
        returned=sum(reading.returned for reading in readings),
    )


def _add(into: dict[str, int], counts: dict[str, int]) -> None:
    for key, value in counts.items():
        into[key] = into.get(key, 0) + value


class _AtScrape(Collector):
    def __init__(self, snapshot: Snapshot, counters_max: int) -> None:
        self._snapshot = snapshot
        self._counters_max = counters_max

    def collect(self) -> Iterator[Metric]:
        return _families(self._snapshot, self._counters_max)


def page(snapshot: Snapshot, *, counters_max: int) -> tuple[bytes, str]:
    """The metrics page in Prometheus' text format, and its content type.

    At most `counters_max` counters have a label of their own.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_AtScrape(snapshot, counters_max))
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _families(snapshot: Snapshot, counters_max: int) -> Iterator[Metric]:
    rows = capped(snapshot.readings, counters_max)

    def counter(name: str, text: str, values: Callable[[Reading], float]) -> CounterMetricFamily:
        family = CounterMetricFamily(f"idservice_{name}", text, labels=["counter"])
        for row in rows:
            family.add_metric([row.counter], values(row))
        return family

    def by(
        name: str, text: str, label: str, values: Callable[[Reading], dict[str, int]]
    ) -> CounterMetricFamily:
        family = CounterMetricFamily(f"idservice_{name}", text, labels=["counter", label])
        for row in rows:
            for key, value in sorted(values(row).items()):
                family.add_metric([row.counter, key], value)
        return family

    def gauge(name: str, text: str, values: Callable[[Reading], float]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"idservice_{name}", text, labels=["counter"])
        for row in rows:
            family.add_metric([row.counter], values(row))
        return family

    yield counter("ids_issued", "Ids handed out.", lambda row: row.issued)
    yield counter(
        "ids_reserved", "Ids the store granted, the claimed ones too.", lambda row: row.reserved
    )
    yield counter(
        "ids_claimed", "Ids taken over that others gave back.", lambda row: row.tally.claimed
    )
    yield by(
        "reservations",
        "Requests for ids to the store, by how they ended.",
        "result",
        lambda row: row.tally.reservations,
    )
    yield by("gap_ids", "Ids that will never be handed out.", "cause", lambda row: row.gaps)
    yield by("refusals", "Requests refused.", "code", lambda row: row.tally.refusals)
    yield counter("waits", "Requests that waited for the store.", lambda row: row.tally.waits)
    yield counter("wait_seconds", "Time they waited.", lambda row: row.tally.wait_seconds)
    yield gauge("ids_in_memory", "Ids held, not yet handed out.", lambda row: row.held)
    yield gauge("waiting_requests", "Requests waiting now.", lambda row: row.waiting)
    yield gauge(
        "runway_seconds",
        "How long the ids in memory last at the rate last measured; +Inf while nobody takes any.",
        lambda row: row.runway_s,
    )
    yield from _of_instance(snapshot)


def _of_instance(snapshot: Snapshot) -> Iterator[Metric]:
    yield _histogram(
        "reservation_seconds", "Time a request for ids to the store took.", snapshot.latency
    )
    yield _histogram(
        "loop_lag_seconds",
        "How late the event loop ran what was due, seen ten times a second.",
        snapshot.lag,
    )
    yield GaugeMetricFamily(
        "idservice_store_up",
        "Whether the store answered when it was last asked.",
        value=float(snapshot.store_up),
    )
    yield GaugeMetricFamily("idservice_workers", "Workers that serve.", value=snapshot.workers)
    yield CounterMetricFamily(
        "idservice_worker_restarts",
        "Workers that were started in place of one that ended.",
        value=snapshot.restarts,
    )
    yield InfoMetricFamily("idservice_build", "Version.", value={"version": snapshot.version})


def _histogram(name: str, text: str, latency: Latency) -> HistogramMetricFamily:
    running, buckets = 0, []
    for bound, value in zip((*map(str, LATENCY_BUCKETS_S), "+Inf"), latency.counts, strict=True):
        running += value
        buckets.append((bound, running))
    family = HistogramMetricFamily(f"idservice_{name}", text)
    family.add_metric([], buckets, latency.total)
    return family
