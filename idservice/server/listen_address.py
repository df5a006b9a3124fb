"""The address of a listener, as `--listen` and `--admin-listen` name it."""

import re
from dataclasses import dataclass

HTTPS = "https://"
HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)
RULE = "HOST:PORT ([::1]:8080 for IPv6), https://HOST:PORT or unix:PATH"


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on or to ask: `HOST:PORT`, `https://HOST:PORT` or `unix:PATH`."""

    host: str
    port: int
    path: str = ""
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read an address. Raises ValueError with the rule."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(host="", port=0, path=text.removeprefix("unix:"))
        if text.startswith("http://"):
            raise ValueError("HOST:PORT without http://, or https://HOST:PORT for TLS")
        if text.startswith(("https:unix:", "https:/unix:", "https://unix:", "https:///")):
            raise ValueError("unix:PATH without https: a Unix socket is served without TLS")
        match = HOST_PORT.fullmatch(text.removeprefix(HTTPS))
        if match is None or int(match[2]) > 65535:
            raise ValueError(RULE)
        return cls(match[1].strip("[]"), int(match[2]), tls=text.startswith(HTTPS))

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        from ipaddress import ip_address  # slow to load, and a health check does not need it

        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_private(self) -> bool:
        """True if nobody on the way can read what is sent to it."""
        return self.tls or self.is_local

    @property
    def url(self) -> str:
        """The address as a client on this machine writes it."""
        return str(self) if self.path or self.tls else f"http://{self}"

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{HTTPS if self.tls else ''}{host}:{self.port}"


LISTEN_DEFAULT = Address("127.0.0.1", 8080)
ADMIN_DEFAULT = Address("127.0.0.1", 9090)
