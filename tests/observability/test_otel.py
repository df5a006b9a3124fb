"""Traces and metrics as a collector gets them, by the real library over HTTP; and nothing by
default."""

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.certificates import Files
from tests.processes import ROOT, STORE, Serving, command
from tests.web.wire import ask

pytestmark = pytest.mark.process
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
QUICK = ("--store", STORE, "--drain", "0")
TRACED = (*QUICK, "--otel")
LIBRARY = "google/_upb"  # the one of them that is no Python, and so is seen from outside
LATER = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_METRIC_EXPORT_INTERVAL": "600000"}


class Collector(ThreadingHTTPServer):
    """What was sent, decoded."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.points: dict[str, dict[str, float]] = {}  # by metric, by its attributes

    @property
    def environment(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server_port}"}

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for traces in ExportTraceServiceRequest.FromString(body).resource_spans:
                named = traces.resource.attributes
                self.resources.append({one.key: one.value.string_value for one in named})
                self.spans += (span for scope in traces.scope_spans for span in scope.spans)
            return
        assert path == "/v1/metrics"
        for metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for metric in (one for scope in metrics.scope_metrics for one in scope.metrics):
                told = self.points.setdefault(metric.name, {})
                for point in (*metric.sum.data_points, *metric.gauge.data_points):
                    told[_words(point.attributes)] = point.as_int or point.as_double
                for spread in metric.histogram.data_points:
                    told[_words(spread.attributes)] = spread.count


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _words(attributes: object) -> str:
    values = ((one.key, one.value) for one in attributes)  # type: ignore[attr-defined]
    return ",".join(f"{key}={value.string_value or value.int_value}" for key, value in values)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask_for(port: int, *paths: str) -> list[int]:
    """The statuses."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found = []
    for path in paths:
        connection.request("GET", path, headers={"traceparent": TRACEPARENT})
        answer = connection.getresponse()
        answer.read()
        found.append(answer.status)
    connection.close()
    return found


def ask_by(port: int, method: str) -> int:
    """The status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, "/next")
    status = connection.getresponse().status
    connection.close()
    return status


def stopped(serving: Serving) -> None:
    serving.terminate()
    assert serving.end() == 0, serving.output


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_span_of_each_request_and_all_that_is_counted_are_sent_before_the_end(
    folder: Path, collector: Collector, workers: str
) -> None:
    env = {**collector.environment, **LATER, "OTEL_RESOURCE_ATTRIBUTES": "deployment=here"}
    with Serving(
        folder, "--store", STORE, "--drain", "0", "--otel", "--workers", workers, env=env
    ) as serving:
        assert ask_for(serving.port, "/next?count=3", "/v1/counters/ghost/next") == [200, 404]
        assert not collector.spans
        if workers == "1":
            assert LIBRARY in Path(f"/proc/{serving.pid}/maps").read_text()
        stopped(serving)
    served, refused = collector.spans
    assert (served.name, refused.name) == ("GET /next", "GET /v1/counters/{name}/next")
    assert {served.trace_id.hex(), refused.trace_id.hex()} == {TRACE}
    assert served.parent_span_id.hex() == PARENT
    assert served.kind == Span.SPAN_KIND_SERVER
    assert "http.route=/next,url.path=/next,http.response.status_code=200" in _words(
        served.attributes
    )
    for about in collector.resources:
        assert (about["service.name"], about["deployment"]) == ("idservice", "here")
    points = collector.points
    assert max(points["idservice.ids.issued"].values()) == 3
    assert set(points["idservice.ids.reserved"]) == {"counter=default"}
    assert set(points["idservice.store.up"].values()) == {1}
    assert sum(points["http.server.request.duration"].values()) == 2


async def test_over_tls_spans_and_metrics_say_https(
    folder: Path, collector: Collector, certificate: Files
) -> None:
    env = {**collector.environment, **LATER}
    with Serving(
        folder, *TRACED, *certificate.arguments, listen=("https://127.0.0.1:0",), env=env
    ) as serving:  # fmt: skip
        answer = await ask(serving.port, "/next?format=json", trust=certificate.trust())
        assert answer.status == 200
        stopped(serving)
    [span] = collector.spans
    assert "url.scheme=https" in _words(span.attributes)
    [series] = collector.points["http.server.request.duration"]
    assert "url.scheme=https" in series


def test_the_standard_variables_hold(folder: Path, collector: Collector) -> None:
    env = {
        **collector.environment, **LATER, "OTEL_SERVICE_NAME": "ids",
        "OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_SAMPLER": "parentbased_always_off",
    }  # fmt: skip
    with Serving(folder, *TRACED, env=env) as serving:
        ask_for(serving.port, "/next")  # its caller is sampled
        assert ask_by(serving.port, "GET") == 200
        stopped(serving)
    assert [span.parent_span_id.hex() for span in collector.spans] == [PARENT]
    assert collector.resources[0]["service.name"] == "ids"
    assert not collector.points


@pytest.mark.parametrize(
    ("arguments", "more"),
    [([], {}), (["--otel"], {"OTEL_SDK_DISABLED": "true"})],
    ids=["not asked for", "switched off"],
)
def test_nothing_is_sent_and_nothing_loaded_unless_it_is_asked_for(
    folder: Path, collector: Collector, arguments: list[str], more: dict[str, str]
) -> None:
    env = {**collector.environment, **more}
    with Serving(folder, *QUICK, *arguments, env=env) as serving:
        assert ask_for(serving.port, "/next") == [200]
        loaded = Path(f"/proc/{serving.pid}/maps").read_text()
        assert LIBRARY not in loaded
        stopped(serving)
    assert not collector.spans
    assert not collector.points


def test_a_client_cannot_create_a_series(folder: Path, collector: Collector) -> None:
    with Serving(folder, *TRACED, env={**collector.environment, **LATER}) as serving:
        assert [ask_by(serving.port, word) for word in ("PURGE", "LOCK", "COPY")] == [405] * 3
        stopped(serving)
    [series] = collector.points["http.server.request.duration"].items()
    assert series == ("http.request.method=_OTHER,url.scheme=http,http.response.status_code=405", 3)


def test_an_absent_collector_delays_neither_requests_nor_a_stop(folder: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "1"}
    with Serving(folder, *TRACED, env=env) as serving:
        assert set(ask_for(serving.port, *["/next"] * 50)) == {200}
        stopped(serving)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OTEL_TRACES_EXPORTER", "jaeger"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
def test_an_unsupported_variable_is_refused_at_the_start(
    folder: Path, variable: str, value: str
) -> None:
    serve = ("serve", "--store", STORE, "--listen", "127.0.0.1:0", "--otel")
    ran = command(*serve, folder=folder, env={variable: value})
    assert ran.returncode == 2
    assert f"{variable} is '{value}'" in ran.stdout + ran.stderr


def test_without_the_extra_the_message_names_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['opentelemetry'] = None\n")
    serve = ("serve", "--store", STORE, "--listen", "127.0.0.1:0", "--otel")
    ran = command(*serve, folder=folder, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert ran.returncode == 2
    assert "pip install '.[otel]'" in ran.stdout + ran.stderr
