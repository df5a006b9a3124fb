"""Two services alike, one with the fast lane and one without, and what is sent to both."""

import asyncio
import ssl
from contextlib import suppress

from tests.web.conftest import Serving
from tests.web.wire import Wire, connected, request

HOST = b"Host: 127.0.0.1\r\n"
NEXT = request()
LAST = request("/livez", headers={"Connection": "close"})


def head(line: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([line, *headers]) + b"\r\n\r\n"


GET = b"GET /next HTTP/1.1"
H = b"Host: 127.0.0.1"
CLOSED = b"\r\n(the server closes)"
PATIENCE_S = 60.0  # for a busy machine


async def said(port: int, pieces: list[bytes], trust: ssl.SSLContext | None = None) -> bytes:
    """All that is answered until the server closes; the last request asks for that."""
    async with connected(port, trust) as wire:
        with suppress(ConnectionError):
            for piece in pieces:
                await wire.send(piece)
                await asyncio.sleep(0)
        found = b""
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while chunk := await wire.reader.read(65536):
                    found += chunk
        return found


LIVE = request("/livez")


async def turns(beside: Wire, count: int = 3) -> None:
    """Wait until a server had turns: it answered on another connection."""
    for _ in range(count):
        await beside.send(LIVE)
        await beside.answer()


async def until_silent(serving: Serving, beside: Wire, *steps: list[bytes]) -> bytes:
    """What is answered before the server closes, `CLOSED` then, or has nothing more to say.

    The pieces of a step are sent at once, and what they ask for is answered before the next step.
    """
    found = b""
    async with connected(serving.port) as wire:
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                for pieces in steps:
                    for piece in pieces:
                        await wire.send(piece)
                        await asyncio.sleep(0)
                    await turns(beside, 2)
                    if wire.reader._eof:  # type: ignore[attr-defined]
                        break
                await turns(beside, 1)
                while got := bytes(wire.reader._buffer):  # type: ignore[attr-defined]
                    found += got
                    wire.reader._buffer.clear()  # type: ignore[attr-defined]
                    await turns(beside)
        found += bytes(wire.reader._buffer)  # type: ignore[attr-defined]
        if wire.reader._eof or wire.reader.exception():  # type: ignore[attr-defined]
            found += CLOSED
    return without_date(found)


def without_date(answers: bytes) -> bytes:
    return b"\r\n".join(
        line for line in answers.split(b"\r\n") if not line.startswith((b"Date: ", b"\r\nDate: "))
    )


class Pair:
    """Two services alike, one with the lane and one without."""

    def __init__(self, fast: Serving, slow: Serving) -> None:
        self.fast, self.slow = fast, slow

    async def alike(self, *pieces: bytes, last: bytes = LAST, endless: bool = False) -> bytes:
        """Send the same to both: the same bytes come back, and the counters stand alike.

        `endless` where aiohttp may take what follows an upgrade for another protocol, though it
        does not upgrade: it is asked for the last one on another connection.
        """
        fast = without_date(await said(self.fast.port, [*pieces, last], self.fast.trust))
        if not endless:
            slow = without_date(await said(self.slow.port, [*pieces, last], self.slow.trust))
        else:
            async with connected(self.slow.port) as beside:
                slow = await until_silent(self.slow, beside, list(pieces))
            slow += without_date(await said(self.slow.port, [last]))
        assert fast == slow, pieces
        for name, supply in self.slow.service.local_counters.items():
            other = self.fast.service.local_counters.get(name)
            assert other is not None, name
            assert other.allocator.issued_ids == supply.allocator.issued_ids, pieces
            assert other.stats.refusals == supply.stats.refusals
        return fast


TRACED = (b"authorization: Bearer abc", b"traceparent: 00-%04d-01", b"x-id:%03d")


def traced(number: int, *, of: bytes = b"/next", also: bytes = b"") -> bytes:
    """A request whose headers vary with `number`."""
    varied = [line % number if b"%" in line else line for line in TRACED]
    return head(b"GET " + of + b" HTTP/1.1", H, *varied, *([also] if also else []))
