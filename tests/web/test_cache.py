"""A cache in front, a real one: it cannot give one id to two callers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.listening import listening

from .conftest import Serving
from .proxies import nginx
from .wire import ask, connected

pytestmark = pytest.mark.needs_proxies

CALLERS = 200
SERVERS = """
    proxy_cache_path {folder}/cache keys_zone=ids:1m use_temp_path=off;
    upstream ids {{ {upstream} }}
    server {{
        listen unix:{folder}/front;
        location / {{ proxy_pass http://ids; proxy_cache ids; {rules} }}
    }}
"""

EVERYTHING = (
    "proxy_cache_valid any 10s; proxy_cache_lock on; proxy_cache_lock_timeout 200ms;"
    " proxy_cache_use_stale updating error; proxy_cache_background_update on;"
    " proxy_cache_methods GET HEAD POST;"
)

Front = Callable[..., Awaitable[Path]]


@pytest.fixture
async def front(tmp_path: Path, serving: Serving) -> AsyncIterator[Front]:
    """Starts nginx before the service; answers the Unix socket where it listens."""
    async with AsyncExitStack() as stack:

        async def start(rules: str = "", *, upstream: str = "") -> Path:
            folder = tmp_path / "nginx"
            folder.mkdir()
            upstream += f"server 127.0.0.1:{serving.port};"
            servers = SERVERS.format(folder=folder, rules=rules, upstream=upstream)
            await stack.enter_async_context(nginx(folder, servers, ["front"]))
            return folder / "front"

        yield start


async def through(path: Path, target: str = "/next", method: str = "GET") -> tuple[int, str, str]:
    """A request through the front: status, Cache-Control and body."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(30):
            answer = (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    lines = head.split("\r\n")
    control = [line for line in lines if line.lower().startswith("cache-control")]
    if any(line.lower() == "transfer-encoding: chunked" for line in lines):
        body = body.split("\r\n")[1]
    return int(lines[0].split()[1]), control[0] if control else "", body


async def many(path: Path, target: str = "/next") -> list[str]:
    answers = await asyncio.gather(*(through(path, target) for _ in range(CALLERS)))
    assert {status for status, _, _ in answers} == {200}
    return [body for _, _, body in answers]


@pytest.mark.parametrize(
    "rules",
    [
        "",
        "proxy_cache_valid 200 10s;",
        EVERYTHING,
    ],
    ids=["default", "valid 200 10s", "everything on"],
)
async def test_a_cache_in_front_gives_every_caller_an_id_of_its_own(
    front: Front, rules: str
) -> None:
    path = await front(rules)
    assert len(set(await many(path))) == CALLERS
    batches = await many(path, "/next?count=2&format=json")
    assert len(set(batches)) == CALLERS


async def test_no_answer_of_any_kind_is_kept_by_a_cache(front: Front, serving: Serving) -> None:
    path = await front("proxy_cache_valid any 10s;")
    for target, status in (("/nope", 404), ("/v1/counters/later/next", 404), ("/readyz", 200)):
        assert await through(path, target) == (
            status,
            "Cache-Control: no-store",
            (await ask(serving.port, target)).text,
        )
    assert (await ask(serving.port, "/v1/counters/later", "PUT")).status == 201
    assert (await through(path, "/v1/counters/later/next"))[::2] == (200, "0"), "404 was kept"


async def test_a_cache_that_was_told_to_ignore_the_header_repeats_ids(front: Front) -> None:
    """Shows that this cache does cache: no answer can prevent this, and the guarantees name it."""
    path = await front("proxy_cache_valid 200 10s; proxy_ignore_headers Cache-Control;")
    ids = [(await through(path))[2] for _ in range(5)]
    assert len(set(ids)) == 1


async def test_a_proxy_that_tries_several_upstreams_makes_gaps_and_no_duplicates(
    front: Front,
) -> None:
    """Upstreams that take the request and lose the answer, before the one that serves."""
    served: list[int] = []

    async def lose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        async with connected(served[0]) as wire:
            await wire.send(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
            served.append(int((await wire.answer()).body))

    async with listening(lose) as one, listening(lose) as two:
        upstream = "".join(f"server 127.0.0.1:{port} max_fails=0;" for port in (one, two))
        path = await front(
            "proxy_next_upstream error timeout http_502; proxy_next_upstream_tries 3;",
            upstream=upstream,
        )
        served.append(serving_port(path))
        ids = [int(id) for id in await many(path)]
    lost = served[1:]
    assert len(lost) > 0, "requests were repeated"
    assert len(set(ids)) == CALLERS
    assert not set(ids) & set(lost), "a lost answer's id is a gap"
    assert max(ids + lost) - min(ids + lost) + 1 == len(ids) + len(lost)


def serving_port(path: Path) -> int:
    """The port of the service behind a front, from its configuration."""
    configuration = (path.parent / "nginx.conf").read_text()
    return int(configuration.rpartition("127.0.0.1:")[2].partition(";")[0])
