"""The cost of a look at a service with a thousand counters, and its effect on requests for ids.

The status page is its document and the first page of figures that its script requests. A latency
under load counts from the time at which the request was meant to be sent. Rounds with a scrape
every second take turns with rounds in which the scraper requests `/livez`.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.load import Clock, Target, at_rate
from benchmarks.measure import Row, check, distinct, interleaved, ratio, spread
from benchmarks.memory import MemoryStore
from benchmarks.processes import get, on_load_core, process, run_to_end, serving
from idservice.allocation.service import Service
from idservice.catalogue.counters import new_counter
from idservice.stores.sqlite.store import SQLiteStore
from idservice.web.app import metrics_page

PAGE_GOAL_MS, SCRAPE_GOAL_MS, P99_GOAL, STEP_GOAL_US = 200.0, 50.0, 1.2, 250.0
COUNTERS = 1_000
CONNECTIONS = 32
RATE = 2_000  # ids per second
EVERY_S = 1.0  # between two scrapes: fifteen times as often as is usual, so that p99 shows them
STARTED_S = 0.5  # until the first scrape
LABELLED = 100  # counters with a separate label, as by default
SCRAPER = """
import sys, time, urllib.request
while True:
    with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}{sys.argv[3]}") as answer:
        assert answer.read()
    time.sleep(float(sys.argv[2]))
"""


def run(quick: bool) -> list[Row]:
    """Return the rows of `look`."""
    # Whole intervals, so that all rounds have the same number of scrapes.
    counters, rounds, round_s, rate = (20, 1, 1.0, 200) if quick else (COUNTERS, 5, 10.0, RATE)
    clock = Clock()
    with ExitStack() as stack:
        stack.enter_context(on_load_core())
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "store"
        store = ("--store", f"sqlite:{path}")
        run_to_end("-m", "idservice", "init", *store)
        asyncio.run(_create(path, counters))
        port, _, _ = stack.enter_context(serving(*store))
        for number in range(counters):
            _got(port, f"/v1/counters/{_name(number)}/next")
        page = _times(lambda: _got(port, "/") + _got(port, "/v1/status"), rounds)
        scrape = _times(lambda: _got(port, "/metrics"), rounds)
        target = Target(port, CONNECTIONS, stack, clock)
        at_rate([target], clock, rate, round_s)  # warm-up

        def p99(scraped: bool) -> float:
            target.latencies.clear()
            with _asking(port, "/metrics" if scraped else "/livez"):
                at_rate([target], clock, rate, round_s)
            return sorted(target.latencies)[int(0.99 * len(target.latencies))] * 1000

        found = interleaved({"with": lambda: p99(True), "without": lambda: p99(False)}, rounds)
    distinct(target.ids)
    step = asyncio.run(_longest_step(counters, rounds))
    of = f"with {counters:,} counters in use"
    return [
        Row(f"look: status page {of}", median(page), "ms", PAGE_GOAL_MS, spread(page)),
        Row(f"look: scrape {of}", median(scrape), "ms", SCRAPE_GOAL_MS, spread(scrape)),
        Row(f"look: longest step of a scrape {of}", step, "µs", STEP_GOAL_US),
        Row(
            f"look: p99 of GET /next, a scrape every {EVERY_S:g} s / /livez",
            ratio(found["with"], found["without"]),
            "×",
            P99_GOAL,
            f"{median(found['with']):.2f} beside {median(found['without']):.2f} ms at {rate:,}"
            f" ids/s; load held up {clock.lost:.2f} s",
        ),
    ]


async def _longest_step(counters: int, rounds: int) -> float:
    """Return the microseconds of CPU for which a scrape holds up other work, in the best round."""
    async with Service(MemoryStore(), random=Random(1)) as service:
        for number in range(counters):
            await (await service.local_counter(_name(number))).next_id()
        return min([_longest_of_one(service) for _ in range(rounds)]) * 1e6


def _longest_of_one(service: Service) -> float:
    longest = 0.0
    work = metrics_page(service, LABELLED)
    while True:
        began = time.thread_time()
        try:
            work.send(None)
        except StopIteration:
            return max(longest, time.thread_time() - began)
        longest = max(longest, time.thread_time() - began)


def _name(number: int) -> str:
    return f"counter-{number}"


async def _create(path: Path, counters: int) -> None:
    async with SQLiteStore(str(path)) as store:
        for number in range(counters):
            await store.create(new_counter(_name(number), Random(number)))


def _got(port: int, target: str) -> int:
    """Return the length of the answer."""
    status, body = get(port, target)
    check(status == 200, f"{target} answers {status} {body[:200]}")
    return len(body)


def _times(look: Callable[[], int], rounds: int) -> list[float]:
    """Return the milliseconds that each look took."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        check(look() > 0, "nothing to see")
        times.append((time.perf_counter() - began) * 1000)
    return times


@contextmanager
def _asking(port: int, target: str) -> Iterator[None]:
    """Ask every `EVERY_S`, in another process, so that the load does not wait for it."""
    asker = [sys.executable, "-c", SCRAPER, str(port), str(EVERY_S), target]
    with process(asker, on_all_cores=True) as one:
        time.sleep(STARTED_S)
        yield
        check(one.poll() is None, f"{target} was not answered")
