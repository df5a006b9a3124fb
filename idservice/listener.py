"""A bound socket that is being served: where connections begin, and how it lets them go."""

import asyncio
import socket
from types import TracebackType
from typing import Self

from aiohttp import web

from idservice.listen import BACKLOG
from idservice.web.connection import Gate
from idservice.web.desk import Desk
from idservice.web.lane import Lanes


class Listener:
    """Serves `bound` while it is entered; through the fast lane, where there is a `desk` for it."""

    def __init__(
        self, runner: web.AppRunner, bound: socket.socket, gate: Gate, desk: Desk | None
    ) -> None:
        self.gate = gate
        self._runner = runner
        self._bound = bound
        self._server: asyncio.Server | None = None
        self._lanes: Lanes | None = None
        if desk is not None:
            self._lanes = Lanes(desk, gate, lambda: gate.connection(self._http))

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        self._bound.setblocking(False)
        loop = asyncio.get_running_loop()
        is_unix = self._bound.family == socket.AF_UNIX
        make_server = loop.create_unix_server if is_unix else loop.create_server
        self._server = await make_server(self.protocol, sock=self._bound, backlog=BACKLOG)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
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

    def drain(self) -> None:
        """From now on each answer of the lane says that the connection will be closed."""
        if self._lanes is not None:
            self._lanes.desk.drain()

    async def stop_accepting(self) -> None:
        """Close the socket without dropping who has connected but was not accepted yet."""
        assert self._server is not None
        waiting = self._bound.dup()  # keeps the queue of connections while the server lets go
        self._server.close()
        waiting.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            while True:
                connection, _ = waiting.accept()
                connection.setblocking(False)
                await loop.connect_accepted_socket(self.protocol, connection)
        except OSError:
            pass  # nobody left
        finally:
            waiting.close()

    async def close(self) -> None:
        """Close what is open."""
        if self._lanes is not None:
            self._lanes.close()
        await self._runner.cleanup()
