"""The target of a benchmark: a service and a path, and the bytes of a request to it."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from idservice import __version__
from idservice.errors import Usage
from idservice.server.address import Address

PATH = re.compile(r"/[!-~]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """A service and a path on it."""

    address: Address
    path: str

    @classmethod
    def parse(cls, url: str, counter: str | None) -> "BenchTarget":
        """Read http://HOST:PORT[/PATH] or unix:PATH. Raises Usage."""
        path = ""
        if url.startswith("unix:"):
            authority = url
        elif url.startswith("http://"):
            authority, slash, rest = url.removeprefix("http://").partition("/")
            path = slash + rest if rest else ""
        else:
            raise Usage(why=f"URL is {url!r}; it must be http://HOST:PORT[/PATH] or unix:PATH")
        if path and counter is not None:
            raise Usage(
                why=f"--counter is {counter!r} and URL names the path {path!r}; name only one"
            )
        if path and (not PATH.fullmatch(path) or "?" in path or "#" in path):
            raise Usage(
                why=f"the path of URL is {path!r}; it must be plain ASCII without a query:"
                " --count and --ranges say what is asked for"
            )
        try:
            address = Address.parse(authority)
        except ValueError:
            raise Usage(
                why=f"URL is {url!r}; it must be http://HOST:PORT[/PATH] or unix:PATH"
            ) from None
        default = f"/v1/counters/{counter}/next" if counter is not None else "/next"
        return cls(address, path or default)

    @property
    def url(self) -> str:
        """The URL of the service, without the path."""
        return self.address.url

    def request(self, target: str) -> bytes:
        """Return the bytes of one request."""
        host = "localhost" if self.address.path else str(self.address)
        return (
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\n"
            f"User-Agent: idservice-bench/{__version__}\r\n\r\n"
        ).encode()

    async def connect(self, protocol: Callable[[], asyncio.Protocol]) -> object:
        """Open a connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.address.path:
            return await loop.create_unix_connection(protocol, self.address.path)
        return await loop.create_connection(protocol, self.address.host, self.address.port)
