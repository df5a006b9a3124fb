"""An address to listen on or to ask: `HOST:PORT` or `unix:PATH`."""

import re
from dataclasses import dataclass

HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """`HOST:PORT` or `unix:PATH`."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read an address. Raises ValueError with the rule."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(host="", port=0, path=text.removeprefix("unix:"))
        match = HOST_PORT.fullmatch(text)
        if match is None or int(match[2]) > 65535:
            raise ValueError("HOST:PORT ([::1]:8080 for IPv6) or unix:PATH")
        return cls(host=match[1].strip("[]"), port=int(match[2]))

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
    def url(self) -> str:
        """The address as a client on this machine writes it."""
        return str(self) if self.path else f"http://{self}"

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
