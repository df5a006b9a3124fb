"""TCP servers of tests. No connection of theirs outlives its test, and fails a later one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ENDS = (ConnectionError, asyncio.IncompleteReadError)  # whoever asked has left
ACCEPTED = 4  # turns of the loop until a connection that was accepted just now is served


@asynccontextmanager
async def listening(serve: Serve, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """The port of a server that serves each connection, and closes it then or at the end."""
    connections: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[asyncio.current_task()] = writer
        # A cancelled task would be told as an error of Python 3.11's.
        with suppress(*ENDS, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for _ in range(ACCEPTED):
            await asyncio.sleep(0)
        for task in connections:
            assert task is not None
            task.cancel()
        await asyncio.gather(*filter(None, connections))
        for writer in connections.values():
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await server.wait_closed()
