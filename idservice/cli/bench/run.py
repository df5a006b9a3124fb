"""The command `bench`: a look at the counter, the load on it, another look, and the report."""

import argparse
import asyncio
import gc
import json
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace

from idservice.cli import http_get
from idservice.cli.bench.load import Load, Plan
from idservice.cli.bench.report import BenchReport, progress
from idservice.cli.bench.request import BenchRequest, BenchTarget, read_ranges
from idservice.cli.bench.results import BenchResults
from idservice.cli.shown_key import shown_key
from idservice.errors import Usage
from idservice.server import stop_signals
from idservice.server.loop import on_signals
from idservice.server.settings import BenchSettings, taken
from idservice.server.sockets import may_open
from idservice.stores.records import check_name
from idservice.web.schemas import IdRanges

FIRST_ANSWER_S = 20.0
LAST_ANSWER_S = 2.0
DESCRIPTORS_SPARE = 64


def bench(arguments: argparse.Namespace) -> Coroutine[object, object, int]:
    """Put load on a service, and check every id it gives."""
    settings = taken(BenchSettings, arguments)
    counter = settings.counter and check_name(settings.counter)
    target = BenchTarget.parse(arguments.where, counter, shown_key(arguments))
    return _bench(target, _begun(target, settings), arguments.json)


async def _bench(target: BenchTarget, report: BenchReport, as_json: bool) -> int:
    of = f"counter {report.before.counter}" if report.before else "the counter"
    print(
        f"idservice: takes ids of {of} at {report.url}; they are real, and a gap afterwards",
        file=sys.stderr,
    )
    if sys.stderr.isatty():
        with _progress_bar(report.plan.warmup_s + report.plan.duration_s) as say:
            report = await _run(target, report, say, every_s=1.0)
    else:
        report = await _run(
            target, report, lambda _, line: print(line, file=sys.stderr, flush=True), every_s=2.0
        )
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


def _begun(target: BenchTarget, settings: BenchSettings) -> BenchReport:
    """Send one request as the load does, and look at the counter, so that a refusal shows at once.

    Return the report of a run that is still to come. Raises NoAnswer, RefusedBy, Usage.
    """
    wanted = settings.connections + DESCRIPTORS_SPARE
    if (most := may_open(wanted)) < wanted:
        raise Usage(
            why=f"--connections is {settings.connections}, and this process may open only {most}"
            " files; use fewer, or raise the limit with ulimit -n"
        )
    url = target.address.url
    ask = BenchRequest(target.path, settings.count, settings.ranges)
    body = http_get.asked(url, ask.target, timeout=FIRST_ANSWER_S, key=target.key)
    first = ask.blocks(body.encode())
    if first is None:
        raise http_get.NoAnswer(
            url=url, why=f"{ask.target} gives {body[:80]!r}, not what was asked for"
        )
    before, looked_at = _look(target, timeout=FIRST_ANSWER_S)
    if before is not None:
        ask = replace(ask, step=max(block.step for block in before.ranges))
    results = BenchResults(ask, one_order=before is not None and before.mode == "strict")
    results.took(first)
    results.took(looked_at)
    plan = Plan(
        target.request(ask.target),
        settings.connections,
        settings.rate,
        settings.warmup,
        settings.duration,
    )
    return BenchReport(url, plan, results, settings.unordered, before)


async def _run(
    target: BenchTarget, report: BenchReport, say: Callable[[float, str], None], *, every_s: float
) -> BenchReport:
    """Put the load on; `say` gets seconds and a line. Raises NoAnswer."""
    results = report.results
    load = Load(report.plan, results, connect=target.connect, wake=_set_alarm)
    gc.freeze()  # a collection of what the start has made would be measured as latency
    with (
        on_signals(load.stop, signal.SIGINT, *stop_signals.numbers()),  # the run is still reported
        on_signals(load.tick, signal.SIGALRM),
    ):
        watch = asyncio.create_task(_watch(results, say, every_s))
        try:
            await load.run()
        except OSError as error:
            why = error.strerror or str(error) or "timed out"
            raise http_get.NoAnswer(url=report.url, why=why) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            watch.cancel()
        after, looked_at = _look(target, timeout=LAST_ANSWER_S)
    results.took(looked_at)
    results.distinct.settle()
    return replace(report, after=after)


def _set_alarm(ns: int) -> None:
    """Have SIGALRM sent in `ns` nanoseconds, precise to some ten microseconds.

    The timers of the loop have milliseconds, and latency is often less than that.
    """
    signal.setitimer(signal.ITIMER_REAL, max(1e-6, ns / 1e9))


async def _watch(results: BenchResults, say: Callable[[float, str], None], every_s: float) -> None:
    began = time.monotonic()
    while True:
        succeeded, latency, at = results.succeeded, results.latency.copy(), time.monotonic()
        await asyncio.sleep(every_s)
        results.distinct.settle()
        now = time.monotonic()
        rate = (results.succeeded - succeeded) / (now - at)
        say(now - began, progress(now - began, results, rate, results.latency.since(latency)))


def _look(target: BenchTarget, *, timeout: float) -> tuple[IdRanges | None, list[range]]:
    """Return the answer of a service that describes the counter, and the id it took.

    Another kind of server gives no such answer, and may have given an id all the same.
    """
    ask = BenchRequest(target.path, 1, ranges=True)
    try:
        status, text = http_get.ask(target.address.url, ask.target, timeout=timeout, key=target.key)
    except http_get.NoAnswer:
        return None, []
    body = text.encode()
    if status != 200:
        return None, []
    blocks = ask.blocks(body)
    if blocks is not None:
        return read_ranges(body), blocks
    return None, BenchRequest(target.path).blocks(body) or []
