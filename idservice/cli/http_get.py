"""Asking a running service from the command line, with nothing but the standard library.

`health` and `wait` run every few seconds in containers: importing an HTTP client would cost ten
times what they do.
"""

import socket
import time
from collections.abc import Mapping

from idservice.errors import Unavailable, Usage
from idservice.server.settings import LISTEN_DEFAULT, PREFIX

POLL_S = 0.1
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  listened on, not asked at


class NoAnswer(Unavailable):
    """No answer from {url}: {why}."""

    code = "no_answer"


class RefusedBy(Unavailable):
    """The service at {url} refused: {why}"""

    code = "refused"


def default_url(environment: Mapping[str, str]) -> str:
    """Where the service of this container listens, as far as the environment tells."""
    address = environment.get(PREFIX + "LISTEN", LISTEN_DEFAULT).partition(",")[0].strip()
    if address.startswith("unix:"):
        return address
    host, colon, port = address.rpartition(":")
    return f"http://{ANY_ADDRESS.get(host, host)}{colon}{port}"


def ask(url: str, target: str, *, timeout: float, accept: str = "*/*") -> tuple[int, str]:
    """GET `target` at http://HOST:PORT or unix:PATH; the status and the body.

    Raises NoAnswer, Usage. `timeout` in seconds holds for the whole call.
    """
    deadline = time.monotonic() + timeout
    try:
        with _connect(url, timeout) as connection:
            host = "localhost" if url.startswith("unix:") else url.partition("://")[2].rstrip("/")
            connection.sendall(
                f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n"
                "User-Agent: idservice\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b""
            while chunk := _receive(connection, deadline):
                answer += chunk
    except (OSError, UnicodeError) as error:  # the latter of a host's name
        why = getattr(error, "strerror", None) or str(error) or "timed out"
        raise NoAnswer(url=url, why=why) from None
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise NoAnswer(url=url, why="what came back is not HTTP")
    return int(words[1]), body.decode("utf-8", "replace")


def wait_until_ready(url: str, *, timeout: float) -> str:
    """Ask /readyz until it says yes; what it said. Raises NoAnswer after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            status, body = ask(url, "/readyz", timeout=max(0.1, deadline - time.monotonic()))
            if status == 200:
                return body
            error = NoAnswer(url=url, why=f"it answers {status} {body}")
        except NoAnswer as no_answer:
            error = no_answer
        if time.monotonic() + POLL_S >= deadline:
            raise error
        time.sleep(POLL_S)


def detail(status: int, body: str) -> str:
    """An answer that refuses, in words."""
    import json

    try:
        return f"{status}: {json.loads(body)['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{status}: {body[:200]}"


def _connect(url: str, timeout: float) -> socket.socket:
    if url.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(url.removeprefix("unix:"))
        except OSError:
            connection.close()
            raise
        return connection
    scheme, separator, authority = url.partition("://")
    host, colon, port = authority.rstrip("/").rpartition(":")
    if (
        scheme != "http"
        or not separator
        or not colon
        or not port.isdigit()
        or "/" in authority[:-1]
    ):
        raise Usage(why=f"--url is {url!r}; it must be http://HOST:PORT or unix:PATH")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)


def _receive(connection: socket.socket, deadline: float) -> bytes:
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    return connection.recv(65536)
