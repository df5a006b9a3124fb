"""An HTTP hop in front of a server that loses, delays, repeats and refuses what is sent over it, as
the simulation's network does, and by the same words: real sockets instead of virtual time.

For tests that are marked `pytest.mark.process`.
"""

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

import aiohttp
from aiohttp import web

from tests.simulation.store import Faults
from tests.stores import answers

SILENCE_S = 20.0  # longer than any deadline of ours
LATE_S = (1.0, 6.0)  # how long what is late is under way,
REPEATED_S = (0.0, 10.0)  # and what is repeated
KEPT = (
    "x-amz-target",
    "content-type",
    "authorization",
    "x-amz-date",
    "x-amz-security-token",
    "host",
    "idempotency-key",
)


@dataclass(slots=True)
class Exchange:
    """A request that reached the server, and its answer; `heard` once whoever asked has it."""

    target: str
    request: bytes
    status: int
    answer: bytes
    headers: dict[str, str]
    copy: bool = False  # sent by the hop alone
    heard: bool = False


def _throttled(rng: random.Random) -> web.Response:
    """What DynamoDB says when it is asked too much: nothing was done."""
    name = rng.choice(("ProvisionedThroughputExceededException", "ThrottlingException"))
    body = answers.error(name).partition(b"\r\n\r\n")[2]
    return web.Response(status=400, body=body, content_type="application/x-amz-json-1.0")


class Hop:
    """A way to the server, or to one after the other of several; `servers` may change."""

    def __init__(self, servers: list[str], rng: random.Random) -> None:
        self.url = ""  # where it listens
        self.servers = servers
        self.faults = Faults(latency_s=(0.0, 0.0))
        self.silent = 0.5  # how many of those whose answer is lost hear nothing, not even the end
        self.silences = 0
        self.fates: Counter[str] = Counter()
        self.on_exchange: Callable[[Exchange], None] = lambda exchange: None
        self._rng = rng
        self._since = 0.0
        self._turn = 0
        self._carrying = 0
        self._flying: set[asyncio.Task[object]] = set()
        self._session: aiohttp.ClientSession

    def misbehave(self, faults: Faults) -> None:
        """From now on; outages count from now."""
        self.faults, self._since = faults, asyncio.get_running_loop().time()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Hop"]:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            self._session = session
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            try:
                yield self
            finally:
                await runner.cleanup()
                for task in self._flying:
                    task.cancel()
                await asyncio.gather(*self._flying, return_exceptions=True)

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not (self._flying or self._carrying)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self._carrying += 1
        try:
            return await self._carry(request)
        except aiohttp.ClientError:  # the server is gone
            self._reset(request)
            raise asyncio.CancelledError from None
        finally:
            self._carrying -= 1

    async def _carry(self, request: web.Request) -> web.StreamResponse:
        body, rng, loop = await request.read(), self._rng, asyncio.get_running_loop()
        fate = self.faults.fate(rng, loop.time() - self._since)
        self.fates[fate] += 1
        await asyncio.sleep(rng.uniform(*self.faults.latency_s) / 2)
        if fate == "throttled":
            return _throttled(rng)
        if fate == "lost_before":
            await self._lose(request)
        if fate == "late_request":
            await asyncio.sleep(rng.uniform(*LATE_S))
        if fate == "resent":
            await self._pass_on(request, body, copy=True)
        if rng.random() < self.faults.repeated:
            self._fly(self._repeat(request, body, rng.uniform(*REPEATED_S)))
        exchange = await self._pass_on(request, body)
        if fate == "late_answer":
            await asyncio.sleep(rng.uniform(*LATE_S))
        await asyncio.sleep(rng.uniform(*self.faults.latency_s) / 2)
        if fate == "lost_after":
            await self._lose(request)
        exchange.heard = request.transport is not None and not request.transport.is_closing()
        return web.Response(status=exchange.status, body=exchange.answer, headers=exchange.headers)

    async def _repeat(self, request: web.Request, body: bytes, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.fates["repeated"] += 1
        with suppress(aiohttp.ClientError):
            await self._pass_on(request, body, copy=True)

    async def _pass_on(self, request: web.Request, body: bytes, *, copy: bool = False) -> Exchange:
        headers = {name: request.headers[name] for name in KEPT if name in request.headers}
        self._turn += 1
        server = self.servers[self._turn % len(self.servers)]
        async with self._session.request(
            request.method, f"{server}{request.path_qs}", data=body, headers=headers,
            allow_redirects=False,
        ) as response:  # fmt: skip
            answer = await response.read()
        told = {name: response.headers[name] for name in ("Content-Type", "x-amz-crc32")
                if name in response.headers}  # fmt: skip
        target = request.headers.get("x-amz-target", request.path_qs).rpartition(".")[2]
        exchange = Exchange(target, body, response.status, answer, told, copy)
        self.on_exchange(exchange)
        return exchange

    async def _lose(self, request: web.Request) -> NoReturn:
        """End the connection as a firewall does, or say nothing until whoever asks gives up."""
        if self._rng.random() < self.silent:
            self.silences += 1
            end = asyncio.get_running_loop().time() + SILENCE_S
            while request.transport is not None and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(0.1)
        self._reset(request)
        raise asyncio.CancelledError  # the answer is for nobody

    def _reset(self, request: web.Request) -> None:
        if request.transport is not None:
            with suppress(OSError):
                raw = request.transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()

    def _fly(self, way: object) -> None:
        task = asyncio.ensure_future(way)  # type: ignore[call-overload]
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)
