"""The README's way out of a restored store, followed word by word."""

import asyncio
import re
import shutil
import sqlite3
from pathlib import Path
from random import Random

import pytest

from idservice.core.epoch import gone_back
from idservice.counters import new_counter
from tests import engines
from tests.processes import ROOT, command
from tests.stores import backends

STEPS = (ROOT / "README.md").read_text().partition("### A restored store")[2].partition("\n## ")[0]

pytestmark = pytest.mark.process


def statements() -> list[str]:
    found = re.findall(r"`(UPDATE [^`]*)`", STEPS)
    assert len(found) == 2
    return found


@pytest.mark.parametrize("closed", [False, True])
def test_on_sqlite(tmp_path: Path, closed: bool) -> None:
    assert command("init", folder=tmp_path).returncode == 0
    shutil.copy(tmp_path / "idservice.db", tmp_path / "copy.db")
    copied = ("--store", "sqlite:copy.db")
    refused = command("next", *copied, folder=tmp_path)
    assert refused.returncode == 3
    assert "A restored store" in refused.stderr
    database = sqlite3.connect(tmp_path / "copy.db")
    if closed:
        database.execute("UPDATE position SET epoch = ?", (gone_back("1.a"),))
    for statement in statements():
        database.execute(statement.replace("NAME", "default").replace(" N", " 500"))
    database.commit()
    database.close()
    done = command("next", *copied, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "500\n"), done.stderr
    assert command("next", *copied, folder=tmp_path).stdout == "501\n"


@pytest.fixture
def backend(dynoxide_url: str) -> backends.Dynamo:
    return backends.dynoxide(dynoxide_url)


@pytest.mark.needs_engine
def test_on_dynamodb(backend: backends.Dynamo, tmp_path: Path) -> None:
    async def initialised() -> str:
        async with backend.open() as store:
            await store.init(new_counter("default", Random(1)))
            counter = await store.counter("default")
        assert counter is not None
        return counter.epoch

    epoch = asyncio.run(initialised())
    store = f"dynamodb:{backend.address}"
    run = ("next", "--store", store)
    with engines.by_hand(backend.url) as client:
        engines.recreate(client, backend.table)
        refused = command(*run, folder=tmp_path)
        assert refused.returncode == 3
        assert "A restored store" in refused.stderr
        update = {"TableName": backend.table, "Key": {"pk": {"S": "ctr:default"}}}
        client.update_item(
            **update,
            UpdateExpression="SET #n = :n, mark = :n, rev = rev + :one, epoch = :e",
            ExpressionAttributeNames={"#n": "next"},
            ExpressionAttributeValues={
                ":n": {"N": "500"}, ":one": {"N": "1"}, ":e": {"S": epoch},
            },
        )  # fmt: skip
        client.update_item(
            TableName=backend.table,
            Key={"pk": {"S": "identity"}},
            UpdateExpression="REMOVE table_id",
        )
        done = command(*run, folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, "500\n"), done.stderr
        engines.recreate(client, backend.table)
        assert command(*run, folder=tmp_path).returncode == 3, "and it is watched over again"


def test_show_says_that_a_closed_position_grants_nothing(tmp_path: Path) -> None:
    assert command("init", folder=tmp_path).returncode == 0
    assert "state:     active" in command("show", "default", folder=tmp_path).stdout
    database = sqlite3.connect(tmp_path / "idservice.db")
    database.execute("UPDATE position SET epoch = ?", (gone_back("1.a"),))
    database.commit()
    database.close()
    assert "state:     suspect" in command("show", "default", folder=tmp_path).stdout
