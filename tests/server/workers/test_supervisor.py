"""How a parent sees and treats its workers, without serving anything."""

import asyncio
import errno
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest

from idservice.observability.latency import Latency
from idservice.observability.readings import CounterSample, CounterStats, Readiness, Snapshot
from idservice.server.sockets import Sockets
from idservice.server.workers import messages, supervisor
from idservice.server.workers.accept_balance import GONE, AcceptSlot, shared_counts
from idservice.server.workers.link import ParentSilent, SupervisorLink
from idservice.server.workers.process import WorkerProcess
from idservice.server.workers.supervisor import (
    HANG_S,
    TRANSITIONS,
    Supervisor,
    WorkerEvent,
    WorkerState,
)
from idservice.server.workers.totals import WorkerStatus
from idservice.server.workers.turn import Turn
from tests.processes import START_S

TALLY = CounterStats({"granted": 2}, {"bad_count": 1}, waits=3, wait_seconds=0.5)
READING = CounterSample("a", 3, 10, 7, float("inf"), 1, {"late": 2}, TALLY)
REPORT = WorkerStatus(Readiness("why", ""), Snapshot([READING], True, Latency(), "1.0"))
NOBODY = 2**30  # no process has that id

# --- starting again -------------------------------------------------------------------------------


def test_the_pause_before_a_restart_doubles_until_a_worker_lives_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: now))
    parent = Supervisor(Sockets([], []), 1, lambda link, first: 0)

    def pause_s(served_s: float | None) -> float:
        worker = WorkerProcess(0, NOBODY, socket.socket())
        worker.connection.close()
        if served_s is not None:
            worker.served_from = now - served_s
        parent._restart_later(worker, 1)
        return round(parent._start_at[0] - now, 6)

    assert [pause_s(served_s) for served_s in (None, 1.0, 9.0)] == [0.1, 0.2, 0.4]
    assert pause_s(11.0) == 0.1
    pauses = [pause_s(0.0) for _ in range(20)]
    assert pauses[0] == 0.2
    assert pauses[-1] == 5.0
    assert pauses == sorted(pauses)


# --- the balance ----------------------------------------------------------------------------------


def test_a_worker_with_more_connections_lets_others_first() -> None:
    counts = shared_counts(3)
    slots = [AcceptSlot(counts, number) for number in range(3)]
    assert not any(slot.lets_others_first() for slot in slots), "none accepts yet: any may be first"
    for slot, count in zip(slots, (2, 1, 1), strict=True):
        slot.take()
        slot.set_count(count)
    assert [slot.lets_others_first() for slot in slots] == [True, False, False]
    slots[1].leave()
    slots[1].set_count(0)  # a connection that ends while it drains
    assert counts[1] == GONE
    counts[2] = GONE
    assert [slot.lets_others_first() for slot in slots] == [False, True, True]


def test_a_process_alone_lets_no_other_first() -> None:
    slot = AcceptSlot()
    assert not slot.lets_others_first()
    slot.take()
    slot.set_count(100)
    assert not slot.lets_others_first()


# --- the channel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_arrive_however_they_are_cut(size: int) -> None:
    sent: list[messages.Message] = [
        messages.Serving(),
        messages.ReportRequest(7, True),
        messages.Report(7, REPORT),
        messages.Report(8, None),
        messages.CollectRequest(False),
        messages.PoolStatus(REPORT),
        messages.Stop(),
    ]
    data = b"".join(map(messages.encoded, sent))
    reader = messages.MessageReader()
    got = [
        message
        for start in range(0, len(data), size)
        for message in reader.messages(data[start : start + size])
    ]
    assert got == sent


def test_a_message_beyond_all_bounds_or_of_no_known_kind_is_not_kept() -> None:
    with pytest.raises(AssertionError):
        messages.MessageReader().messages(b"\xff\xff\xff\xff")
    with pytest.raises(msgspec.DecodeError):
        messages.MessageReader().messages(b"\0\0\0\1\xc0")


# --- a worker's end -------------------------------------------------------------------------------


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[SupervisorLink, WorkerProcess, asyncio.Event]]:
    """A link, what its parent sees, and whether the worker was told to end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    ended = asyncio.Event()
    link = SupervisorLink(0, theirs, AcceptSlot(shared_counts(2), 0), Turn())
    worker = WorkerProcess(0, 0, ours)
    with ours:
        async with link.held(ended.set):
            yield link, worker, ended


async def heard(worker: WorkerProcess) -> list[messages.Message]:
    async with asyncio.timeout(60):
        while not (heard := worker.receive()):
            await asyncio.sleep(0)
    return heard


async def reporting(full: bool, ready: bool) -> WorkerStatus:
    said = replace(REPORT, readiness=REPORT.readiness if ready else None)
    return said if full else replace(said, snapshot=None)


async def test_a_worker_reports_when_asked_and_nothing_while_it_starts() -> None:
    async with linked() as (link, worker, ended):
        worker.send(messages.ReportRequest(1, True))
        assert await heard(worker) == [messages.Report(1, None)]
        link.serving(reporting)
        assert await heard(worker) == [messages.Serving()]
        worker.send(messages.ReportRequest(2, False))
        assert await heard(worker) == [messages.Report(2, replace(REPORT, snapshot=None))]
        assert not ended.is_set()


async def test_the_last_word_of_a_worker_is_what_it_counted() -> None:
    async with linked() as (link, worker, _):
        link.serving(reporting)
        await heard(worker)
        kept = worker.connection.dup()
    last = WorkerProcess(0, 0, kept)
    with kept:
        await asyncio.sleep(0)
        assert last.receive() == [messages.Report(0, REPORT)]
        assert last.hung_up


@pytest.mark.parametrize("how", ["told", "orphaned"])
async def test_a_worker_ends_when_told_and_when_its_parent_is_gone(how: str) -> None:
    async with linked() as (link, worker, ended):
        assert not link.slot.pool_ends
        if how == "told":
            worker.send(messages.Stop())
        else:
            worker.connection.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(60):
            await ended.wait()
        assert link.slot.pool_ends, "nobody takes a newcomer from here on"


async def test_callers_share_a_request_but_not_an_earlier_one() -> None:
    async with linked() as (link, worker, _):
        first = asyncio.create_task(link.pool_status(full=False))
        assert await heard(worker) == [messages.CollectRequest(False)]
        later = [asyncio.create_task(link.pool_status(full=full)) for full in (False, True, False)]
        await asyncio.sleep(0)
        early, late = replace(REPORT, snapshot=None), REPORT
        worker.send(messages.PoolStatus(early))
        assert await first == early
        assert await heard(worker) == [messages.CollectRequest(True)]
        worker.send(messages.PoolStatus(late))
        assert [await one for one in later] == [late] * 3


async def test_a_request_for_figures_does_not_read_the_store() -> None:
    """Whether a worker is ready may take a look at the store, and an operator polls the page."""
    async with linked() as (link, worker, _):
        link.serving(reporting)
        await heard(worker)
        page = asyncio.create_task(link.pool_status(full=True))
        assert await heard(worker) == [messages.CollectRequest(True, False)]
        worker.send(messages.ReportRequest(1, True, False))
        assert await heard(worker) == [messages.Report(1, replace(REPORT, readiness=None))]
        worker.send(messages.PoolStatus(REPORT))
        assert await page == REPORT


async def test_a_parent_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with linked() as (link, worker, _):
        with monkeypatch.context() as short, pytest.raises(ParentSilent):
            short.setattr("idservice.server.workers.link.ANSWER_S", 0.01)
            await link.pool_status(full=True)
        answer = asyncio.create_task(link.pool_status(full=True))
        await heard(worker)
        worker.send(messages.PoolStatus(REPORT))  # late, and of the question before
        worker.send(messages.PoolStatus(REPORT))
        assert await answer == REPORT


# --- a machine that is full ----------------------------------------------------------------------


def test_a_worker_that_cannot_be_started_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("os.fork", no_fork)
    monkeypatch.setattr("threading.enumerate", list)  # whatever other tests left running
    parent = Supervisor(Sockets([], []), 2, lambda link, first: 0)
    with pytest.raises(BlockingIOError):
        parent._fork(0)  # the first start fails
    parent._begun = True
    parent._fork(1)
    assert parent._start_at[1] > 0
    assert not parent._workers
    assert "worker 1 cannot be started" in caplog.text


# --- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [one for one in WorkerState if one is not WorkerState.DOWN])
def test_a_worker_in_any_state_can_be_killed_and_can_end(state: WorkerState) -> None:
    assert TRANSITIONS[state, WorkerEvent.KILL] is WorkerState.KILLED
    assert TRANSITIONS[state, WorkerEvent.ENDED] is WorkerState.DOWN


def test_an_event_that_a_state_does_not_allow_is_a_bug() -> None:
    parent = Supervisor(Sockets([], []), 1, lambda link, first: 0)
    with pytest.raises(KeyError):
        parent._on(0, WorkerEvent.SERVES)
    for event in (WorkerEvent.FORKED, WorkerEvent.SERVES, WorkerEvent.LAST_REPORT):
        parent._on(0, event)
    assert parent._states == [WorkerState.LEAVING]
    assert parent._serving() == []


# --- hanging --------------------------------------------------------------------------------------


@pytest.fixture
def idle() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def watching(process: subprocess.Popen[bytes]) -> tuple[Supervisor, WorkerProcess, socket.socket]:
    """A parent with that process as its one worker, which owes it a report."""
    parent = Supervisor(Sockets([], []), 1, lambda link, first: 0)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    worker = WorkerProcess(0, process.pid, ours)
    parent._add(worker)
    parent._watch(0.0, 0.0)
    assert worker.requested > worker.reported
    return parent, worker, theirs


@pytest.mark.process
def test_a_worker_that_answers_nothing_for_long_is_killed(idle: subprocess.Popen[bytes]) -> None:
    parent, worker, theirs = watching(idle)
    with worker.connection, theirs:
        for second in range(int(HANG_S) - 1):
            parent._watch(second, 1.0)
        assert idle.poll() is None
        parent._watch(HANG_S, 1.0)
        assert idle.wait(START_S) == -signal.SIGKILL


@pytest.mark.process
def test_a_parent_that_was_stopped_itself_blames_nobody(idle: subprocess.Popen[bytes]) -> None:
    parent, worker, theirs = watching(idle)
    with worker.connection, theirs:
        for night in range(1, 4):
            parent._watch(night * 30_000.0, 30_000.0)
        assert worker.silent_s < HANG_S
        assert idle.poll() is None


@pytest.mark.process
def test_a_worker_that_answers_late_but_answers_is_left_alone(
    idle: subprocess.Popen[bytes],
) -> None:
    parent, worker, theirs = watching(idle)
    with worker.connection, theirs:
        for second in range(100):
            parent._ask([worker], full=True)  # so that it always owes the newest
            theirs.sendall(messages.encoded(messages.Report(worker.requested - 1, None)))
            parent._receive(worker)
            parent._watch(second, 1.0)
            assert worker.silent_s == 1.0
        assert idle.poll() is None


@pytest.mark.process
def test_a_worker_that_speaks_nonsense_is_killed(
    idle: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    parent, worker, theirs = watching(idle)
    with worker.connection, theirs:
        theirs.sendall(b"\xff\xff\xff\xff")
        parent._receive(worker)
        assert idle.wait(START_S) == -signal.SIGKILL
        assert "cannot be read" in caplog.text


# --- answers of all ------------------------------------------------------------------------------


def test_a_collection_does_not_wait_for_a_worker_that_ended() -> None:
    parent = Supervisor(Sockets([], []), 2, lambda link, first: 0)
    theirs = []
    for number in range(2):
        ours, other = socket.socketpair()
        ours.setblocking(False)
        other.setblocking(False)
        theirs.append(other)
        parent._add(WorkerProcess(number, NOBODY, ours))
        parent._on(number, WorkerEvent.SERVES)
    parent._complete = True  # it outlives the death of a worker
    asker, ends = parent._workers.values()
    with parent._selector, asker.connection, theirs[0], theirs[1]:
        parent._collect(asker, full=False)
        parent._on_message(asker, messages.Report(asker.requested, replace(REPORT, snapshot=None)))
        parent._answer(0.0)
        heard = messages.MessageReader().messages(theirs[0].recv(2**16))
        assert heard == [messages.ReportRequest(asker.requested, False)], "the other is waited for"
        parent._ended(ends, -signal.SIGKILL)
        parent._answer(0.0)  # long before it is due
        assert messages.MessageReader().messages(theirs[0].recv(2**16)) == [
            messages.PoolStatus(replace(REPORT, snapshot=None))
        ]
