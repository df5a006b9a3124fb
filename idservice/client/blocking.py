"""The synchronous client: threads take ids from memory, and a background thread refills it."""

import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn, Self, TypeVar

from idservice import errors
from idservice.client.buffer import (
    TIMEOUT_S,
    ClientBuffer,
    check_batch,
    clients,
    forget_if_forked,
    tally_calls,
)
from idservice.client.http_sync import ConnectionPool
from idservice.client.own_key import OwnKey
from idservice.client.process_mark import process_mark
from idservice.client.protocol import HOLD_S, NoUsableAnswer, Reply
from idservice.client.tally import ClientTally
from idservice.client.tally_calls import Steps
from idservice.core.allocator import Allocator, Request
from idservice.core.gap_causes import GapCause

T = TypeVar("T")


class Client:
    """Hands out ids of one counter. Open or enter it; any number of threads may use it.

    `url` is http://HOST:PORT, https://HOST:PORT or unix:PATH. `timeout` is how long a call
    may take and `hold` how long ids are kept, in seconds. `key` is the access key that it shows,
    by default that of the variable IDSERVICE_KEY. After a fork the child begins with no ids.
    """

    __slots__ = (
        "__weakref__", "_buffer", "_connections", "_ids", "_lock", "_own_key", "_refill_ended",
        "_refill_wanted", "_thread", "_waiting",
    )  # fmt: skip

    def __init__(
        self,
        url: str,
        counter: str = "default",
        *,
        timeout: float = TIMEOUT_S,
        hold: float = HOLD_S,
        key: str | None = None,
    ) -> None:
        self._buffer = ClientBuffer(url, counter, timeout=timeout, hold=hold, clock=time.monotonic)
        self._own_key = OwnKey.given(key)
        self._reset_locks()
        self._reset()
        clients.add(self)

    def _reset_locks(self) -> None:
        self._lock = threading.Lock()
        self._refill_wanted = threading.Condition(self._lock)  # a refill may be due
        self._refill_ended = threading.Condition(self._lock)  # one came, or failed
        self._waiting = 0

    def _reset(self) -> None:
        self._buffer.forget()
        self._ids = self._buffer.allocator.buffer
        self._connections = ConnectionPool(self._buffer.address, self._own_key)
        self._thread: threading.Thread | None = None
        self._buffer.mark = process_mark()

    def open(self) -> Self:
        """Open the client for as long as the process runs. If it is open already, leave it so.

        No connection is made before the first id. Raises NotOpen while another thread closes it.
        """
        forget_if_forked(self, self._buffer)
        with self._lock:
            if self._buffer.entered:
                self._buffer.check_open()
            else:
                self._enter()
        return self

    def __enter__(self) -> Self:
        """Open the client. Raises NotOpen if it is open already."""
        forget_if_forked(self, self._buffer)
        with self._lock:
            self._enter()
        return self

    def _enter(self) -> None:
        self._buffer.enter()
        if self._buffer.not_open:  # a forked child is open before it is entered
            self._reset()
            self._buffer.not_open = ""

    def __exit__(self, *failure: Any) -> None:
        self.close()

    def close(self) -> None:
        """Drop the ids in memory, and fail calls that wait with NotOpen. May be called again."""
        forget_if_forked(self, self._buffer)
        with self._lock:
            self._buffer.not_open = "is closed"
            self._buffer.allocator.retire(GapCause.STOP)
            self._refill_wanted.notify_all()
            self._refill_ended.notify_all()
            thread, self._thread = self._thread, None
        self._connections.close()
        if thread is not None:
            thread.join()
        # Last: the client may be entered again only once its old thread has ended.
        self._buffer.entered = False

    # --- ids -------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """Return an id. Raises Refused, WaitedTooLong, NotOpen."""
        for id in self._ids.cursor:  # the cheapest `next` there is
            return id
        return self._next()

    def __iter__(self) -> Iterator[int]:
        """Yield ids without end."""
        while True:
            # Not `yield from`: it would hold on to a cursor whose ids have expired meanwhile.
            for id in self._ids.cursor:
                yield id
                break
            else:
                yield self._next()

    def batch(self, n: int) -> list[int]:
        """Return `n` ids, or raise: BadBatch, and as `next_id`."""
        check_batch(n)
        forget_if_forked(self, self._buffer)
        deadline = time.monotonic() + self._buffer.timeout_s
        with self._lock:
            self._buffer.check_open()
            ids = self._buffer.take_many(n)
            self._refill_wanted.notify()
        if len(ids) < n:
            outcome = errors.UNKNOWN if ids else errors.NOT_APPLIED
            ids += self._borrow(n - len(ids), deadline, outcome)
        return ids

    def _next(self) -> int:
        """Return the next id after the cursor ended, from memory or from a refill."""
        forget_if_forked(self, self._buffer)
        deadline = time.monotonic() + self._buffer.timeout_s
        with self._lock:
            self._buffer.check_open()
            id = self._buffer.take()
            if self._buffer.takes_ahead:
                self._ask_for_refill()
                if id is None:
                    id = self._wait(deadline)
        return id if id is not None else self._borrow(1, deadline)[0]

    def _wait(self, deadline: float) -> int | None:
        """Wait for a refill and return an id of it; None if the counter turns out to be strict."""
        buffer = self._buffer
        refusals = buffer.refusals
        self._waiting += 1
        try:
            while buffer.takes_ahead:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise buffer.timeout_error(buffer.error)
                self._refill_wanted.notify()
                self._refill_ended.wait(left)
                buffer.check_open()
                id = buffer.take()
                if id is not None:
                    return id
                if buffer.refusals != refusals and buffer.error is not None:
                    raise buffer.error.with_traceback(None)
            return None
        finally:
            self._waiting -= 1

    # --- tallies ---------------------------------------------------------------------------------

    def tally(self, name: str) -> ClientTally:
        """Return the tally of this name. Sends nothing. Raises TypeError, BadName."""
        return ClientTally(tally_calls(self._buffer, name), self._carry_out)

    def _carry_out(self, steps: Steps[T]) -> T:
        """Send what the steps of a call say, and return their result."""
        forget_if_forked(self, self._buffer)
        return self._connections.carry_out(steps)

    # --- requests of a call ----------------------------------------------------------------------

    def _borrow(self, count: int, deadline: float, outcome: str = errors.NOT_APPLIED) -> list[int]:
        """Take ids by requests of this call alone."""
        steps = self._buffer.borrow(count, deadline, outcome)
        reply: Reply | NoUsableAnswer | None = None
        try:
            while True:
                with self._lock:
                    step = steps.send(reply)
                if isinstance(step, str):
                    reply = self._send(step, self._buffer.attempt_s(deadline))
                else:
                    time.sleep(step)
        except StopIteration as end:
            ids: list[int] = end.value
            return ids

    def _send(self, target: str, timeout: float) -> Reply | NoUsableAnswer:
        try:
            return self._connections.send("POST", target, timeout=timeout)
        except NoUsableAnswer as error:
            return error

    # --- refills ---------------------------------------------------------------------------------

    def _ask_for_refill(self) -> None:
        """Wake the refill thread, which starts with the first need."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._refill, name="idservice", daemon=True)
            self._thread.start()
        self._refill_wanted.notify()

    def _refill(self) -> None:
        buffer = self._buffer
        while (due := self._next_refill()) is not None:
            allocator, request, nonce, target = due
            since = time.monotonic()
            reply = self._send(target, buffer.attempt_s(since + buffer.timeout_s))
            with self._lock:
                buffer.apply_refill(allocator, request, nonce, reply, since)
                self._refill_ended.notify_all()

    def _next_refill(self) -> tuple[Allocator, Request, str, str] | None:
        """Wait until a refill is due and return it; None when the client is closed."""
        buffer = self._buffer
        with self._lock:
            while not buffer.not_open:
                due = buffer.due(self._waiting)
                if due is not None:
                    return buffer.allocator, *due
                times = (buffer.retry_in(self._waiting), buffer.expires_in())
                self._refill_wanted.wait(
                    min((time for time in times if time is not None), default=None)
                )
        return None

    def forget_in_child(self) -> None:
        """Begin anew after a fork: ids, connections and the thread are the parent's."""
        self._connections.forget()
        self._buffer.entered = False
        self._reset_locks()
        self._reset()


def _no_migration() -> NoReturn:
    """Refuse to be written into a Django migration, as the method of no client in particular."""
    raise errors.Usage(
        why="next_id of a client cannot be the default of a Django field, because a migration"
        " names functions of modules. Define `def order_id(): return ids.next_id()` beside the"
        " client, and write default=order_id"
    )


Client.next_id.deconstruct = _no_migration  # type: ignore[attr-defined]  # Django asks for it
