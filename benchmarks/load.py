"""Load on HTTP servers over raw keep-alive sockets: at a fixed rate, or as fast as they answer.

Every answer is checked to be a 200 with digits, and kept, so that repeated ids are seen.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

from benchmarks.measure import check

STALL_MAX_S = 10.0
HELD_UP_S = 0.0005  # a sending so late was held up by more than the work of sending


class Connection:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, port: int, headers: Mapping[str, str] | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=STALL_MAX_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = {"Host": f"127.0.0.1:{port}", **(headers or {})}.items()
        named = "".join(f"{name}: {value}\r\n" for name, value in lines)
        self.request = f"GET /next HTTP/1.1\r\n{named}\r\n".encode()
        self.intended = 0.0
        self._answer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def fileno(self) -> int:
        """What select and poll ask for."""
        return self.socket.fileno()

    def send(self) -> None:
        """Ask for the next id."""
        self.socket.sendall(self.request)

    def receive(self) -> int | None:
        """The id, once the answer is complete."""
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

    On a busy machine the load is held up more often and for longer than any server. What it loses
    is noticed by a sending that is overdue, which nothing but the load itself can cause.
    """

    def __init__(self) -> None:
        self.lost = 0.0

    def now(self) -> float:
        """The time."""
        return time.perf_counter() - self.lost

    def overdue(self, due: float) -> None:
        """Take notice of whether this process was held up since `due`."""
        late = self.now() - due
        if late > HELD_UP_S:
            self.lost += late


class Target:
    """A server under load at a fixed rate: its connections, and what it answered."""

    def __init__(self, port: int, connections: int, stack: ExitStack, clock: Clock) -> None:
        # In turns: a connection that is idle for long is closed by the server.
        self.free = deque(stack.enter_context(Connection(port)) for _ in range(connections))
        self.late: deque[float] = deque()  # intended times of requests no connection was free for
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
        """Read what came on a connection."""
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
) -> list[int]:
    """Ask on each connection anew as soon as it is answered; the ids."""
    ids: list[int] = []
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        open_ones = {}
        for _ in range(connections):
            connection = stack.enter_context(Connection(port, headers))
            open_ones[connection.fileno()] = connection
            poll.register(connection, select.EPOLLIN)
            connection.send()
        end = time.perf_counter() + seconds
        under_way = connections
        while under_way:
            ready = poll.poll(STALL_MAX_S)
            check(bool(ready), "answers are missing")
            going_on = time.perf_counter() < end
            for descriptor, _ in ready:
                connection = open_ones[descriptor]
                id = connection.receive()
                if id is None:
                    continue
                ids.append(id)
                if going_on:
                    connection.send()
                else:
                    under_way -= 1
    return ids
