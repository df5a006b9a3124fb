"""The address of a service, as clients, stores and commands name it."""

import re
from dataclasses import dataclass

from idservice.errors import Usage

# Not by urllib, which is slow to load: a health check reads an address every few seconds. No user
# and password, which would end up in messages and logs.
HTTP = re.compile(
    r"(https?)://(?:\[([0-9a-f:.]+(?:%[a-z0-9]+)?)\]|([^/?#@:\[\]\\\s\x00-\x20\x7f-\U0010ffff]+))(?::([0-9]{0,5}))?/?",
    re.ASCII | re.IGNORECASE,
)

KEY_VARIABLE = "IDSERVICE_KEY"  # the access key that the service is shown


def without_user(text: str) -> str:
    """Return a text for messages, without the user and the password of any URL in it."""
    return re.sub(r"(?<=//).*@", "...@", text, flags=re.DOTALL)


def shown(value: str) -> str:
    """Return a refused value for a message, without a password or a token that may be in it."""
    if "//" not in value:
        return repr(re.sub(r".*@", "...@", value, flags=re.DOTALL))
    address, mark, _ = without_user(value).partition("?")
    return repr(f"{address}{mark}..." if mark else address)


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
        parts = HTTP.fullmatch(url)
        try:
            if parts is None or (parts[4] and not 1 <= int(parts[4]) <= 65535):
                raise ValueError
            host = (parts[2] or parts[3]).lower()
            host.encode("idna")  # as connecting does; refuses a part that is empty or too long
        except ValueError:
            raise Usage(
                why=f"the address of a service is {shown(url)}; it must be http://HOST:PORT,"
                " https://HOST:PORT or unix:PATH"
            ) from None
        tls = parts[1].lower() == "https"
        port = int(parts[4]) if parts[4] else 443 if tls else 80
        return cls(url.rstrip("/"), host=host, port=port, tls=tls)

    @property
    def is_plain(self) -> bool:
        """Return True if requests go over a network without TLS."""
        return not self.tls and not self.path

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.path else f"{host}:{self.port}"
