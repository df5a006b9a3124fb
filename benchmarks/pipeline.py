"""Another client's latency while clients send megabytes of requests in one go.

A client asks for single ids 200 times a second, by the clock of `latency`, and a health check opens
a connection ten times a second. At the same time other processes pipeline: they write as much as
the server takes, and read all answers, until the last one or until some seconds are over. The cost
of a pipelined id is compared, in turns on one server, with requests sent 16 at a time, which one
turn of the event loop answers.
"""

import select
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from threading import Event

from benchmarks.load import STALL_MAX_S, Clock, Target, at_rate
from benchmarks.measure import MB, ROUNDS, Row, check, cpu_seconds, interleaved, ratio, spread
from benchmarks.processes import get, on_load_core, process, serving

GOAL_MS = 50
LONG_GOAL_MS = 20
COST_GOAL = 1.2
RATE = 200
HEALTH_MAX_S = 1.0
HEALTH_EVERY_S = 0.1
FEW = 16
END = b"\r\n\r\n"
HEAD = b" HTTP/1.1\r\nHost:\r\n"
ONE = b"GET /next" + HEAD + b"\r\n"
LONG = b"GET /next?count=10000" + HEAD + b"\r\n"
BODY = b"POST /next" + HEAD + b"Content-Length: 2\r\n\r\n{}"
KINDS = {
    "single ids": ONE,
    "count=10000": LONG,
    "mixed": ONE * 20 + LONG + BODY + ONE * 20,
    "bodies": BODY,
}


def run(quick: bool) -> list[Row]:
    """Return the rows of `pipeline`."""
    seconds, rounds, many, ids = (0.2, 1, 4, 2_000) if quick else (5.0, ROUNDS, 64, 100_000)
    sizes = [(1, 0.2)] if quick else [(1, 8.0), (2, 40.0)]
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        port, child, _ = stack.enter_context(serving("--store", f"sqlite:{folder / 'i'}", "--init"))
        with _connected(port) as connection:
            pump(connection, ONE * 2_000, STALL_MAX_S)  # so that memory holds many ids
        for kind in KINDS:
            for clients, size in sizes:
                with _pipelining(port, kind, clients, size, seconds):
                    p99_ms, failed, note = _beside(port, seconds)
                name = f"{clients} × {size:g} MB of {kind}"
                rows.append(Row(f"pipeline: p99 beside {name}", p99_ms, "ms", GOAL_MS, note))
                rows.append(Row(f"pipeline: failed health checks beside {name}", failed, goal=0))
        with _pipelining(port, "count=10000", many, 0.0, seconds):
            p99_ms, _, note = _beside(port, seconds)
        what = f"pipeline: p99 beside {many} connections of count=10000, one at a time"
        rows.append(Row(what, p99_ms, "ms", LONG_GOAL_MS, note))

        connection = stack.enter_context(_connected(port))

        def cost(at_once: int) -> float:
            """Return microseconds of CPU per id."""
            before = cpu_seconds(child.pid)
            for _ in range(ids // at_once):
                answers = pump(connection, ONE * at_once, STALL_MAX_S)
                check(answers == at_once, f"{answers} of {at_once} answers")
            return (cpu_seconds(child.pid) - before) / (ids // at_once * at_once) * 1e6

        us = interleaved({"all": lambda: cost(ids), "few": lambda: cost(FEW)}, rounds)
    what = f"pipeline: CPU per id, {ids:,} requests in one go / {FEW} at a time"
    note = f"{median(us['all']):.1f} µs ({spread(us['all'])}) beside {median(us['few']):.1f} µs"
    rows.append(Row(what, ratio(us["all"], us["few"]), "×", COST_GOAL, note))
    return rows


def _beside(port: int, seconds: float) -> tuple[float, int, str]:
    """Return the p99 of single requests in ms, the failed health checks, and a note."""
    clock, over = Clock(), Event()

    def health() -> list[bool]:
        found = []
        while not over.wait(HEALTH_EVERY_S):
            began = time.perf_counter()
            status = get(port, "/readyz")[0]
            found.append(status == 200 and time.perf_counter() - began < HEALTH_MAX_S)
        return found

    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        checked = pool.submit(health)
        target = Target(port, 4, stack, clock)
        try:
            at_rate([target], clock, RATE, seconds)
        finally:
            over.set()
        healthy = checked.result()
    latencies = sorted(target.latencies)
    note = f"the longest {latencies[-1] * 1000:.0f} ms, {len(healthy)} health checks"
    return latencies[int(0.99 * len(latencies))] * 1000, healthy.count(False), note


@contextmanager
def _pipelining(port: int, kind: str, clients: int, size: float, seconds: float) -> Iterator[None]:
    """Run clients that pipeline; without a size, clients that ask again once they are answered."""
    processes = clients if size else 1
    arguments = map(str, (port, kind, size, 1 if size else clients, seconds))
    command = [sys.executable, "-m", "benchmarks.pipeline", *arguments]
    with ExitStack() as stack:
        for _ in range(processes):
            stack.enter_context(process(command, on_all_cores=True))
        yield


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=STALL_MAX_S)
    connection.setblocking(False)
    return connection


def pump(connection: socket.socket, data: bytes, seconds: float) -> int:
    """Send requests and read answers, all or for some seconds; return the number of answers."""
    requests, answers, tail = data.count(HEAD), 0, b""
    unsent = memoryview(data)
    end = time.perf_counter() + seconds
    while answers < requests and time.perf_counter() < end:
        writing = [connection] if unsent else []
        readable, writable, _ = select.select([connection], writing, (), seconds)
        if writable:
            unsent = unsent[connection.send(unsent[:MB]) :]
        if readable:
            chunk = connection.recv(MB)
            check(chunk != b"", "the server closed a connection")
            found = tail + chunk
            answers, tail = answers + found.count(END), found[-3:]
    return answers


def again(port: int, request: bytes, connections: int, seconds: float) -> None:
    """Ask on each connection as soon as its last request is answered."""
    end = time.perf_counter() + seconds
    with ThreadPoolExecutor(connections) as pool, ExitStack() as stack:

        def ask(connection: socket.socket) -> None:
            while time.perf_counter() < end:
                connection.sendall(request)
                head, _, body = connection.recv(MB).partition(END)
                left = int(head.lower().partition(b"content-length: ")[2].split()[0]) - len(body)
                while left > 0:
                    left -= len(connection.recv(MB))

        opened = [stack.enter_context(_connected(port)) for _ in range(connections)]
        for connection in opened:
            connection.settimeout(STALL_MAX_S)
        for done in [pool.submit(ask, connection) for connection in opened]:
            done.result()


if __name__ == "__main__":
    port, kind, size, clients, seconds = sys.argv[1:]
    requests = KINDS[kind]
    if float(size):
        with _connected(int(port)) as connection:
            pump(connection, requests * round(float(size) * MB / len(requests)), float(seconds))
    else:
        again(int(port), requests, int(clients), float(seconds))
