"""The bound sockets of a service: opened, logged, and closed."""

import errno
import fcntl
import logging
import mmap
import os
import resource
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from idservice.client import lookup
from idservice.errors import CannotListen
from idservice.server import asking
from idservice.server.certificate import Certificate
from idservice.server.listen_address import ADMIN_DEFAULT, Address

log = logging.getLogger("idservice.server")

BACKLOG = 4096  # connections that wait to be accepted; Linux allows as many by default
UNIX_MODE = 0o660
LOOK_UP_MAX_S = 5.0
ANY_IPV6, ANY_IPV4 = "::", "0.0.0.0"  # noqa: S104  addresses to listen on


@dataclass(frozen=True, slots=True)
class Sockets:
    """The bound sockets of a service: `data` serves ids, `admin` serves metrics and counters. Those
    with an https address show `certificate`."""

    data: list[tuple[Address, socket.socket]]
    admin: list[tuple[Address, socket.socket]]
    allow_changes: bool = False
    certificate: Certificate | None = None
    asked: str | None = None  # the setting `require_keys`
    # A byte for each socket in memory that workers share: see `Gate`.
    warned: memoryview = field(
        default_factory=lambda: memoryview(mmap.mmap(-1, mmap.PAGESIZE)), compare=False
    )

    @property
    def control_on_data(self) -> bool:
        """True if the data sockets serve the admin routes too, as there is no admin socket."""
        return not self.admin

    def may_change(self, address: Address, *, is_data: bool) -> bool:
        """Return True if counters may be changed by requests to this address."""
        if not is_data and address.path:
            return True  # the mode of its file is the authorisation
        return self.allow_changes and address.is_local and (self.control_on_data or not is_data)

    def close(self) -> None:
        """Close the sockets in this process; other processes that share them go on."""
        for _, bound in self.data + self.admin:
            bound.close()

    def addresses(self) -> tuple[list[Address], list[Address]]:
        """Return the addresses of the data sockets and of the admin sockets."""
        data, admin = (
            [bound_address(one, tls=address.tls) for address, one in each]
            for each in (self.data, self.admin)
        )
        return data, admin

    def log_addresses(self) -> None:
        """Log the addresses at which requests are answered."""
        data, admin = self.addresses()
        for one in data:
            log.info("ids: %s/next", one.url, extra={"action": "listening"})
        for one in admin:
            log.info("metrics and counters: %s", one.url, extra={"action": "listening_admin"})
        for (address, _), shown in zip(self.data + self.admin, data + admin, strict=True):
            asking.log_asked(address, shown.url, self.asked)
        places = [
            bound_address(bound, tls=address.tls).url
            for is_data, sockets in ((True, self.data), (False, self.admin))
            for address, bound in sockets
            if self.may_change(address, is_data=is_data)
        ]
        if places:
            log.info(
                "counters can be changed over HTTP at %s, by every program "
                "that can connect there: lead no proxy and no forwarded "
                "port to it", " and ".join(places),
                extra={"action": "changes_allowed"},
            )  # fmt: skip
        elif self.allow_changes:
            log.warning(
                "--allow-changes has no effect: no listener for counters is on loopback or a Unix"
                " socket. Name one with --admin-listen", extra={"action": "changes_refused"},
            )  # fmt: skip


@contextmanager
def bound(
    data: Sequence[Address],
    admin: Address | None,
    *,
    allow_changes: bool = False,
    certificate: Certificate | None = None,
    asked: str | None = None,
) -> Iterator[Sockets]:
    """Bind all addresses; on exit, close them and remove the files of Unix sockets.

    Without `admin`, its default is used if a data address can be reached from outside.
    Raises CannotListen.
    """
    with ExitStack() as stack:

        def add(address: Address) -> tuple[Address, socket.socket]:
            if address.path:
                stack.enter_context(_lock(address))
            one = bind(address)
            stack.callback(one.close)
            if address.path:
                stack.callback(_remove, address.path, _identity(address.path))
            return address, one

        sockets = Sockets([add(address) for address in data], [], allow_changes, certificate, asked)
        if admin is not None or not all(address.is_local for address in data):
            sockets.admin.append(add(admin or ADMIN_DEFAULT))
        yield sockets


@contextmanager
def _lock(address: Address) -> Iterator[None]:
    """Hold a lock beside a Unix socket: a socket that does not listen yet looks like one left
    behind. Processes that are forked hold it, too. Raises CannotListen."""
    path = f"{address.path}.lock"
    try:
        lock = _locked(path)
    except OSError as error:
        in_use = isinstance(error, BlockingIOError)
        why = os.strerror(errno.EADDRINUSE) if in_use else error.strerror
        raise CannotListen(address=address, why=why) from error
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.close(lock)


def _locked(path: str) -> int:
    """Return the descriptor of a file that is locked. Raises OSError."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, UNIX_MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        except FileNotFoundError:
            pass
        except OSError:
            os.close(lock)
            raise
        os.close(lock)  # its owner has just removed it


def bind(address: Address) -> socket.socket:
    """Return a bound socket that does not listen yet: clients are refused, not kept waiting.
    Raises CannotListen."""
    try:
        family = socket.AF_UNIX
        name: tuple[Any, ...] | str = address.path
        if not address.path:
            found = lookup.addresses(address.host, address.port, LOOK_UP_MAX_S)
            family, _, _, _, name = found[0]
        try:
            bound = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # [::] is named for every machine, and some have no IPv6
            if address.host != ANY_IPV6 or error.errno != errno.EAFNOSUPPORT:
                raise
            return bind(replace(address, host=ANY_IPV4))
        try:
            if address.path:
                _remove_stale(address.path)
            else:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address.host == ANY_IPV6:  # IPv4 too, whatever the system's default is
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            bound.bind(name)
            if address.path:
                os.chmod(address.path, UNIX_MODE)
        except OSError:
            bound.close()
            raise
        return bound
    except (OSError, UnicodeError) as error:  # UnicodeError for the name of a host
        why = getattr(error, "strerror", None) or error
        raise CannotListen(address=address, why=why) from error


def bound_address(bound: socket.socket, *, tls: bool = False) -> Address:
    """Return the address of a bound socket, with the port that the system chose."""
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return Address("", 0, name)
    return Address(name[0], name[1], tls=tls)


def may_open(wished: int) -> int:
    """Return the number of files that this process may open, after raising it to `wished`."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if one == resource.RLIM_INFINITY else one for one in limits)
    if soft >= wished:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wished, hard), limits[1]))
    return min(wished, hard)


def _identity(path: str) -> tuple[int, ...]:
    """Return device, inode and change time: another file of this name differs in one of them."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _remove(path: str, identity: tuple[int, ...]) -> None:
    """Remove the file of our socket, unless another instance has put its own socket there."""
    with suppress(FileNotFoundError):
        if _identity(path) == identity:
            os.unlink(path)


def _remove_stale(path: str) -> None:
    """Remove the socket of a process that is gone. Raises OSError if another file is there."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "it is not a socket, and is not removed")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
