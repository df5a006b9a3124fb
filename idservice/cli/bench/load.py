"""The load: the connections, and the time at which each request is sent.

Closed loop: each connection asks again as soon as it is answered, so a server that pauses is asked
less. Fixed rate: each request has a time at which it is due, whatever became of earlier ones. If no
connection is free, it waits, and its latency counts from the time at which it was due. So the time
by which a request is sent late counts, too.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ceil
from typing import cast

import httptools

from idservice.cli.bench.results import BenchResults

SECOND = 1_000_000_000  # ns
IDLE = -1
CONNECT_TOGETHER = 100
CONNECT_S = 10.0
RECONNECT_PAUSE_S = 0.1
GRACE_S = 5.0  # for the last answers


@dataclass(frozen=True, slots=True)
class Plan:
    """`rate` is in requests per second, None for a closed loop; times are in seconds."""

    request: bytes
    connections: int
    rate: int | None
    warmup_s: float
    duration_s: float


class LoadConnection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._body = b""
        self._whole = 0  # answers complete
        self._keep_alive = True
        self.closed = asyncio.Event()
        self.intended = IDLE  # when the request under way was meant to be sent
        self.floor = -1  # the highest id in scope when it was sent
        self.scope = load.results.scope()
        self.was_useful = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # by duck typing on uvloop
        self._load.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._load.lost(self)
        self.closed.set()

    def eof_received(self) -> None:
        """Send nothing more; a server ends a connection between two requests."""
        self._load.leaves(self)

    def send(self, intended: int) -> None:
        assert self._transport is not None
        self.intended = intended
        self.floor = self.scope.highest
        self._transport.write(self._load.plan.request)

    def close(self) -> None:
        """Close the connection; a request under way is lost."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a bug of ours
        except httptools.HttpParserError:
            self._load.results.error("not HTTP")
            self.close()
            return
        if self._whole:
            # An answer without a request must be the last one, such as "too many connections". Two
            # at once cannot be told apart.
            goes_on = self._keep_alive and self.intended != IDLE and self._whole == 1
            body = self._body if self._whole == 1 else b""
            self._body, self._whole = b"", 0
            self._load.answered(self, self._parser.get_status_code(), body)
            if goes_on:
                self.was_useful = True
                self._load.free(self)
            else:
                self.close()

    def on_body(self, data: bytes) -> None:
        self._body = self._body + data if self._body else data

    def on_message_complete(self) -> None:
        self._whole += 1
        self._keep_alive = self._parser.should_keep_alive()  # the parser forgets it


class Load:
    """Sends the requests of a plan.

    `connect` opens a connection, given a function that makes its protocol. `wake`, given a time
    in ns, has `tick` called once after that time. `clock` returns ns.
    """

    def __init__(
        self,
        plan: Plan,
        results: BenchResults,
        *,
        connect: Callable[[Callable[[], LoadConnection]], Awaitable[object]],
        wake: Callable[[int], None],
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.plan = plan
        self.results = results
        self._connect = connect
        self._wake = wake
        self._clock = clock
        self._open: set[LoadConnection] = set()
        self._free: deque[LoadConnection] = deque()  # in turns, so that none is idle for long
        self._under_way = 0
        self._untried = plan.connections
        self._tried = asyncio.Event()
        self._refused = OSError("no connection")
        self._gate = asyncio.Semaphore(CONNECT_TOGETHER)
        self._began = 0
        self._running = False
        self._stopping = False
        self._finished = asyncio.Event()
        # At a fixed rate requests are numbered: all below `_due` are due, all below `_sent` were
        # sent, and the ones between wait.
        self._due = self._sent = 0
        self._numbered = 0

    # --- the run ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run to the end of the plan, or to a stop. Raises OSError if nothing can be connected."""
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(self._keep_open()) for _ in range(self.plan.connections)]
            try:
                await self._tried.wait()
                if self._open and not self._stopping:
                    self._begin()
                    await self._finished.wait()
            finally:
                for keeper in keepers:
                    keeper.cancel()
                for connection in tuple(self._open):
                    connection.close()
        if not self._finished.is_set():
            raise self._refused

    def _begin(self) -> None:
        plan = self.plan
        whole_s = plan.warmup_s + plan.duration_s
        self._began = self._clock()
        self._running = True
        self.results.begin = self._began + round(plan.warmup_s * SECOND)
        asyncio.get_running_loop().call_later(whole_s, self._stop_if_running)
        if plan.rate is not None:
            self._numbered = ceil(plan.rate * whole_s)
            self.tick()
        else:
            free, self._free = self._free, deque()
            for connection in free:
                self.free(connection)

    def stop(self) -> None:
        """Send only what is due, and end when all is answered; a second call ends at once."""
        if self._stopping:
            self._finish()
            return
        if self._running and self.plan.rate is not None:
            self.tick()
        self._numbered = self._due
        self._running, self._stopping = False, True
        self.results.end = self._clock()
        asyncio.get_running_loop().call_later(GRACE_S, self._finish)
        self._finish_if_all_is_answered()

    def _stop_if_running(self) -> None:
        if self._running:
            self.stop()

    def _finish_if_all_is_answered(self) -> None:
        if self._stopping and self._under_way == 0 and self._sent == self._due:
            self._finish()

    def _finish(self) -> None:
        if self._finished.is_set():
            return
        self._finished.set()
        self._tried.set()  # asked to stop before it began
        now = self._clock()
        for connection in self._open:
            if connection.intended != IDLE:
                self.results.not_answered(connection.intended, now)
        for number in range(self._sent, self._due):
            self.results.not_answered(self._intended(number), now)

    # --- when to send ----------------------------------------------------------------------------

    def _intended(self, number: int) -> int:
        """Return the time at which a request is due, at a fixed rate."""
        assert self.plan.rate is not None
        return self._began + number * SECOND // self.plan.rate

    def tick(self) -> None:
        """Send the requests that have become due, if a connection is free."""
        if self._stopping:
            return
        now = self._clock()
        while self._due < self._numbered and (intended := self._intended(self._due)) <= now:
            self.results.was_due(intended, now)
            self._due += 1
            if self._free:
                self.free(self._free.popleft())
        if self._due < self._numbered:
            self._wake(max(1, self._intended(self._due) - self._clock()))

    def free(self, connection: LoadConnection) -> None:
        """Send the next request on a connection, or keep it for later."""
        if self._sent < self._due:
            intended = self._intended(self._sent)
            self._sent += 1
        elif self._running and self.plan.rate is None:
            intended = self._clock()
        else:
            self._free.append(connection)
            return
        self._under_way += 1
        connection.send(intended)

    # --- what comes back -------------------------------------------------------------------------

    def answered(self, connection: LoadConnection, status: int, body: bytes) -> None:
        intended = connection.intended
        if intended == IDLE:
            self.results.error(f"unasked {status}")
            return
        connection.intended = IDLE
        self._under_way -= 1
        self.results.answered(
            status, body, intended=intended, now=self._clock(),
            scope=connection.scope, floor=connection.floor,
        )  # fmt: skip
        self._finish_if_all_is_answered()

    # --- connections -----------------------------------------------------------------------------

    def opened(self, connection: LoadConnection) -> None:
        self._open.add(connection)
        self.free(connection)

    def leaves(self, connection: LoadConnection) -> None:
        if connection in self._free:
            self._free.remove(connection)

    def lost(self, connection: LoadConnection) -> None:
        """Note the end of a connection; ids of a request under way on it are a gap."""
        self.leaves(connection)
        self._open.discard(connection)
        if connection.intended != IDLE and not self._finished.is_set():
            connection.intended = IDLE
            self._under_way -= 1
            self.results.error("connection lost")
            self._finish_if_all_is_answered()

    async def _keep_open(self) -> None:
        """Keep one connection open, and open another whenever it ends."""
        first = True
        while not self._finished.is_set():
            useful = await self._serve(first)
            first = False
            if not useful:
                await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _serve(self, first: bool) -> bool:
        """Use one connection to its end; return True if anything was answered on it."""
        try:
            async with self._gate, asyncio.timeout(CONNECT_S):
                connection = LoadConnection(self)
                await self._connect(lambda: connection)
        except OSError as error:
            self._refused = error
            self.results.error(f"cannot connect ({error.strerror or str(error) or 'timed out'})")
            return False
        finally:
            if first:
                self._untried -= 1
                if not self._untried:
                    self._tried.set()
        if not first:
            self.results.reconnects += 1
        await connection.closed.wait()
        return connection.was_useful
