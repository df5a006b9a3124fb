"""Real processes on one DynamoDB table, killed and stopped in turns; and the old endpoint beside
them, counting on the same item."""

import asyncio
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import engines
from tests.hammer import Hammer, Report, hammer
from tests.processes import command, environment
from tests.stores.backends import ENGINE

pytestmark = [pytest.mark.process]

FAULTS = 6
PAUSE_S = 0.5  # between faults
OLD_S = 0.03  # between requests to the old endpoint


@pytest.fixture(params=[ENGINE])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def store(url: str, tmp_path: Path) -> str:
    """A fresh table, initialised from the command line."""
    table = "ids-" + re.sub(r"[^a-z0-9]", "-", tmp_path.name.lower())[-60:]
    address = f"dynamodb:{table}?region={engines.REGION}&endpoint={url}"
    done = command("init", "--store", address, folder=tmp_path, env=engines.ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return address


def assert_unique(report: Report) -> None:
    print(report)
    assert not report.duplicates, str(report)
    assert not report.disorder, report.disorder[:3]
    assert not report.unclean, report.unclean[:1]
    assert report.kills
    assert report.terms
    assert set(report.statuses) <= {200, 503}, str(report)


async def test_instances_on_one_table_never_repeat_an_id(store: str, tmp_path: Path) -> None:
    report = await hammer(
        tmp_path, store, env=environment(engines.ENVIRONMENT), faults=FAULTS, pause=PAUSE_S
    )
    assert_unique(report)


async def test_a_strict_counter_rises_over_kills_and_restarts(store: str, tmp_path: Path) -> None:
    done = command(
        "create", "orders", "--strict", "--store", store, folder=tmp_path, env=engines.ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    report = await hammer(
        tmp_path,
        store,
        env=environment(engines.ENVIRONMENT),
        arguments=("--default-counter", "orders"),
        clients=8,  # each id is a write
        faults=FAULTS,
        pause=PAUSE_S,
    )
    assert_unique(report)


# --- the endpoint that was there before -----------------------------------------------------------


class OldEndpoint:
    """What API Gateway did: one UpdateItem per request, on a thread of its own until it is left."""

    def __init__(self, client: Any, table: str, returns: str) -> None:
        self.ids: list[int] = []
        self.failures: list[Exception] = []
        self._client = client
        self._table = table
        self._returns = returns
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "OldEndpoint":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(OLD_S):
            try:
                self.ids.append(self.ask())
            except Exception as error:  # told to the test, which is on another thread
                self.failures.append(error)
                return

    def ask(self) -> int:
        """The mapping template of the original, attribute for attribute."""
        answer = self._client.update_item(
            TableName=self._table,
            Key={"context": {"S": "atomicCounter"}, "id": {"S": "id"}},
            UpdateExpression="set counterValue = counterValue + :num",
            ExpressionAttributeValues={":num": {"N": "1"}},
            ReturnValues=f"UPDATED_{self._returns.upper()}",
        )
        return int(answer["Attributes"]["counterValue"]["N"])


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with engines.by_hand(url) as client:
        yield client


RETURNS = {"old": 4000, "new": 4_000_000}  # where each begins: no id is of both


class BesideOldEndpoints(Hammer):
    """Clients of both counters, each of which an old endpoint counts on too."""

    targets = tuple((returns, f"/v1/counters/{returns}/next") for returns in RETURNS)


def legacy_table(client: Any, table: str, value: int) -> str:
    client.create_table(
        TableName=table,
        KeySchema=[
            {"AttributeName": "context", "KeyType": "HASH"},
            {"AttributeName": "id", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": "context", "AttributeType": "S"},
            {"AttributeName": "id", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    client.put_item(
        TableName=table,
        Item={
            "context": {"S": "atomicCounter"},
            "id": {"S": "id"},
            "counterValue": {"N": str(value)},
        },
    )
    return table


async def test_the_old_endpoints_and_killed_instances_share_no_id(
    store: str, client: Any, tmp_path: Path
) -> None:
    name = store.removeprefix("dynamodb:").partition("?")[0]
    tables = {
        returns: legacy_table(client, f"{name}-{returns}", value)
        for returns, value in RETURNS.items()
    }
    endpoints = [OldEndpoint(client, table, returns) for returns, table in tables.items()]
    with endpoints[0], endpoints[1]:
        for returns, table in tables.items():
            done = await asyncio.to_thread(
                command,
                "create", returns, "--store", store,
                "--adopt-table", table, "--adopt-key", "context=atomicCounter,id=id",
                "--adopt-attribute", "counterValue", "--adopt-returns", returns,
                folder=tmp_path, env=engines.ENVIRONMENT,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        driver = BesideOldEndpoints(
            tmp_path, store, env=environment(engines.ENVIRONMENT), arguments=(),
            seed=random.randrange(10**6),
        )  # fmt: skip
        report = await driver.run(processes=3, clients=16, faults=FAULTS, pause=PAUSE_S)
        during = [len(old.ids) for old in endpoints]
    assert_unique(report)
    assert min(during) > 20
    for old, returns in zip(endpoints, RETURNS, strict=True):
        assert not old.failures, old.failures
        assert len(set(old.ids)) == len(old.ids)
        assert not set(old.ids) & set(report.ids)
        asked = [op for op in report.history if op.counter == returns]
        ours = [id for op in asked for ids in op.ids for id in ids]
        assert len(ours) > 20
        assert old.ask() > max(old.ids + ours)
