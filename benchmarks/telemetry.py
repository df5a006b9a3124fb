"""The cost of traces and metrics by OpenTelemetry: CPU time of the server for one `GET /next`, with
`--otel` beside the same without.

As `http`: on one core, 64 keep-alive connections from a load on the other, in turns. Traces go to a
collector on the core of the load, which throws them away. One server samples every request, another
one none.
"""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

from benchmarks.http import wrk
from benchmarks.load import flat_out
from benchmarks.measure import ROUNDS, Row, cpu_seconds, interleaved, ratio
from benchmarks.processes import on_load_core, serving
from benchmarks.wrk import CONNECTIONS, MISSING

ON = {"every request sampled": "always_on", "none sampled": "always_off"}


class _Drop(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _collector() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Drop) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run(quick: bool) -> list[Row]:
    """Return the rows of `telemetry`."""
    rounds, round_s = (1, 0.02) if quick else (ROUNDS, 2)
    if MISSING:
        return [Row(_what(way), None, note=MISSING) for way in ON]

    def measure(port: int, pid: int) -> float:
        """Return microseconds of CPU per request in one round."""
        before = cpu_seconds(pid)
        ran = wrk(port, round_s)
        return (cpu_seconds(pid) - before) / ran.answered * 1e6

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        url = stack.enter_context(_collector())
        candidates = {}
        for way, sampler in (("off", ""), *ON.items()):
            told = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_TRACES_SAMPLER": sampler}
            flags = (
                "--store",
                f"sqlite:{folder / 'ids'}",
                "--init",
                *(["--otel"] if sampler else []),
            )
            port, child, _ = stack.enter_context(
                serving(*flags, environment=told if sampler else None)
            )
            flat_out(port, connections=CONNECTIONS, seconds=0.02 if quick else 1.0)
            candidates[way] = partial(measure, port, child.pid)
        us = interleaved(candidates, rounds)
    return [
        Row(
            _what(way),
            ratio(us[way], us["off"]),
            "×",
            note=f"{median(us[way]):.1f} µs beside {median(us['off']):.1f} µs",
        )
        for way in ON
    ]


def _what(way: str) -> str:
    return f"telemetry: CPU per GET /next, with --otel, {way} / without"
