"""The client for asyncio: ids from memory without waiting, and a task that refills it."""

import asyncio
import time
from types import TracebackType
from typing import Self

from idservice import errors
from idservice.client.buffer import ENTERED, ClientBuffer, NotOpen, checked, clients, next_step
from idservice.client.http_async import AsyncTransport
from idservice.client.protocol import HOLD_S, NoUsableAnswer, Reply
from idservice.core.allocator import Request
from idservice.core.gap_causes import GapCause

TIMEOUT_S = 2.0


class AsyncClient:
    """Ids of one counter; enter it, and any number of tasks of one loop may ask it.

    `url` is http://HOST:PORT, https://HOST:PORT or unix:PATH. `timeout`: seconds a call may take.
    `hold`: seconds for which ids are kept. A forked child must enter one of its own.
    """

    __slots__ = (
        "__weakref__",
        "_central",
        "_entered",
        "_expiry",
        "_ids",
        "_loop",
        "_refilling",
        "_stock",
        "_waiters",
    )

    def __init__(
        self,
        url: str,
        counter: str = "default",
        *,
        timeout: float = TIMEOUT_S,
        hold: float = HOLD_S,
    ) -> None:
        self._stock = ClientBuffer(url, counter, timeout=timeout, hold=hold, clock=time.monotonic)
        self._ids = self._stock.allocator.buffer
        self._central = AsyncTransport(self._stock.address)
        self._entered = False
        self._waiters: set[asyncio.Future[None]] = set()
        self._refilling: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Raises NotOpen where it is entered already."""
        if self._entered:
            raise NotOpen(why=ENTERED)
        self._entered = True
        self._loop = asyncio.get_running_loop()
        await self._central.__aenter__()
        self._stock.clock = self._loop.time
        self._forget()
        self._stock.not_open = ""
        clients.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the ids in memory, for good; who waits is told so. May be called again."""
        clients.discard(self)
        self._stock.not_open = "is closed"
        self._stock.allocator.retire(GapCause.STOP)
        self._wake()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.wait([self._refilling])
        await self._central.__aexit__(None, None, None)
        self._entered = False

    # --- ids -------------------------------------------------------------------------------------

    async def next_id(self) -> int:
        """An id. Raises Refused, WaitedTooLong, NotOpen."""
        for id in self._ids.cursor:  # the cheapest `next` there is
            return id
        return await self._next()

    __anext__ = next_id

    def __aiter__(self) -> Self:
        """Ids without end."""
        return self

    async def batch(self, n: int) -> list[int]:
        """`n` ids, all of them or an error. Raises BadBatch, and as `next_id`."""
        checked(n)
        deadline = self._stock.clock() + self._stock.timeout_s
        self._stock.check_open()
        ids = self._stock.take_many(n)
        if ids:
            self._refill_if_due()
            return ids
        return await self._borrow(n, deadline)

    async def _next(self) -> int:
        """The next id, where the cursor ended: memory may hold more, or a refill brings them."""
        stock = self._stock
        deadline = stock.clock() + stock.timeout_s
        stock.check_open()
        id = stock.take()
        if id is not None:
            self._refill_if_due()
        elif stock.takes_ahead:
            id = await self._wait(deadline)
        return id if id is not None else (await self._borrow(1, deadline))[0]

    async def _wait(self, deadline: float) -> int | None:
        """Wait for a refill; None where the counter turns out to be strict now."""
        stock = self._stock
        refusals = stock.refusals
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                while stock.takes_ahead:
                    self._refill_if_due()
                    await waiter
                    stock.check_open()
                    id = stock.take()
                    if id is not None:
                        return id
                    if stock.refusals != refusals and stock.error is not None:
                        raise stock.error.with_traceback(None)
                    self._waiters.discard(waiter)
                    waiter = self._loop.create_future()
                    self._waiters.add(waiter)
            return None
        except TimeoutError:
            outcome = stock.error.outcome if stock.error is not None else errors.UNKNOWN
            raise stock.gave_up(stock.error, outcome) from None
        finally:
            self._waiters.discard(waiter)

    async def _borrow(self, count: int, deadline: float) -> list[int]:
        """Ids by exchanges of our own."""
        steps = self._stock.borrow(count, deadline)
        answer: Reply | NoUsableAnswer | None = None
        try:
            while True:
                self._stock.check_open()
                step = next_step(steps, answer)
                answer = None
                if isinstance(step, str):
                    answer = await self._sent(step, self._stock.attempt_s(deadline))
                else:
                    await asyncio.sleep(step)
        except StopIteration as end:
            ids: list[int] = end.value
            return ids

    async def _sent(self, target: str, timeout: float) -> Reply | NoUsableAnswer:
        try:
            async with asyncio.timeout(timeout):
                return await self._central.ask("POST", target)
        except TimeoutError:
            return NoUsableAnswer(url=self._central.url, why="it took too long")
        except NoUsableAnswer as error:
            return error

    # --- refills ---------------------------------------------------------------------------------

    def _refill_if_due(self) -> None:
        if self._refilling is None:
            waiting = len(self._waiters)
            due = self._stock.due(waiting)
            if due is not None or self._stock.due_in(waiting) is not None:
                self._refilling = self._loop.create_task(self._refill(due))

    async def _refill(self, due: tuple[Request, str, str] | None) -> None:
        stock = self._stock
        try:
            while True:
                if due is not None:
                    request, nonce, target = due
                    allocator, since = stock.allocator, stock.clock()
                    reply = await self._sent(target, stock.attempt_s(since + stock.timeout_s))
                    stock.refilled(allocator, request, nonce, reply, since)
                    self._wake()
                    self._watch_expiry()
                due = stock.due(len(self._waiters))
                if due is None:
                    pause = stock.due_in(len(self._waiters))
                    if pause is None:
                        return
                    await asyncio.sleep(pause)
        finally:
            self._refilling = None

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _watch_expiry(self) -> None:
        if self._expiry is None:
            at = self._stock.allocator.expires_at
            if at is not None:
                self._expiry = self._loop.call_at(at, self._expire, at)

    def _expire(self, at: float) -> None:
        self._expiry = None
        self._stock.allocator.expire(at)
        self._watch_expiry()

    def _forget(self) -> None:
        self._stock.forget()
        self._ids = self._stock.allocator.buffer

    def forget_in_child(self) -> None:
        """After a fork: ids and connections are the parent's."""
        self._forget()
        self._entered = False
        self._stock.not_open = "belongs to the process that entered it; enter one in the child"
