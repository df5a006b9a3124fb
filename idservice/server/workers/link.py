"""A worker's end of the channel to its parent: what it is told, what it reports, what it asks."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from idservice import errors
from idservice.server.workers import messages as channel
from idservice.server.workers.accept_balance import AcceptSlot
from idservice.server.workers.totals import Report

ANSWER_S = 2.0  # for the parent to say what all workers count; it waits half of that for them
FAREWELL_S = 0.5  # for the last report to be sent
READ_MAX = 65_536  # bytes at once


class ParentSilent(errors.Unavailable):
    """What the other workers count is not known: the parent process gives no answer."""

    code = "parent_silent"


class SupervisorLink:
    """The tie of worker `number` to its parent, over `connection`; `seat` is its part in the
    balance of connections."""

    def __init__(self, number: int, connection: socket.socket, seat: AcceptSlot) -> None:
        self.number = number
        self.seat = seat
        self._connection = connection
        self._writer: asyncio.StreamWriter | None = None
        self._report: Callable[[bool, bool], Awaitable[Report]] | None = None
        self._asked: asyncio.Future[Report] | None = None  # of the parent: what do all count?
        self._later: asyncio.Future[Report] | None = None  # to be asked once that is answered,
        self._later_full = self._later_ready = False  # and what about

    @asynccontextmanager
    async def held(self, end: Callable[[], None]) -> AsyncIterator[None]:
        """Listen to the parent meanwhile; `end` is called when it says so, or is gone.

        At the end the last report is sent, so that nothing that was counted is lost.
        """
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(reader, group, end))
                try:
                    yield
                finally:
                    listening.cancel()
            await self._farewell()
        finally:
            self._writer.close()

    def serving(self, report: Callable[[bool, bool], Awaitable[Report]]) -> None:
        """Say that connections are accepted; from now on there is something to `report`, given
        whether in full, and whether with readiness."""
        self._report = report
        self._send(channel.Serving())

    async def whole(self, *, full: bool) -> Report:
        """What all workers count or, not in full, whether they are ready. Raises ParentSilent.

        Several who ask share one question, but none that was asked before they came: its answer may
        lack what they know of.
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
        self._send(channel.Collect(self._later_full, self._later_ready))
        self._asked, self._later = self._later, None
        self._later_full = self._later_ready = False

    def _answered(self, report: Report) -> None:
        assert self._asked is not None
        self._asked.set_result(report)
        self._asked = None
        if self._later is not None:
            self._collect()

    # --- the channel -----------------------------------------------------------------------------

    async def _listen(
        self, reader: asyncio.StreamReader, group: asyncio.TaskGroup, end: Callable[[], None]
    ) -> None:
        messages = channel.Reader()
        while data := await self._read(reader):
            for message in messages.messages(data):
                match message:
                    case channel.Stop():
                        end()
                    case channel.Ask(number, full, ready):
                        group.create_task(self._tell(number, full, ready))
                    case channel.Whole(report):
                        self._answered(report)
                    case _:
                        raise AssertionError(message)
        end()  # the parent is gone: nobody is left to stop this process

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(READ_MAX)
        except ConnectionError:
            return b""

    async def _tell(self, number: int, full: bool, ready: bool) -> None:
        report = await self._report(full, ready) if self._report is not None else None
        self._send(channel.Told(number, report))

    async def _farewell(self) -> None:
        if self._writer is None or self._report is None or self._writer.is_closing():
            return
        self._send(channel.Told(0, await self._report(True, True)))
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._writer.drain()
        except (ConnectionError, TimeoutError):
            pass  # the parent is gone, or has no time for it

    def _send(self, message: channel.Message) -> None:
        assert self._writer is not None
        self._writer.write(channel.written(message))
