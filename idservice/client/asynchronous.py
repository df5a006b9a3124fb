"""The client for asyncio: ids from memory without waiting, and a task that refills it."""

import asyncio
import time
from typing import Any, Self, TypeVar

from idservice.client.buffer import (
    TIMEOUT_S,
    ClientBuffer,
    NotOpen,
    check_batch,
    clients,
    forget_if_forked,
    tally_calls,
)
from idservice.client.http_async import AsyncTransport
from idservice.client.own_key import OwnKey
from idservice.client.process_mark import process_mark
from idservice.client.protocol import HOLD_S, NoUsableAnswer, Reply
from idservice.client.tally import AsyncClientTally
from idservice.client.tally_calls import Steps
from idservice.core.allocator import Request
from idservice.core.gap_causes import GapCause

T = TypeVar("T")

ANOTHER_LOOP = "is open in another event loop; make one for each loop"


class AsyncClient:
    """Hands out ids of one counter. Open or enter it; any number of tasks of one loop may use it.

    `url` is http://HOST:PORT, https://HOST:PORT or unix:PATH. `timeout` is how long a call
    may take and `hold` how long ids are kept, in seconds. `key` is the access key that it shows,
    by default that of the variable IDSERVICE_KEY. A forked child must open it again.
    """

    __slots__ = (
        "__weakref__", "_buffer", "_expiry", "_ids", "_loop", "_refill_ended",
        "_refilling", "_transport", "_waiting",
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
        self._ids = self._buffer.allocator.buffer
        self._transport = AsyncTransport(self._buffer.address, OwnKey.given(key))
        self._begin()

    def _begin(self) -> None:
        """Know of no task and no timer: there are none yet, or another loop has them."""
        self._waiting = 0  # calls that wait for a refill
        self._refill_ended = asyncio.Event()  # of the present refill; each has its own
        self._refilling: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def open(self) -> Self:
        """Open the client for as long as its loop runs. If it is open already, leave it so.

        No connection is made before the first id. Raises NotOpen while another task closes it,
        and while it is open in another loop. After that loop is closed it begins anew.
        """
        forget_if_forked(self, self._buffer)
        if self._buffer.entered and self._loop.is_closed():
            self._begin()
            self._buffer.entered = False
        if not self._buffer.entered:
            return await self.__aenter__()
        self._buffer.check_open()
        if self._loop is not asyncio.get_running_loop():
            raise NotOpen(why=ANOTHER_LOOP)
        return self

    async def __aenter__(self) -> Self:
        """Open the client. Raises NotOpen if it is open already."""
        forget_if_forked(self, self._buffer)
        self._buffer.enter()
        self._loop = asyncio.get_running_loop()
        await self._transport.__aenter__()
        self._buffer.clock = self._loop.time
        self._reset()
        self._buffer.not_open = ""
        clients.add(self)
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the ids in memory, and fail calls that wait with NotOpen. May be called again."""
        forget_if_forked(self, self._buffer)
        clients.discard(self)
        self._buffer.not_open = "is closed"
        self._buffer.allocator.retire(GapCause.STOP)
        self._wake()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.wait([self._refilling])
        await self._transport.__aexit__()
        self._buffer.entered = False

    # --- ids -------------------------------------------------------------------------------------

    async def next_id(self) -> int:
        """Return an id. Raises Refused, WaitedTooLong, NotOpen."""
        for id in self._ids.cursor:  # the cheapest `next` there is
            return id
        return await self._next()

    __anext__ = next_id

    def __aiter__(self) -> Self:
        """Yield ids without end."""
        return self

    async def batch(self, n: int) -> list[int]:
        """Return `n` ids, or raise: BadBatch, and as `next_id`."""
        check_batch(n)
        forget_if_forked(self, self._buffer)
        deadline = self._buffer.clock() + self._buffer.timeout_s
        self._buffer.check_open()
        ids = self._buffer.take_many(n)
        if ids:
            self._start_refill_if_due()
            return ids
        return await self._borrow(n, deadline)

    async def _next(self) -> int:
        """Return the next id after the cursor ended, from memory or from a refill."""
        forget_if_forked(self, self._buffer)
        buffer = self._buffer
        deadline = buffer.clock() + buffer.timeout_s
        buffer.check_open()
        id = buffer.take()
        if id is not None:
            self._start_refill_if_due()
        elif buffer.takes_ahead:
            id = await self._wait(deadline)
        return id if id is not None else (await self._borrow(1, deadline))[0]

    async def _wait(self, deadline: float) -> int | None:
        """Wait for a refill and return an id of it; None if the counter turns out to be strict."""
        buffer = self._buffer
        refusals = buffer.refusals
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                while buffer.takes_ahead:
                    self._start_refill_if_due()
                    await self._refill_ended.wait()
                    buffer.check_open()
                    id = buffer.take()
                    if id is not None:
                        return id
                    if buffer.refusals != refusals and buffer.error is not None:
                        raise buffer.error.with_traceback(None)
            return None
        except TimeoutError:
            raise buffer.timeout_error(buffer.error) from None
        finally:
            self._waiting -= 1

    # --- tallies ---------------------------------------------------------------------------------

    def tally(self, name: str) -> AsyncClientTally:
        """Return the tally of this name. Sends nothing. Raises TypeError, BadName."""
        return AsyncClientTally(tally_calls(self._buffer, name), self._carry_out)

    async def _carry_out(self, steps: Steps[T]) -> T:
        """Send what the steps of a call say, and return their result."""
        forget_if_forked(self, self._buffer)
        self._buffer.check_open()
        if self._loop is not asyncio.get_running_loop():
            raise NotOpen(why=ANOTHER_LOOP)
        return await self._transport.carry_out(steps)

    # --- requests of a call ----------------------------------------------------------------------

    async def _borrow(self, count: int, deadline: float) -> list[int]:
        """Take ids by requests of this call alone."""
        steps = self._buffer.borrow(count, deadline)
        reply: Reply | NoUsableAnswer | None = None
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, str):
                    reply = await self._send(step, self._buffer.attempt_s(deadline))
                else:
                    await asyncio.sleep(step)
        except StopIteration as end:
            ids: list[int] = end.value
            return ids

    async def _send(self, target: str, timeout: float) -> Reply | NoUsableAnswer:
        try:
            return await self._transport.send("POST", target, limit_s=timeout)
        except NoUsableAnswer as error:
            return error

    # --- refills ---------------------------------------------------------------------------------

    def _start_refill_if_due(self) -> None:
        if self._refilling is None:
            due = self._buffer.due(self._waiting)
            if due is not None or self._buffer.retry_in(self._waiting) is not None:
                self._refilling = self._loop.create_task(self._refill(due))

    async def _refill(self, due: tuple[Request, str, str] | None) -> None:
        buffer = self._buffer
        try:
            while True:
                if due is not None:
                    request, nonce, target = due
                    allocator, since = buffer.allocator, buffer.clock()
                    reply = await self._send(target, buffer.attempt_s(since + buffer.timeout_s))
                    buffer.apply_refill(allocator, request, nonce, reply, since)
                    self._wake()
                    self._schedule_expiry()
                due = buffer.due(self._waiting)
                if due is None:
                    pause = buffer.retry_in(self._waiting)
                    if pause is None:
                        return
                    await asyncio.sleep(pause)
        finally:
            self._refilling = None

    def _wake(self) -> None:
        self._refill_ended.set()
        self._refill_ended = asyncio.Event()

    def _schedule_expiry(self) -> None:
        if self._expiry is None:
            at = self._buffer.allocator.expires_at
            if at is not None:
                self._expiry = self._loop.call_at(at, self._expire, at)

    def _expire(self, at: float) -> None:
        self._expiry = None
        self._buffer.allocator.expire(at)
        self._schedule_expiry()

    def _reset(self) -> None:
        self._buffer.forget()
        self._ids = self._buffer.allocator.buffer
        self._buffer.mark = process_mark()

    def forget_in_child(self) -> None:
        """Begin anew after a fork: ids and connections are the parent's."""
        self._transport.forget()
        self._begin()
        self._reset()
        self._buffer.entered = False
        self._buffer.not_open = "belongs to the process that opened it; open it in the child too"
