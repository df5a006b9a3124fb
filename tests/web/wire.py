"""HTTP as bytes on a socket: what a test sends and reads, with nothing smoothing it over."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests import leaks

ANSWER_S = 60.0  # no answer of a test takes so long, on a machine under load


@dataclass(frozen=True)
class Answer:
    """One response; header names in lower case."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Wire:
    """A client's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head_only: bool = False, twice: str = "") -> Answer:
        """The next response; one header may come `twice`.

        Raises IncompleteReadError where the server closed instead.
        """
        async with asyncio.timeout(ANSWER_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            version, status, *_ = lines[0].split(" ", 2)
            assert version.startswith("HTTP/"), lines[0]
            headers: dict[str, str] = {}
            for line in filter(None, lines[1:]):
                name, _, value = line.partition(":")
                assert name.lower() == twice or name.lower() not in headers, f"{name} is sent twice"
                headers[name.lower()] = value.strip()
            if int(status) == 100:
                return Answer(100, headers)
            length = int(headers["content-length"])
            body = b"" if head_only else await self.reader.readexactly(length)
            if status != "201":  # that has a new key, once
                leaks.look(head.encode("latin-1") + body, "an answer")
            return Answer(int(status), headers, body)

    async def is_closed(self) -> bool:
        """Whether the server ends the connection and sends nothing more."""
        async with asyncio.timeout(ANSWER_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def connected(port: int, trust: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    """A connection to a port on 127.0.0.1; with `trust` it speaks TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):  # the server was first
            await writer.wait_closed()


async def ask(
    port: int,
    target: str = "/next",
    method: str = "GET",
    *,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    trust: ssl.SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own."""
    async with connected(port, trust) as wire:
        await wire.send(request(target, method, headers=headers, body=body))
        return await wire.answer(head_only=method == "HEAD")


def request(
    target: str = "/next",
    method: str = "GET",
    *,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> bytes:
    """A well-formed request, but for what it is given."""
    named = {"Host": "127.0.0.1", **(headers or {})}
    if method in ("PUT", "PATCH", "DELETE") or target.endswith("/set"):
        named = {"Content-Type": "application/json", **named}
    if body:
        named["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body
