"""CPU time of the server for one `GET /next` on a connection that has made one other request.

It is compared with connections that never made another request, in turns on one server. As `http`:
the server runs on one core, 64 keep-alive connections from a load on the other, flat out. The load
is not wrk, since the connections are kept between the rounds.
"""

import select
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.load import STALL_MAX_S, Connection
from benchmarks.measure import ROUNDS, Row, check, cpu_seconds, distinct, interleaved, ratio, spread
from benchmarks.processes import on_load_core, serving

CONNECTIONS = 64
GOAL = 1.1
NONE = "no other request"
UNLOADED = "the first request of a counter that is not loaded"
HOST = "Host: 127.0.0.1\r\n"
OTHERS = {  # in words: the request, and the status of its answer
    "/readyz": ("GET /readyz HTTP/1.1\r\n{host}\r\n", 200),
    "/next?count=0": ("GET /next?count=0 HTTP/1.1\r\n{host}\r\n", 400),
    "/v1/counters/NAME": ("GET /v1/counters/default HTTP/1.1\r\n{host}\r\n", 200),
    "a POST with a body": (
        "POST /next HTTP/1.1\r\n{host}Content-Length: 2\r\n\r\n{{}}",
        200,
    ),
    UNLOADED: ("GET /v1/counters/lane-{number}/next HTTP/1.1\r\n{host}\r\n", 200),
}
CREATE = (
    "PUT /v1/counters/lane-{number} HTTP/1.1\r\n{host}Content-Type: application/json\r\n"
    "Content-Length: 2\r\n\r\n{{}}"
)


def run(quick: bool) -> list[Row]:
    """Return the rows of `lane`."""
    rounds, round_s, count = (1, 0.03, 4) if quick else (ROUNDS, 1.0, CONNECTIONS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        port, child, _ = stack.enter_context(
            serving(
                "--store", f"sqlite:{folder / 'ids'}", "--init", "--runway", "60", "--allow-changes"
            )
        )
        with Connection(port) as control:
            for number in range(count):
                ask(control, CREATE.format(number=number, host=HOST), 201)

        def measure(connections: list[Connection]) -> float:
            """Return microseconds of CPU per request in one round."""
            before = cpu_seconds(child.pid)
            ids = drive(connections, round_s)
            distinct(ids)
            return (cpu_seconds(child.pid) - before) / len(ids) * 1e6

        candidates = {}
        for words, (request, status) in {NONE: ("", 0), **OTHERS}.items():
            opened = [stack.enter_context(Connection(port)) for _ in range(count)]
            drive(opened, 0.02 if quick else 0.5)
            for number, connection in enumerate(opened):
                if request:
                    ask(connection, request.format(number=number, host=HOST), status)
            candidates[words] = partial(measure, opened)
        us = interleaved(candidates, rounds)
    base = median(us[NONE])
    return [
        Row(
            f"lane: CPU per GET after {words} / {NONE}",
            ratio(us[words], us[NONE]),
            "×",
            GOAL,
            note=f"{median(us[words]):.1f} µs ({spread(us[words])}) beside {base:.1f} µs",
        )
        for words in OTHERS
    ]


def ask(connection: Connection, request: str, status: int) -> None:
    """Send one other request, and read all of its answer."""
    connection.socket.sendall(request.encode())
    answer = b""
    while True:
        answer += connection.socket.recv(65536)
        head, end, body = answer.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if end and len(body) == int(length):
            break
    check(answer.startswith(b"HTTP/1.1 %d " % status), repr(answer[:300]))


def drive(connections: list[Connection], seconds: float) -> list[int]:
    """Ask on each connection as soon as its last request is answered; return the ids."""
    ids: list[int] = []
    by_descriptor = {connection.fileno(): connection for connection in connections}
    with select.epoll() as poll:
        for connection in connections:
            poll.register(connection, select.EPOLLIN)
            connection.send()
        end = time.perf_counter() + seconds
        while by_descriptor:
            ready = poll.poll(STALL_MAX_S)
            check(bool(ready), "answers are missing")
            for descriptor, _ in ready:
                id = by_descriptor[descriptor].receive()
                if id is None:
                    continue
                ids.append(id)
                if time.perf_counter() < end:
                    by_descriptor[descriptor].send()
                else:
                    del by_descriptor[descriptor]
    return ids
