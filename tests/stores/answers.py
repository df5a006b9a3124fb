"""An HTTP server that answers as DynamoDB, or as what stands in its place on a bad day."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.listening import listening

Answer = bytes | Callable[[asyncio.StreamWriter], None] | None


def http(status: int, body: str | bytes, kind: str = "application/x-amz-json-1.0") -> bytes:
    """A whole answer."""
    content = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def page(status: int) -> bytes:
    """What a proxy says."""
    return http(status, f"<html><body><h1>{status}</h1></body></html>", "text/html")


def error(name: str, status: int = 400, **members: object) -> bytes:
    """An error as DynamoDB writes it."""
    return http(
        status,
        json.dumps(
            {"__type": f"com.amazonaws.dynamodb.v20120810#{name}", "message": "words"} | members
        ),
    )


def success(**members: object) -> bytes:
    """An answer as DynamoDB writes it."""
    return http(200, json.dumps(members))


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection as a crashed host or a firewall does."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def close(writer: asyncio.StreamWriter) -> None:
    """End the connection in order, without an answer."""
    writer.close()


def cut(answer: bytes, left: int = 10) -> Callable[[asyncio.StreamWriter], None]:
    """Send all but the end of an answer, then reset."""

    def send(writer: asyncio.StreamWriter) -> None:
        writer.write(answer[:-left])
        writer.close()

    return send


class Server:
    """Answers every request in the same way, or by its operation, and keeps the requests.

    None is no answer at all.
    """

    def __init__(self, answer: Answer = None, **by_operation: Answer) -> None:
        self.answer = answer
        self.by_operation = by_operation
        self.requests: list[tuple[str, dict[str, object]]] = []
        self.headers: dict[str, str] = {}  # of the last request
        self.asked = asyncio.Event()
        self.url = ""
        self._never = asyncio.Event()

    @property
    def operations(self) -> list[str]:
        """What was asked, in order."""
        return [operation for operation, _ in self.requests]

    def answer_to(self, operation: str, request: dict[str, object]) -> Answer:
        """What a request is answered with."""
        return self.by_operation.get(operation, self.answer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.headers = headers = dict(
                line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line
            )
            body = await reader.readexactly(int(headers["content-length"]))
            operation = head.split("X-Amz-Target: DynamoDB_20120810.")[1].split("\r\n")[0]
            self.requests.append((operation, json.loads(body)))
            self.asked.set()
            answer = self.answer_to(operation, self.requests[-1][1])
            if answer is None:
                await self._never.wait()
            elif callable(answer):
                answer(writer)
                return
            else:
                writer.write(answer)


@asynccontextmanager
async def serving(
    answer: Answer = None, *, kind: type[Server] = Server, **by_operation: Answer
) -> AsyncIterator[Server]:
    """A server on a port of its own, while it runs."""
    server = kind(answer, **by_operation)
    async with listening(server.serve) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server
