"""Real processes that serve a counter while it goes from one shard to eight and to two: nobody who
asks for ids is refused, and no id comes twice."""

import asyncio
import json
import re
import urllib.request
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from tests import engines
from tests.hammer import Hammer
from tests.processes import START_S, Serving, command, environment, until

pytestmark = [pytest.mark.process]

IDS = 1000  # of each epoch
FLAGS = ("--runway", "1", "--wait", "60")  # a store on a busy machine answers late
STEPS = (8, 2)


class Resharded(Hammer):
    """In place of faults: changes of the number of shards, and instances that come late."""

    bases: tuple[int, ...] = ()  # where each new epoch began
    shown: tuple[dict[str, object], ...] = ()  # by each instance, at the end

    async def _faults(self, faults: int, pause: float) -> None:
        await self._answered(IDS)
        for shards in STEPS[:faults]:
            heard = {one: len(one.records("change_heard")) for one in self._instances}
            done = await asyncio.to_thread(
                command, "reshard", "default", "--shards", str(shards), "--reason", "a test",
                "--store", self._store, folder=self._folder, env=self._env,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            self.bases += (int(done.stdout.rpartition("ids from ")[2]),)
            await self._heard_more(heard)
            await self._start()
            await self._answered(IDS, above=self.bases[-1])
        shown = [await asyncio.to_thread(_shown, port) for port in self._ports.values()]
        self.shown = tuple(shown)

    async def _heard_more(self, heard: dict[Serving, int]) -> None:
        """Wait until each of these has heard of more changes than it had."""
        await until(
            lambda: all(len(one.records("change_heard")) > heard[one] for one in heard),
            what="not every instance heard of the change",
        )


def _shown(port: int) -> dict[str, object]:
    url = f"http://127.0.0.1:{port}/v1/counters/default"
    with urllib.request.urlopen(url, timeout=START_S) as answer:
        shown: dict[str, object] = json.load(answer)
        return shown


def initialised(
    engine: str, request: pytest.FixtureRequest, folder: Path
) -> tuple[str, Mapping[str, str]]:
    """An initialised store on SQLite or on dynoxide, and the environment that reaches it."""
    env: Mapping[str, str] = {}
    store = f"sqlite:{folder / 'ids.db'}"
    if engine == "dynoxide":
        url = request.getfixturevalue("dynoxide_url")
        name = "ids-" + re.sub(r"[^a-z0-9]", "-", folder.name.lower())[-60:]
        store, env = f"dynamodb:{name}?region={engines.REGION}&endpoint={url}", engines.ENVIRONMENT
    assert command("init", "--store", store, folder=folder, env=env).returncode == 0
    return store, env


@pytest.mark.parametrize(
    "engine", ["sqlite", pytest.param("dynoxide", marks=pytest.mark.needs_engine)]
)
async def test_a_reshard_under_load_fails_no_request_and_repeats_no_id(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store, env = initialised(engine, request, tmp_path)
    hammer = Resharded(tmp_path, store, env=environment(env), arguments=FLAGS, seed=1)
    report = await hammer.run(processes=3, clients=8, faults=len(STEPS), pause=0)
    print(report)
    assert not report.duplicates, str(report)
    assert set(report.statuses) == {200}, str(report)
    assert (report.broken, report.torn, report.refused) == (0, 0, 0), str(report)
    assert not report.disorder, "an instance that stays with its shard gives rising ids"
    assert len(hammer.shown) == 3 + len(STEPS)
    assert {(one["epoch"], one["shards"]) for one in hammer.shown} == {(1 + len(STEPS), STEPS[-1])}
    borders = [0, *hammer.bases, 2**53]
    for first, end in pairwise(borders):
        assert sum(first <= id < end for id in report.ids) > IDS / 2, "each epoch was used"
