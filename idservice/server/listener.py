"""Serves one bound socket: accepts its connections, and closes it without hurting a client.

Connections are accepted a few at a time, each time the socket is readable; one by one where several
workers share it. The loop's own server takes all that wait at once: the first worker would take a
whole burst, and requests would wait for it.

A client must not see its connection reset at a stop. The kernel completes a connection before it is
accepted, and for the client it is complete even sooner. Closing the socket resets all of these. It
would not help to shorten the queue or to drop every packet: the client's side is complete already.
If the *first* packet of a client (SYN) is dropped, no harm is done: the client sends it again a
second later, and is refused. So a packet filter drops first packets shortly before the socket is
closed.
Measured with 16 stock clients, 5 ms away, with a connection per request: 5 stops reset 51
requests without the filter, and none with it.
"""

import asyncio
import ctypes
import logging
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Self

from aiohttp import web

from idservice.errors import CannotListen
from idservice.server.certificate import Certificate
from idservice.server.handshake import Handshakes
from idservice.server.sockets import BACKLOG, bound_address
from idservice.server.workers.accept_balance import AcceptSlot
from idservice.web.connection import ConnectionLimit, access_log
from idservice.web.fast_lane.arrival import answer_on_arrival
from idservice.web.fast_lane.connection import FastConnection
from idservice.web.fast_lane.connections import FastConnections
from idservice.web.fast_lane.responses import Responder
from idservice.web.fast_lane.tls_connection import TlsConnection

log = logging.getLogger("idservice.listener")

HANDSHAKES_END_S = 0.5  # for those under way, once nothing more is accepted
COURTESY_S = 0.002  # for a worker with fewer connections to accept one
COURTESIES_MAX = 50  # that it may let pass in a row: a worker that lets more pass has no time
COURTESY_AGAIN_S = 1.0  # after that, the time in which this worker accepts at once
BURST = 16  # connections accepted in a turn of the loop, if no other worker shares the socket
SHORT_S = 1.0  # before the next try if the system is short of descriptors or memory
OVER_S = 10.0  # after the last failed try, until the shortage counts as over
LAST_TRIES_S = 0.5  # at a stop, for descriptors that become free
LAST_TRY_AGAIN_S = 0.02

SO_ATTACH_FILTER = 26  # of Linux; Python does not name it
# A classic BPF program over a TCP header: drop packets with SYN and without ACK, pass the rest.
_DROP_FIRST_PACKETS = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte of flags
        (0x54, 0, 0, 0x12),  # keep SYN and ACK of it
        (0x15, 0, 1, 0x02),  # if only SYN is set:
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # else pass the whole packet
    )
)


class _Accepted(socket.socket):
    """A connection. Its family and type are plain integers: the loop asks for them several times,
    and to make an enum of one takes as long as a system call."""

    __slots__ = ()
    family = socket.SocketType.family  # type: ignore[assignment]
    type = socket.SocketType.type  # type: ignore[assignment]


class Listener:
    """Serves `bound` while entered, through the fast lane if it has a `responder`.

    `slot` tells if another worker should get the next connection. With a `certificate` it speaks
    TLS. Raises CannotListen.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        bound: socket.socket,
        limit: ConnectionLimit,
        responder: Responder | None,
        slot: AcceptSlot,
        certificate: Certificate | None = None,
    ) -> None:
        self.limit = limit
        self._runner = runner
        self._bound = bound
        self._kind = int(bound.family), int(bound.type), bound.proto
        self._slot = slot
        self._courtesies = 0  # in a row, in vain
        self._courteous_from = 0.0  # loop time
        self._timer: asyncio.TimerHandle | None = None
        self._short_since: float | None = None  # loop time; None while all are accepted
        self._failed_at = 0.0  # loop time
        self._handshakes = None if certificate is None else Handshakes(certificate, limit)
        self._lane = FastConnection if certificate is None else TlsConnection
        self._opening: set[asyncio.Task[object]] = set()
        self._loop = asyncio.get_running_loop()
        self._lanes: FastConnections | None = None
        if responder is not None:
            self._lanes = FastConnections(responder, limit, lambda: self._http)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        self._bound.setblocking(False)
        try:
            self._bound.listen(BACKLOG)
        except OSError as error:  # it was free when it was bound; another process was quicker
            address = bound_address(self._bound, tls=self._handshakes is not None)
            raise CannotListen(address=address, why=error.strerror) from error
        self._loop.add_reader(self._bound, self._readable)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pause()
        await self.close()

    @property
    def _http(self) -> web.Server:
        assert self._runner.server is not None
        return self._runner.server

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol of the next connection."""
        lane = self._free_lane
        return self.limit.protocol(self._http) if lane is None else self._lane(lane)

    @property
    def _free_lane(self) -> FastConnections | None:
        """The fast lane, unless requests are to be logged, or connections to be refused."""
        return None if self.limit.full or access_log.isEnabledFor(logging.INFO) else self._lanes

    # --- connections in --------------------------------------------------------------------------

    def _readable(self) -> None:
        """Accept a connection, or let another worker do so; the kernel tells all of them."""
        if self._slot.lets_others_first() and self._loop.time() >= self._courteous_from:
            self._pause(COURTESY_S, self._insist)
            return
        # Connections that are not open yet are not counted: near the limit, accept only one.
        has_room = self.limit.room > BURST + len(self._opening)
        for _ in range(BURST if self._slot.is_alone and has_room else 1):
            if not self._welcome():
                return

    def _insist(self) -> None:
        """Accept the connection if the other worker has not done so in its time."""
        self._loop.add_reader(self._bound, self._readable)
        if not self._welcome():
            self._courtesies = 0
            return
        self._courtesies += 1
        if self._courtesies >= COURTESIES_MAX:
            self._courtesies = 0
            self._courteous_from = self._loop.time() + COURTESY_AGAIN_S

    def _welcome(self) -> bool:
        """Accept one connection, answer its client if the request is known already, and open the
        connection. Return False if none waits."""
        try:
            connection = self._accept()
        except OSError as error:
            self._wait_for_room(error)
            return False
        if connection is None:
            return False
        lane = self._free_lane
        # Near the limit, the protocol is chosen later, when those before this one are open.
        if lane is None or self._handshakes is not None or self.limit.room <= len(self._opening):
            self._open_soon(connection, self.protocol)
            return True
        unread = answer_on_arrival(lane, connection)
        if unread is not None:
            self._open_soon(connection, partial(FastConnection, lane, unread))
        return True

    def _accept(self) -> socket.socket | None:
        """Accept one connection; return None if none waits. Raises OSError if none can be accepted,
        mostly because the process has no descriptor left."""
        while True:
            try:
                # As `accept`, but without the enums that it makes of family and type each time.
                descriptor, _ = self._bound._accept()  # type: ignore[attr-defined]
                connection = _Accepted(*self._kind, fileno=descriptor)
            except BlockingIOError:
                return None
            except (ConnectionAbortedError, InterruptedError):
                continue  # that client is gone; others may wait
            connection.setblocking(False)
            if self._short_since is not None:
                self._end_shortage(self._short_since)
            return connection

    def _wait_for_room(self, error: OSError) -> None:
        """Accept nothing for a while: the socket stays readable, and to try at once would spin."""
        last, self._failed_at = self._failed_at, self._loop.time()
        if self._short_since is None or self._failed_at >= last + OVER_S:
            self._short_since = self._failed_at
            log.error(
                "cannot accept a connection: %s; trying again every %g s", error.strerror, SHORT_S,
                extra={"action": "accept_failed"},
            )  # fmt: skip
        self._pause(SHORT_S, self._resume)

    def _end_shortage(self, since: float) -> None:
        """Log that connections are accepted again, if no try has failed for OVER_S."""
        if self._loop.time() < self._failed_at + OVER_S:
            return
        log.warning(
            "connections are accepted again; for %.0f s some were not at once",
            self._failed_at - since, extra={"action": "accept_resumed"},
        )  # fmt: skip
        self._short_since = None

    def _open_soon(
        self, connection: socket.socket, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        opening = self._loop.create_task(self._open(connection, protocol))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(
        self, connection: socket.socket, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        try:
            if self._handshakes is None:
                await self._loop.connect_accepted_socket(protocol, connection)
            else:
                await self._handshakes.make(connection, protocol)
        except OSError:
            connection.close()  # the client is gone

    def _pause(self, seconds: float = 0.0, then: Callable[[], None] | None = None) -> None:
        """Accept nothing until `then` is called, or for good."""
        if self._bound.fileno() >= 0:
            self._loop.remove_reader(self._bound)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then) if then is not None else None

    def _resume(self) -> None:
        self._loop.add_reader(self._bound, self._readable)

    # --- the end ---------------------------------------------------------------------------------

    def drain(self) -> None:
        """Say in each answer from now on that the connection will be closed."""
        if self._lanes is not None:
            self._lanes.responder.drain()

    def turn_away(self) -> None:
        """Ignore new clients, unless other processes go on with this socket, now or later.

        The filter stays on the socket that all workers share: a worker that ends by itself must not
        set it. Connections on their way in still arrive. On other systems than Linux nothing
        changes.
        """
        if self._slot.pool_ends and sys.platform == "linux" and self._is_tcp:
            program = ctypes.create_string_buffer(_DROP_FIRST_PACKETS, len(_DROP_FIRST_PACKETS))
            count = len(_DROP_FIRST_PACKETS) // struct.calcsize("HBBI")
            option = struct.pack("HP", count, ctypes.addressof(program))
            with suppress(OSError):
                self._bound.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, option)

    async def stop_accepting(self) -> None:
        """Close the socket, and serve every client that has connected.

        This holds for the last process that closes it, if it turned new clients away for a round
        trip before (`shutdown.ROUND_TRIP_S`).
        """
        self._pause()
        if self._slot.pool_ends and not self._is_tcp:
            with suppress(OSError):
                self._bound.shutdown(socket.SHUT_RD)  # a Unix socket refuses from here on
        give_up_at = self._loop.time() + LAST_TRIES_S
        while True:
            try:
                connection = self._accept()
            except OSError as error:  # closing the socket now would reset clients that wait
                self._wait_for_room(error)
                self._pause()
                if self._loop.time() >= give_up_at:
                    break
                await asyncio.sleep(LAST_TRY_AGAIN_S)
                continue
            if connection is None:
                break
            # It gets no answer here: its client would connect again, and this loop never end.
            self._open_soon(connection, self.protocol)
        self._bound.close()
        if self._opening:
            _, late = await asyncio.wait(self._opening, timeout=HANDSHAKES_END_S)
            for opening in late:
                opening.cancel()

    @property
    def _is_tcp(self) -> bool:
        return self._bound.family != socket.AF_UNIX

    async def close(self) -> None:
        if self._lanes is not None:
            self._lanes.close()
        await self._runner.cleanup()
