"""A worker's end of the channel to its supervisor, and the view of all workers that it gives."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from idservice import errors
from idservice.access.keys import Keys
from idservice.access.usage import UsageMeter
from idservice.allocation.service import Service
from idservice.observability.readings import CounterSample, Readiness, Snapshot
from idservice.server.workers import messages
from idservice.server.workers.accept_balance import AcceptSlot
from idservice.server.workers.totals import WorkerStatus
from idservice.server.workers.turn import Turn
from idservice.tallies.service import Tallies
from idservice.web.caller_words import caller_words

ANSWER_S = 2.0  # limit for an answer of the supervisor, COLLECT_S of the workers included
FAREWELL_S = 0.5  # for the last report to be sent
READINESS_S = 0.5  # limit for one worker to ask the store; the others wait for its report
READ_MAX = 65_536  # bytes at once


class ParentSilent(errors.Unavailable):
    text = "The figures of the other workers are not known: the supervisor does not answer."
    code = "parent_silent"


class SupervisorLink:
    """Connects worker `number` to its supervisor. All workers share the counts in `slot`, for new
    connections, and the `turn` to give ids back."""

    def __init__(
        self, number: int, connection: socket.socket, slot: AcceptSlot, turn: Turn
    ) -> None:
        self.number = number
        self.slot = slot
        self.turn = turn
        self._connection = connection
        self._writer: asyncio.StreamWriter | None = None
        self._report: Callable[[bool, bool], Awaitable[WorkerStatus]] | None = None
        self._asked: asyncio.Future[WorkerStatus] | None = None  # the request under way
        self._later: asyncio.Future[WorkerStatus] | None = None  # the one to send next
        self._later_full = self._later_ready = False  # the content of the next one

    @asynccontextmanager
    async def held(
        self, end: Callable[[], None], renew: Callable[[], object] = lambda: None
    ) -> AsyncIterator[None]:
        """Listen to the supervisor; call `end` when it asks for a stop, or is gone, and `renew`
        when the certificate is to be read. On exit, send the last report, so that nothing that was
        counted is lost."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(reader, group, end, renew))
                try:
                    yield
                finally:
                    listening.cancel()
            await self._farewell()
        finally:
            self._writer.close()

    def serving(self, report: Callable[[bool, bool], Awaitable[WorkerStatus]]) -> None:
        """Say that this worker accepts connections; `report(full, ready)` gives its status."""
        self._report = report
        self._send(messages.Serving())

    async def pool_status(self, *, full: bool) -> WorkerStatus:
        """Return the figures of all workers if `full`, else their readiness. Raises ParentSilent.

        Callers share one request. A request already under way is not shared: its answer may lack
        what a later caller knows of.
        """
        if self._later is None:
            self._later = asyncio.get_running_loop().create_future()
        self._later_full |= full
        self._later_ready |= not full
        answer = self._later
        if self._asked is None:
            self._collect()
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise ParentSilent() from None

    def _collect(self) -> None:
        self._send(messages.CollectRequest(self._later_full, self._later_ready))
        self._asked, self._later = self._later, None
        self._later_full = self._later_ready = False

    def _answered(self, status: WorkerStatus) -> None:
        assert self._asked is not None
        self._asked.set_result(status)
        self._asked = None
        if self._later is not None:
            self._collect()

    async def _listen(
        self,
        stream: asyncio.StreamReader,
        group: asyncio.TaskGroup,
        end: Callable[[], None],
        renew: Callable[[], object],
    ) -> None:
        reader = messages.MessageReader()
        with suppress(ConnectionError):
            while data := await stream.read(READ_MAX):
                for message in reader.messages(data):
                    match message:
                        case messages.Stop():
                            self._end_with_pool(end)
                        case messages.Renew():
                            renew()
                        case messages.ReportRequest(number, full, ready):
                            group.create_task(self._send_report(number, full, ready))
                        case messages.PoolStatus(status):
                            self._answered(status)
                        case _:
                            raise AssertionError(message)
        self._end_with_pool(end)  # the supervisor is gone: nothing else would stop this process

    def _end_with_pool(self, end: Callable[[], None]) -> None:
        self.slot.pool_ends = True
        end()

    async def _send_report(self, number: int, full: bool, ready: bool) -> None:
        status = await self._report(full, ready) if self._report is not None else None
        self._send(messages.Report(number, status))

    async def _farewell(self) -> None:
        if self._writer is None or self._report is None or self._writer.is_closing():
            return
        self._send(messages.Report(0, await self._report(True, True)))
        with suppress(ConnectionError, TimeoutError):  # the supervisor is gone, or too busy
            async with asyncio.timeout(FAREWELL_S):
                await self._writer.drain()

    def _send(self, message: messages.Message) -> None:
        assert self._writer is not None
        self._writer.write(messages.encoded(message))


class PoolView:
    """Metrics and readiness of all workers; without a `link`, of this process."""

    def __init__(
        self,
        service: Service,
        tallies: Tallies,
        link: SupervisorLink | None = None,
        keys: Keys | None = None,
        meter: UsageMeter | None = None,
    ) -> None:
        self._keys = keys
        self._meter = meter
        self._service = service
        self._tallies = tallies
        self._link = link

    async def snapshot(self) -> Snapshot:
        """Return what is counted. Raises ParentSilent."""
        if self._link is None:
            return await self.own_snapshot()
        snapshot = (await self._link.pool_status(full=True)).snapshot
        assert snapshot is not None
        return snapshot

    async def own_snapshot(self) -> Snapshot:
        """Return what this process counts."""
        snapshot = await self._service.snapshot()
        tallies = self._tallies
        return replace(
            snapshot,
            tallies=tallies.samples(),
            tally_reads=tallies.reads,
            key_refusals=dict(self._keys.refusals) if self._keys is not None else {},
            usage_behind_s=self._meter.behind_s if self._meter is not None else None,
        )

    async def readiness(self) -> Readiness:
        """Return why the next id cannot be served, if so. Raises ParentSilent."""
        if self._link is None:
            return self._readiness(_words(await self._service.not_ready()))
        readiness = (await self._link.pool_status(full=False)).readiness
        assert readiness is not None
        return readiness

    async def reading(self, counter: str) -> CounterSample | None:
        """Return the figures of a counter; None if it is not in use. Raises ParentSilent."""
        if self._link is None:
            local = self._service.local_counters.get(counter)
            return local.reading() if local is not None else None
        readings = (await self.snapshot()).readings
        return next((reading for reading in readings if reading.counter == counter), None)

    async def report(self, full: bool, ready: bool) -> WorkerStatus:
        """Return the status of this process: figures if `full`, and readiness if `ready`."""
        readiness = None
        if ready:
            try:
                async with asyncio.timeout(READINESS_S):
                    why = _words(await self._service.not_ready())
            except TimeoutError:
                why = "the store takes too long to answer"
            readiness = self._readiness(why)
        return WorkerStatus(readiness, await self.own_snapshot() if full else None)

    def _readiness(self, why: str) -> Readiness:
        degraded = "" if self._service.health.up else "the store does not answer"
        return Readiness(not_ready=why, degraded=degraded)


def _words(reason: errors.IdserviceError | None) -> str:
    return caller_words(reason) if reason is not None else ""
