"""A port that speaks TLS and an address that does not name it so, or the other way round."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from idservice import errors
from idservice.cli import http_get
from idservice.client import AsyncClient, Client, WaitedTooLong, tls
from tests.client.conftest import PATIENCE_S
from tests.listening import listening

HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
ALERT = b"\x15\x03\x01\x00\x02\x02\x46"
PAGE = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


@asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[str]:
    """A port that answers whatever comes with the same bytes, and closes."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        writer.write(answer)

    async with listening(answered) as port:
        yield f"127.0.0.1:{port}"


def blocking(url: str) -> WaitedTooLong:
    with Client(url) as client, pytest.raises(WaitedTooLong) as failed:
        client.next_id()
    return failed.value


async def asynchronous(url: str) -> WaitedTooLong:
    async with AsyncClient(url) as client:
        with pytest.raises(WaitedTooLong) as failed:
            await client.next_id()
    return failed.value


@pytest.mark.parametrize(
    ("scheme", "answer", "words", "outcome"),
    [
        ("https", HTTP, tls.NOT_SPOKEN, errors.NOT_APPLIED),
        ("http", ALERT, tls.SPOKEN, errors.UNKNOWN),
        ("http", PAGE, tls.SPOKEN, errors.UNKNOWN),
        ("http", b"", tls.CLOSED, errors.UNKNOWN),
    ],
)
async def test_both_clients_say_that_the_scheme_is_wrong(
    tries: Callable[[int], None], scheme: str, answer: bytes, words: str, outcome: str
) -> None:
    tries(1)
    async with saying(answer) as place:
        url = f"{scheme}://{place}"
        for failed in (await asyncio.to_thread(blocking, url), await asynchronous(url)):
            assert words in str(failed)
            assert failed.outcome == outcome


@pytest.mark.parametrize(
    ("scheme", "answer", "words"),
    [
        ("https", HTTP, tls.NOT_SPOKEN),
        ("https", b"", tls.ENDED),
        ("http", ALERT, tls.SPOKEN),
        ("http", b"", tls.CLOSED),
    ],
)
async def test_commands_that_ask_a_service_say_that_the_scheme_is_wrong(
    scheme: str, answer: bytes, words: str
) -> None:
    async with saying(answer) as place:
        with pytest.raises(http_get.NoAnswer) as failed:
            await asyncio.to_thread(
                http_get.ask, f"{scheme}://{place}", "/livez", timeout=PATIENCE_S
            )
    assert words in str(failed.value)


@pytest.mark.parametrize("reason", sorted(tls.ANOTHER_PROTOCOL))
def test_each_version_of_openssl_has_its_own_word(reason: str) -> None:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    assert tls.why_no_handshake(error) == tls.NOT_SPOKEN
    assert tls.why_no_handshake(OSError("reset")) == ""
