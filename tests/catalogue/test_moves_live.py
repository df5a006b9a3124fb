"""A counter is moved from a file to a table while it is served, asked for, and lent."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from idservice.cli import http_get
from tests.processes import START_S, Serving, command, environment, until
from tests.stores.backends import Dynamo

pytestmark = [pytest.mark.process, pytest.mark.needs_engine]


EVERY_S = 0.01  # a request, of each that asks


class Caller(threading.Thread):
    """Asks a service for one id after the other, whatever it is answered, if anything."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.url = f"http://127.0.0.1:{port}"
        self.got: list[int] = []
        self.refused: list[tuple[int, str]] = []
        self.over = threading.Event()

    def run(self) -> None:
        path = "/v1/counters/orders/next"
        while not self.over.wait(EVERY_S):
            try:
                status, body = http_get.ask(self.url, path, timeout=START_S)
            except http_get.NoAnswer as error:  # a thread that ends would be missed as "too late"
                self.refused.append((0, str(error)))
                continue
            if status == 200:
                self.got.append(int(body))
            else:
                self.refused.append((status, json.loads(body)["code"]))


def refusal(url: str) -> str:
    status, body = http_get.ask(url, "/v1/counters/orders/next", timeout=START_S)
    assert status == 423
    return str(json.loads(body)["detail"])


async def test_its_ids_go_on_in_the_table_above_all_that_the_file_gave(
    dynoxide_url: str, tmp_path: Path
) -> None:
    table = Dynamo(dynoxide_url)
    here, there = ("--store", "sqlite:ids.db"), ("--store", f"dynamodb:{table.address}")

    def run(*words: str, code: int = 0) -> str:
        done = command(*words, folder=tmp_path)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    run("init", *here)
    run("create", "orders", *here, "--start", "100", "--runway", "9")
    run("init", *there)
    to = ("--to", f"dynamodb:{table.address}")
    with Serving(tmp_path, *here) as old, Serving(tmp_path, *there) as new:
        url = f"http://127.0.0.1:{old.port}"
        with Serving(tmp_path, "--store", url, "--hold", "2") as sidecar:
            callers = [Caller(each.port) for each in (old, new, sidecar)]
            for caller in callers:
                caller.start()
            await until(lambda: len(callers[0].got) > 50 and len(callers[2].got) > 50)
            # On a busy machine its first answer comes later than those, or 503 before it.
            await until(lambda: (404, "unknown_counter") in callers[1].refused)
            assert not callers[1].got
            assert {status for status, _ in callers[1].refused} <= {404, 503}
            said = run("move", "orders", *here, *to, "--reason", "it outgrew one machine")
            assert f"moved to dynamodb:{table.table}" in said
            await until(lambda: len(callers[1].got) > 50, what="it does not go on there")
            for caller in (callers[0], callers[2]):
                await until(lambda who=caller: (423, "moved") in who.refused)  # type: ignore[misc]
            for caller in callers:
                caller.over.set()
                caller.join(START_S)
            got = [id for caller in callers for id in caller.got]
            assert len(got) == len(set(got)), "repeated"
            assert min(callers[1].got) > max(callers[0].got + callers[2].got), "it went on below"
            assert "in another store" in refusal(url)
            assert table.table not in refusal(url)
    shown = json.loads(run("show", "orders", "--json", *there))
    assert (shown["start"], shown["runway"], shown["state"]) == (100, 9.0, "active")
    assert json.loads(run("show", "orders", "--json", *here))["state"] == "moved"
    assert "serve it with --store" in run("next", "orders", *here, code=1)
    assert "serve it with --store" in run("create", "orders", *here, code=1)
    assert "warning 0" in run("doctor", *here)
    assert "moved to" in run("move", "orders", *here, *to), "it may be repeated"


async def test_a_command_that_was_killed_on_the_way_is_run_again(
    dynoxide_url: str, tmp_path: Path
) -> None:
    """Killed as soon as the file says that the counter left it."""
    table = Dynamo(dynoxide_url)
    here, there = ("--store", "sqlite:ids.db"), ("--store", f"dynamodb:{table.address}")
    words = ("move", "default", *here, "--to", f"dynamodb:{table.address}")
    for store in (here, there):
        assert command("init", *store, folder=tmp_path).returncode == 0
    assert command("next", *here, "--count", "40", folder=tmp_path).returncode == 0
    moving = subprocess.Popen(
        [sys.executable, "-m", "idservice", *words], cwd=tmp_path, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    database = sqlite3.connect(tmp_path / "ids.db")

    def left() -> bool:
        (state,) = database.execute("SELECT state FROM entry WHERE name = 'default'").fetchone()
        return str(state) == "moved" or moving.poll() is not None

    await until(left)
    os.kill(moving.pid, signal.SIGKILL)
    moving.wait()
    database.close()
    refused = command("next", *here, folder=tmp_path)
    assert refused.returncode == 1
    assert "dynamodb:" in refused.stderr
    again = command(*words, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert command("next", *there, folder=tmp_path).stdout == "40\n"


def test_a_service_starts_on_the_file_that_a_counter_left(tmp_path: Path) -> None:
    for name in ("a.db", "b.db"):
        assert command("init", "--store", f"sqlite:{name}", folder=tmp_path).returncode == 0
    moved = command("move", "default", "--store", "sqlite:a.db", "--to", "sqlite:b.db",
                    folder=tmp_path)  # fmt: skip
    assert moved.returncode == 0, moved.stderr
    with Serving(tmp_path, "--store", "sqlite:a.db") as serving:
        url = f"http://127.0.0.1:{serving.port}"
        status, body = http_get.ask(url, "/next", timeout=START_S)
        assert (status, json.loads(body)["code"]) == (423, "moved")
        assert "b.db" not in json.loads(body)["detail"]
        status, body = http_get.ask(url, "/readyz", timeout=START_S)
        assert status == 503
        assert serving.process.poll() is None
    shutil.copy(tmp_path / "b.db", tmp_path / "c.db")
    refused = command("move", "default", "--store", "sqlite:b.db", "--to", "sqlite:c.db",
                      folder=tmp_path)  # fmt: skip
    assert refused.returncode == 3, "a copy is none of its own"
