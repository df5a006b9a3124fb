"""Adds whose client leaves, whose service stops, or whose store fails: the key tells their fate."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from idservice import errors
from idservice.allocation.context import Limits
from idservice.core.tally import Commit
from tests import processes

from .conftest import Serve, Serving
from .test_bad_adds import ADD, GOOD, JSON
from .test_contract import assert_problem
from .test_tallies import GIFTS, add, send, sum_of
from .wire import ask, connected, request

STORE = "dynamodb:sums?region=eu-west-1&endpoint=http://10.0.0.7:8000"


class Held:
    """The commits of a store, each held up until `goes` is set."""

    def __init__(self, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came, self.goes = asyncio.Event(), asyncio.Event()
        tallies: Any = serving.store.tallies
        self._commit = tallies.commit
        monkeypatch.setattr(tallies, "commit", self.commit)

    async def commit(self, commit: Commit) -> Any:
        self.came.set()
        await self.goes.wait()
        return await self._commit(commit)


@pytest.fixture
async def held(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> Held:
    assert (await send(serving, "PUT", GIFTS, decimals=2)).status == 201
    return Held(serving, monkeypatch)


def sent(key: str) -> bytes:
    return request(ADD, "POST", headers={**JSON, "Idempotency-Key": key}, body=GOOD)


async def test_a_client_that_left_during_its_add_is_told_its_fate_later(
    serving: Serving, held: Held
) -> None:
    async with connected(serving.port) as wire:
        await wire.send(sent("a"))
        await held.came.wait()
    held.goes.set()
    answer = await add(serving, "a", "12.50")
    assert (answer.status, answer.json["sum"], answer.json["replayed"]) == (200, "12.50", True)
    assert await sum_of(serving) == "12.50"


async def test_the_same_key_on_two_connections_is_counted_once(
    serving: Serving, held: Held
) -> None:
    first = asyncio.create_task(add(serving, "a", "1"))
    await held.came.wait()
    second = asyncio.create_task(add(serving, "a", "1"))
    await serving.ask("/livez")
    held.goes.set()
    answers = [(await one).json for one in (first, second)]
    assert [one["replayed"] for one in answers] == [False, True]
    assert {one["rev"] for one in answers} == {1}
    assert await sum_of(serving) == "1.00"


async def test_a_draining_service_answers_the_adds_under_way(serving: Serving, held: Held) -> None:
    async with connected(serving.port) as wire:
        await wire.send(sent("a"))
        await held.came.wait()
        serving.drain()
        held.goes.set()
        answer = await wire.answer()
        assert (answer.status, answer.json["sum"], answer.closes) == (200, "12.50", True)


async def test_an_add_that_a_silent_store_leaves_open_is_unsettled_and_names_no_store(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = await serve(limits=Limits(wait=0.05))
    assert (await send(serving, "PUT", GIFTS, decimals=2)).status == 201
    tallies: Any = serving.store.tallies
    commit = tallies.commit

    async def fails(*_: object) -> None:
        raise errors.NotApplied(store=STORE, action=f"a write to {STORE}", why=STORE)

    monkeypatch.setattr(tallies, "commit", fails)
    answer = await add(serving, "a", "1")
    assert_problem(answer, 503, "add_unsettled", outcome="unknown", members=("key",))
    assert answer.json["retryable"]
    assert answer.json["key"] == "a"
    for part in ("dynamodb", "eu-west", "10.0.0.7"):
        assert part not in answer.text
    monkeypatch.setattr(tallies, "commit", commit)
    while (again := await add(serving, "a", "1")).status == 503:
        pass  # it pauses after failures
    assert again.json["sum"] == "1.00"


async def test_a_failed_read_of_a_sum_is_worded_for_its_reader(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise errors.NotApplied(store=STORE, action=f"a read of {STORE}", why=STORE)

    for data in (True, False):
        serving = await serve(data=data)
        for name in ("tally", "tallies", "rewrite", "create"):
            monkeypatch.setattr(serving.store.tallies, name, fails)
        for target in (GIFTS, f"{GIFTS}/adds/a"):
            answer = await serving.ask(target)
            assert_problem(answer, 503, "store_unavailable")
            assert (STORE in answer.json["detail"]) == (not data)
        for target, method in (("/v1/tallies", "GET"), (GIFTS, "PUT"), (GIFTS, "DELETE")):
            answer = await send(serving, method, target)
            assert_problem(answer, 503, "store_unavailable")
            assert STORE in answer.json["detail"]


@pytest.mark.process
async def test_a_stop_waits_for_an_add_whose_store_is_slow(folder: Path) -> None:
    options = ("--allow-changes", "--drain", "0", "--wait", "8")
    with processes.Serving(folder, "--store", processes.STORE, *options) as process:
        made = await ask(process.port, GIFTS, "PUT", body=b'{"decimals":2}')
        assert made.status == 201
        async with connected(process.port) as wire:
            with closing(sqlite3.connect(folder / "ids.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                await wire.send(sent("a"))
                assert (await ask(process.port, "/livez")).status == 200
                process.terminate()
                process.await_log("stopping")
                other.execute("ROLLBACK")
            answer = await wire.answer()
            assert (answer.status, answer.json["sum"], answer.closes) == (200, "12.50", True)
        assert process.end() == 0
