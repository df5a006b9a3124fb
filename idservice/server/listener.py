"""A bound socket that is being served: where connections begin, and how it lets them go.

Connections are accepted one by one, each time the socket is readable: the loop's own server takes
all there are in one go, and where several workers share the socket, the first to look would take a
whole burst.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from idservice.errors import CannotListen
from idservice.observability.sampled_log import RateLimitedLog
from idservice.server.address import BACKLOG, url
from idservice.server.newcomers import refuse, turn_away
from idservice.server.workers.accept_balance import AcceptSlot
from idservice.web.connection import ConnectionLimit
from idservice.web.fast_lane.connection import FastConnections
from idservice.web.fast_lane.responses import Responder

log = logging.getLogger("idservice.listener")

COURTESY_S = 0.002  # for a worker with fewer connections to accept one,
COURTESIES_MAX = 50  # unless it did not, so many times in a row: it hangs, or has no time;
COURTESY_AGAIN_S = 1.0  # then nobody waits for it for a while
SHORT_S = 1.0  # before the next try where the system is short of descriptors or memory
_failed = RateLimitedLog(log)


class Listener:
    """Serves `bound` while it is entered; through the fast lane, where there is a `desk` for it.
    Raises CannotListen.

    `seat` tells whether another process should have the next connection.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        bound: socket.socket,
        gate: ConnectionLimit,
        desk: Responder | None,
        seat: AcceptSlot,
    ) -> None:
        self.gate = gate
        self._runner = runner
        self._bound = bound
        self._seat = seat
        self._courtesies = 0  # in a row, in vain
        self._courteous_from = 0.0  # loop time
        self._timer: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[object]] = set()
        self._loop = asyncio.get_running_loop()
        self._lanes: FastConnections | None = None
        if desk is not None:
            self._lanes = FastConnections(desk, gate, lambda: gate.connection(self._http))

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        self._bound.setblocking(False)
        try:
            self._bound.listen(BACKLOG)
        except OSError as error:  # it was free when it was bound, and another was quicker
            raise CannotListen(address=url(self._bound), why=error.strerror) from error
        self._loop.add_reader(self._bound, self._readable)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pause()
        await self.close()

    @property
    def _http(self) -> web.Server:
        assert self._runner.server is not None
        return self._runner.server

    def protocol(self) -> asyncio.Protocol:
        """What serves the next connection."""
        if self._lanes is not None:
            return self._lanes.protocol()
        return self.gate.protocol(self._http)

    # --- connections in --------------------------------------------------------------------------

    def _readable(self) -> None:
        """Somebody has connected, as every process that shares the socket is told."""
        if self._seat.lets_others_first() and self._loop.time() >= self._courteous_from:
            self._pause(COURTESY_S, self._insist)
        else:
            self._accept()

    def _insist(self) -> None:
        """The other one had its time."""
        self._loop.add_reader(self._bound, self._readable)
        if not self._accept():
            self._courtesies = 0
            return
        self._courtesies += 1
        if self._courtesies >= COURTESIES_MAX:
            self._courtesies = 0
            self._courteous_from = self._loop.time() + COURTESY_AGAIN_S

    def _accept(self) -> bool:
        """Take one connection, where there is one that no other process took."""
        try:
            connection, _ = self._bound.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return False
        except OSError as error:
            # Out of descriptors, mostly. It stays readable, so to try at once again would spin.
            _failed.error(
                "cannot accept a connection: %s; trying again in %g s",
                error.strerror,
                SHORT_S,
                extra={"action": "accept_failed"},
            )
            self._pause(SHORT_S, self._resume)
            return False
        connection.setblocking(False)
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        return True

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self.protocol, connection)
        except OSError:
            connection.close()  # it is gone again

    def _pause(self, seconds: float = 0.0, then: Callable[[], None] | None = None) -> None:
        """Accept nothing for some time, or for good."""
        if self._bound.fileno() >= 0:
            self._loop.remove_reader(self._bound)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then) if then is not None else None

    def _resume(self) -> None:
        self._loop.add_reader(self._bound, self._readable)

    # --- the end ---------------------------------------------------------------------------------

    def drain(self) -> None:
        """From now on each answer of the lane says that the connection will be closed."""
        if self._lanes is not None:
            self._lanes.desk.drain()

    def turn_away(self) -> None:
        """Let nobody begin to connect any more, unless other processes go on with this socket."""
        if self._seat.all_left:
            turn_away(self._bound)

    async def stop_accepting(self) -> None:
        """Close the socket without dropping who has connected but was not accepted yet.

        Of several processes that share it, the last one to close it leaves nobody behind; provided
        that newcomers were turned away `newcomers.ON_THE_WAY_S` before.
        """
        self._pause()
        if self._seat.all_left:
            refuse(self._bound)
        while self._accept():
            pass
        self._pause()  # also where that failed
        self._bound.close()
        if self._opening:
            await asyncio.wait(self._opening)

    async def close(self) -> None:
        """Close what is open."""
        if self._lanes is not None:
            self._lanes.close()
        await self._runner.cleanup()
