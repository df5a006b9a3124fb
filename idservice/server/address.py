"""An address to listen on: how it is written, bound, and whether only this machine reaches it."""

import os
import re
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address

from idservice.errors import CannotListen, Usage

ADMIN_DEFAULT = "127.0.0.1:9090"
BACKLOG = 1024
UNIX_MODE = 0o660
HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """`HOST:PORT` or `unix:PATH`."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises Usage."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(host="", port=0, path=text.removeprefix("unix:"))
        match = HOST_PORT.fullmatch(text)
        if match is None or int(match[2]) > 65535:
            raise Usage(
                why=f"{text!r} is no address; it must be HOST:PORT ([::1]:8080 for IPv6) or"
                " unix:PATH"
            )
        return cls(host=match[1].strip("[]"), port=int(match[2]))

    @property
    def is_local(self) -> bool:
        """Whether it can be reached from this machine alone."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def bind(self) -> socket.socket:
        """A bound socket, not listening yet: until then callers are refused, not kept waiting.

        Raises CannotListen.
        """
        try:
            return _bind_unix(self.path) if self.path else _bind_tcp(self.host, self.port)
        except (OSError, UnicodeError) as error:  # the latter of a host's name
            raise CannotListen(
                address=self, why=getattr(error, "strerror", None) or error
            ) from error

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Sockets:
    """What a service listens on: for ids, and where these are reachable from outside, another for
    metrics and counters."""

    data: list[tuple[Address, socket.socket]]
    admin: list[tuple[Address, socket.socket]]

    @property
    def control_on_data(self) -> bool:
        """Whether metrics and counters may be served where ids are."""
        return all(address.is_local for address, _ in self.data)

    def close(self) -> None:
        """Let go of them; other processes that have them go on."""
        for _, bound in self.data + self.admin:
            bound.close()


@contextmanager
def bound(data: Sequence[str], admin: str | None) -> Iterator[Sockets]:
    """Everything that is listened on, bound; a Unix socket's file goes with it.

    Raises Usage, CannotListen.
    """
    with ExitStack() as stack:

        def bind(text: str) -> tuple[Address, socket.socket]:
            address = Address.parse(text)
            one = address.bind()
            stack.callback(one.close)
            if address.path:
                stack.callback(_remove, address.path, _identity(address.path))
            return address, one

        sockets = Sockets([bind(text) for text in data], [])
        if admin is not None or not sockets.control_on_data:
            sockets.admin.append(bind(admin or ADMIN_DEFAULT))
        yield sockets


def url(bound: socket.socket) -> str:
    """How a client on this machine names a bound socket."""
    if bound.family == socket.AF_UNIX:
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind_tcp(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _bind_unix(path: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        bound.bind(path)
        os.chmod(path, UNIX_MODE)
    except OSError:
        bound.close()
        raise
    return bound


def _identity(path: str) -> tuple[int, ...]:
    """What tells a file from another one of the same name, which may even have its inode number."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _remove(path: str, identity: tuple[int, ...]) -> None:
    """Remove our socket, unless a successor has put its own there: ours was stale by then."""
    with suppress(FileNotFoundError):
        if _identity(path) == identity:
            os.unlink(path)


def _remove_stale(path: str) -> None:
    """Remove the socket of a process that is gone; anything else in the way is an error of bind."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
