"""Leaves the addresses of a service in a file, for `health`, `wait` and `top` in its container.

The file is locked as long as its service lives, so that one left behind is recognised. It is in
XDG_RUNTIME_DIR, in the folder for temporary files, or in shared memory: there a container can write
even if its root file system is read-only. A command believes only files of its own user, mounts and
network, from a service with the same IDSERVICE_LISTEN. Other files are about other services.
"""

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from idservice.errors import Usage
from idservice.server.listen_address import ADMIN_DEFAULT, Address
from idservice.server.settings import ADMIN_LISTEN, LISTEN, from_environment

PREFIX = "idservice-"
CONTENT_MAX = 65_536
# A pod's containers share their shared memory, and a folder may be seen from several networks.
NAMESPACES = ("/proc/self/ns/mnt", "/proc/self/ns/net")
Left = tuple[list[Address], list[Address]]  # addresses for ids, and for counters


def _folders(environment: Mapping[str, str]) -> list[str]:
    named = (environment.get("XDG_RUNTIME_DIR"), environment.get("TMPDIR") or "/tmp", "/dev/shm")  # noqa: S108
    return list(dict.fromkeys(filter(None, named)))


def _origin(environment: Mapping[str, str]) -> list[str]:
    """Return what service and command have in common if one is about the other."""
    with suppress(OSError):
        return [environment.get(LISTEN.variable, ""), *map(os.readlink, NAMESPACES)]
    return [environment.get(LISTEN.variable, ""), "", ""]


@contextmanager
def left(addresses: Left, environment: Mapping[str, str]) -> Iterator[None]:
    """Leave the addresses of this service in a file while entered."""
    groups = [[_absolute(one) for one in group] for group in addresses]
    content = json.dumps([_origin(environment), *groups]).encode()
    file = next(filter(None, (_leave(one, content) for one in _folders(environment))), None)
    if file is None and addresses[0][0] != from_environment(LISTEN, environment)[0]:
        import logging  # slow to load, and no command needs it

        logging.getLogger("idservice.server").warning(
            "this service cannot leave its address in a file: `idservice health` needs --url here",
            extra={"action": "address_not_left"},
        )
    try:
        yield
    finally:
        if file is not None:
            path, descriptor = file
            with suppress(OSError):
                os.unlink(path)
            os.close(descriptor)


def _absolute(address: Address) -> str:
    return f"unix:{os.path.abspath(address.path)}" if address.path else str(address)


def _leave(folder: str, content: bytes) -> tuple[str, int] | None:
    """Return the path and the descriptor of a new, locked file; None if none can be made."""
    for _, descriptor in _files(folder):  # remove those of services that are gone
        os.close(descriptor)
    path = os.path.join(folder, f"{PREFIX}{os.getuid()}-{os.urandom(8).hex()}")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, content)
        if os.fstat(descriptor).st_nlink:  # else another service removed it as one left behind
            return path, descriptor
    os.close(descriptor)
    return None


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """Yield path and descriptor of the files of living services; remove the others."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if not name.startswith(f"{PREFIX}{os.getuid()}-"):
            continue
        path = os.path.join(folder, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield path, descriptor
                continue
            with suppress(OSError):
                os.unlink(path)
        os.close(descriptor)


def _living(environment: Mapping[str, str]) -> Iterator[Left]:
    """Yield the addresses of each service here that a command may be about."""
    origin = _origin(environment)
    for folder in _folders(environment):
        for _, descriptor in _files(folder):
            try:
                theirs, *groups = json.loads(os.pread(descriptor, CONTENT_MAX, 0))
                data, admin = ([Address.parse(one) for one in group] for group in groups)
                if theirs == origin and data:
                    yield data, admin
            except (ValueError, TypeError):  # it is being written, or of another version
                pass
            finally:
                os.close(descriptor)


def service_address(environment: Mapping[str, str], *, admin: bool = False) -> Address:
    """Return the address of the service that runs here, for ids or for counters.

    If no service left one, return that which the environment names, or the default. Raises Usage.
    """
    listens = from_environment(LISTEN, environment)
    control = from_environment(ADMIN_LISTEN, environment)
    if control is None and not all(one.is_local for one in listens):
        control = ADMIN_DEFAULT
    wanted: Address = (control or listens[0]) if admin else listens[0]
    found = [theirs if admin and theirs else data for data, theirs in _living(environment)]
    if any(wanted in addresses for addresses in found) or not found:
        return wanted
    if len(found) > 1:
        urls = " ".join(addresses[0].url for addresses in found)
        raise Usage(why=f"{len(found)} services run here; name one of them with --url: {urls}")
    return found[0][0]
