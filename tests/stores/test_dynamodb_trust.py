"""DynamoDB over TLS: which certificates are trusted, and what is said of a bundle that is none."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import SSLError

from idservice import errors
from idservice.cli import main
from idservice.observability import logs
from idservice.stores.address import DynamoAddress
from idservice.stores.dynamodb import DynamoStore, credentials
from tests.certificates import Files
from tests.engines import REGION

STORE = f"dynamodb:none?region={REGION}"


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass  # a refused handshake, or a client that is gone
    finally:
        writer.close()


@asynccontextmanager
async def relay(
    port: int | None, context: ssl.SSLContext | None = None, connects: list[bytes] | None = None
) -> AsyncIterator[int]:
    """The port of what passes connections on: as TLS in front of an engine, or as a proxy."""

    tasks = set[asyncio.Task[None]]()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(pass_on(reader, writer)))

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if connects is not None:
            connects.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        its_reader, its_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, its_writer), pipe(its_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*tasks)


@pytest.fixture
async def tls_port(
    moto_url: str, certificate: Files, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[int]:
    """The port of an engine behind TLS, which the environment names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    async with relay(urlsplit(moto_url).port, context) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{port}")
        yield port


async def said() -> str:
    """What the first request of a store says."""
    async with DynamoStore(DynamoAddress.parse(f"none?region={REGION}")) as store:
        with pytest.raises(errors.StoreError) as raised:
            await store.verify()
    return str(raised.value)


def set_in_profile(monkeypatch: pytest.MonkeyPatch, folder: Path, bundle: Path) -> None:
    (folder / "config").write_text(f"[default]\nca_bundle = {bundle}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))


async def test_the_bundle_of_the_environment_is_trusted(
    tls_port: int, certificate: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.cert))
    assert "no table" in await said()


async def test_the_bundle_of_a_profile_is_trusted_also_if_the_variable_is_empty(
    tls_port: int, certificate: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_in_profile(monkeypatch, tmp_path, certificate.cert)
    monkeypatch.setenv("AWS_CA_BUNDLE", "")
    assert "no table" in await said()


@pytest.mark.parametrize("empty", [False, True])
async def test_without_a_bundle_a_certificate_of_nobody_is_refused(
    empty: bool, tls_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if empty:
        monkeypatch.setenv("AWS_CA_BUNDLE", "")
    why = await said()
    assert "its certificate is not accepted" in why
    assert "the variable AWS_CA_BUNDLE can name the file of your own authority" in why


async def test_credentials_come_over_tls_that_is_checked_with_the_same_bundle(
    tls_port: int, certificate: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The library would check nothing if the variable is empty."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "token").write_text("token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/ids")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_CA_BUNDLE", "")
    with pytest.raises(SSLError):
        await (await credentials.look_up())[1].get_frozen_credentials()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.cert))
    assert await (await credentials.look_up())[1].get_frozen_credentials()


async def test_certificates_are_checked_through_a_proxy_too(
    tls_port: int, certificate: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    async with relay(tls_port, connects=asked) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "")
        assert "its certificate is not accepted" in await said()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.cert))
        assert "no table" in await said()
    assert [head.split()[1] for head in asked] == [b"localhost:%d" % tls_port] * 2


# --- a bundle that is none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"), [("serve", 3), ("init", 3), ("counters", 3), ("doctor", 1)]
)
def test_every_command_names_a_bundle_that_is_missing(
    command: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(logs, "set_up", lambda *_, **__: None)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "gone.pem"))
    assert main.main([command, "--store", STORE]) == code
    said = capsys.readouterr()
    assert f"the file {tmp_path / 'gone.pem'} that AWS_CA_BUNDLE names cannot be read" in (
        said.err + said.out
    )
    assert "No such file or directory): name a file with the certificates" in said.err + said.out
    assert "Traceback" not in said.err


async def test_a_bundle_without_a_certificate_is_refused_and_its_setting_named(
    certificate: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    for file in (certificate.key, tmp_path / "empty", tmp_path / "text"):
        set_in_profile(monkeypatch, tmp_path, file)
        why = f"the file {file} that ca_bundle of the AWS profile names holds no certificates"
        assert why in await said()


async def test_a_folder_is_no_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path))
    assert f"the file {tmp_path} that AWS_CA_BUNDLE names" in await said()
