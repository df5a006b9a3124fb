"""Load of adds over HTTP: each connection adds again as soon as it is answered, with a new key."""

import asyncio
from dataclasses import dataclass, field
from itertools import count
from typing import cast

from benchmarks.measure import check
from idservice.server import loop

BODY = b'{"amount":"0.01"}'
KEYS = count()


@dataclass(slots=True)
class Answered:
    """Seconds that each add took."""

    seconds: list[float] = field(default_factory=list)

    @property
    def p99(self) -> float:
        """Return the 99th percentile, in seconds."""
        return sorted(self.seconds)[int(0.99 * len(self.seconds))]


class AddingClient(asyncio.Protocol):
    """One connection with one add under way. `over` is done once the last one is answered."""

    def __init__(self, target: str, until: float, answered: Answered) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = (
            f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(BODY)}\r\nIdempotency-Key: "
        ).encode()
        self._until = until
        self._answered = answered
        self._time = asyncio.get_running_loop().time
        self._sent = 0.0
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first add."""
        self._transport = cast(asyncio.Transport, transport)  # also of uvloop
        self._add()

    def _add(self) -> None:
        self._sent = self._time()
        self._transport.write(b"%sbench-%d\r\n\r\n%s" % (self._head, next(KEYS), BODY))

    def data_received(self, data: bytes) -> None:
        """Note an answer, and send the next add."""
        self._got += data
        if not self._got.endswith(b"}"):
            return
        if not self._got.startswith(b"HTTP/1.1 200"):
            self.over.set_exception(SystemExit(f"benchmark check failed: {self._got!r}"))
            self._transport.close()
            return
        self._got = b""
        self._answered.seconds.append(self._time() - self._sent)
        if self._time() < self._until:
            self._add()
        else:
            self._transport.close()
            self.over.set_result(None)


def add_flat_out(port: int, target: str, *, connections: int, seconds: float) -> Answered:
    """Add for some seconds; every answer must be a 200."""
    answered = Answered()

    async def load() -> int:
        running = asyncio.get_running_loop()
        until = running.time() + seconds
        clients = [
            (await running.create_connection(
                lambda: AddingClient(target, until, answered), "127.0.0.1", port
            ))[1]
            for _ in range(connections)
        ]  # fmt: skip
        await asyncio.gather(*(client.over for client in clients))
        return 0

    loop.run(load())
    check(len(answered.seconds) > 0, "no add was answered")
    return answered
