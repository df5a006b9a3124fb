"""Real processes that serve a counter while operators change it, kill and restart included."""

import asyncio
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import engines
from tests.hammer import hammer
from tests.processes import Serving, command, environment

pytestmark = [pytest.mark.process]

CHANGES = (
    ("set", "--next", "50000"),
    ("suspend",),
    ("resume",),
    ("reshard", "--shards", "8"),
    ("fence", "--ahead", "1000"),
    ("delete",),
    ("create",),
    ("reshard", "--shards", "3"),
    ("fence", "--past", "200000"),
    ("set", "--next", "100000000", "--force"),
)
HEARD_S = 10.0  # on a machine under load


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


async def operate(folder: Path, store: str, env: Mapping[str, str]) -> None:
    """Every command in turn, and of some a second one at the same time."""
    for word, *flags in CHANGES:
        words = (word, "default", *flags, "--store", store)
        if word in ("suspend", "fence"):
            words = (*words, "--reason", "a test")
        twice = 2 if word in ("suspend", "resume", "fence") else 1
        done = await asyncio.gather(
            *(asyncio.to_thread(command, *words, folder=folder, env=env) for _ in range(twice))
        )
        for one in done:
            assert one.returncode == 0, (words, one.stderr)


@pytest.mark.parametrize(
    "engine", ["sqlite", pytest.param("dynoxide", marks=pytest.mark.needs_engine)]
)
async def test_no_id_is_repeated_whatever_operators_do_meanwhile(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store, env = initialised(engine, request, tmp_path)
    serving = hammer(tmp_path, store, env=environment(env), seconds=12.0, pause=3.0, clients=8)
    report, _ = await asyncio.gather(serving, operate(tmp_path, store, env))
    print(report)
    assert not report.duplicates, str(report)
    assert not report.disorder, report.disorder[:3]
    assert not report.unclean, report.unclean[:1]
    assert report.statuses[200] > 100
    assert set(report.statuses) <= {200, 404, 423, 503}, str(report)
    assert max(report.ids) >= 200_000, "it went on in later epochs"


def status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/next", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


def await_status(port: int, wanted: int) -> float:
    """Seconds until the next id is answered so."""
    began = time.monotonic()
    while status(port) != wanted:
        assert time.monotonic() < began + HEARD_S, f"never answered {wanted}"
    return time.monotonic() - began


def test_every_instance_hears_of_a_suspension_and_of_its_end(tmp_path: Path) -> None:
    store = ("--store", "sqlite:ids.db")
    assert command("init", *store, folder=tmp_path).returncode == 0
    with Serving(tmp_path, *store) as one, Serving(tmp_path, *store) as two:
        ports = (one.port, two.port)
        for word, wanted in (("suspend", 423), ("resume", 200), ("delete", 404)):
            assert {status(port) for port in ports} <= {200, 423}
            assert command(word, "default", *store, folder=tmp_path).returncode == 0
            print(word, [f"{await_status(port, wanted):.1f} s" for port in ports])
            assert {status(port) for _ in range(20) for port in ports} == {wanted}
