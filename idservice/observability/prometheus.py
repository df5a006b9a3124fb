"""Writes the metrics page for Prometheus from the plain integers that the service counts in.

Counting must cost nothing on the path of an id. `prometheus_client` counters cost 5 to 50 times as
much as an integer, so the registry of that library is used only to write the page.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from math import inf

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from idservice.observability.readings import (
    LATENCY_BUCKETS_S,
    PIECE,
    CounterSample,
    Latency,
    Snapshot,
    capped,
)


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
    """Writes the lines of counters, family by family. None of them needs escaping, and the library
    takes six times as long."""

    def __init__(self, rows: list[CounterSample]) -> None:
        self._rows = rows

    def counter(
        self, name: str, text: str, values: Callable[[CounterSample], float]
    ) -> Iterator[bytes]:
        def lines(row: CounterSample) -> tuple[str]:
            return (f'idservice_{name}_total{{counter="{row.counter}"}} {float(values(row))!r}\n',)

        return self._written(CounterMetricFamily(f"idservice_{name}", text), lines)

    def by(
        self, name: str, text: str, label: str, values: Callable[[CounterSample], dict[str, int]]
    ) -> Iterator[bytes]:
        def lines(row: CounterSample) -> Iterator[str]:
            for key, value in sorted(values(row).items()):
                one, other = sorted((f'counter="{row.counter}"', f'{label}="{key}"'))
                yield f"idservice_{name}_total{{{one},{other}}} {float(value)!r}\n"

        return self._written(CounterMetricFamily(f"idservice_{name}", text), lines)

    def gauge(
        self, name: str, text: str, values: Callable[[CounterSample], float | None]
    ) -> Iterator[bytes]:
        """Yield the lines of a gauge, without the counters whose value is None."""

        def lines(row: CounterSample) -> tuple[str, ...]:
            if (value := values(row)) is None:
                return ()
            shown = "+Inf" if value == inf else repr(float(value))
            return (f'idservice_{name}{{counter="{row.counter}"}} {shown}\n',)

        return self._written(GaugeMetricFamily(f"idservice_{name}", text), lines)

    def _written(
        self, family: Metric, lines: Callable[[CounterSample], Iterable[str]]
    ) -> Iterator[bytes]:
        yield _text(family)  # what it is
        for at in range(0, len(self._rows), PIECE):
            part = self._rows[at : at + PIECE]
            yield "".join(chain.from_iterable(map(lines, part))).encode()


def pieces(snapshot: Snapshot, *, counters_max: int) -> Iterator[bytes]:
    """Yield the metrics page in pieces that are made quickly: requests are served in between.

    At most `counters_max` counters have a separate label; the others are summed up.
    """
    rows = _Lines(capped(snapshot.readings, counters_max))
    yield from _counts(rows)
    yield from _gauges(rows)
    yield b"".join(map(_text, _of_instance(snapshot)))


def _counts(rows: _Lines) -> Iterator[bytes]:
    yield from rows.counter("ids_issued", "Ids handed out.", lambda row: row.issued)
    yield from rows.counter(
        "ids_reserved",
        "Ids that the store granted, claimed ids included.",
        lambda row: row.reserved,
    )
    yield from rows.counter(
        "ids_claimed", "Ids claimed that other instances gave back.", lambda row: row.stats.claimed
    )
    yield from rows.by(
        "reservations",
        "Reservations, by result.",
        "result",
        lambda row: row.stats.reservations,
    )
    yield from rows.by(
        "shard_moves",
        "Moves of reservations to another shard, by cause.",
        "cause",
        lambda row: row.stats.moves,
    )
    yield from rows.by(
        "gap_ids", "Ids that will never be handed out, by cause.", "cause", lambda row: row.gaps
    )
    yield from rows.by(
        "refusals", "Requests refused, by error code.", "code", lambda row: row.stats.refusals
    )
    yield from rows.counter(
        "waits", "Requests that waited for the store.", lambda row: row.stats.waits
    )
    yield from rows.counter(
        "wait_seconds",
        "Seconds that requests waited for the store.",
        lambda row: row.stats.wait_seconds,
    )


def _gauges(rows: _Lines) -> Iterator[bytes]:
    yield from rows.gauge(
        "ids_in_memory", "Ids in memory, not handed out yet.", lambda row: row.held
    )
    yield from rows.gauge("waiting_requests", "Requests waiting now.", lambda row: row.waiting)
    yield from rows.gauge(
        "runway_seconds",
        "Seconds until the ids in memory run out at the current rate; +Inf before the first id is"
        " taken.",
        lambda row: row.runway_s,
    )
    yield from rows.gauge(
        "suspect",
        "1 if the position of the counter cannot be trusted, so that no id is handed out.",
        lambda row: row.state.suspect if row.state else None,
    )
    yield from rows.gauge(
        "strict",
        "1 if the counter is strict, so that each id waits for a write.",
        lambda row: row.state.strict if row.state else None,
    )
    yield from rows.gauge(
        "limit_used_ratio",
        "Share of the ids up to the limit that is used, 0 to 1.",
        lambda row: row.state.limit_used if row.state else None,
    )


def _of_instance(snapshot: Snapshot) -> Iterator[Metric]:
    yield _histogram("reservation_seconds", "Seconds that a reservation took.", snapshot.latency)
    yield _histogram(
        "loop_lag_seconds",
        "Seconds by which the event loop was late, measured ten times a second.",
        snapshot.lag,
    )
    yield GaugeMetricFamily(
        "idservice_store_up",
        "1 if the store answered the last call.",
        value=float(snapshot.store_up),
    )
    if snapshot.catalogue_age is not None:
        yield GaugeMetricFamily(
            "idservice_catalogue_age_seconds",
            "Seconds since the catalogue was last read.",
            value=snapshot.catalogue_age.seconds,
        )
        yield GaugeMetricFamily(
            "idservice_catalogue_age_limit_seconds",
            "Age of the catalogue in seconds from which no id is handed out.",
            value=snapshot.catalogue_age.most,
        )
    yield GaugeMetricFamily(
        "idservice_draining",
        "1 if the instance was told to stop and still answers.",
        value=float(snapshot.draining),
    )
    yield GaugeMetricFamily("idservice_workers", "Workers that serve.", value=snapshot.workers)
    yield CounterMetricFamily(
        "idservice_worker_restarts",
        "Workers that replaced one that ended.",
        value=snapshot.restarts,
    )
    yield InfoMetricFamily(
        "idservice_build", "The version of idservice.", value={"version": snapshot.version}
    )


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
