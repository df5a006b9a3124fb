"""Fast connections without sockets, and an aiohttp server that answers in their place."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web

from idservice.server.workers.link import PoolView
from idservice.web.connection import ConnectionLimit
from idservice.web.fast_lane.connection import FastConnection
from idservice.web.fast_lane.connections import FastConnections
from idservice.web.fast_lane.responses import Responder
from idservice.web.request import WebLimits
from tests.web.conftest import Serving
from tests.web.fast_lane.pair import (
    H,
    head,
)

OTHER = head(b"GET /other HTTP/1.1", H)


class Transport(asyncio.Transport):
    """Keeps what is written, and what is done to it. Its socket takes nothing: everything is
    written to the transport."""

    def __init__(self) -> None:
        super().__init__()
        self.socket, other = socket.socketpair()
        other.close()
        self.written = b""
        self.size = 0
        self.done: list[str] = []
        self.is_reading = True
        self.full_after: int | None = None
        self.lane: Any = None

    def write(self, data: Any) -> None:
        self.written += data
        if self.full_after is not None and len(self.written) > self.full_after:
            self.lane.pause_writing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def get_write_buffer_size(self) -> int:
        return self.size

    def is_closing(self) -> bool:
        return "close" in self.done or "abort" in self.done

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None:
        self.is_reading = False
        self.done.append("pause")

    def resume_reading(self) -> None:
        if not self.is_reading:  # else a real one does nothing either
            self.done.append("resume")
        self.is_reading = True


class Hand:
    """Lanes over a service of the fixture, without sockets. Aiohttp answers "taken"; `taken` is
    what it was asked for, with the body."""

    def __init__(self, serving: Serving, **routes: str) -> None:
        self.serving = serving
        self.limit = ConnectionLimit(100)
        self.now = 1_700_000_000.25
        self.taken: list[tuple[str, bytes]] = []
        self.transports: list[Transport] = []
        responder = Responder(
            serving.service,
            PoolView(serving.service, serving.tallies),
            {"/next": "default", **{f"/{path}": name for path, name in routes.items()}},
            WebLimits(),
            serving.asking,
            clock=lambda: self.now,
        )
        self.reads = True  # False: aiohttp's handler leaves bodies unread
        self.fails = False
        self.go_on = asyncio.Event()  # what aiohttp waits for before it answers
        self.go_on.set()
        self.server = web.Server(self._take)
        self.lanes = FastConnections(responder, self.limit, lambda: self.server)

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read() if self.reads else b""
        self.taken.append((f"{request.method} {request.raw_path}", body))
        await self.go_on.wait()
        if self.fails:
            raise ZeroDivisionError
        return web.Response(text="taken")

    def lane(self, kind: type[FastConnection] = FastConnection) -> tuple[FastConnection, Transport]:
        lane, transport = kind(self.lanes), Transport()
        self.transports.append(transport)
        lane.connection_made(transport)
        transport.lane = lane
        return lane, transport

    async def stocked(self) -> None:
        """Wait until no request of a test needs to wait."""
        supply = self.serving.service.local_counters["default"]
        while supply.allocator.held < 8:
            if supply.take() is None:
                await supply.next_batch(1)

    async def close(self) -> None:
        self.lanes.close()
        await self.server.shutdown(0)
        for transport in self.transports:
            transport.socket.close()

    @property
    def issued(self) -> int:
        return self.serving.service.local_counters["default"].allocator.issued_ids


async def answered(transport: Transport, count: int) -> None:
    """Wait for that many answers."""
    async with asyncio.timeout(60):
        while transport.written.count(b"HTTP/1.") < count:
            await asyncio.sleep(0)
    await turns()
    assert transport.written.count(b"HTTP/1.") == count


async def empty(serving: Serving) -> Callable[[], None]:
    """Hold the store up, and use up what is in memory; answers what lets it go on."""
    supply = serving.service.local_counters["default"]
    open_again = asyncio.Event()
    reserve = serving.store.reserve

    async def held_up(*arguments: Any, **keywords: Any) -> range:
        await open_again.wait()
        return await reserve(*arguments, **keywords)

    serving.store.reserve = held_up  # type: ignore[method-assign]
    while supply.take() is not None:
        pass
    return open_again.set


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
