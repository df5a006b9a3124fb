"""Connections that speak TLS on a listener: how they begin, how many, and who does not get on."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from idservice.cli import http_get
from idservice.observability import logs
from idservice.server import handshake
from idservice.server import listener as module
from idservice.server.certificate import Certificate
from idservice.server.listener import Listener
from idservice.server.workers.accept_balance import AcceptSlot
from idservice.web.connection import ConnectionLimit
from tests.certificates import Files, write
from tests.web.wire import ask, connected, request


@asynccontextmanager
async def listening(
    certificate: Certificate, *, most: int = 100, refused: int = 2
) -> AsyncIterator[tuple[Listener, int]]:
    """A listener that speaks TLS, and its port."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=request.scheme)

    app = web.Application()
    app.router.add_get("/next", handler)
    handshake._failed._next = handshake._failed._kept_back = (
        0  # what an earlier test logged keeps nothing back
    )
    with socket.create_server(("127.0.0.1", 0)) as bound:
        limit = ConnectionLimit(most, refused_most=refused)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        async with Listener(runner, bound, limit, None, AcceptSlot(), certificate) as listener:
            yield listener, bound.getsockname()[1]


def shown(files: Files) -> Certificate:
    return Certificate(str(files.cert), str(files.key))


async def seen(listener: Listener, handshakes: int) -> None:
    """Wait until so many handshakes are under way."""
    async with asyncio.timeout(60):
        while listener.limit.handshakes != handshakes:
            await asyncio.sleep(0)


def serial(writer: asyncio.StreamWriter) -> int:
    return int(writer.get_extra_info("peercert")["serialNumber"], 16)


async def test_a_renewed_certificate_is_shown_to_new_connections_alone(tmp_path: Path) -> None:
    files = write(tmp_path, serial=1)
    certificate = shown(files)
    async with listening(certificate) as (_, port):
        old = files.trust()
        async with connected(port, old) as kept:
            assert serial(kept.writer) == 1
            write(tmp_path, serial=2)
            certificate.renew()
            async with connected(port, files.trust()) as new:
                assert serial(new.writer) == 2
                for wire in (kept, new, kept):
                    await wire.send(request())
                    assert (await wire.answer()).text == "https"
            files.key.write_text("no key")
            certificate.renew()
            async with connected(port, files.trust()) as later:
                assert serial(later.writer) == 2


async def test_http_1_1_is_what_is_agreed_on(certificate: Files) -> None:
    async with listening(shown(certificate)) as (_, port):
        trust = certificate.trust()
        trust.set_alpn_protocols(["h2", "http/1.1"])
        async with connected(port, trust) as wire:
            assert wire.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


async def test_plain_http_gets_no_answer_and_is_logged_once(
    certificate: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "INTERVAL_S", 3600.0)  # however long three connections take
    async with listening(shown(certificate)) as (_, port):
        for _ in range(3):
            async with connected(port) as wire:
                await wire.send(request())
                assert await wire.is_closed()
        assert (await ask(port, trust=certificate.trust())).status == 200
    assert [record.getMessage() for record in caplog.records] == [
        "no TLS connection with 127.0.0.1: it speaks plain HTTP: its URL must begin with https://"
    ]


async def test_a_client_that_does_not_trust_the_certificate_is_logged(
    certificate: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    async with listening(shown(certificate)) as (listener, port):
        for file, told in (
            (None, "the variable SSL_CERT_FILE can name the file"),
            (certificate.key, "is not in .*, which the variable SSL_CERT_FILE names"),
            (certificate.key.with_name("gone"), "gone, which cannot be read: No such file"),
        ):
            if file is not None:
                monkeypatch.setenv("SSL_CERT_FILE", str(file))
            with pytest.raises(http_get.NoAnswer, match=told):
                url = f"https://127.0.0.1:{port}"
                await asyncio.to_thread(http_get.ask, url, "/", timeout=60.0)
        await seen(listener, 0)
    assert "it does not trust the certificate" in caplog.text


async def test_a_probe_that_says_nothing_is_not_logged(
    certificate: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(shown(certificate)) as (listener, port):
        async with connected(port):
            await seen(listener, 1)
        await seen(listener, 0)
    assert not caplog.records


async def test_a_client_that_is_silent_in_the_handshake_is_cut_off(
    certificate: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_S", 0.1)
    async with listening(shown(certificate)) as (listener, port):
        async with connected(port) as wire:
            await wire.send(b"\x16\x03\x01")
            assert await wire.is_closed()
        assert listener.limit.handshakes == 0
    assert "it took longer than 0.1 s" in caplog.text


async def test_handshakes_count_as_connections_from_the_first_byte(certificate: Files) -> None:
    async with listening(shown(certificate), most=2, refused=1) as (listener, port):
        counts: list[int] = []
        listener.limit._tell = counts.append
        async with connected(port), connected(port):
            await seen(listener, 2)
            assert counts == [1, 2], "other workers get the next one"
            answer = await ask(port, trust=certificate.trust())
            assert (answer.status, answer.json["code"]) == (503, "too_many_connections")
            live = await ask(port, "/livez", trust=certificate.trust())
            assert live.text == "live"
            async with connected(port) as late:
                await seen(listener, 3)
                async with connected(port) as beyond:
                    assert await beyond.is_closed()
                assert late.reader.at_eof() is False
        await seen(listener, 0)
        assert (await ask(port, trust=certificate.trust())).status == 200


async def test_a_stop_waits_for_a_handshake_but_not_for_long(
    certificate: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANDSHAKES_END_S", 0.1)
    monkeypatch.setattr(handshake, "HANDSHAKE_S", 3600.0)
    async with listening(shown(certificate)) as (listener, port), connected(port) as silent:
        await seen(listener, 1)
        async with asyncio.timeout(60):
            await listener.stop_accepting()
        await seen(listener, 0)
        assert await silent.is_closed()
