"""Memory of a service that nobody asks: the process, with SQLite and with DynamoDB, and what each
counter adds.

The process by its resident memory once it is ready and gave one id. A counter by what Python
allocated for 10,000 of them that each gave one id, in this process over a store in memory.
"""

import asyncio
import gc
import importlib.util
import sys
import tempfile
import tracemalloc
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.measure import Row, check, resident_mb, spread
from benchmarks.memory import MemoryStore
from benchmarks.processes import ROOT, answers, free_port, get, on_load_core, process, serving
from idservice.service import Service

GOAL_MB = 50.0
GOAL_AWS_MB = 80.0
COUNTERS = 10_000
DYNOXIDE = ROOT / ".engines/node_modules/@dynoxide/linux-x64/dynoxide"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def run(quick: bool) -> list[Row]:
    """Rows of `idle`."""
    rounds = 1 if quick else 5
    with tempfile.TemporaryDirectory() as folder, on_load_core():
        store = f"sqlite:{Path(folder) / 'idle'}"
        found = [_resident(store) for _ in range(rounds)]
        sqlite = Row(
            "idle: memory, SQLite", median(found), "MB", GOAL_MB, f"rounds {spread(found)} MB"
        )
        dynamodb = _on_dynamodb(rounds)
    return [sqlite, dynamodb, asyncio.run(_per_counter(500 if quick else COUNTERS))]


def _resident(store: str, environment: dict[str, str] | None = None) -> float:
    with serving("--store", store, "--init", environment=environment) as (port, child, _):
        status, body = get(port, "/next")
        check(status == 200 and body.isdigit(), f"ready, but /next answers {status} {body}")
        return resident_mb(child.pid)


def _on_dynamodb(rounds: int) -> Row:
    what = "idle: memory, DynamoDB"
    command = _engine()
    if command is None:
        why = "neither .engines/ (make engines) nor moto's server is here"
        return Row(what, None, goal=GOAL_AWS_MB, note=why)
    port = free_port()
    name, arguments = command
    with process([*arguments, str(port)]) as child:
        answers(port, child)
        store = f"dynamodb:benchmark?region=us-east-1&endpoint=http://127.0.0.1:{port}"
        found = [_resident(store, CREDENTIALS) for _ in range(rounds)]
    note = f"rounds {spread(found)} MB, on {name}"
    return Row(what, median(found), "MB", GOAL_AWS_MB, note)


def _engine() -> tuple[str, list[str]] | None:
    """What stands in for DynamoDB here, and how it is started, up to its port."""
    if DYNOXIDE.exists():
        return "dynoxide", [str(DYNOXIDE), "serve", "--host", "127.0.0.1", "--port"]
    if importlib.util.find_spec("moto") and importlib.util.find_spec("flask"):
        return "moto", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"]
    return None


async def _per_counter(counters: int) -> Row:
    service = Service(MemoryStore(), random=Random(1))
    async with service:
        await (await service.supply("first")).one()  # what is made once is not a counter's
        tasks = len(asyncio.all_tasks())
        tracemalloc.start()
        try:
            ids = [await (await service.supply(f"counter-{n}")).one() for n in range(counters)]
            while len(asyncio.all_tasks()) > tasks:
                await asyncio.sleep(0)  # loads and refills end
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    check(ids == [0] * counters, "a counter did not start from 0")
    note = f"{counters:,} counters that gave one id each; no task is left of any"
    return Row("idle: bytes per counter in use", grown / counters, "B", note=note)
