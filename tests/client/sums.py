"""A service in this process that counts each key once, and whose answers a test can spoil."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from idservice import errors
from idservice.web.problems import problem
from tests.client.conftest import answer
from tests.listening import listening

AT = "2026-11-03T10:00:00.123Z"


@dataclass(frozen=True)
class Heard:
    """A request about a tally, as it came in."""

    method: str
    target: str
    key: str
    body: bytes

    @property
    def amount(self) -> str:
        return str(json.loads(self.body)["amount"])


def refused(error: errors.IdserviceError, **members: Any) -> bytes:
    """The problem that a service answers for an error, with the members that it adds."""
    response = problem(error)
    assert isinstance(response.body, bytes)
    body = json.loads(response.body) | members
    return answer(body, error.status, response.content_type)


def added(heard: Heard, total: Decimal, *, replayed: bool = False, **other: Any) -> bytes:
    """The answer to an add that was counted."""
    body = {
        "tally": "gifts", "key": heard.key, "amount": f"{Decimal(heard.amount):.2f}",
        "sum": f"{total:.2f}", "at": AT, "rev": 7, "replayed": replayed, **other,
    }  # fmt: skip
    return answer(body)


Spoil = Callable[[Heard, bytes], bytes | None]  # None: the connection breaks


class Sums:
    """The tally `gifts`. `spoils` are applied to its answers, one after the other."""

    def __init__(self, *spoils: Spoil) -> None:
        self.spoils = list(spoils)
        self.heard: list[Heard] = []
        self.told: dict[str, tuple[Decimal, Decimal]] = {}  # by key: its amount, and the sum then
        self.sum = Decimal(0)

    def __call__(self, heard: Heard) -> bytes | None:
        self.heard.append(heard)
        said = self._add(heard) if heard.method == "POST" else self._shown(heard)
        return self.spoils.pop(0)(heard, said) if self.spoils else said

    def _add(self, heard: Heard) -> bytes:
        replayed = heard.key in self.told
        if not replayed:
            self.sum += Decimal(heard.amount)
            self.told[heard.key] = Decimal(heard.amount), self.sum
        return added(heard, self.told[heard.key][1], replayed=replayed)

    def _shown(self, heard: Heard) -> bytes:
        path, mark, key = heard.target.partition("/adds/")
        assert path == "/v1/tallies/gifts"
        body = {"tally": "gifts", "sum": f"{self.sum:.2f}", "at": AT, "rev": 7}
        if not mark:
            return answer({**body, "as_of": AT})
        if key not in self.told:
            error = errors.UnknownAdd(name="gifts", key=key, as_of=0)
            return refused(error, key=key, as_of=AT)
        amount, sum = self.told[key]
        record = {"key": key, "kind": "counted", "amount": f"{amount:.2f}", "sum": f"{sum:.2f}"}
        return answer({**body, **record})


def lost(heard: Heard, said: bytes) -> None:
    """The answer does not arrive."""


def hidden(said: bytes) -> Spoil:
    """Something else is answered, whatever the service did."""
    return lambda heard, _: said


@asynccontextmanager
async def summing(
    service: Callable[[Heard], bytes | None], host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """The address of a service about tallies."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            lines = [line.partition(": ") for line in head[1:] if line]
            headers = {name.lower(): value for name, _, value in lines}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            method, target, _ = head[0].split(" ")
            said = service(Heard(method, target, headers.get("idempotency-key", ""), body))
            if said is None:
                break
            writer.write(said)
            await writer.drain()

    async with listening(serve, host, port) as bound:
        yield f"http://{host}:{bound}"
