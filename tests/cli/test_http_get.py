"""Answers of a service are believed whole, or not at all."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from idservice.__main__ import main
from idservice.cli import http_get


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The URL of a server that answers each request with these bytes, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def ok(body: bytes, *, length: int | None = None, more: bytes = b"") -> bytes:
    length = len(body) if length is None else length
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n".encode()
    return head + more + b"\r\n" + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
COMMANDS = [
    ["next", "--count", "3"],
    ["show", "default"],
    ["health"],
    ["wait", "--timeout", "0.2"],
    ["top", "--once"],
    ["bench"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    "answer",
    [
        ok(b"123450\n123451\n123", length=21),
        b"HTTP/1.1 200 OK\r\n\r\n123450\n",
        CHUNKED + b"7\r\n123450\n\r\n",
        CHUNKED + b"7\r\n123",
        b"HTTP/1.1 200 OK\r\nContent-Length: 21",
        b"",
    ],
    ids=["short", "no length", "no last chunk", "short chunk", "short head", "nothing"],
)
def test_an_answer_that_was_cut_off_is_no_answer(
    command: list[str], answer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """psf/requests#4956: a body cut short passed for the whole one."""
    with answering(answer) as url:
        where = [url] if command == ["bench"] else ["--url", url]
        assert main([*command, *where]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "No answer from" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "body",
    [
        b"1\n2\n", b"1\n2\n3\n4\n", b"1\n2\n3", b"1\n\n2\n", b"<html>", b"1\n2\n-3\n",
        "1\n2\n\u0663\n".encode(),
    ],
)  # fmt: skip
def test_ids_are_as_many_as_were_asked_for(body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(ok(body)) as url:
        assert main(["next", "--count", "3", "--url", url]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "is not the end of 3 ids" in err


@pytest.mark.parametrize("body", [b"[]", b"{", b"{}", b'{"gaps":{"x":{}}}', b'{"gaps":5}'])
def test_a_counter_is_shown_as_idservice_shows_it_or_not_at_all(
    body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(ok(body)) as url:
        assert main(["show", "default", "--url", url]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "is not a counter as idservice shows it" in err


def test_a_whole_answer_is_read_to_its_length_also_in_chunks() -> None:
    with answering(ok(b"5\n") + b"beyond it") as url:
        assert http_get.ask(url, "/next", timeout=60.0) == (200, "5\n")
    with answering(CHUNKED + b"1;x=y\r\n5\r\n1\r\n\n\r\n0\r\n\r\n") as url:
        assert http_get.ask(url, "/next", timeout=60.0) == (200, "5\n")
