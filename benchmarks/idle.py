"""An idle service: memory and CPU of the process, with SQLite and with DynamoDB, and what each
kept connection and each counter adds.

Memory of the process is resident memory once it is ready and has given one id. Its CPU after that
is used by the poll of the catalogue every 2 s. Memory of a connection is the growth of resident
memory with 2,000 of them, each after one request. Memory of a counter is what Python allocates for
10,000 of them that each gave one id, in this process over a store in memory.
"""

import asyncio
import gc
import importlib.util
import sys
import tempfile
import time
import tracemalloc
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.lane import ask
from benchmarks.load import Connection
from benchmarks.measure import KIB, MB, Row, check, cpu_seconds, resident_mb, spread
from benchmarks.memory import MemoryStore
from benchmarks.processes import ROOT, answers, free_port, get, on_load_core, process, serving
from idservice.allocation.service import Service
from idservice.server.sockets import may_open

GOAL_MB = 50.0
GOAL_AWS_MB = 80.0
GOAL_CPU = 0.5  # per cent of a core
SETTLED_S = 3.0  # after the first id, until the work of a start in the background is over
COUNTERS = 10_000
CONNECTIONS = 2_000
KIB_GOAL, KIB_AFTER_GOAL = 2.0, 3.0  # per connection, also after one request that aiohttp answered
WARM = 300  # requests of each kind before, for objects that are made once
OTHER = "GET /v1/counters/default HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
DYNOXIDE = ROOT / ".engines/node_modules/@dynoxide/linux-x64/dynoxide"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True, slots=True)
class Idle:
    """The use of one process: memory in MB, and CPU in per cent of a core."""

    memory: float
    cpu: float


def run(quick: bool) -> list[Row]:
    """Return the rows of `idle`."""
    rounds, watched_s, warm = (1, 0.5, 30) if quick else (5, 12.0, WARM)
    with tempfile.TemporaryDirectory() as folder, on_load_core():
        store = f"sqlite:{Path(folder) / 'idle'}"
        sqlite = [_idle(store, watched_s) for _ in range(rounds)]
        connections = _per_connection(store, 50 if quick else CONNECTIONS, warm)
        dynamodb = _on_dynamodb(rounds, watched_s)
    counter = asyncio.run(_per_counter(100 if quick else COUNTERS))
    return [*_rows("SQLite", sqlite, GOAL_MB), *dynamodb, *connections, counter]


def _idle(store: str, watched_s: float, environment: dict[str, str] | None = None) -> Idle:
    with serving("--store", store, "--init", environment=environment) as (port, child, _):
        status, body = get(port, "/next")
        check(status == 200 and body.isdigit(), f"ready, but /next answers {status} {body}")
        memory = resident_mb(child.pid)
        time.sleep(min(SETTLED_S, watched_s))
        before = cpu_seconds(child.pid)
        time.sleep(watched_s)
        return Idle(memory, (cpu_seconds(child.pid) - before) / watched_s * 100)


def _rows(where: str, found: list[Idle], goal_mb: float, note: str = "") -> list[Row]:
    memory, cpu = [idle.memory for idle in found], [idle.cpu for idle in found]
    return [
        Row(
            f"idle: memory, {where}",
            median(memory),
            "MB",
            goal_mb,
            f"rounds {spread(memory)} MB{note}",
        ),
        Row(
            f"idle: share of a core, {where}",
            median(cpu),
            "%",
            GOAL_CPU,
            f"rounds {spread(cpu)} %{note}",
        ),
    ]


def _on_dynamodb(rounds: int, watched_s: float) -> list[Row]:
    command = _engine()
    if command is None:
        why = "neither .engines/ (make engines) nor moto's server is here"
        return [Row("idle: memory, DynamoDB", None, goal=GOAL_AWS_MB, note=why)]
    port = free_port()
    name, arguments = command
    with process([*arguments, str(port)]) as child:
        answers(port, child)
        store = f"dynamodb:benchmark?region=us-east-1&endpoint=http://127.0.0.1:{port}"
        found = [_idle(store, watched_s, CREDENTIALS) for _ in range(rounds)]
    return _rows("DynamoDB", found, GOAL_AWS_MB, f", on {name}")


def _engine() -> tuple[str, list[str]] | None:
    """Return the command that starts the stand-in for DynamoDB, up to its port."""
    if DYNOXIDE.exists():
        return "dynoxide", [str(DYNOXIDE), "serve", "--host", "127.0.0.1", "--port"]
    if importlib.util.find_spec("moto") and importlib.util.find_spec("flask"):
        return "moto", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"]
    return None


def _per_connection(store: str, count: int, warm: int) -> list[Row]:
    may_open(count + warm)
    with serving("--store", store) as (port, child, _), ExitStack() as stack:

        def answered(connection: Connection) -> None:
            connection.send()
            while connection.receive() is None:
                pass

        def kib() -> float:
            return (resident_mb(child.pid) - before) * MB / KIB / count

        with Connection(port) as first:
            for _ in range(warm):
                answered(first)
                ask(first, OTHER, 200)
        before = resident_mb(child.pid)
        opened = [stack.enter_context(Connection(port)) for _ in range(count)]
        for connection in opened:
            answered(connection)
        lane = kib()
        for connection in opened:
            ask(connection, OTHER, 200)
        after = kib()
    what = "idle: memory of a kept connection"
    return [
        Row(f"{what}, after an id", lane, "KiB", KIB_GOAL),
        Row(f"{what}, after a request for aiohttp", after, "KiB", KIB_AFTER_GOAL),
    ]


async def _per_counter(counters: int) -> Row:
    service = Service(MemoryStore(), random=Random(1))
    async with service:
        first = await service.local_counter("first")
        await first.next_id()  # objects that are made once are not a counter's
        tasks = len(asyncio.all_tasks())
        tracemalloc.start()
        try:
            ids = [
                await (await service.local_counter(f"counter-{n}")).next_id()
                for n in range(counters)
            ]
            while len(asyncio.all_tasks()) > tasks:
                await asyncio.sleep(0)  # loads and refills end
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    check(ids == [0] * counters, "a counter did not start from 0")
    note = f"{counters:,} counters that gave one id each; no task is left of any"
    return Row("idle: bytes per counter in use", grown / counters, "B", note=note)
