"""Usage of real processes: a killed one loses what it did not write; nothing is counted twice."""

import json
import urllib.request
from pathlib import Path

import pytest

from tests.processes import STORE, Serving, command

pytestmark = pytest.mark.process


def served(folder: Path, count: int, *, kill: bool = False) -> None:
    """Serve that many ids, and a few adds, with a process that is stopped or killed."""
    with Serving(folder, "--store", STORE) as serving:
        url = f"http://127.0.0.1:{serving.port}"
        urllib.request.urlopen(f"{url}/next?count={count - 1}").close()
        urllib.request.urlopen(f"{url}/next").close()
        for key in ("a", f"of-{count}"):  # the first one is sent again by each process
            add = urllib.request.Request(
                f"{url}/v1/tallies/gifts/add", b'{"amount":"1"}',
                {"Idempotency-Key": key, "Content-Type": "application/json"},
            )  # fmt: skip
            urllib.request.urlopen(add).close()
        (serving.kill if kill else serving.terminate)()
        assert serving.end() == (-9 if kill else 0)


def test_usage_is_never_above_what_was_issued(folder: Path) -> None:
    said = command("tally", "create", "gifts", "--store", STORE, folder=folder)
    assert said.returncode == 0
    served(folder, 30)
    served(folder, 20, kill=True)
    served(folder, 10)
    said = command("usage", "--store", STORE, "--json", folder=folder)
    report = json.loads(said.stdout)
    ids = [row for row in report["usage"] if row["kind"] == "ids"]
    assert sum(row["count"] for row in ids) == 40  # of 60: the killed one had written nothing yet
    assert all(row["count"] <= row["reserved"] for row in ids)
    assert report["totals"]["adds"] == 3  # of 4, of which one was sent three times
    assert [run["end"] for run in report["runs"]] == ["stop", "stop"]
