"""The access key of commands that ask a service: from a file or a variable, and in no output."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from idservice.access.changes import KeyChanges
from idservice.client.address import KEY_VARIABLE
from idservice.core.access_key import RANDOM_NUMBERS, Role, key_text
from idservice.tallies.changes import new_tally
from tests.cli.test_main import Run, _here, assert_refused, run
from tests.served import served
from tests.simulation.serving import table
from tests.simulation.store import SimStore

__all__ = ["_here", "run"]  # fixtures, used by name
KEY = key_text(Role.USE, range(RANDOM_NUMBERS))
SECRET = KEY.rpartition("_")[2]


@pytest.fixture(autouse=True)
def _unhurried(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command waits for an answer on a machine that stands still for a while."""
    monkeypatch.setenv("IDSERVICE_TIMEOUT", "60")


@pytest.fixture(scope="module")
def central() -> Iterator[tuple[str, str]]:
    """A service that asks for keys, and a key of its counter `orders`."""
    loop, ready, told = asyncio.new_event_loop(), threading.Event(), list[str]()

    async def serve() -> None:
        store = SimStore(Random(1), table("orders"))
        store.tallies.items["orders.sum"] = new_tally("orders.sum")
        changes = KeyChanges(store.keys, random=Random(2), clock=lambda: 0.0)
        _, key = await changes.create(Role.ADMIN, ("orders", "orders.*"))
        async with served(store, asks=True) as service:
            told.extend((service.url, key))
            ready.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait(60)
    yield told[0], told[1]
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


ASKS = {
    "next": ["next", "orders", "--url", "URL"],
    "ranges": ["next", "orders", "--count", "3", "--format", "ranges", "--url", "URL"],
    "chained": ["next", "orders", "--store", "URL"],
    "show": ["show", "orders", "--url", "URL"],
    "counters": ["counters", "--store", "URL"],
    "create": ["create", "orders.new", "--store", "URL"],
    "tally add": ["tally", "add", "orders.sum", "1", "--url", "URL"],
    "tally show": ["tally", "show", "orders.sum", "--store", "URL"],
    "top": ["top", "--once", "--url", "URL"],
    "bench": [
        "bench", "URL", "--counter", "orders", "--duration", "0.1", "--warmup", "0",
        "--connections", "1", "--json",
    ],
}  # fmt: skip


@pytest.mark.parametrize("words", ASKS.values(), ids=list(ASKS))
def test_a_command_shows_the_key_of_its_file(
    central: tuple[str, str], words: list[str], run: Run, tmp_path: Path
) -> None:
    url, key = central
    words = [url if word == "URL" else word for word in words]
    said = run(*words)
    assert said.code == 1, said.err
    assert "need an access key here, and this one has none" in said.err
    assert "--key-file" in said.err
    (tmp_path / "key").write_text(f"{key}\n")
    said = run(*words, "--key-file", "key")
    assert said.code == 0, said.err
    assert key.rpartition("_")[2] not in said.out + said.err


@pytest.mark.parametrize("words", ASKS.values(), ids=list(ASKS))
def test_a_command_shows_the_key_of_the_variable_or_of_the_sidecar(
    central: tuple[str, str], words: list[str], run: Run, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    url, key = central
    words = [url if word == "URL" else word for word in words]
    with monkeypatch.context() as here:
        here.setenv(KEY_VARIABLE, key)
        assert run(*words).code == 0
    (tmp_path / "key").write_text(key)
    monkeypatch.setenv("IDSERVICE_STORE_KEY_FILE", "key")
    assert run(*words).code == 0


@pytest.mark.parametrize("words", ASKS.values(), ids=list(ASKS))
def test_what_is_no_key_is_refused_before_anything_is_sent(
    words: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service of this address does not exist, and is not looked for."""
    words = ["http://127.0.0.1:1" if word == "URL" else word for word in words]
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY[:-1]}!")
    said = run(*words)
    assert_refused(said, 2, "IDSERVICE_KEY has no access key: its text has a typo, or is cut off")
    assert SECRET[:10] not in said.err
    monkeypatch.delenv(KEY_VARIABLE)
    assert_refused(run(*words, "--key-file", KEY), 2, "the file idk_use_... with the access key")


def test_a_key_with_too_little_is_refused_with_what_it_needs(
    central: tuple[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, key = central
    monkeypatch.setenv(KEY_VARIABLE, key)
    for words in (["next", "other"], ["next", "other", "--count", "2", "--format", "json"]):
        assert_refused(run(*words, "--url", url), 1, "needs a scope that covers 'other'")
    said = run("next", "other", "--store", url)
    assert_refused(said, 1, "needs a scope", "a wider key, and set it as IDSERVICE_KEY")


def test_a_key_that_is_refused_ends_top(
    central: tuple[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert_refused(run("top", "--json", "--url", central[0]), 1, "refused: 401", "not valid here")


def test_a_refused_key_advises_no_key_of_the_service_by_its_address(
    central: tuple[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    said = run("counters", "--store", central[0])
    assert_refused(said, 1, "`idservice key create --role R --scope S`)")
    assert json.dumps(KEY) not in said.err
