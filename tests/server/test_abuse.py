"""Real processes under what no well-meaning client does: their memory stays, and ids stay exact."""

import asyncio
import os
import resource
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from idservice.web.fast_lane.responses import TARGETS_MAX
from tests.processes import STORE, Serving
from tests.web.wire import Wire, connected, request

pytestmark = pytest.mark.process

NAMES = int(os.environ.get("NAMES", 3_000))
GROWTH_MAX = 2**17  # bytes, 44 for a name; what a process has spare takes in some more
CONNECTIONS = 1_000
AT_ONCE = 20


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def asked_for(port: int, names: range, path: str) -> None:
    """Ask for a counter by each of the names, which nobody created."""

    async def some(part: range) -> None:
        async with connected(port) as wire:
            for number in part:
                await wire.send(request(path.format(f"no-{number}")))
                assert (await wire.answer()).status == 404

    step = AT_ONCE
    await asyncio.gather(*(some(names[first::step]) for first in range(step)))


@pytest.mark.parametrize(
    ("path", "warm"),  # names after which a process has what it needs
    [("/v1/counters/{}/next", TARGETS_MAX + 1_000), ("/v1/counters/{}", 1_000)],
    ids=["for ids", "what it is"],
)
async def test_names_that_nobody_created_leave_nothing_in_memory(
    folder: Path, path: str, warm: int
) -> None:
    with Serving(folder, "--store", STORE) as serving:
        port = serving.port
        await asked_for(port, range(warm), path)
        before = resident(serving.pid)
        await asked_for(port, range(warm, warm + NAMES), path)
        assert resident(serving.pid) - before < GROWTH_MAX
        async with connected(port) as wire:
            await wire.send(request("/metrics"))
            assert b"no-1" not in (await wire.answer()).body, "a label that anybody may add"
        serving.terminate()
        assert serving.end() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_thousand_connections_at_once_are_all_served(folder: Path, workers: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * CONNECTIONS:
        pytest.skip(f"a process may have {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * CONNECTIONS), hard))
    ids: list[int] = []

    async def client(wire: Wire) -> None:
        for _ in range(5):
            await wire.send(request())
            answer = await wire.answer()
            assert answer.status == 200
            ids.append(int(answer.body))

    with Serving(folder, "--store", STORE, "--workers", workers) as serving:
        port = serving.port
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(connected(port)) for _ in range(CONNECTIONS)]
            await asyncio.gather(*map(client, wires))
        serving.terminate()
        assert serving.end() == 0
    assert len(set(ids)) == len(ids) == 5 * CONNECTIONS
