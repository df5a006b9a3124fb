"""The target of a benchmark, the request that it sends, and the ids in the body of an answer."""

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import msgspec

from idservice import __version__
from idservice.cli.bench.verdict import runs
from idservice.client import lookup
from idservice.client.address import ServiceAddress
from idservice.client.http_async import Resolver
from idservice.client.own_key import OwnKey
from idservice.errors import Usage
from idservice.web.schemas import IdRange, IdRanges

HTTP = re.compile(r"(https?://[^/]*)(/.+)?/?")
PATH = re.compile(r"/[!-~]*", re.ASCII)
VALUE = re.compile(r"=(?![0-9]+(&|$))[^&]*")  # in a query; it may be a token
COUNT_MAX = 1_000_000_000
DIGITS_MAX = 19
_ids = msgspec.json.Decoder(list[int])
_ranges = msgspec.json.Decoder(IdRanges)


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """A service, a path on it, and the access key that it is shown."""

    address: ServiceAddress
    path: str
    key: OwnKey = field(default_factory=OwnKey)

    @classmethod
    def parse(cls, url: str, counter: str | None, key: OwnKey | None = None) -> "BenchTarget":
        """Read http(s)://HOST:PORT[/PATH] or unix:PATH. Raises Usage."""
        parts = HTTP.fullmatch(url)
        base, path = (parts[1], parts[2] or "") if parts else (url, "")
        if path and counter is not None:
            raise Usage(
                why=f"--counter is {counter!r} and URL names the path {path!r}; name only one"
            )
        if path and (not PATH.fullmatch(path) or "?" in path or "#" in path):
            raise Usage(
                why=f"the path of URL is {VALUE.sub('=...', path)!r}; it must be plain ASCII"
                " without a query: --count and --ranges say what is asked for"
            )
        address = ServiceAddress.parse(base)
        default = f"/v1/counters/{counter}/next" if counter is not None else "/next"
        return cls(address, path or default, key or OwnKey())

    def request(self, target: str) -> bytes:
        shown = "".join(f"{name}: {value}\r\n" for name, value in self.key.headers.items())
        return (
            f"GET {target} HTTP/1.1\r\nHost: {self.address.authority}\r\n"
            f"User-Agent: idservice-bench/{__version__}\r\n{shown}\r\n"
        ).encode()

    async def connect(self, protocol: Callable[[], asyncio.Protocol]) -> object:
        """Open a connection, within the time limit of its caller. Raises OSError."""
        loop = asyncio.get_running_loop()
        host, port = self.address.host, self.address.port
        if self.address.path:
            return await loop.create_unix_connection(protocol, self.address.path)
        trust = _trusted() if self.address.tls else None
        hosts = [host]
        if lookup.as_numbers(host, port) is None:  # the loop's own look-up cannot be given up
            hosts = [found["host"] for found in await Resolver().resolve(host, port)]
        failure = OSError("its name has no address")
        for number in hosts:
            try:
                return await loop.create_connection(
                    protocol, number, port, ssl=trust, server_hostname=host if trust else None
                )
            except OSError as error:
                failure = error
        raise failure


@cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()


def read_ranges(body: bytes) -> IdRanges | None:
    """Read an answer of `format=ranges`; return None if it is not one."""
    try:
        return _ranges.decode(body)
    except msgspec.DecodeError:
        return None


def read_id(body: bytes) -> int:
    """Return the id of an answer with one id; -1 if it is not one."""
    return int(body) if len(body) <= DIGITS_MAX and body.isdigit() else -1


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """The content of each request; `step` is the expected distance of the ids of a batch."""

    path: str
    count: int | None = None
    ranges: bool = False
    step: int = 1

    @property
    def target(self) -> str:
        if self.ranges:
            return f"{self.path}?format=ranges&count={self.count or 1}"
        return self.path if self.count is None else f"{self.path}?count={self.count}"

    @property
    def single(self) -> bool:
        """True if the body is one id and nothing else."""
        return self.count is None and not self.ranges

    def blocks(self, body: bytes) -> list[range] | None:
        """Return the ids of an answer in their order; None if it is not what was asked for."""
        found: list[range] | None
        if self.ranges:
            answer = read_ranges(body)
            found = [_block(one) for one in answer.ranges] if answer is not None else None
        elif self.single:
            id = read_id(body)
            found = [range(id, id + 1)] if id >= 0 else None
        else:
            found = self._batch(body)
        if not found or not all(found) or sum(map(len, found)) != (self.count or 1):
            return None
        return found

    def _batch(self, body: bytes) -> list[range] | None:
        """Read lines as JSON, which is many times faster than one by one."""
        if not body.endswith(b"\n"):
            return None
        try:
            ids = _ids.decode(b"[" + body[:-1].replace(b"\n", b",") + b"]")
        except msgspec.DecodeError:
            return None
        return runs(ids, self.step) if ids and min(ids) >= 0 else None


def _block(one: IdRange) -> range:
    """Return the ids of a range; none if it is not well-formed. Ids above 2^53 - 1 are text."""
    first = read_id(one.first.encode()) if isinstance(one.first, str) else one.first
    if first < 0 or one.count > COUNT_MAX:
        return range(0)
    return range(first, first + one.step * one.count, one.step)
