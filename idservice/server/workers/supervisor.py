"""Keeps several worker processes alive that serve on the same sockets.

The supervisor binds every socket once and forks the workers, which share them. A connection that
waits when its worker is killed is accepted by another one. With a socket for each worker, by
SO_REUSEPORT, it would be lost. The supervisor has no event loop, and no thread but that of
the log, so it can be forked at any time. It waits for signals and messages, and for nothing else.
"""

import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from idservice.core.timeouts import backoff
from idservice.server.certificate import LOOK_S
from idservice.server.exits import EXIT_FAILURE, EXIT_OK, ending
from idservice.server.shutdown import STOP_MAX_S
from idservice.server.sockets import Sockets
from idservice.server.workers import messages
from idservice.server.workers.accept_balance import GONE, AcceptSlot, shared_counts
from idservice.server.workers.collecting import Collecting
from idservice.server.workers.link import SupervisorLink
from idservice.server.workers.process import Signals, WorkerProcess, fork
from idservice.server.workers.totals import Totals, WorkerStatus
from idservice.server.workers.turn import Turn

log = logging.getLogger("idservice.workers")

ASK_S = 5.0  # between two requests to report
FULL_S = 0.001  # between two full reports, per counter, since these take time
COLLECT_S = 0.7  # for all workers to report; a slower one counts as in its last report
HANG_S = 30.0  # after this time without an answer a worker is killed, which costs its ids in memory
TICK_S = 1.0
PAUSE_FIRST_S, PAUSE_MAX_S = 0.1, 5.0  # before a worker that ended is started again
LIVED_S = 10.0  # of service, after which a worker counts as healthy
STOP_S = STOP_MAX_S + 0.6  # for all workers to end


class WorkerState(Enum):
    """The state of one worker, which outlives its process."""

    DOWN = "no process runs; one is started when it is due"
    STARTING = "its process opens the store"
    SERVING = "it accepts connections and reports"
    LEAVING = "it has sent its last report"
    KILLED = "it was sent SIGKILL"


class WorkerEvent(Enum):
    """An event that changes the state of a worker."""

    FORKED = "a process was started"
    SERVES = "it said that it accepts connections"
    LAST_REPORT = "it sent its last report"
    KILL = "it hangs, sent garbage, or a stop takes too long"
    ENDED = "its process ended"


TRANSITIONS = {
    (WorkerState.DOWN, WorkerEvent.FORKED): WorkerState.STARTING,
    (WorkerState.STARTING, WorkerEvent.SERVES): WorkerState.SERVING,
    (WorkerState.STARTING, WorkerEvent.KILL): WorkerState.KILLED,
    (WorkerState.STARTING, WorkerEvent.ENDED): WorkerState.DOWN,
    (WorkerState.SERVING, WorkerEvent.LAST_REPORT): WorkerState.LEAVING,
    (WorkerState.SERVING, WorkerEvent.KILL): WorkerState.KILLED,
    (WorkerState.SERVING, WorkerEvent.ENDED): WorkerState.DOWN,
    (WorkerState.LEAVING, WorkerEvent.KILL): WorkerState.KILLED,
    (WorkerState.LEAVING, WorkerEvent.ENDED): WorkerState.DOWN,
    # Messages that were under way before the kill are still read.
    (WorkerState.KILLED, WorkerEvent.SERVES): WorkerState.KILLED,
    (WorkerState.KILLED, WorkerEvent.LAST_REPORT): WorkerState.KILLED,
    (WorkerState.KILLED, WorkerEvent.KILL): WorkerState.KILLED,
    (WorkerState.KILLED, WorkerEvent.ENDED): WorkerState.DOWN,
}


class Supervisor:
    """Runs `count` workers, each of which does `work` to its end: serve on `sockets`.

    `work` gets the worker's link, and True until a worker has served; it returns an exit code.
    """

    def __init__(
        self, sockets: Sockets, count: int, work: Callable[[SupervisorLink, bool], int]
    ) -> None:
        self._sockets = sockets
        self._count = count
        self._work = work
        self._counts = shared_counts(count)
        self._turn = Turn()
        self._selector = selectors.DefaultSelector()
        self._signals = Signals()
        self._states = [WorkerState.DOWN] * count
        self._workers: dict[int, WorkerProcess] = {}  # processes that live, by number
        self._failures = [0] * count  # of a worker, in a row
        self._start_at: dict[int, float] = {}  # workers to be started, and when
        self._begun = False  # true once one worker has served
        self._complete = False  # true once all have
        self._stopping = False
        self._signalled = False  # by more than a hangup
        self._give_up_at = float("inf")
        self._totals = Totals()
        self._restarts = 0
        self._collecting: list[Collecting] = []
        self._number = 0  # of the last request to report
        self._ask_at = self._full_at = self._look_at = 0.0
        self._code = EXIT_OK

    def run(self) -> int:
        """Run until a stop signal, or until no worker can start; return the exit code."""
        gc.collect()
        gc.freeze()  # a collection in a worker would write to, and so copy, the memory they share
        with self._selector, self._signals:
            self._selector.register(self._signals.wakeup, selectors.EVENT_READ)
            before = self._start_at[0] = time.monotonic()
            while self._workers or not self._stopping:
                self._start_due()
                self._wait()
                self._reap()
                now = time.monotonic()
                self._watch(now, now - before)
                self._answer(now)
                before = now
        log.info("all workers ended", extra={"action": "workers_stopped"})
        return self._code

    def _on(self, number: int, event: WorkerEvent) -> None:
        """Change the state of a worker; an event that its state does not allow is a bug."""
        self._states[number] = TRANSITIONS[self._states[number], event]

    # --- starts ----------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for number, due in list(self._start_at.items()):
            if due <= now:
                del self._start_at[number]
                self._fork(number)

    def _fork(self, number: int) -> None:
        try:
            worker = fork(number, lambda connection: self._live(number, connection))
        except OSError as error:  # out of processes, descriptors or memory
            if not self._begun:
                raise
            log.error(
                "worker %d cannot be started: %s; trying again in %g s",
                number,
                error.strerror,
                PAUSE_MAX_S,
                extra={"action": "worker_not_started"},
            )
            self._start_at[number] = time.monotonic() + PAUSE_MAX_S
            return
        self._add(worker)

    def _add(self, worker: WorkerProcess) -> None:
        self._on(worker.number, WorkerEvent.FORKED)
        self._workers[worker.number] = worker
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)

    def _live(self, number: int, connection: socket.socket) -> int:
        # A copy of another worker's channel would hide from that one that the supervisor died.
        for worker in self._workers.values():
            worker.connection.close()
        self._selector.close()
        self._signals.close()
        link = SupervisorLink(number, connection, AcceptSlot(self._counts, number), self._turn)
        return ending(lambda: self._work(link, not self._begun))

    # --- messages --------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait for a message or a signal, or until something is due."""
        now = time.monotonic()
        dues = [self._give_up_at, *self._start_at.values(), *(one.due for one in self._collecting)]
        for key, mask in self._selector.select(max(0.0, min([now + TICK_S, *dues]) - now)):
            if key.fileobj is self._signals.wakeup:
                for number in self._signals.stops():
                    self._on_signal(number)
                continue
            if mask & selectors.EVENT_READ:
                self._receive(key.data)
            if mask & selectors.EVENT_WRITE:
                self._send(key.data)

    def _receive(self, worker: WorkerProcess) -> None:
        try:
            for message in worker.receive():
                self._on_message(worker, message)
        except Exception:  # a bug of ours: it costs that worker, not all
            log.exception(
                "worker %d sent a message that cannot be read; it is killed",
                worker.number,
                extra={"action": "worker_bug"},
            )
            self._kill(worker)
        if worker.hung_up:
            self._unregister(worker)

    def _on_message(self, worker: WorkerProcess, message: messages.Message) -> None:
        match message:
            case messages.Serving():
                self._on(worker.number, WorkerEvent.SERVES)
                worker.served_from = time.monotonic()
                self._on_serving(worker)
            case messages.Report(number, status):
                worker.reported = max(worker.reported, number)
                worker.silent_s = 0.0  # any answer shows that it runs
                if number == 0:
                    self._on(worker.number, WorkerEvent.LAST_REPORT)
                if status is not None:
                    self._totals.reported(worker.number, status)
            case messages.CollectRequest(full, ready):
                self._collect(worker, full=full, ready=ready)
            case _:
                raise AssertionError(message)

    def _on_serving(self, worker: WorkerProcess) -> None:
        log.info(
            "worker %d (process %d) serves",
            worker.number,
            worker.pid,
            extra={"action": "worker_started"},
        )
        self._ask([worker], full=True)
        if not self._begun:  # the store can be used: start the others
            self._begun = True
            self._sockets.log_addresses()
            if not self._stopping:
                now = time.monotonic()
                self._start_at.update(dict.fromkeys(range(1, self._count), now))
        self._complete |= all(state is WorkerState.SERVING for state in self._states)

    def _collect(self, asker: WorkerProcess, *, full: bool, ready: bool = True) -> None:
        serving = self._serving()
        self._ask(serving, full=full, ready=ready)
        missing = [one for one in serving if one.silent_s < COLLECT_S]  # not the silent ones
        due = time.monotonic() + COLLECT_S
        self._collecting.append(Collecting(asker, self._number, missing, due, full))

    def _serving(self) -> list[WorkerProcess]:
        serving = WorkerState.SERVING
        return [one for one in self._workers.values() if self._states[one.number] is serving]

    def _ask(self, workers: list[WorkerProcess], *, full: bool, ready: bool = True) -> None:
        self._number += 1
        for worker in workers:
            worker.requested = self._number
            self._send(worker, messages.ReportRequest(self._number, full, ready))

    def _send(self, worker: WorkerProcess, message: messages.Message | None = None) -> None:
        worker.send(message)
        if not worker.hung_up:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.unsent else 0)
            self._selector.modify(worker.connection, events, worker)

    def _answer(self, now: float) -> None:
        """Send the status of the pool to each worker that asked, once it is complete or due."""
        for collecting in [one for one in self._collecting if one.over(now)]:
            self._collecting.remove(collecting)
            serving = [worker.number for worker in self._serving()]
            snapshot = None
            if collecting.full:
                snapshot = self._totals.snapshot(serving, restarts=self._restarts)
            status = WorkerStatus(self._totals.readiness(serving), snapshot)
            self._send(collecting.asker, messages.PoolStatus(status))

    # --- watching --------------------------------------------------------------------------------

    def _watch(self, now: float, elapsed: float) -> None:
        """Look at the certificate, ask all workers to report, and kill those that hang."""
        certificate = self._sockets.certificate
        if certificate is not None and now >= self._look_at:
            self._look_at = now + LOOK_S
            if certificate.look():  # a worker that is forked later begins with it
                self._renew()
        if now >= self._ask_at:
            self._ask_at = now + ASK_S
            prompt = [one for one in self._workers.values() if one.reported >= one.requested]
            full = now >= self._full_at
            if full:
                self._full_at = now + max(ASK_S, FULL_S * len(self._totals.names))
            self._ask(prompt, full=full)
        for worker in self._workers.values():
            # Time in which this process did not run either, stopped or starved, does not count.
            owes = worker.reported < worker.requested
            worker.silent_s = worker.silent_s + min(elapsed, 2 * TICK_S) if owes else 0.0
            if worker.silent_s >= HANG_S and self._states[worker.number] is not WorkerState.KILLED:
                log.error(
                    "worker %d (process %d) hangs: no answer for %.0f s; it is killed",
                    worker.number,
                    worker.pid,
                    worker.silent_s,
                    extra={"action": "worker_hung"},
                )
                self._kill(worker)
        if now >= self._give_up_at:
            self._give_up_at = float("inf")
            self._kill_all()

    def _renew(self) -> None:
        """Have all workers read the certificate again."""
        for worker in self._workers.values():
            self._send(worker, messages.Renew())

    def _kill(self, worker: WorkerProcess) -> None:
        """End a process at once. That is safe at any time, and costs a gap at worst."""
        self._on(worker.number, WorkerEvent.KILL)
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Note which processes ended; the first process of a container also reaps others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for worker in [one for one in self._workers.values() if one.pid == pid]:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: WorkerProcess, code: int) -> None:
        self._receive(worker)  # its last messages
        self._unregister(worker)
        worker.connection.close()
        del self._workers[worker.number]
        self._on(worker.number, WorkerEvent.ENDED)
        self._counts[worker.number] = GONE
        self._totals.ended(worker.number)
        self._collecting = [one for one in self._collecting if one.asker is not worker]
        failed = code not in (EXIT_OK, -signal.SIGTERM, -signal.SIGQUIT, -signal.SIGHUP)
        if self._stopping:
            self._code = self._code or (EXIT_FAILURE if failed else EXIT_OK)
        elif failed and not self._complete and worker.served_from is None:
            self._code = code if code > 0 else EXIT_FAILURE  # it has said why
            self._stop()
        else:
            self._restart_later(worker, code)

    def _restart_later(self, worker: WorkerProcess, code: int) -> None:
        now = time.monotonic()
        if worker.served_from is not None and now - worker.served_from >= LIVED_S:
            self._failures[worker.number] = 0
        self._failures[worker.number] += 1
        pause_s = backoff(self._failures[worker.number], first_s=PAUSE_FIRST_S, max_s=PAUSE_MAX_S)
        log.warning(
            "worker %d (process %d) ended with %s; another starts in %.1f s",
            worker.number,
            worker.pid,
            signal.Signals(-code).name if code < 0 else f"exit code {code}",
            pause_s,
            extra={"action": "worker_died"},
        )
        self._restarts += 1
        self._start_at[worker.number] = now + pause_s

    def _unregister(self, worker: WorkerProcess) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(worker.connection)
        worker.hung_up = True

    # --- the end ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Tell all workers to drain, and leave the sockets to them: the last one closes them."""
        log.info("stopping all workers", extra={"action": "workers_stopping"})
        self._stopping = True
        self._give_up_at = time.monotonic() + STOP_S
        self._start_at.clear()
        self._sockets.close()
        for worker in self._workers.values():
            self._send(worker, messages.Stop())

    def _on_signal(self, number: int) -> None:
        """Begin the stop; a second signal ends all at once, except SIGHUP: see `serve`. With a
        certificate, SIGHUP has all processes read it again."""
        if number == signal.SIGHUP and self._sockets.certificate is not None:
            if self._sockets.certificate.renew():
                self._renew()
            return
        if not self._stopping:
            self._stop()
        elif self._signalled and number != signal.SIGHUP:
            self._kill_all()
        self._signalled |= number != signal.SIGHUP

    def _kill_all(self) -> None:
        self._code = self._code or EXIT_FAILURE
        for worker in self._workers.values():
            self._kill(worker)
