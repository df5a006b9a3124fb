"""The open fast connections of one listener: what they share, and the end of silent ones."""

import asyncio
from collections.abc import Callable
from math import ceil
from typing import Protocol

from aiohttp import web

from idservice.access.refusal_log import Peer
from idservice.web.connection import UNREAD_S, ConnectionLimit
from idservice.web.fast_lane.parser import END, HEAD_MAX, RequestParser
from idservice.web.fast_lane.question import Question
from idservice.web.fast_lane.responses import Found, Responder
from idservice.web.fast_lane.target import Target
from idservice.web.turns import loop_turns

SWEEP_S = 5.0
KNOWN_MAX = 256  # requests
UNREAD_MAX = round(UNREAD_S / SWEEP_S)  # sweeps in which nothing of an answer is read


class OpenConnection(Protocol):
    """A fast connection, as far as `FastConnections` uses it."""

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
        self._known: dict[bytes, tuple[Target, Question]] = {}  # by head
        self.is_closed = False
        self._open: set[OpenConnection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, connection: OpenConnection) -> None:
        self._open.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def known(self, head: bytes) -> tuple[Target | bytes, Question] | None:
        """Return what a head asks for, as `understand`, if it recently came on any connection."""
        known = self._known.get(head)
        if known is not None and known[0].refusal is None:
            return known
        return self.responder.known(head)

    def understand(self, head: bytes, peer: Peer | None) -> tuple[Found, Question | None]:
        """Return what a head asks for, as `Responder.find`, and the request apart from its key.
        Both are None if it is not plain. The same bytes, on any connection, are parsed once. A
        refusal is logged with the `peer`."""
        known = self.known(head)
        if known is not None:
            return known
        accept = self.parser.plain(head) if head.endswith(END) and len(head) <= HEAD_MAX else None
        if accept is None:
            return None, None
        authorization = self.parser.authorization
        question = Question(head, accept, authorization, self.parser.closes)
        found = self.responder.find(question.line, accept, authorization, peer)
        if isinstance(found, Target):
            if len(self._known) >= KNOWN_MAX:
                del self._known[next(iter(self._known))]
            self._known[head] = found, question
        elif isinstance(found, bytes):
            self.responder.remember(head, found, question)
        return found, question

    def forget(self) -> None:
        """Forget what requests ask for, because a counter is gone."""
        self._known.clear()
        self.responder.forget()

    def ends(self, silent: int, *, unread: bool, served: bool) -> bool:
        """Return True if a connection is closed after this number of sweeps without an answer."""
        return silent > UNREAD_MAX if unread else not served and silent > self.silent_max

    def closed(self, connection: OpenConnection) -> None:
        self._open.discard(connection)

    def close(self) -> None:
        """Close every connection; one on which aiohttp answers is closed after the answer."""
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
