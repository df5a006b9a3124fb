"""Several processes on one port: a parent that serves nobody, and keeps its workers alive.

The parent binds every socket once, and forks the workers, which share them: what has connected to
one that is killed, and was not accepted yet, is accepted by another. (With a socket for each, by
SO_REUSEPORT, it would be lost.) The parent has neither threads nor an event loop, so that it may be
forked at any time; it waits for signals and for messages, and for nothing else.
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

from idservice.server import address
from idservice.server.exits import EXIT_FAILURE, EXIT_OK, ending
from idservice.server.process import STOP_MAX_S, say_listening
from idservice.server.workers import messages
from idservice.server.workers.accept_balance import AcceptBalance, AcceptSlot
from idservice.server.workers.link import SupervisorLink
from idservice.server.workers.process import PAUSE_MAX_S, Backoff, WorkerProcess, fork
from idservice.server.workers.signals import Signals
from idservice.server.workers.totals import Report, Totals

log = logging.getLogger("idservice.workers")

ASK_S = 5.0  # how often each worker is asked to report;
FULL_S = 0.001  # in full no oftener than this for each counter, since that takes time
COLLECT_S = 0.7  # for all to report when one asks; who is slower is counted as at its last report
HANG_S = 30.0  # without an answer: it is killed, which costs ids in memory and nothing else
TICK_S = 1.0
STOP_S = STOP_MAX_S + 0.6  # for all workers to end


class Collecting:
    """A worker asked how all are: answered once all `missing` reported, or when it is `due`."""

    def __init__(
        self,
        asker: WorkerProcess,
        number: int,
        missing: list[WorkerProcess],
        due: float,
        *,
        full: bool,
    ) -> None:
        self.asker = asker
        self.number = number
        self.missing = missing
        self.due = due
        self.full = full

    def over(self, now: float) -> bool:
        """Whether there is nothing to wait for."""
        return now >= self.due or all(worker.told >= self.number for worker in self.missing)


class Supervisor:
    """Keeps `count` workers alive, each of which does `work` to its end: serve on `sockets`.

    `work` is given the worker's link, and whether it is the first of all; it returns an exit code.
    """

    def __init__(
        self, sockets: address.Sockets, count: int, work: Callable[[SupervisorLink, bool], int]
    ) -> None:
        self._sockets = sockets
        self._count = count
        self._work = work
        self._balance = AcceptBalance(count)
        self._selector = selectors.DefaultSelector()
        self._signals = Signals()
        self._workers: dict[int, WorkerProcess] = {}  # that live, by their number
        self._backoffs = [Backoff() for _ in range(count)]
        self._start_at: dict[int, float] = {}  # workers to be started, and when
        self._begun = False  # whether one has served
        self._complete = False  # whether all have
        self._stopping = False
        self._give_up_at = float("inf")
        self._totals = Totals()
        self._restarts = 0
        self._collecting: list[Collecting] = []
        self._number = 0  # of the last request to report
        self._ask_at = self._full_at = 0.0
        self._code = EXIT_OK

    def run(self) -> int:
        """Until a stop signal, or until a worker cannot even start; the exit code."""
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

    # --- beginnings ------------------------------------------------------------------------------

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
                "worker %d cannot be started: %s",
                number,
                error.strerror,
                extra={"action": "worker_not_started"},
            )
            self._start_at[number] = time.monotonic() + PAUSE_MAX_S
            return
        self._workers[number] = worker
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)

    def _live(self, number: int, connection: socket.socket) -> int:
        """The life of a worker, in its own process; its exit code."""
        # An end of another's channel kept open here would hide from it that the parent died.
        for worker in self._workers.values():
            worker.connection.close()
        self._selector.close()
        self._signals.close()
        link = SupervisorLink(number, connection, AcceptSlot(self._balance, number))
        return ending(lambda: self._work(link, not self._begun))

    # --- messages --------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until there is something to do, or it is time to look."""
        now = time.monotonic()
        dues = [self._give_up_at, *self._start_at.values(), *(one.due for one in self._collecting)]
        for key, mask in self._selector.select(max(0.0, min([now + TICK_S, *dues]) - now)):
            if key.fileobj is self._signals.wakeup:
                for _ in range(self._signals.stops()):
                    self._on_signal()
                continue
            if mask & selectors.EVENT_READ:
                self._receive(key.data)
            if mask & selectors.EVENT_WRITE:
                self._send(key.data)

    def _receive(self, worker: WorkerProcess) -> None:
        try:
            for message in worker.receive():
                self._hear(worker, message)
        except Exception:  # a bug of ours: it costs that worker, not all
            log.exception(
                "worker %d speaks nonsense", worker.number, extra={"action": "worker_bug"}
            )
            worker.kill()
        if worker.hung_up:
            self._unregister(worker)

    def _hear(self, worker: WorkerProcess, message: messages.Message) -> None:
        match message:
            case messages.Serving():
                worker.serving, worker.served_from = True, time.monotonic()
                self._on_serving(worker)
            case messages.Told(number, report):
                worker.answered(number)
                worker.serving = worker.serving and number > 0  # 0: its last one
                if report is not None:
                    self._totals.reported(worker.number, report)
            case messages.Collect(full, ready):
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
        if not self._begun:  # the store can be used: now the others
            self._begun = True
            say_listening(self._sockets)
            if not self._stopping:
                now = time.monotonic()
                self._start_at.update(dict.fromkeys(range(1, self._count), now))
        if len(self._workers) == self._count:
            self._complete |= all(one.serving for one in self._workers.values())

    def _collect(self, asker: WorkerProcess, *, full: bool, ready: bool = True) -> None:
        serving = self._serving()
        self._ask(serving, full=full, ready=ready)
        missing = [one for one in serving if one.silent_s < COLLECT_S]  # others are silent already
        due = time.monotonic() + COLLECT_S
        self._collecting.append(Collecting(asker, self._number, missing, due, full=full))

    def _serving(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers.values() if worker.serving]

    def _ask(self, workers: list[WorkerProcess], *, full: bool, ready: bool = True) -> None:
        self._number += 1
        for worker in workers:
            worker.asked = self._number
            self._send(worker, messages.Ask(self._number, full, ready))

    def _send(self, worker: WorkerProcess, message: messages.Message | None = None) -> None:
        worker.send(message)
        if not worker.hung_up:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.unsent else 0)
            self._selector.modify(worker.connection, events, worker)

    def _answer(self, now: float) -> None:
        """Tell those who asked what all count, where it is known or time."""
        for collecting in [one for one in self._collecting if one.over(now)]:
            self._collecting.remove(collecting)
            serving = [worker.number for worker in self._serving()]
            snapshot = None
            if collecting.full:
                snapshot = self._totals.snapshot(serving, restarts=self._restarts)
            report = Report(self._totals.readiness(serving), snapshot)
            self._send(collecting.asker, messages.Whole(report))

    # --- watching --------------------------------------------------------------------------------

    def _watch(self, now: float, elapsed: float) -> None:
        """Ask all to report, and kill who hangs."""
        if now >= self._ask_at:
            self._ask_at = now + ASK_S
            prompt = [one for one in self._workers.values() if one.told >= one.asked]
            full = now >= self._full_at
            if full:
                self._full_at = now + max(ASK_S, FULL_S * self._totals.counters)
            self._ask(prompt, full=full)
        for worker in self._workers.values():
            # Time in which this process did not run either, be it stopped or starved, is none.
            if worker.silent_for(min(elapsed, 2 * TICK_S)) >= HANG_S:
                log.error(
                    "worker %d (process %d) hangs: no answer for %.0f s",
                    worker.number,
                    worker.pid,
                    worker.silent_s,
                    extra={"action": "worker_hung"},
                )
                worker.kill()
        if now >= self._give_up_at:
            self._give_up_at = float("inf")
            self._kill_all()

    def _reap(self) -> None:
        """Take note of processes that ended; as the first process of a container also of others."""
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
        self._receive(worker)  # its last words
        self._unregister(worker)
        worker.connection.close()
        del self._workers[worker.number]
        self._balance.gone(worker.number)
        self._totals.ended(worker.number)
        self._collecting = [one for one in self._collecting if one.asker is not worker]
        for collecting in self._collecting:
            collecting.missing = [one for one in collecting.missing if one is not worker]
        failed = code not in (EXIT_OK, -signal.SIGTERM)
        if self._stopping:
            self._code = self._code or (EXIT_FAILURE if failed else EXIT_OK)
        elif failed and not self._complete and worker.served_from is None:
            self._code = code if code > 0 else EXIT_FAILURE  # it has said why
            self._stop()
        else:
            self._restart_later(worker, code)

    def _restart_later(self, worker: WorkerProcess, code: int) -> None:
        now = time.monotonic()
        pause = self._backoffs[worker.number].after(worker.served_for(now))
        log.warning(
            "worker %d (process %d) ended with %s; another starts in %.1f s",
            worker.number,
            worker.pid,
            signal.Signals(-code).name if code < 0 else f"exit code {code}",
            pause,
            extra={"action": "worker_died"},
        )
        self._restarts += 1
        self._start_at[worker.number] = now + pause

    def _unregister(self, worker: WorkerProcess) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(worker.connection)
        worker.hung_up = True

    # --- the end ---------------------------------------------------------------------------------

    def _on_signal(self) -> None:
        if self._stopping:
            self._kill_all()  # asked twice: at once
        else:
            self._stop()

    def _stop(self) -> None:
        """Tell all workers to drain, and leave the sockets to them: the last one closes them."""
        log.info("stopping all workers", extra={"action": "workers_stopping"})
        self._stopping = True
        self._give_up_at = time.monotonic() + STOP_S
        self._start_at.clear()
        self._sockets.close()
        for worker in self._workers.values():
            self._send(worker, messages.Stop())

    def _kill_all(self) -> None:
        self._code = self._code or EXIT_FAILURE
        for worker in self._workers.values():
            worker.kill()
