"""A start in this process, which ends as soon as it serves."""

import asyncio
import gc
from pathlib import Path

import pytest

from idservice.server import process, sockets
from idservice.server.listen_address import Address
from idservice.server.settings import ServeSettings
from idservice.server.shutdown import StopSwitch


async def test_what_a_start_leaves_is_kept_out_of_collections_of_garbage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them would hold requests up for 27 ms."""
    frozen, switches = list[bool](), list[StopSwitch]()

    def switch(main: asyncio.Task[object]) -> StopSwitch:
        switches.append(StopSwitch(main))
        switches[0].asked.set()
        return switches[0]

    async def drained(*_: object) -> None:
        assert frozen == [False], "at the end of the start, once"

    monkeypatch.setattr(process, "StopSwitch", switch)
    monkeypatch.setattr(process, "drain", drained)
    monkeypatch.setattr(sockets, "may_open", lambda wished: 1024)  # it changes the whole process
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(switches[0].started))
    with sockets.bound([Address("127.0.0.1", 0)], None) as bound:
        await process.serve(ServeSettings(store=f"sqlite:{folder}/ids.db"), bound)
    assert frozen == [False]
