"""Plain integers that the service counts in, and how Prometheus reads them at a scrape.

Counting must cost nothing on the way of an id: `prometheus_client` counters are 5 to 50 times as
dear as an integer, so its registry is used only to write the page.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from math import inf

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from idservice.observability.readings import Standing, together, worst

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
PIECE = 50  # counters looked at, or written about, at once: well below a millisecond
REST = "_rest"  # label of the counters beyond the cap; no counter can be called so


@dataclass(slots=True)
class Latency:
    """A histogram of seconds. There is one for each counter: it is as long as its last bucket that
    counted anything."""

    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        bucket = bisect_left(LATENCY_BUCKETS_S, seconds)
        while len(self.counts) <= bucket:
            self.counts.append(0)
        self.counts[bucket] += 1
        self.total += seconds

    def at_most(self, share: float) -> float | None:
        """Seconds within which that share (0 .. 1) of all ended, as far as the buckets tell: it is
        the upper end of one, infinite in the last. None where nothing was counted."""
        rank = share * sum(self.counts)
        if not rank:
            return None
        running = 0
        for bound, counted in zip((*LATENCY_BUCKETS_S, inf), self.counts, strict=False):
            running += counted
            if running >= rank:
                return bound
        raise AssertionError(share)

    @classmethod
    def sum(cls, parts: Iterable["Latency"]) -> "Latency":
        """Several as one."""
        counts: list[int] = []
        total = 0.0
        for part in parts:
            counts = [a + b for a, b in zip_longest(counts, part.counts, fillvalue=0)]
            total += part.total
        return cls(counts, total)


@dataclass(slots=True)
class Tally:
    """What is counted for one counter, besides what its allocator knows itself."""

    reservations: dict[str, int] = field(default_factory=dict)  # by result
    refusals: dict[str, int] = field(default_factory=dict)  # by error code
    waits: int = 0
    wait_seconds: float = 0.0
    claimed: int = 0  # ids that others gave back, and that were taken over
    latency: Latency = field(default_factory=Latency)  # of its reservations
    moves: dict[str, int] = field(default_factory=dict)  # from shard to shard, by cause


@dataclass(frozen=True, slots=True)
class Reading:
    """One counter at the moment of a scrape."""

    counter: str
    issued: int
    reserved: int
    held: int
    rate: float  # ids per second of late; 0 for a strict counter
    waiting: int
    gaps: dict[str, int]
    tally: Tally
    returned: int = 0  # ids that went back to the store at the stop
    standing: Standing | None = None  # None where nobody who lives has it in use

    @property
    def runway_s(self) -> float:
        """How long what is held lasts at that rate; infinite where nothing is to be held."""
        if not self.held:
            return float("inf") if self.standing is not None and self.standing.closed else 0.0
        return self.held / self.rate if self.rate else float("inf")


@dataclass(frozen=True, slots=True)
class Silence:
    """For how long the catalogue was not heard of, and how long is too long, both in seconds."""

    seconds: float
    most: float


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
    store_error: str = ""  # why it is not up
    uptime_s: float = 0.0
    silence: Silence | None = None  # of the catalogue; None where the store has none
    draining: bool = False  # it was told to stop, and still answers


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
    total = summed(REST, rest)
    rate = total.held / shortest if shortest else inf
    standings = [one.standing for one in rest if one.standing is not None]
    return [*kept, replace(total, rate=rate, standing=worst(standings))]


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
        _add(tally.moves, reading.tally.moves)
    tally.latency = Latency.sum(reading.tally.latency for reading in readings)
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
        standing=together([one.standing for one in readings if one.standing is not None]),
    )


def _add(into: dict[str, int], counts: dict[str, int]) -> None:
    for key, value in counts.items():
        into[key] = into.get(key, 0) + value


class _Part(Collector):
    def __init__(self, part: Metric) -> None:
        self._part = part

    def collect(self) -> Iterator[Metric]:
        yield self._part


def _text(part: Metric) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Part(part))
    return generate_latest(registry)


class _Lines:
    """Writes the lines of counters, family by family. Nothing in them has to be escaped, and the
    library takes six times as long."""

    def __init__(self, rows: list[Reading]) -> None:
        self._rows = rows

    def counter(self, name: str, text: str, values: Callable[[Reading], float]) -> Iterator[bytes]:
        def lines(row: Reading) -> tuple[str]:
            return (f'idservice_{name}_total{{counter="{row.counter}"}} {float(values(row))!r}\n',)

        return self._written(CounterMetricFamily(f"idservice_{name}", text), lines)

    def by(
        self, name: str, text: str, label: str, values: Callable[[Reading], dict[str, int]]
    ) -> Iterator[bytes]:
        def lines(row: Reading) -> Iterator[str]:
            for key, value in sorted(values(row).items()):
                one, other = sorted((f'counter="{row.counter}"', f'{label}="{key}"'))
                yield f"idservice_{name}_total{{{one},{other}}} {float(value)!r}\n"

        return self._written(CounterMetricFamily(f"idservice_{name}", text), lines)

    def gauge(
        self, name: str, text: str, values: Callable[[Reading], float | None]
    ) -> Iterator[bytes]:
        """Without the counters of which it is None."""

        def lines(row: Reading) -> tuple[str, ...]:
            if (value := values(row)) is None:
                return ()
            shown = "+Inf" if value == inf else repr(float(value))
            return (f'idservice_{name}{{counter="{row.counter}"}} {shown}\n',)

        return self._written(GaugeMetricFamily(f"idservice_{name}", text), lines)

    def _written(
        self, family: Metric, lines: Callable[[Reading], Iterable[str]]
    ) -> Iterator[bytes]:
        yield _text(family)  # what it is
        for at in range(0, len(self._rows), PIECE):
            part = self._rows[at : at + PIECE]
            yield "".join(chain.from_iterable(map(lines, part))).encode()


def pieces(snapshot: Snapshot, *, counters_max: int) -> Iterator[bytes]:
    """The metrics page in Prometheus' text format, in pieces that are quickly made: whoever sends
    them can serve others in between.

    At most `counters_max` counters have a label of their own.
    """
    rows = _Lines(capped(snapshot.readings, counters_max))
    yield from rows.counter("ids_issued", "Ids handed out.", lambda row: row.issued)
    yield from rows.counter(
        "ids_reserved", "Ids the store granted, the claimed ones too.", lambda row: row.reserved
    )
    yield from rows.counter(
        "ids_claimed", "Ids taken over that others gave back.", lambda row: row.tally.claimed
    )
    yield from rows.by(
        "reservations",
        "Requests for ids to the store, by how they ended.",
        "result",
        lambda row: row.tally.reservations,
    )
    yield from rows.by(
        "shard_moves",
        "Times that ids were asked for on another shard than before.",
        "cause",
        lambda row: row.tally.moves,
    )
    yield from rows.by(
        "gap_ids", "Ids that will never be handed out.", "cause", lambda row: row.gaps
    )
    yield from rows.by("refusals", "Requests refused.", "code", lambda row: row.tally.refusals)
    yield from rows.counter(
        "waits", "Requests that waited for the store.", lambda row: row.tally.waits
    )
    yield from rows.counter("wait_seconds", "Time they waited.", lambda row: row.tally.wait_seconds)
    yield from rows.gauge("ids_in_memory", "Ids held, not yet handed out.", lambda row: row.held)
    yield from rows.gauge("waiting_requests", "Requests waiting now.", lambda row: row.waiting)
    yield from rows.gauge(
        "runway_seconds",
        "How long the ids in memory last at the rate of late; +Inf while nobody has taken any.",
        lambda row: row.runway_s,
    )
    yield from rows.gauge(
        "suspect",
        "Whether its ids may repeat others, so that none is handed out.",
        lambda row: row.standing.suspect if row.standing else None,
    )
    yield from rows.gauge(
        "strict",
        "Whether it is strict: each id waits for a write.",
        lambda row: row.standing.strict if row.standing else None,
    )
    yield from rows.gauge(
        "limit_used_ratio",
        "Part of the ids up to the limit that is used.",
        lambda row: row.standing.limit_used if row.standing else None,
    )
    yield b"".join(map(_text, _of_instance(snapshot)))


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
    if snapshot.silence is not None:
        yield GaugeMetricFamily(
            "idservice_catalogue_age_seconds",
            "Time since the last look at the catalogue that succeeded.",
            value=snapshot.silence.seconds,
        )
        yield GaugeMetricFamily(
            "idservice_catalogue_age_limit_seconds",
            "Age at which nothing is handed out any more.",
            value=snapshot.silence.most,
        )
    yield GaugeMetricFamily(
        "idservice_draining",
        "Whether it was told to stop, and still answers.",
        value=float(snapshot.draining),
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
    bounds = (*map(str, LATENCY_BUCKETS_S), "+Inf")
    unreached = [0] * (len(bounds) - len(latency.counts))
    for bound, value in zip(bounds, latency.counts + unreached, strict=True):
        running += value
        buckets.append((bound, running))
    family = HistogramMetricFamily(f"idservice_{name}", text)
    family.add_metric([], buckets, latency.total)
    return family
