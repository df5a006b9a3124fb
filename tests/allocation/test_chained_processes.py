"""Real sidecars over real centrals on one file, behind one address that loses answers; some of both
are killed."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.hammer import hammer
from tests.hop import Hop
from tests.processes import Serving, command

pytestmark = [pytest.mark.process]

FAULTS = 6
PAUSE_S = 0.6  # between faults


def at(central: Serving) -> str:
    return f"http://127.0.0.1:{central.port}"


@pytest.mark.parametrize("strict", [False, True], ids=["block", "strict"])
async def test_sidecars_over_centrals_never_repeat_an_id(tmp_path: Path, strict: bool) -> None:
    store = f"sqlite:{tmp_path / 'ids.db'}"
    assert command("init", "--store", store, folder=tmp_path).returncode == 0
    create = ["create", "orders", "--store", store, *(["--strict"] if strict else [])]
    assert command(*create, folder=tmp_path).returncode == 0

    def central() -> Serving:
        return Serving(tmp_path, "--store", store, "--default-counter", "orders")

    with central() as one, central() as two:
        hop = Hop([at(one), at(two)], random.Random(1))
        hop.faults.lost_after, hop.silent = 0.05, 0.0

        async def upset() -> Serving:
            await asyncio.sleep(2 * PAUSE_S)
            one.kill()
            third = await asyncio.to_thread(central)
            hop.servers[0] = await asyncio.to_thread(at, third)
            return third

        async with hop.listening():
            upsetting = asyncio.create_task(upset())
            report = await hammer(
                tmp_path, hop.url, arguments=("--default-counter", "orders"), processes=2,
                clients=8, faults=FAULTS, pause=PAUSE_S, seed=1,
            )  # fmt: skip
        with await upsetting:
            pass
    print(report, hop.fates)
    assert not report.duplicates, str(report)
    assert not report.unclean, report.unclean[:1]
    assert not (strict and report.disorder), report.disorder[:3]
    assert report.kills
    assert set(report.statuses) <= {200, 503}, str(report)
    assert hop.fates["lost_after"]


def test_the_command_line_over_a_service(tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = command(*words, "--store", url, folder=tmp_path)
        return done.returncode, done.stdout + done.stderr

    store = f"sqlite:{tmp_path / 'ids.db'}"
    with Serving(tmp_path, "--init", "--store", store, "--allow-changes") as central:
        url = f"http://127.0.0.1:{central.port}"
        assert run("create", "orders", "--start", "100") == (
            0,
            "counter orders: created, ids from 100\n",
        )
        code, text = run("counters")
        assert (code, [line.split()[:3] for line in text.splitlines()[1:]]) == (
            0,
            [["default", "active", "10"], ["orders", "active", "100"]],
        )
        assert run("next", "orders", "--count", "3") == (0, "100\n101\n102\n")
        code, text = run("show", "orders")
        assert code == 0
        assert "strict:    no" in text
        code, text = run("next", "none")
        assert code == 1
        assert "no counter 'none'" in text
        for words in (("init",), ("serve", "--init", "--listen", "127.0.0.1:0")):
            code, text = run(*words)
            assert code == 2, text
            assert "initialised where it runs" in text
    code, text = run("next")
    assert code == 3, text
    assert "no service answers there" in text
