"""Writes the metrics page for Prometheus from the plain integers that the service counts in.

Counting must cost nothing on the path of an id. `prometheus_client` counters cost 5 to 50 times as
much as an integer, so the registry of that library is used only to write the page.
"""

from collections.abc import Iterator
from itertools import accumulate, chain, repeat
from math import inf

from prometheus_client import Metric, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from idservice.observability.latency import LATENCY_BUCKETS_S, Latency
from idservice.observability.metrics import COUNTER_METRICS, TALLY_METRICS, NamedMetric, Row
from idservice.observability.readings import Snapshot, capping
from idservice.observability.tally_readings import capped_tallies

LINES = 50  # that are written at once: less than a tenth of a millisecond


class _Part(Collector):
    def __init__(self, part: Metric) -> None:
        self._part = part

    def collect(self) -> Iterator[Metric]:
        yield self._part


def _text(part: Metric) -> bytes:
    return generate_latest(_Part(part))


def pieces(snapshot: Snapshot, *, counters_max: int) -> Iterator[bytes]:
    """Yield the metrics page in pieces that are made quickly: requests are served in between.

    At most `counters_max` counters have a separate label, and as many tallies; the others are
    summed up.
    """
    for step in capping(snapshot.readings, counters_max):
        rows = step
        yield b""
    for metric in COUNTER_METRICS:
        yield from _family(metric, rows)
    tallies = capped_tallies(snapshot.tallies, counters_max)
    for tally_metric in TALLY_METRICS:
        yield from _family(tally_metric, tallies)
    yield from map(_text, _of_instance(snapshot))


def _family(metric: NamedMetric[Row], rows: list[Row]) -> Iterator[bytes]:
    """Yield the lines of a metric of names. None of them needs escaping, and the library takes
    six times as long."""
    family = CounterMetricFamily if metric.counts else GaugeMetricFamily
    yield _text(family(f"idservice_{metric.name}", metric.text))  # what it is
    name = f"idservice_{metric.name}{'_total' * metric.counts}"
    for at in range(0, len(rows), LINES):
        part = rows[at : at + LINES]
        yield "".join(chain.from_iterable(_lines(metric, name, row) for row in part)).encode()


def _lines(metric: NamedMetric[Row], name: str, row: Row) -> Iterator[str]:
    kind, named = row.named
    named = f'{kind}="{named}"'
    value = metric.value(row)
    if isinstance(value, dict):
        for key, number in sorted(value.items()):
            labels = ",".join(sorted((named, f'{metric.label}="{key}"')))
            yield f"{name}{{{labels}}} {float(number)!r}\n"
    elif value is not None:
        yield f"{name}{{{named}}} {'+Inf' if value == inf else repr(float(value))}\n"


def _of_instance(snapshot: Snapshot) -> Iterator[Metric]:
    yield _histogram("reservation_seconds", "Seconds that a reservation took.", snapshot.latency)
    yield _histogram(
        "loop_lag_seconds",
        "Seconds by which the event loop was late, measured ten times a second.",
        snapshot.lag,
    )
    yield _histogram(
        "tally_commit_seconds", "Seconds that a commit of adds to a tally took.",
        Latency.sum(sample.stats.commit_seconds for sample in snapshot.tallies),
    )  # fmt: skip
    text = "Reads of tallies in the store; requests that wait share the next read."
    yield CounterMetricFamily("idservice_tally_reads", text, value=snapshot.tally_reads)
    text = "Requests refused because of their access key, or because they had none, by error code."
    refusals = CounterMetricFamily("idservice_key_refusals", text, labels=["code"])
    for code, number in sorted(snapshot.key_refusals.items()):
        refusals.add_metric([code], number)
    yield refusals
    age = snapshot.catalogue_age
    gauges = (
        ("store_up", "1 if the store answered the last call.", snapshot.store_up),
        ("catalogue_age_seconds", "Seconds since the catalogue was last read.",
         age.seconds if age else None),
        ("catalogue_age_limit_seconds",
         "Age of the catalogue in seconds from which no id is handed out.",
         age.most if age else None),
        ("usage_behind_seconds",
         "Seconds since usage was found that is not in the store; 0 once it is written.",
         snapshot.usage_behind_s),
        ("draining", "1 if the instance was told to stop and still answers.", snapshot.draining),
        ("workers", "Workers that serve.", snapshot.workers),
    )  # fmt: skip
    for name, text, value in gauges:
        if value is not None:
            yield GaugeMetricFamily(f"idservice_{name}", text, value=float(value))
    text = "Workers that were started to replace one that had ended."
    yield CounterMetricFamily("idservice_worker_restarts", text, value=snapshot.restarts)
    text = "Log lines dropped because the reader of the log does not keep up."
    yield CounterMetricFamily("idservice_log_lines_dropped", text, value=snapshot.log_dropped)
    yield InfoMetricFamily(
        "idservice_build", "The version of idservice.", value={"version": snapshot.version}
    )


def _histogram(name: str, text: str, latency: Latency) -> HistogramMetricFamily:
    bounds = (*map(str, LATENCY_BUCKETS_S), "+Inf")
    running = accumulate(chain(latency.counts, repeat(0)))
    family = HistogramMetricFamily(f"idservice_{name}", text)
    family.add_metric([], list(zip(bounds, running, strict=False)), latency.total)
    return family
