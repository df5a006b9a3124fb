"""Real processes on one store, restarted one after the other under load: no id comes twice, and
each that does not come is found under its cause."""

import asyncio
import random
import re
from pathlib import Path

import pytest

from idservice.core.epoch import Layout
from idservice.stores import open_store
from idservice.stores.records import Position
from tests import engines
from tests.hammer import Hammer
from tests.processes import Serving, command, environment

pytestmark = [pytest.mark.process]

PROCESSES = 3
CLIENTS = 8
IDS = 1000  # are answered before the first restart


class Rolling(Hammer):
    """The clients of the hammer, and restarts as a deployment does them instead of its faults."""

    think_s = 0.05
    gone: list[Serving]

    async def restarts(self, *, at_once: bool) -> None:
        """Every instance is replaced while clients ask, and in the end all stop; or with `at_once`
        none is replaced, and all stop in the same moment."""
        self.gone = []
        await asyncio.gather(*(self._start() for _ in range(PROCESSES)))
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(random.Random(f"{self.report.seed}-{number}")))
            await self._answered(IDS)
            for victim in list(self._ports) if not at_once else ():
                await self._rush_after(0.0)
                victim.terminate()
                self._rushing = False
                await self._ended(victim)
                await self._start()
            self._over = True
        await self.stop_all(at_once=at_once)

    async def stop_all(self, *, at_once: bool) -> None:
        left = list(self._ports)
        for instance in left:
            instance.terminate()
            if not at_once:
                await self._ended(instance)
        if at_once:
            await asyncio.gather(*(self._ended(instance) for instance in left))

    async def _ended(self, instance: Serving) -> None:
        code = await asyncio.to_thread(instance.end)
        assert code == 0, instance.output[-1000:]
        self._ports.pop(instance)
        self.gone.append(instance)

    def close(self) -> None:
        for instance in self._instances:
            instance.__exit__()


def logged(instances: list[Serving], action: str) -> int:
    """How many ids the log records of an action are about."""
    messages = [line["message"] for each in instances for line in each.records(action)]
    numbers = [re.search(r"(\d+) ids", message) for message in messages]
    return sum(int(number[1]) for number in numbers if number is not None)


async def position_of(address: str) -> Position:
    async with open_store(address, hold_s=1.0) as store:
        counter = await store.counter("default")
        assert counter is not None
        assert counter.layout() == Layout(0, counter.limit)
        position = await store.position(counter)
        assert position is not None
        return position


async def rolled(folder: Path, store: str, *, at_once: bool = False) -> tuple[Rolling, Position]:
    seed = random.randrange(10**6)
    rolling = Rolling(folder, store, env=environment(engines.ENVIRONMENT), arguments=(), seed=seed)
    try:
        await rolling.restarts(at_once=at_once)
    finally:
        rolling.close()
    return rolling, await position_of(store)


def assert_accounted(rolling: Rolling, position: Position) -> None:
    report = rolling.report
    print(report, position)
    assert not report.duplicates, str(report)
    assert not report.disorder, report.disorder[:3]
    assert not report.torn, str(report)
    assert len(report.ids) >= IDS, str(report)
    waiting = sum(map(len, position.returned))
    missing = position.next - len(set(report.ids)) - waiting
    assert missing == logged(rolling.gone, "ids_dropped"), (str(report), position)


@pytest.fixture(params=["sqlite", pytest.param("dynoxide", marks=pytest.mark.needs_engine)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    address = f"sqlite:{tmp_path / 'ids.db'}"
    if request.param == "dynoxide":
        url = request.getfixturevalue("dynoxide_url")
        table = "ids-" + re.sub(r"[^a-z0-9]", "-", tmp_path.name.lower())[-60:]
        address = f"dynamodb:{table}?region={engines.REGION}&endpoint={url}"
    done = command("init", "--store", address, folder=tmp_path, env=engines.ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return address


async def test_a_rolling_restart_loses_nothing_that_is_not_counted(
    store: str, tmp_path: Path
) -> None:
    rolling, position = await rolled(tmp_path, store)
    assert_accounted(rolling, position)
    assert logged(rolling.gone, "ids_returned") > 0
    assert logged(rolling.gone, "ids_claimed") > 0


async def test_all_stopped_at_once_count_what_they_lose_to_each_other(
    store: str, tmp_path: Path
) -> None:
    rolling, position = await rolled(tmp_path, store, at_once=True)
    assert_accounted(rolling, position)
