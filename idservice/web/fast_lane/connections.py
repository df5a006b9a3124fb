"""The open fast connections of one listener: what they share, and the end of silent ones."""

import asyncio
from collections.abc import Callable
from math import ceil
from typing import Protocol

from aiohttp import web

from idservice.web.connection import UNREAD_S, ConnectionLimit
from idservice.web.fast_lane.parser import RequestParser
from idservice.web.fast_lane.responses import Responder, Target
from idservice.web.turns import loop_turns

SWEEP_S = 5.0
KNOWN_MAX = 256  # requests
UNREAD_MAX = round(UNREAD_S / SWEEP_S)  # sweeps in which nothing of an answer is read


class OpenConnection(Protocol):
    """A fast connection, as far as it is known here."""

    @property
    def is_handed_over(self) -> bool: ...

    def is_busy(self) -> bool: ...

    def grow_older(self) -> None: ...

    def close(self) -> None: ...


class FastConnections:
    """The fast connections of one listener; `server` returns its aiohttp server."""

    def __init__(
        self, responder: Responder, limit: ConnectionLimit, server: Callable[[], web.Server]
    ) -> None:
        self.responder = responder
        self.limit = limit
        self.silent_max = ceil(limit.idle_s / SWEEP_S)  # sweeps without an answer
        self.parser = RequestParser()
        self.server = server
        self.turns = loop_turns()
        # What was asked for lately in these very bytes, and if the client wants no more then.
        self.known: dict[bytes, tuple[Target, bool]] = {}
        self.is_closed = False
        self._open: set[OpenConnection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, connection: OpenConnection) -> None:
        self._open.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def know(self, head: bytes, target: Target, *, closes: bool) -> None:
        """Keep what a request asks for: other connections may begin with the same bytes."""
        if len(self.known) >= KNOWN_MAX:
            del self.known[next(iter(self.known))]
        self.known[head] = target, closes

    def ends(self, silent: int, *, unread: bool, served: bool) -> bool:
        """Return True if a connection is closed after this number of sweeps without an answer."""
        return silent > UNREAD_MAX if unread else not served and silent > self.silent_max

    def closed(self, connection: OpenConnection) -> None:
        self._open.discard(connection)

    def close(self) -> None:
        """Close every connection; one that aiohttp answers on, as soon as it is done."""
        self.is_closed = True
        for connection in tuple(self._open):
            if not connection.is_handed_over:
                connection.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        """Close silent connections. One timer serves all, and none runs without connections."""
        self._timer = None
        for connection in tuple(self._open):
            connection.grow_older()
        if self._open:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
