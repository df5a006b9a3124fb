"""A real service that speaks TLS: renewed while it serves, and asked by the commands."""

import asyncio
import re
import signal
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.certificates import Files, write
from tests.processes import START_S, STORE, Serving, command, until
from tests.web.wire import ask, connected, request

pytestmark = pytest.mark.process
LISTEN = ("https://127.0.0.1:0",)
NEWCOMERS = 8  # each worker gets one of them


async def serials(port: int, trust: ssl.SSLContext) -> set[int]:
    """The serial numbers of the certificates that new connections are shown."""
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connected(port, trust)) for _ in range(NEWCOMERS)]
        shown = [wire.writer.get_extra_info("peercert")["serialNumber"] for wire in wires]
        return {int(number, 16) for number in shown}


async def test_workers_renew_their_certificate_lose_no_request_and_it_is_said_once(
    folder: Path, tmp_path: Path
) -> None:
    files = write(tmp_path, serial=1)
    ids: list[int] = []
    trust = files.trust()
    more = ("--store", STORE, "--workers", "2", *files.arguments)

    async def client(*, kept: bool) -> None:
        while True:
            async with connected(port, trust) as wire:
                for _ in range(1_000_000 if kept else 2):
                    await wire.send(request())
                    answer = await wire.answer()
                    assert answer.status == 200
                    ids.append(int(answer.body))

    def said(action: str) -> list[int | None]:
        """The workers that logged it; None is the supervisor."""
        return [one.get("worker") for one in serving.records(action)]

    async def hung_up(action: str) -> None:
        """SIGHUP, and what the supervisor says to it."""
        before = len(said(action))
        serving.process.send_signal(signal.SIGHUP)
        await until(lambda: len(said(action)) > before)

    with Serving(folder, *more, listen=LISTEN) as serving:
        port = serving.port
        await until(lambda: len(serving.records("worker_started")) == 2)
        assert await serials(port, trust) == {1}
        async with asyncio.TaskGroup() as group:
            load = [group.create_task(client(kept=kept)) for kept in (True, True, False)]
            write(tmp_path, serial=2)
            trust.load_verify_locations(files.cert)
            await hung_up("certificate_renewed")
            async with asyncio.timeout(START_S):
                while await serials(port, trust) != {2}:
                    await asyncio.sleep(0.1)
            before = len(ids)
            await until(lambda: len(ids) > before + 100)
            good = files.key.read_bytes()
            files.key.write_text("spoilt")
            await hung_up("certificate_refused")
            assert await serials(port, trust) == {2}
            files.key.write_bytes(good)
            await hung_up("certificate_renewed")
            await hung_up("certificate_renewed")  # it reads also what has not changed
            for task in load:
                task.cancel()
        assert len(ids) == len(set(ids))
        serving.terminate()
        assert serving.end() == 0
        assert set(said("certificate_renewed") + said("certificate_refused")) == {None}
    assert "Traceback" not in serving.output


async def test_files_that_change_are_seen_and_commands_find_the_service(
    folder: Path, certificate: Files, tmp_path: Path
) -> None:
    files = write(tmp_path, serial=1, begins=-60, ends=5)
    env = {"IDSERVICE_LISTEN": "https://127.0.0.1:1", "SSL_CERT_FILE": str(certificate.cert)}
    trusted = env | {"SSL_CERT_FILE": str(files.cert)}
    with Serving(
        folder, "--store", STORE, *files.arguments, listen=LISTEN, env=env
    ) as serving:  # fmt: skip
        url = f"https://127.0.0.1:{serving.port}"
        assert serving.await_log("listening")["message"] == f"ids: {url}/next"
        assert ": it ends on 20" in serving.await_log("certificate_ends")["message"]
        short = ("--duration", "0.2", "--warmup", "0")
        for words in (["health"], ["next"], ["show", "default"], ["top", "--once"], ["bench"]):
            where = [url, *short] if words == ["bench"] else ["--url", url]
            done = command(*words, *where, folder=folder, env=trusted)
            assert done.returncode == 0, done
            done = command(*words, *where, folder=folder, env=env)
            assert done.returncode == 1, done
            assert "its certificate is not accepted: self-signed certificate; " in done.stderr
        # A fork of the tests has read the authorities before: a process of its own has not.
        with Serving(folder, "--store", url, env=trusted, before=lambda: None) as sidecar:
            assert (await ask(sidecar.port)).status == 200
        write(tmp_path, serial=2)
        for words in (["health"], ["wait"], ["top", "--once"]):
            done = command(*words, folder=folder, env=env)
            assert done.returncode == 0, done
        serving.await_log("certificate_renewed")
        assert await serials(serving.port, files.trust()) == {2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tls-cert", "a"], "--listen https://127.0.0.1:0 needs"),
        (["--tls-cert", "no", "--tls-key", "no"], "--tls-cert no cannot be read: No such file"),
    ],
)
def test_a_start_that_is_refused_says_so_in_one_line(
    folder: Path, arguments: list[str], said: str
) -> None:
    done = command("serve", "--listen", *LISTEN, "--store", STORE, *arguments, folder=folder)
    assert done.returncode == 2
    assert re.fullmatch(rf"idservice: .*{said}.*\n", done.stderr)
