"""GET requests to a running service by the standard library alone, and the commands made of them.

`health` and `wait` run every few seconds in containers: the import of an HTTP client would cost ten
times the request.
"""

import argparse
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from idservice.client import lookup, tls
from idservice.client.address import ServiceAddress
from idservice.errors import Unavailable
from idservice.server.left_address import service_address
from idservice.server.listen_address import Address

if TYPE_CHECKING:
    from idservice.client.own_key import OwnKey  # which a health check does not need

POLL_S = 0.1
NO_KEY = (
    "401: Requests need an access key here, and this one has none. Name a file that has one with"
    " --key-file, or set IDSERVICE_KEY. The owner of the service makes keys by `idservice key"
    " create --role R --scope S`."
)


class NoAnswer(Unavailable):
    text = "No answer from {url}: {why}."
    code = "no_answer"


class RefusedBy(Unavailable):
    text = "The service at {url} refused: {why}"
    code = "refused"


def default_url(environment: Mapping[str, str]) -> str:
    """Return the URL of the service that runs in this container. Raises Usage."""
    return reachable_url(service_address(environment))


def reachable_url(address: Address) -> str:
    """Return the URL at which a service that listens on `address` is reached from this machine."""
    if address.host not in ("0.0.0.0", "::"):  # noqa: S104 - they stand for every address
        return address.url
    # A service on "::" accepts IPv4 too, and containers may lack "::1"; others have no IPv4.
    host = "::1" if address.host == "::" and not _has_ipv4() else "127.0.0.1"
    return replace(address, host=host).url


def _has_ipv4() -> bool:
    """Return True if this machine has a route to 127.0.0.1. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        return way.connect_ex(("127.0.0.1", 9)) == 0


def ask(
    url: str,
    target: str,
    *,
    timeout: float,
    here: bool = False,
    key: "OwnKey | None" = None,
) -> tuple[int, str]:
    """GET `target` at http(s)://HOST:PORT or unix:PATH; return the status and the body.

    `timeout` in seconds holds for the whole call. `here` is True for an address on which this
    machine listens: its certificate, which is for other names, is not checked. `key` is the access
    key that is shown. Raises NoAnswer, Usage.
    """
    deadline = time.monotonic() + timeout
    shown = "".join(f"{name}: {value}\r\n" for name, value in (key.headers if key else {}).items())
    address = ServiceAddress.parse(url)
    try:
        with _connect(address, timeout, here=here) as connection:
            connection.sendall(
                f"GET {target} HTTP/1.1\r\nHost: {address.authority}\r\nAccept: */*\r\n"
                f"User-Agent: idservice\r\n{shown}Connection: close\r\n\r\n".encode()
            )
            answer = b""
            while True:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                chunk = connection.recv(65536)
                if not chunk:
                    break
                answer += chunk
    except (OSError, UnicodeError) as error:  # UnicodeError for the name of a host
        why = tls.why_no_handshake(error) or getattr(error, "strerror", None) or str(error)
        raise NoAnswer(url=url, why=why or "timed out") from None
    if answer.startswith(tls.ALERT) or (not answer and address.is_plain):
        raise NoAnswer(url=url, why=tls.SPOKEN if answer else tls.CLOSED)
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise NoAnswer(url=url, why="the answer is not HTTP")
    whole = _whole(head, body)
    if whole is None:
        raise NoAnswer(url=url, why="the answer was cut off")
    return int(words[1]), whole.decode("utf-8", "replace")


def asked(url: str, target: str, *, timeout: float, key: "OwnKey | None" = None) -> str:
    """Return the body that a service answers to a GET. Raises RefusedBy, and as `ask`."""
    status, body = ask(url, target, timeout=timeout, key=key)
    if status != 200:
        raise RefusedBy(url=url, why=NO_KEY if lacks_key(status, key) else detail(status, body))
    return body


def lacks_key(status: int, key: "OwnKey | None") -> bool:
    """Return True if a request was refused that showed no access key."""
    return status == 401 and not (key and key.headers)


def health(arguments: argparse.Namespace) -> int:
    """Ask a service if it is alive, or ready."""
    path = "/readyz" if arguments.ready else "/livez"
    url, here = arguments.url or default_url(os.environ), not arguments.url
    status, body = ask(url, path, timeout=2.0, here=here)
    print(body if status == 200 else detail(status, body))
    return 0 if status == 200 else 1


def wait(arguments: argparse.Namespace) -> int:
    """Ask a service until it is ready. Raises NoAnswer if it is not in time."""
    url, here = arguments.url or default_url(os.environ), not arguments.url
    deadline = time.monotonic() + arguments.timeout
    while True:
        try:
            left_s = max(0.1, deadline - time.monotonic())
            status, body = ask(url, "/readyz", timeout=left_s, here=here)
            if status == 200:
                print(body)
                return 0
            error = NoAnswer(url=url, why=f"it answers {status} {body}")
        except NoAnswer as no_answer:
            error = no_answer
        if time.monotonic() + POLL_S >= deadline:
            raise error
        time.sleep(POLL_S)


def detail(status: int, body: str) -> str:
    """Return an answer that refuses as one line."""
    try:
        return f"{status}: {json.loads(body)['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{status}: {body[:200]}"


def _whole(head: bytes, body: bytes) -> bytes | None:
    """Return the body that the head announces; None if it is not there to its end."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    fields = {name.strip().lower(): value.strip().lower() for name, _, value in lines}
    if fields.get(b"transfer-encoding") == b"chunked":  # by a proxy in between
        return _unchunked(body)
    length = fields.get(b"content-length", b"")
    return body[: int(length)] if length.isdigit() and len(body) >= int(length) else None


def _unchunked(body: bytes) -> bytes | None:
    whole = b""
    while True:
        size, _, rest = body.partition(b"\r\n")
        try:
            length = int(size.partition(b";")[0], 16)
        except ValueError:
            return None
        if not length:
            return whole
        if len(rest) < length + 2:
            return None
        whole, body = whole + rest[:length], rest[length + 2 :]


def _connect(address: ServiceAddress, timeout: float, *, here: bool) -> socket.socket:
    if not address.path:
        connection = lookup.connect(address.host, address.port, timeout)
        return _secured(connection, address.host, here=here) if address.tls else connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(address.path)
    except OSError:
        connection.close()
        raise
    return connection


def _secured(connection: socket.socket, host: str, *, here: bool) -> socket.socket:
    import ssl  # a health check of this machine loads nothing that it does not need

    try:
        context = ssl.create_default_context()
        if here:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(connection, server_hostname=host)
    except OSError:
        connection.close()
        raise
