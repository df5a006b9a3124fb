"""The page about a restored store, followed command by command, on stores that were restored."""

import asyncio
import re
import shlex
import shutil
import sqlite3
from pathlib import Path
from random import Random
from typing import Any

import pytest

from idservice.catalogue.counters import new_counter
from idservice.core.epoch import gone_back
from tests import engines
from tests.processes import ROOT, command
from tests.stores import backends

from .pages import blocks

PAGE = ROOT / "docs" / "how-to" / "recover.md"
FENCES, TAKE = [each.commands for each in blocks(PAGE)]

pytestmark = pytest.mark.process


def filled(lines: list[str], *more: str, **places: str) -> list[list[str]]:
    """Return the words of commands of the page, with names and numbers in their places."""
    for place, value in places.items():
        lines = [re.sub(rf"\b{place}\b", value, line) for line in lines]
    return [[*shlex.split(line, comments=True)[1:], *more] for line in lines]


def test_a_copied_file_is_fenced_as_a_whole(tmp_path: Path) -> None:
    assert command("init", folder=tmp_path).returncode == 0
    assert command("create", "orders", folder=tmp_path).returncode == 0
    shutil.copy(tmp_path / "idservice.db", tmp_path / "copy.db")
    copied = ("--store", "sqlite:copy.db")
    refused = command("next", *copied, folder=tmp_path)
    assert refused.returncode == 3
    assert "fence --all" in refused.stderr
    one, every, _ = filled(FENCES, *copied, NAME="orders", N="499")
    [take] = filled(TAKE, *copied, NAME="orders")
    alone = command(*one, folder=tmp_path)
    assert alone.returncode == 2
    assert "fence --all" in alone.stderr
    assert command("next", *copied, folder=tmp_path).returncode == 3, "nothing was unlocked"
    done = command(*every, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "counter orders: active, epoch 2, ids from 500" in done.stdout
    assert command("next", *copied, folder=tmp_path).stdout == "500\n"
    assert command(*take, folder=tmp_path).stdout == "500\n"
    again = command(*every, folder=tmp_path)
    assert again.returncode == 0, "it may be repeated"


def test_a_counter_that_had_moved_away_is_deleted_in_the_copy(tmp_path: Path) -> None:
    (words,) = re.findall(r"`(idservice delete NAME[^`]*)`", PAGE.read_text())
    there = ("--store", "sqlite:there.db")
    assert command("init", folder=tmp_path).returncode == 0
    assert command("init", *there, folder=tmp_path).returncode == 0
    shutil.copy(tmp_path / "idservice.db", tmp_path / "old.db")
    assert command("move", "default", "--to", "sqlite:there.db", folder=tmp_path).returncode == 0
    (tmp_path / "old.db").replace(tmp_path / "idservice.db")
    _, every, _ = filled(FENCES, N="5")
    assert command(*every, folder=tmp_path).returncode == 0
    [delete] = filled([words], NAME="default")
    assert command(*delete, folder=tmp_path).returncode == 0
    assert command("next", folder=tmp_path).returncode == 1
    assert command("next", *there, folder=tmp_path).stdout == "0\n"


def test_a_position_that_went_back_is_fenced_alone(tmp_path: Path) -> None:
    assert command("init", folder=tmp_path).returncode == 0
    assert command("next", "--count", "100", folder=tmp_path).returncode == 0
    database = sqlite3.connect(tmp_path / "idservice.db")
    database.execute("UPDATE position SET next = 7, epoch = ?", (gone_back("1.a"),))
    database.commit()
    database.close()
    assert "state:     suspect" in command("show", "default", folder=tmp_path).stdout
    refused = command("next", folder=tmp_path)
    assert refused.returncode == 1
    assert "fence default" in refused.stderr
    _, _, ahead = filled(FENCES, NAME="default", N="1000")
    done = command(*ahead, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert command("next", folder=tmp_path).stdout == "1100\n"
    assert "state:       active" in command("show", "default", folder=tmp_path).stdout


def test_a_lost_position_holds_up_no_fence_of_the_others(tmp_path: Path) -> None:
    assert command("init", folder=tmp_path).returncode == 0
    assert command("create", "orders", folder=tmp_path).returncode == 0
    database = sqlite3.connect(tmp_path / "idservice.db")
    database.execute("DELETE FROM position WHERE counter = 'orders'")
    database.commit()
    database.close()
    shutil.copy(tmp_path / "idservice.db", tmp_path / "copy.db")
    copied = ("--store", "sqlite:copy.db")
    done = command("fence", "--all", "--ahead", "10", *copied, folder=tmp_path)
    assert done.returncode == 1
    assert "orders" in done.stderr
    assert command("next", *copied, folder=tmp_path).returncode == 0
    assert command("next", "orders", *copied, folder=tmp_path).returncode == 1
    named = command("fence", "orders", "--past", "99", *copied, folder=tmp_path)
    assert named.returncode == 0, named.stderr
    assert command("next", "orders", *copied, folder=tmp_path).stdout == "100\n"


@pytest.mark.needs_engine
def test_a_recreated_table_is_fenced_as_a_whole(dynoxide_url: str, tmp_path: Path) -> None:
    backend = backends.dynoxide(dynoxide_url)

    async def init() -> None:
        async with backend.open() as store:
            await store.init(new_counter("default", Random(1)))

    asyncio.run(init())
    store = ("--store", f"dynamodb:{backend.address}")
    with engines.by_hand(backend.url) as client:
        recreated(client, backend, tmp_path, *store)
        _, every, _ = filled(FENCES, *store, N="499")
        done = command(*every, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert command("next", *store, folder=tmp_path).stdout == "500\n"
        recreated(client, backend, tmp_path, *store)


def recreated(client: Any, backend: backends.Dynamo, folder: Path, *store: str) -> None:
    engines.recreate(client, backend.table)
    refused = command("next", *store, folder=folder)
    assert refused.returncode == 3
    assert "fence --all" in refused.stderr
