"""Thousands of connections that are opened at once, each for one id.

This happens when a deployment restarts all callers, or when a load balancer moves them. A latency
counts from the beginning of a connect to the end of the answer. net/http of Go gets the same crowd
in turns.
"""

import select
import socket
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

from benchmarks.measure import ROUNDS, Row, check, interleaved, ratio, spread
from benchmarks.processes import on_load_core, serving
from benchmarks.rivals import KINDS as RIVALS
from idservice.server.sockets import may_open

CONNECTIONS = 5_000
SPARE_FILES = 100
GOAL_MS = 100.0
OURS, GO = "idservice", RIVALS["go"]
SETTLED_S = 0.3  # after a crowd: the server closes its connections
STALL_MAX_S = 20.0
AT_ONCE = 16  # connections that are opened before answers are looked for


def run(quick: bool) -> list[Row]:
    """Return the rows of `crowd`."""
    rounds, count = (1, 200) if quick else (ROUNDS, CONNECTIONS)
    most = may_open(count + SPARE_FILES)
    what = f"crowd: p99.9 of {count:,} connections opened at once, one id each"
    if most < count + SPARE_FILES:
        return [Row(what, None, goal=GOAL_MS, note=f"no more than {most} files may be open")]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        port, _, _ = stack.enter_context(serving("--store", f"sqlite:{folder / 'ids'}", "--init"))
        ports = {OURS: port}
        if not GO.missing:
            ports[GO.words] = GO.start(folder, stack).port
        found = interleaved({who: partial(p999, at, count) for who, at in ports.items()}, rounds)
    ours, theirs = found[OURS], found.get(GO.words)
    first = Row(what, median(ours), "ms", GOAL_MS, f"rounds {spread(ours)} ms")
    beside = f"crowd: the same / {GO.words}"
    if theirs is None:
        return [first, Row(beside, None, note=GO.missing)]
    note = f"{median(ours):.0f} beside {median(theirs):.0f} ms"
    return [first, Row(beside, ratio(ours, theirs), "×", note=note)]


def p999(port: int, count: int) -> float:
    """Return the milliseconds within which 999 of 1,000 connections had their answer."""
    request = f"GET /next HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    begun: dict[int, tuple[socket.socket, float]] = {}
    took: list[float] = []
    with select.epoll() as poll, ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(count)]
        for client in clients:
            client.setblocking(False)
        unopened = iter(clients)
        while len(took) < count:
            for client in islice(unopened, AT_ONCE):
                began = time.perf_counter()
                client.connect_ex(("127.0.0.1", port))
                begun[client.fileno()] = client, began
                poll.register(client, select.EPOLLOUT)
            ready = poll.poll(STALL_MAX_S if len(begun) == count else 0)
            check(bool(ready) or len(begun) < count, "answers are missing")
            for descriptor, event in ready:
                client, began = begun[descriptor]
                if event == select.EPOLLOUT:  # connected
                    client.send(request)
                    poll.modify(descriptor, select.EPOLLIN)
                else:
                    answer = client.recv(4096)
                    took.append(time.perf_counter() - began)
                    check(answer.startswith(b"HTTP/1.1 200"), repr(answer[:200]))
                    poll.unregister(descriptor)
    time.sleep(SETTLED_S)
    return sorted(took)[int(0.999 * count)] * 1000
