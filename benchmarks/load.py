"""Load on HTTP servers, flat out or at a fixed rate.

Flat out it is the load of `idservice bench`. At a fixed rate several servers are asked in turns, by
a clock that stands still while the OS does not run this process: `bench` has one server and no such
clock. Every answer must be a 200 with digits. Ids are kept, so that repeated ones are found.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from benchmarks.measure import check
from idservice.cli.bench.load import Load, Plan
from idservice.cli.bench.request import BenchRequest, BenchTarget
from idservice.cli.bench.results import BenchResults
from idservice.server import loop

STALL_MAX_S = 10.0
HELD_UP_S = 0.0005  # a request this late was held up by more than the work of sending


@dataclass(frozen=True, slots=True)
class LoadRun:
    """One run of a load: the number of requests that were answered, the seconds that it ran, and
    the number of `refused` requests, whose answer was neither 2xx nor 3xx."""

    answered: int
    seconds: float
    refused: int = 0

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds


class Connection:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=STALL_MAX_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = _request(port)
        self.intended = 0.0
        self._answer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self.socket.fileno()

    def send(self) -> None:
        """Ask for the next id."""
        self.socket.sendall(self.request)

    def receive(self) -> int | None:
        """Return the id once the answer is complete."""
        chunk = self.socket.recv(4096)
        check(chunk != b"", "a server closed a connection")
        self._answer += chunk
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end:
            return None
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return None
        check(head.startswith(b"HTTP/1.1 200") and body.isdigit(), repr(self._answer[:200]))
        self._answer = b""
        return int(body)


class Clock:
    """Time in seconds that stands still while the OS does not run this process.

    On a busy machine the load is held up more often and for longer than any server. The lost time
    is seen from a request that is sent late, for which only the load can be the cause.
    """

    def __init__(self) -> None:
        self.lost = 0.0

    def now(self) -> float:
        """Return the time."""
        return time.perf_counter() - self.lost

    def overdue(self, due: float) -> None:
        """Stop the clock for the time that this process was held up since `due`."""
        late = self.now() - due
        if late > HELD_UP_S:
            self.lost += late


class Target:
    """A server under load at a fixed rate: its connections, and what it answered."""

    def __init__(self, port: int, connections: int, stack: ExitStack, clock: Clock) -> None:
        # In turns: the server closes a connection that is idle for long.
        self.free = deque(stack.enter_context(Connection(port)) for _ in range(connections))
        self.late: deque[float] = deque()  # intended times, while no connection is free
        self.ids: list[int] = []
        self.latencies: list[float] = []
        self._clock = clock

    def ask(self, intended: float) -> None:
        """Send a request now, or as soon as a connection is free; its time runs from `intended`."""
        if not self.free:
            self.late.append(intended)
            return
        connection = self.free.popleft()
        connection.intended = intended
        connection.send()

    def answered(self, connection: Connection) -> None:
        """Read from a connection."""
        id = connection.receive()
        if id is None:
            return
        self.latencies.append(self._clock.now() - connection.intended)
        self.ids.append(id)
        self.free.append(connection)
        if self.late:
            self.ask(self.late.popleft())


def at_rate(targets: Sequence[Target], clock: Clock, rate: float, seconds: float) -> None:
    """Ask each target `rate` times a second, in turns, whether or not it answers in time.

    Waits for the last answers.
    """
    owners = {connection: target for target in targets for connection in target.free}
    connections = list(owners)
    total = round(rate * seconds) * len(targets)
    gap = 1 / (rate * len(targets))
    answered_before = sum(len(target.ids) for target in targets)
    began = clock.now()
    sent = done = 0
    while done < total:
        pause = STALL_MAX_S
        if sent < total:
            clock.overdue(began + sent * gap)
            while sent < total and began + sent * gap <= clock.now():
                targets[sent % len(targets)].ask(began + sent * gap)
                sent += 1
            pause = max(0.0, began + sent * gap - clock.now())
        check(clock.now() < began + seconds + STALL_MAX_S, "answers are missing")
        # select(), because its pauses are in microseconds and those of epoll in milliseconds.
        for connection in select.select(connections, (), (), pause)[0]:
            owners[connection].answered(connection)
        done = sum(len(target.ids) for target in targets) - answered_before


def flat_out(
    port: int, *, connections: int, seconds: float, headers: Mapping[str, str] | None = None
) -> LoadRun:
    """Put the load of `idservice bench` on a server.

    Each connection asks again as soon as it is answered. All ids must be distinct.
    """
    target = BenchTarget.parse(f"http://127.0.0.1:{port}", None)
    plan = Plan(_request(port, headers), connections, None, 0.0, seconds)
    results = BenchResults(BenchRequest(target.path))
    loop.run(Load(plan, results, connect=target.connect, wake=_no_timer).run())
    results.distinct.settle()
    check(not results.errors and not results.unanswered, f"{results.errors}")
    check(results.succeeded > 0 and not results.distinct.repeated, f"{results.distinct.examples}")
    return LoadRun(results.succeeded, seconds)


def _no_timer(ns: int) -> None:
    raise AssertionError("a closed loop needs no timer")


def _request(port: int, headers: Mapping[str, str] | None = None) -> bytes:
    lines = {"Host": f"127.0.0.1:{port}", **(headers or {})}.items()
    named = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"GET /next HTTP/1.1\r\n{named}\r\n".encode()
