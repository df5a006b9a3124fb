"""Clients that never read their answers: aiohttp gives them up as the fast lane does."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from idservice.web.connection import Connection, ConnectionLimit
from tests.web.conftest import Serve, Serving
from tests.web.fast_lane.hand import Transport, turns
from tests.web.wire import request

LONG = request("/next?count=10000")


@asynccontextmanager
async def unread(serving: Serving, sent: bytes) -> AsyncIterator[None]:
    """A client that sends requests and reads nothing."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", serving.port))
        await loop.sock_sendall(client, sent)
        connections: Any = serving.gate.connections
        async with asyncio.timeout(60):
            while not any(connection.writing_paused for connection in connections):
                await asyncio.sleep(0)
        yield


async def gone(serving: Serving) -> None:
    async with asyncio.timeout(60):
        while serving.gate.connections:
            await asyncio.sleep(0)


async def test_a_client_that_never_reads_is_cut_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idservice.web.connection.UNREAD_S", 0.05)
    serving = await serve(lane=False)
    await serving.service.warm()
    async with unread(serving, LONG * 200):
        await gone(serving)


async def test_a_stop_gives_up_what_is_not_read_in_its_time(serve: Serve) -> None:
    serving = await serve(lane=False)
    await serving.service.warm()
    async with unread(serving, LONG * 200):
        await serving.gate.emptied(last_call=0.05, most=0.1)
        await gone(serving)


@pytest.mark.parametrize("progress", ["the client reads", "another answer", "none", "closed"])
async def test_a_client_that_reads_slowly_is_not_cut_off(progress: str) -> None:
    server, limit, transport = web.Server(lambda _: web.Response()), ConnectionLimit(9), Transport()  # type: ignore[arg-type, return-value]
    connection = Connection(server, limit)
    connection.connection_made(transport)
    await turns()
    for size in (70_000, 60_000, 50_000):
        transport.size = size
        connection._expect_reading()
        if progress == "the client reads":
            transport.size -= 1
        elif progress == "another answer":
            connection._request_count += 1
        elif progress == "closed":
            connection.force_close()
        connection._expect_progress()  # what the timer calls
        assert ("abort" in transport.done) is (progress in ("none", "closed"))
    connection.connection_lost(None)
    transport.socket.close()
