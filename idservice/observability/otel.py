"""Sends traces and metrics by OpenTelemetry: a span for each request, and the metrics of counters,
to a collector by OTLP over HTTP.

Needs the extra `otel`, and is imported only with `--otel`, because a span costs more than an id.
The SDK reads the standard variables (`OTEL_...`), which name the collector and the amount, except
for those that are set here.
"""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import isfinite

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from idservice import __version__, errors
from idservice.observability.latency import LATENCY_BUCKETS_S
from idservice.observability.metrics import COUNTER_METRICS, TALLY_METRICS, NamedMetric, Row
from idservice.observability.readings import CounterSample, Snapshot, capped
from idservice.observability.tally_readings import TallySample, capped_tallies

PROTOCOL = "http/protobuf"
ALLOWED = {  # values that are supported; another one would be ignored silently
    "OTEL_TRACES_EXPORTER": ("otlp", "none"),
    "OTEL_METRICS_EXPORTER": ("otlp", "none"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": (PROTOCOL,),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": (PROTOCOL,),
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": (PROTOCOL,),
}
FLUSH_MAX_S, FLUSH_MIN_S = 2.0, 0.5  # to send the rest at the stop, as time allows
SNAPSHOT_S = 5.0  # for the loop to give a thread a snapshot
FRESH_S = 0.2  # all instruments of one collection share a snapshot
# A client can send any other word, and each would be a separate series.
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
RUNWAY = "runway_seconds"  # not sent for a counter that nobody uses
INSTRUMENTS = {  # name and unit, by the name that a metric has for Prometheus
    "ids_issued": ("idservice.ids.issued", "{id}"),
    "ids_reserved": ("idservice.ids.reserved", "{id}"),
    "waits": ("idservice.waits", "{request}"),
    "gap_ids": ("idservice.gaps", "{id}"),
    "refusals": ("idservice.refusals", "{request}"),
    "reservations": ("idservice.reservations", "{call}"),
    "ids_in_memory": ("idservice.ids.in_memory", "{id}"),
    RUNWAY: ("idservice.runway", "s"),
    "tally_commits": ("idservice.tally.commits", "{call}"),
    "tally_adds": ("idservice.tally.adds", "{request}"),
    "tally_waiting": ("idservice.tally.waiting", "{request}"),
    "tally_suspect": ("idservice.tally.suspect", "1"),
}

Read = Callable[[], Coroutine[object, object, Snapshot]]


@asynccontextmanager
async def exported(
    read: Read, stop_by: Callable[[], float], *, counters_max: int
) -> AsyncIterator[Middleware]:
    """While entered, send the metrics, and a span for each request that passes the middleware. At
    most `counters_max` counters have a separate label. Raises Usage.

    At the end the rest is sent, for at most FLUSH_MAX_S. A collector that does not answer delays no
    stop.
    """
    for name, allowed in ALLOWED.items():
        if (value := os.environ.get(name) or allowed[0]) not in allowed:
            raise errors.Usage(why=f"{name} is {value!r}; it must be {' or '.join(allowed)}")
    named = {"service.version": __version__, "service.instance.id": str(uuid.uuid4())}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        named["service.name"] = "idservice"
    resource = Resource.create(named)
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    if os.environ.get("OTEL_TRACES_EXPORTER") != "none":
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    readers: list[MetricReader] = []
    if os.environ.get("OTEL_METRICS_EXPORTER") != "none":
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    _observe(meters, _Counted(read, counters_max))
    try:
        yield _middleware(tracers, meters)
    finally:
        # Daemon threads: the threads of the loop would delay its end.
        done = [_in_thread(end) for end in (tracers.shutdown, meters.shutdown)]
        left = stop_by() - asyncio.get_running_loop().time()
        await asyncio.wait(done, timeout=max(FLUSH_MIN_S, min(FLUSH_MAX_S, left)))


def _in_thread(work: Callable[[], object]) -> "asyncio.Future[None]":
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def settle() -> None:
        if not future.done():
            future.set_result(None)

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, daemon=True).start()
    return future


def _middleware(tracers: TracerProvider, meters: MeterProvider) -> Middleware:
    tracer = tracers.get_tracer("idservice", __version__)
    duration = meters.get_meter("idservice", __version__).create_histogram(
        "http.server.request.duration",
        "s",
        "Seconds that requests took.",
        explicit_bucket_boundaries_advisory=LATENCY_BUCKETS_S,
    )

    @web.middleware
    async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        method = request.method if request.method in METHODS else "_OTHER"
        about = {"http.request.method": method, "url.scheme": request.scheme}
        if resource is not None:
            about["http.route"] = resource.canonical
        began = time.perf_counter()
        with tracer.start_as_current_span(
            f"{'HTTP' if method == '_OTHER' else method} {about.get('http.route', '')}".rstrip(),
            context=propagate.extract(request.headers),
            kind=SpanKind.SERVER,
            attributes={**about, "url.path": request.path},
        ) as span:
            response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        took = time.perf_counter() - began
        duration.record(took, {**about, "http.response.status_code": response.status})
        return response

    return traced


class _Counted:
    """The counts, for a thread other than that of the loop. All of them are read on the loop."""

    def __init__(self, read: Read, counters_max: int) -> None:
        self._read = read
        self._counters_max = counters_max
        self._loop = asyncio.get_running_loop()
        self._at = float("-inf")
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest snapshot. None if the loop does not answer in time, as at the end."""
        if time.monotonic() > self._at + FRESH_S:
            self._snapshot = self._asked()
            self._at = time.monotonic()
        return self._snapshot

    def _asked(self) -> Snapshot | None:
        asked = self._read()
        try:
            future = asyncio.run_coroutine_threadsafe(asked, self._loop)
        except RuntimeError:  # it is closed
            asked.close()
            return None
        try:
            return future.result(SNAPSHOT_S)
        except (CancelledError, TimeoutError):
            future.cancel()
            return None

    def readings(self) -> list[CounterSample]:
        """Return samples of the counters. Those beyond the most are one sample."""
        snapshot = self.snapshot
        return capped(snapshot.readings, self._counters_max) if snapshot else []

    def tallies(self) -> list[TallySample]:
        """Return samples of the tallies. Those beyond the most are one sample."""
        snapshot = self.snapshot
        return capped_tallies(snapshot.tallies, self._counters_max) if snapshot else []


def _observe(meters: MeterProvider, counted: _Counted) -> None:
    meter = meters.get_meter("idservice", __version__)
    _observe_each(meter, COUNTER_METRICS, counted.readings)
    _observe_each(meter, TALLY_METRICS, counted.tallies)

    def store_up(_: CallbackOptions) -> Iterable[Observation]:
        if (snapshot := counted.snapshot) is not None:
            yield Observation(int(snapshot.store_up))

    meter.create_observable_gauge("idservice.store.up", [store_up], "1")


def _observe_each(
    meter: Meter, metrics: Sequence[NamedMetric[Row]], rows: Callable[[], list[Row]]
) -> None:
    for metric in metrics:
        if metric.name in INSTRUMENTS:
            name, unit = INSTRUMENTS[metric.name]
            count, gauge = meter.create_observable_counter, meter.create_observable_gauge
            create = count if metric.counts else gauge
            create(name, [partial(_observed, rows, metric)], unit)


def _observed(
    rows: Callable[[], list[Row]], metric: NamedMetric[Row], _: CallbackOptions
) -> Iterable[Observation]:
    for row in rows():
        value, (kind, name) = metric.value(row), row.named
        if isinstance(value, dict):
            for key, number in value.items():
                yield Observation(number, {kind: name, metric.label: key})
        elif value is not None and isfinite(value) and (metric.name != RUNWAY or _is_used(row)):
            yield Observation(value, {kind: name})


def _is_used(row: CounterSample | TallySample) -> bool:
    return isinstance(row, CounterSample) and row.rate > 0
