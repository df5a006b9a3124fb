"""The address of a service, as clients, stores and commands name it."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from idservice.errors import Usage


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """A host and a port, or the path of a Unix socket, on which a service listens."""

    url: str  # as it was named
    host: str = "localhost"
    port: int = 0
    path: str = ""
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> "ServiceAddress":
        """Read http://HOST[:PORT], https://HOST[:PORT] or unix:PATH. Raises Usage."""
        kind, _, path = url.partition(":")
        if kind == "unix" and path:
            return cls(url, path=path)
        try:
            return cls._parse_http(url)
        except ValueError:
            raise Usage(
                why=f"the address of a service is {url!r}; it must be http://HOST:PORT,"
                " https://HOST:PORT or unix:PATH"
            ) from None

    @classmethod
    def _parse_http(cls, url: str) -> "ServiceAddress":
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if parts.scheme not in ("http", "https") or not host or port == 0:
            raise ValueError
        # A user and password would end up in messages and logs.
        if parts.username is not None or parts.path not in ("", "/") or parts.query:
            raise ValueError
        if parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError
        host.encode("idna")  # as connecting does; refuses a part that is empty or too long
        tls = parts.scheme == "https"
        return cls(url.rstrip("/"), host=host, port=port or (443 if tls else 80), tls=tls)

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.path else f"{host}:{self.port}"
