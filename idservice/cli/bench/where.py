"""The target of a benchmark: a service and a path, and the bytes of a request to it."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from idservice import __version__
from idservice.client.address import ServiceAddress
from idservice.errors import Usage

HTTP = re.compile(r"(https?://[^/]*)(/.+)?/?")
PATH = re.compile(r"/[!-~]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """A service and a path on it."""

    address: ServiceAddress
    path: str

    @classmethod
    def parse(cls, url: str, counter: str | None) -> "BenchTarget":
        """Read http://HOST:PORT[/PATH] or unix:PATH. Raises Usage."""
        parts = HTTP.fullmatch(url)
        base, path = (parts[1], parts[2] or "") if parts else (url, "")
        if path and counter is not None:
            raise Usage(
                why=f"--counter is {counter!r} and URL names the path {path!r}; name only one"
            )
        if path and (not PATH.fullmatch(path) or "?" in path or "#" in path):
            raise Usage(
                why=f"the path of URL is {path!r}; it must be plain ASCII without a query:"
                " --count and --ranges say what is asked for"
            )
        address = ServiceAddress.parse(base)
        if address.tls:
            raise Usage(why=f"URL is {url!r}; it must be http://HOST:PORT[/PATH] or unix:PATH")
        default = f"/v1/counters/{counter}/next" if counter is not None else "/next"
        return cls(address, path or default)

    @property
    def url(self) -> str:
        """The URL of the service, without the path."""
        return self.address.url

    def request(self, target: str) -> bytes:
        """Return the bytes of one request."""
        return (
            f"GET {target} HTTP/1.1\r\nHost: {self.address.authority}\r\n"
            f"User-Agent: idservice-bench/{__version__}\r\n\r\n"
        ).encode()

    async def connect(self, protocol: Callable[[], asyncio.Protocol]) -> object:
        """Open a connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.address.path:
            return await loop.create_unix_connection(protocol, self.address.path)
        return await loop.create_connection(protocol, self.address.host, self.address.port)
