"""The command `bench`: a look at the counter, the load on it, another look, and the report."""

import argparse
import asyncio
import gc
import json
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace

from idservice.cli import http_get
from idservice.cli.bench.alarm import Alarm
from idservice.cli.bench.answers import BenchRequest, Ranges, read_ranges
from idservice.cli.bench.load import Load, Plan
from idservice.cli.bench.report import BenchReport, order_promised, progress
from idservice.cli.bench.tally import Tally
from idservice.cli.bench.where import BenchTarget
from idservice.errors import Usage
from idservice.server.settings import BenchSettings, taken
from idservice.stores.records import check_name

FIRST_ANSWER_S = 20.0
LAST_ANSWER_S = 2.0
DESCRIPTORS_SPARE = 64


def bench(arguments: argparse.Namespace) -> Coroutine[object, object, int]:
    """Put load on a service, and check every id it gives."""
    settings = taken(BenchSettings, arguments)
    counter = settings.counter and check_name(settings.counter)
    return _bench(Bench(BenchTarget.parse(arguments.where, counter), settings), arguments.json)


async def _bench(bench: "Bench", as_json: bool) -> int:
    print(f"idservice: {bench.notice}", file=sys.stderr)
    if sys.stderr.isatty():
        with _progress_bar(bench.seconds) as say:
            await bench.run(say, every_s=1.0)
    else:
        await bench.run(lambda _, line: print(line, file=sys.stderr, flush=True), every_s=2.0)
    report = bench.report()
    print(json.dumps(report.as_json()) if as_json else report.lines())
    for fault in report.faults():
        print(f"idservice: {fault}", file=sys.stderr)
    return 1 if report.faults() else 0


@contextmanager
def _progress_bar(seconds: float) -> Iterator[Callable[[float, str], None]]:
    """Yield a function that shows the progress on a terminal."""
    from rich.console import Console, Group  # slow to load: for a terminal only
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:

        def say(done: float, line: str) -> None:
            bar = ProgressBar(total=seconds, completed=min(done, seconds), width=len(line))
            live.update(Group(Text(line), bar), refresh=True)

        yield say


class Bench:
    """One run. It begins with one request as the load sends them, and one look at the counter.

    So a refusal shows at once. Raises http_get.NoAnswer, http_get.RefusedBy, Usage.
    """

    def __init__(self, where: BenchTarget, settings: BenchSettings) -> None:
        _make_room(settings.connections)
        self._settings = settings
        self._where = where
        ask = BenchRequest(where.path, settings.count, settings.ranges)
        status, body = http_get.ask(where.url, ask.target, timeout=FIRST_ANSWER_S)
        if status != 200:
            raise http_get.RefusedBy(url=where.url, why=http_get.detail(status, body))
        first = ask.blocks(body.encode())
        if first is None:
            raise http_get.NoAnswer(
                url=where.url, why=f"{ask.target} gives {body[:80]!r}, not what was asked for"
            )
        self._before, looked_at = _look(where, timeout=FIRST_ANSWER_S)
        if self._before is not None:
            ask = replace(ask, step=max(block.step for block in self._before.ranges))
        self._after: Ranges | None = None
        self._tally = Tally(
            ask, one_order=self._before is not None and self._before.mode == "strict"
        )
        self._tally.took(first)
        self._tally.took(looked_at)
        self._plan = Plan(
            where.request(ask.target),
            settings.connections,
            settings.rate,
            settings.warmup,
            settings.duration,
        )

    @property
    def seconds(self) -> float:
        """The planned time of the load."""
        return self._plan.warmup_s + self._plan.duration_s

    @property
    def notice(self) -> str:
        """A sentence on the ids that it takes."""
        what = f"counter {self._before.counter}" if self._before else "the counter"
        return f"takes ids of {what} at {self._where.url}; they are real, and a gap afterwards"

    async def run(self, say: Callable[[float, str], None], *, every_s: float) -> None:
        """Put the load on; `say` gets seconds and a line. Raises http_get.NoAnswer."""
        with Alarm() as alarm:
            load = Load(self._plan, self._tally, connect=self._where.connect, wake=alarm.set)
            with _stopped_by_signals(load.stop), _without_collections():
                watch = asyncio.create_task(self._watch(say, every_s))
                try:
                    await load.run()
                except OSError as error:
                    why = error.strerror or str(error) or "timed out"
                    raise http_get.NoAnswer(url=self._where.url, why=why) from None
                finally:
                    watch.cancel()
                self._after, looked_at = _look(self._where, timeout=LAST_ANSWER_S)
                self._tally.took(looked_at)
                self._tally.distinct.settle()

    def report(self) -> BenchReport:
        """Return the report."""
        return BenchReport(
            url=self._where.url,
            plan=self._plan,
            ask=self._tally.ask,
            tally=self._tally,
            order=order_promised(self._before, unordered=self._settings.unordered),
            before=self._before,
            after=self._after,
        )

    async def _watch(self, say: Callable[[float, str], None], every_s: float) -> None:
        tally, began = self._tally, time.monotonic()
        while True:
            succeeded, latency, at = tally.succeeded, tally.latency.copy(), time.monotonic()
            await asyncio.sleep(every_s)
            tally.distinct.settle()
            now = time.monotonic()
            rate = (tally.succeeded - succeeded) / (now - at)
            line = progress(now - began, tally, rate, tally.latency.since(latency))
            say(now - began, line)


def _look(where: BenchTarget, *, timeout: float) -> tuple[Ranges | None, list[range]]:
    """Return the answer of a service that describes the counter, and the id it took.

    Another kind of server gives no such answer, and may have given an id all the same.
    """
    ask = BenchRequest(where.path, 1, ranges=True)
    try:
        status, text = http_get.ask(where.url, ask.target, timeout=timeout)
    except http_get.NoAnswer:
        return None, []
    body = text.encode()
    if status != 200:
        return None, []
    blocks = ask.blocks(body)
    if blocks is not None:
        return read_ranges(body), blocks
    return None, BenchRequest(where.path).blocks(body) or []


def _make_room(connections: int) -> None:
    """Allow this process to open that many connections. Raises Usage."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + DESCRIPTORS_SPARE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Usage(
            why=f"--connections is {connections}, and this process may open only {hard} files;"
            " use fewer, or raise the limit with ulimit -n"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run early; it is still reported."""
    loop = asyncio.get_running_loop()
    names = (signal.SIGINT, signal.SIGTERM)
    for name in names:
        loop.add_signal_handler(name, stop)
    try:
        yield
    finally:
        for name in names:
            loop.remove_signal_handler(name)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Keep the garbage collector from older objects; its pauses would be measured as latency."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
