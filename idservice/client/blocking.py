"""The synchronous client: threads take ids from memory, and one thread of its own refills it."""

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from idservice import errors
from idservice.client.buffer import ENTERED, ClientBuffer, NotOpen, checked, clients, next_step
from idservice.client.http_sync import ConnectionPool
from idservice.client.protocol import HOLD_S, NoUsableAnswer, Reply
from idservice.core.allocator import Allocator, Request
from idservice.core.gap_causes import GapCause

TIMEOUT_S = 2.0


class Client:
    """Ids of one counter; enter it, and any number of threads may ask it.

    `url` is http://HOST:PORT, https://HOST:PORT or unix:PATH. `timeout`: seconds a call may take.
    `hold`: seconds for which ids are kept. After a fork the child begins with none.
    """

    __slots__ = (
        "__weakref__", "_entered", "_filled", "_ids", "_lock", "_stock", "_thread",
        "_waiting", "_wanted", "_wires",
    )  # fmt: skip

    def __init__(
        self,
        url: str,
        counter: str = "default",
        *,
        timeout: float = TIMEOUT_S,
        hold: float = HOLD_S,
    ) -> None:
        self._stock = ClientBuffer(url, counter, timeout=timeout, hold=hold, clock=time.monotonic)
        self._entered = False
        self._renew_locks()
        self._start_anew()
        clients.add(self)

    def _renew_locks(self) -> None:
        self._lock = threading.Lock()
        self._wanted = threading.Condition(self._lock)  # a refill may be due
        self._filled = threading.Condition(self._lock)  # one came, or failed
        self._waiting = 0

    def _start_anew(self) -> None:
        self._stock.forget()
        self._ids = self._stock.allocator.buffer
        self._wires = ConnectionPool(self._stock.address)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Raises NotOpen where it is entered already: the ids of one life are not another's."""
        with self._lock:
            if self._entered:
                raise NotOpen(why=ENTERED)
            self._entered = True
            if self._stock.not_open:  # a forked child has it open before it enters it
                self._start_anew()
                self._stock.not_open = ""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the ids in memory, for good; who waits is told so. May be called again."""
        with self._lock:
            self._stock.not_open = "is closed"
            self._stock.allocator.retire(GapCause.STOP)
            self._wanted.notify_all()
            self._filled.notify_all()
            thread, self._thread = self._thread, None
        self._wires.close()
        if thread is not None:
            thread.join()
        self._entered = False  # not before: a new life must not have the thread of the old one

    # --- ids -------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """An id. Raises Refused, WaitedTooLong, NotOpen."""
        for id in self._ids.cursor:  # the cheapest `next` there is
            return id
        return self._next()

    def __iter__(self) -> Iterator[int]:
        """Ids without end."""
        while True:
            # Not `yield from`: it would hold on to a cursor whose ids have expired meanwhile.
            for id in self._ids.cursor:
                yield id
                break
            else:
                yield self._next()

    def batch(self, n: int) -> list[int]:
        """`n` ids, all of them or an error. Raises BadBatch, and as `next_id`."""
        checked(n)
        deadline = time.monotonic() + self._stock.timeout_s
        with self._lock:
            self._stock.check_open()
            ids = self._stock.take_many(n)
            self._wanted.notify()
        return ids + self._borrow(n - len(ids), deadline) if len(ids) < n else ids

    def _next(self) -> int:
        """The next id, where the cursor ended: memory may hold more, or a refill brings them."""
        deadline = time.monotonic() + self._stock.timeout_s
        with self._lock:
            self._stock.check_open()
            id = self._stock.take()
            if self._stock.takes_ahead:
                self._refill_soon()
                if id is None:
                    id = self._wait(deadline)
        return id if id is not None else self._borrow(1, deadline)[0]

    def _wait(self, deadline: float) -> int | None:
        """Wait for a refill; None where the counter turns out to be strict now."""
        stock = self._stock
        refusals = stock.refusals
        self._waiting += 1
        try:
            while stock.takes_ahead:
                left = deadline - time.monotonic()
                if left <= 0:
                    outcome = stock.error.outcome if stock.error is not None else errors.UNKNOWN
                    raise stock.gave_up(stock.error, outcome)
                self._wanted.notify()
                self._filled.wait(left)
                stock.check_open()
                id = stock.take()
                if id is not None:
                    return id
                if stock.refusals != refusals and stock.error is not None:
                    raise stock.error.with_traceback(None)
            return None
        finally:
            self._waiting -= 1

    def _borrow(self, count: int, deadline: float) -> list[int]:
        """Ids by exchanges of our own."""
        steps = self._stock.borrow(count, deadline)
        answer: Reply | NoUsableAnswer | None = None
        try:
            while True:
                with self._lock:
                    self._stock.check_open()
                    step = next_step(steps, answer)
                answer = None
                if isinstance(step, str):
                    answer = self._sent(step, self._stock.attempt_s(deadline))
                else:
                    time.sleep(step)
        except StopIteration as end:
            ids: list[int] = end.value
            return ids

    def _sent(self, target: str, timeout: float) -> Reply | NoUsableAnswer:
        try:
            return self._wires.post(target, timeout=timeout)
        except NoUsableAnswer as error:
            return error

    # --- refills ---------------------------------------------------------------------------------

    def _refill_soon(self) -> None:
        """Let the refill thread look whether one is due; it begins with the first need."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._refill, name="idservice", daemon=True)
            self._thread.start()
        self._wanted.notify()

    def _refill(self) -> None:
        stock = self._stock
        while (due := self._awaited()) is not None:
            allocator, request, nonce, target = due
            since = time.monotonic()
            reply = self._sent(target, stock.attempt_s(since + stock.timeout_s))
            with self._lock:
                stock.refilled(allocator, request, nonce, reply, since)
                self._filled.notify_all()

    def _awaited(self) -> tuple[Allocator, Request, str, str] | None:
        """The next refill once it is due; None when the client is closed."""
        stock = self._stock
        with self._lock:
            while not stock.not_open:
                due = stock.due(self._waiting)
                if due is not None:
                    return stock.allocator, *due
                times = (stock.due_in(self._waiting), stock.expires_in())
                self._wanted.wait(min((time for time in times if time is not None), default=None))
        return None

    def forget_in_child(self) -> None:
        """After a fork: ids, connections and the thread are the parent's."""
        self._wires.forget()
        self._entered = False
        self._renew_locks()
        self._start_anew()
