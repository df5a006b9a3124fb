"""Requests to a service over aiohttp: each is sent once, and has at most one answer."""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from idservice.client import tls
from idservice.client.address import ServiceAddress
from idservice.client.lookup import LookUp
from idservice.client.own_key import OwnKey
from idservice.client.process_mark import process_mark
from idservice.client.protocol import (
    ANSWER_MAX,
    NotSent,
    NoUsableAnswer,
    Reply,
    why_not_connected,
)
from idservice.client.tally_calls import Steps
from idservice.client.tally_protocol import TallyAsk

T = TypeVar("T")

CHUNK = 65_536
# Requests about tallies at once: half of the connections that aiohttp makes. An add may wait for
# seconds at the service, and ids do not wait for adds.
TALLIES_AT_ONCE = 50
ALERT_SHOWN = repr(tls.ALERT)[:-1]  # as aiohttp shows what is not HTTP
NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


class Resolver(AbstractResolver):
    """Looks names up for aiohttp so that a look-up which is given up holds nothing up.

    `limit_s` is how long one may take; None if its callers have a deadline.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self._limit_s = limit_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            if not ended.done():
                ended.set_result(None)

        def then(_: LookUp) -> None:
            with suppress(RuntimeError):  # the loop is closed: it has given up
                loop.call_soon_threadsafe(tell)

        running = LookUp(host, port, then, flags=socket.AI_ADDRCONFIG)
        running.start()
        try:
            async with asyncio.timeout(self._limit_s):
                await ended
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, "its look-up took too long") from None
        return [
            ResolveResult(
                hostname=host,
                host=socket.getnameinfo(address, NUMERIC)[0],  # with the zone of a local address
                port=port,
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, protocol, _, address in running.result(0.0)
            if family in (socket.AF_UNSPEC, found)
        ]

    async def close(self) -> None: ...


class _OfOneProcess(aiohttp.BaseConnector):
    """A connector whose connections a forked child does not close.

    Closing a connection in the child removes it from the list of events (epoll) that both processes
    share. The parent would then get no answer on it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._mark = process_mark()
        super().__init__(*arguments, **options)

    def __del__(self, *arguments: Any) -> None:
        if self._mark:
            super().__del__(*arguments)


class _HostConnector(_OfOneProcess, aiohttp.TCPConnector):
    """Connections to a host."""


class _SocketConnector(_OfOneProcess, aiohttp.UnixConnector):
    """Connections to a Unix socket."""


class AsyncTransport:
    """Sends requests to one service, and none of them twice. If the access key was refused and its
    file has a new key, the request is sent again with the new key. Enter the transport to use it.

    `connect_s` is how long a connection may take to be made; None if `send` has a limit. `own_key`
    is the access key that each request shows.
    """

    def __init__(
        self,
        address: ServiceAddress,
        own_key: OwnKey | None = None,
        *,
        connect_s: float | None = None,
    ) -> None:
        self.own_key = own_key or OwnKey()
        self._connect_s = connect_s
        self._tally_turns = asyncio.Semaphore(TALLIES_AT_ONCE)
        self.url = address.url
        self._address = address
        scheme = "https" if address.tls else "http"
        self._base = f"{scheme}://{address.authority}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        path = self._address.path
        self._session = aiohttp.ClientSession(
            connector=_SocketConnector(path) if path else _HostConnector(resolver=Resolver()),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "User-Agent": "idservice"},
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_s),
            trace_configs=[_connections_told()],
            trust_env=False,  # a proxy could answer in the service's place
        )
        return self

    async def __aexit__(self, *failure: Any) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def forget(self) -> None:
        """Let go of a parent's connections in a forked child, without ending them."""
        if self._session is not None:
            self._session.detach()
            self._session = None

    async def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        key: str = "",
        limit_s: float | None = None,
    ) -> Reply:
        """Send one request. Raises NoUsableAnswer, of which NotSent proves that it was not sent.

        `key` is its Idempotency-Key. `limit_s` is how long it may take; None if the caller has a
        deadline. It is answered without being sent while the access key is known to be refused.
        """
        clock = asyncio.get_running_loop().time
        held = self.own_key.held(target, clock())
        if held is not None:
            return held
        headers = {"Content-Type": "application/json"} if body else {}
        if key:
            headers["Idempotency-Key"] = key
        connected = asyncio.Event()
        try:
            async with asyncio.timeout(limit_s):
                reply = await self._send(method, target, body, headers, connected)
                if self.own_key.is_renewed(target, reply, clock()):
                    reply = await self._send(method, target, body, headers, connected)
                return reply
        except TimeoutError:
            if connected.is_set():
                raise NoUsableAnswer(url=self.url, why="it took too long") from None
            raise NotSent(url=self.url, why="no connection in time") from None

    async def carry_out(self, steps: Steps[T]) -> T:
        """Send what the steps of a call say, and return their result."""
        reply: Reply | NoUsableAnswer | None = None
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    continue
                reply = await self._in_turn(step)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _in_turn(self, ask: TallyAsk) -> Reply | NoUsableAnswer:
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(ask.limit_s):
                await self._tally_turns.acquire()
        except TimeoutError:
            why = f"{TALLIES_AT_ONCE} other requests about tallies wait for it"
            return NotSent(url=self.url, why=why)
        try:
            left_s = ask.limit_s - (asyncio.get_running_loop().time() - began)
            return await self.send(ask.method, ask.target, ask.body, key=ask.key, limit_s=left_s)
        except NoUsableAnswer as error:
            return error
        finally:
            self._tally_turns.release()

    async def _send(
        self,
        method: str,
        target: str,
        body: bytes,
        headers: Mapping[str, str],
        connected: asyncio.Event,
    ) -> Reply:
        assert self._session is not None, "enter it first"
        url = URL(self._base + target, encoded=True)
        try:
            async with self._session.request(
                method,
                url,
                data=body or None,
                allow_redirects=False,
                trace_request_ctx=connected,
                headers={**headers, **self.own_key.headers},
            ) as response:
                answer = b""
                async for chunk in response.content.iter_chunked(CHUNK):
                    answer += chunk
                    if len(answer) > ANSWER_MAX:
                        raise NoUsableAnswer(url=self.url, why="its answer is too long")
                said = response.headers
                form, pause = said.get("Content-Type", ""), said.get("Retry-After", "")
                return Reply(response.status, form, answer, pause)
        except (aiohttp.ClientError, OSError) as error:
            why = self._words(error)
            if connected.is_set():  # aiohttp repeats a PUT by itself: also by an earlier copy
                raise NoUsableAnswer(url=self.url, why=why) from None
            raise NotSent(url=self.url, why=why) from None

    def _words(self, error: Exception) -> str:
        """Return why there was no answer."""
        if isinstance(error, aiohttp.ServerDisconnectedError) and self._address.is_plain:
            return tls.CLOSED
        if ALERT_SHOWN in getattr(error, "message", ""):
            return tls.SPOKEN
        cause = getattr(error, "os_error", error)
        if isinstance(cause, OSError):
            return why_not_connected(cause)
        return str(error) or type(error).__name__


def _connections_told() -> aiohttp.TraceConfig:
    """Return a trace that sets the event of a request once it has a connection. Until then nothing
    is sent."""

    async def tell(_: aiohttp.ClientSession, request: SimpleNamespace, __: object) -> None:
        request.trace_request_ctx.set()

    told = aiohttp.TraceConfig()
    told.on_connection_create_end.append(tell)
    told.on_connection_reuseconn.append(tell)
    return told
