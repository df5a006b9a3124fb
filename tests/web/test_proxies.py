"""Proxies as they are by default, before a real service: nothing that comes through changes it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.listening import listening
from tests.processes import ROOT, STORE, Serving, command

from .proxies import FRONTS, PROXIES, START_S, nginx
from .wire import Answer, Wire, ask, connected, request

pytestmark = pytest.mark.process

GUIDE = ROOT / "docs" / "how-to" / "proxy.md"
REFUSED = (403, 404, 405)  # by the proxy itself
HOSTS = ("ids.example.com", "localhost", "127.0.0.1:8080", "[::1]")
CHANGES = (
    ("PUT", "/v1/counters/made", b"{}"),
    ("PATCH", "/v1/counters/default", b'{"state":"suspended"}'),
    ("PATCH", "/v1/counters/default", b'{"limit":5,"runway":9}'),
    ("DELETE", "/v1/counters/default", b""),
    ("DELETE", "/v1/counters/default", b"{}"),
    ("POST", "/v1/counters/default/set", b'{"next":500}'),
    ("PUT", "/v1/tallies/made", b"{}"),
    ("PATCH", "/v1/tallies/made", b'{"state":"suspended"}'),
    ("DELETE", "/v1/tallies/made", b""),
    ("POST", "/v1/tallies/made/set", b'{"sum":"5"}'),
)


async def through(path: Path, method: str, target: str, body: bytes, host: str) -> Answer:
    """The answer to one request on a Unix socket."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        headers = {"Host": host, "Connection": "close"}
        writer.write(request(target, method, headers=headers, body=body))
        return await Wire(reader, writer).answer(twice="server")  # Caddy adds its own
    finally:
        writer.close()
        await writer.wait_closed()


async def status_of(path: Path, method: str, target: str) -> int:
    """The status of an answer, which may be one of the proxy itself."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request(target, method, headers={"Connection": "close"}))
        async with asyncio.timeout(START_S):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()
        await writer.wait_closed()


async def changed(path: Path, host: str) -> list[tuple[int, str]]:
    """Status and code of the answers to every change."""
    answers = [await through(path, *change, host) for change in CHANGES]
    return [(answer.status, answer.json.get("code", "")) for answer in answers]


def entries(folder: Path) -> str:
    """Return all counters as the store has them, without the service."""
    listed = command("counters", "--json", "--store", STORE, folder=folder).stdout.splitlines()
    return repr([{**json.loads(one), "next": 0} for one in listed])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    """A service without any setting but its addresses: TCP, and a Unix socket."""
    listen = ("127.0.0.1:0", f"unix:{tmp_path}/ids")
    with Serving(tmp_path, "--store", STORE, "--init", listen=listen) as serving:
        assert serving.port
        yield serving


@pytest.fixture(params=PROXIES)
async def front(
    request: pytest.FixtureRequest, tmp_path: Path, service: Serving
) -> AsyncIterator[Path]:
    """The folder of a proxy that leads each of FRONTS to the service, and "guide" as told there."""
    folder = tmp_path / "proxy"
    folder.mkdir()
    running, leads = PROXIES[request.param]
    told = GUIDE.read_text().partition(f"{request.param}:\n\n```text\n")[2].partition("```")[0]
    assert told
    text = leads(folder, service.port, tmp_path / "ids", told)
    async with running(folder, text, (*FRONTS, "guide")):
        yield folder


@pytest.mark.needs_proxies
async def test_no_change_comes_through_a_proxy_as_it_is_by_default(
    front: Path, service: Serving, tmp_path: Path
) -> None:
    before = entries(tmp_path)
    for name in FRONTS:
        for host in HOSTS:
            found = await changed(front / name, host)
            assert found == [(403, "write_refused")] * len(CHANGES), (name, host)
        assert (await through(front / name, "GET", "/next", b"", "x")).status == 200
    assert entries(tmp_path) == before


@pytest.mark.needs_proxies
async def test_the_lines_of_the_guide_pass_ids_and_nothing_else(
    front: Path, tmp_path: Path
) -> None:
    before = entries(tmp_path)
    for target in ("/next", "/v1/counters/default/next", "/next?count=2"):
        assert (await through(front / "guide", "GET", target, b"", "x")).status == 200
    for target in ("/", "/metrics", "/v1/counters", "/v1/counters/default", "/v1/status"):
        assert await status_of(front / "guide", "GET", target) in REFUSED
    for method, target, _ in CHANGES:
        assert await status_of(front / "guide", method, target) in REFUSED
    assert entries(tmp_path) == before


REPEATING = """
upstream ids {{ server 127.0.0.1:{loser} max_fails=0; server 127.0.0.1:{port} backup; }}
server {{
    listen unix:{folder}/front;
    location / {{ proxy_pass http://ids; proxy_next_upstream error timeout non_idempotent; }}
}}
"""


@pytest.mark.needs_proxies
async def test_an_add_that_a_proxy_repeats_is_counted_once(tmp_path: Path) -> None:
    """Its first answer is lost between the service and nginx, which then asks again."""
    lost: list[bytes] = []

    async def lose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(len(body))
        async with connected(serving.port) as wire:
            await wire.send(asked)
            lost.append((await wire.answer()).body)

    body = b'{"amount":"5"}'
    add = "/v1/tallies/gifts/add"
    headers = {"Content-Type": "application/json", "Idempotency-Key": "a", "Connection": "close"}
    with Serving(tmp_path, "--store", STORE, "--init", "--allow-changes") as serving:
        assert (await ask(serving.port, "/v1/tallies/gifts", "PUT")).status == 201
        async with listening(lose) as loser:
            text = REPEATING.format(loser=loser, port=serving.port, folder=tmp_path)
            async with nginx(tmp_path, text, ["front"]):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "front")
                writer.write(request(add, "POST", headers=headers, body=body))
                told = json.loads((await Wire(reader, writer).answer()).body)
                writer.close()
        assert told == {**json.loads(lost[0]), "replayed": True}
        assert (told["sum"], len(lost)) == ("5", 1)


async def test_a_listener_for_ids_changes_nothing_unless_that_is_allowed(
    service: Serving, tmp_path: Path
) -> None:
    before = entries(tmp_path)
    for host in HOSTS:
        assert {status for status, _ in await changed(tmp_path / "ids", host)} == {403}
    refused = await through(tmp_path / "ids", "DELETE", "/v1/counters/default", b"", "localhost")
    for part in ("idservice delete default --store", "--allow-changes", "--admin-listen"):
        assert part in refused.json["detail"]
    assert entries(tmp_path) == before
    assert not service.records("changes_allowed")


async def test_with_allow_changes_local_listeners_change_counters(tmp_path: Path) -> None:
    listen = (f"unix:{tmp_path}/ids", "127.0.0.1:0")
    arguments = ("--store", STORE, "--init", "--allow-changes")
    with Serving(tmp_path, *arguments, listen=listen) as serving:
        said = serving.await_log("changes_allowed")["message"]
        assert "127.0.0.1:" in said
        assert "unix:" in said
        for host in HOSTS[1:]:
            made = await through(tmp_path / "ids", "PUT", "/v1/counters/made", b"", host)
            assert made.status in (200, 201)
        assert {status for status, _ in await changed(tmp_path / "ids", HOSTS[0])} == {403}


async def test_an_admin_socket_changes_counters_and_ids_are_elsewhere(tmp_path: Path) -> None:
    admin = ("--admin-listen", f"unix:{tmp_path}/admin")
    listen = (f"unix:{tmp_path}/ids", "127.0.0.1:0")
    with Serving(tmp_path, "--store", STORE, "--init", *admin, listen=listen) as serving:
        serving.await_log("listening_admin")
        assert f"unix:{tmp_path}/admin" in serving.await_log("changes_allowed")["message"]
        assert (tmp_path / "admin").stat().st_mode & 0o777 == 0o660
        for target in ("/", "/v1/counters", "/v1/counters/default", "/v1/status", "/metrics"):
            ids = await through(tmp_path / "ids", "GET", target, b"", "localhost")
            assert (target, ids.status) == (target, 404)
            control = await through(tmp_path / "admin", "GET", target, b"", "localhost")
            assert (target, control.status) == (target, 200)
        for target, status in (("/next", 200), ("/livez", 200), ("/readyz", 200)):
            ids = await through(tmp_path / "ids", "GET", target, b"", "localhost")
            assert ids.status == status
        assert {status for status, _ in await changed(tmp_path / "ids", "localhost")} <= {*REFUSED}
        assert (await through(tmp_path / "admin", "GET", "/next", b"", "x")).status == 404
        made = await through(tmp_path / "admin", "PUT", "/v1/counters/made", b"", "admin")
        assert made.status == 201
