"""Real processes hear of what operators do; that no id is repeated is shown in `tests.prove`."""

import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.processes import START_S, Serving, command

pytestmark = [pytest.mark.process]


def status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/next", timeout=START_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


def await_status(port: int, wanted: int) -> float:
    """Seconds until the next id is answered so."""
    began = time.monotonic()
    while status(port) != wanted:
        assert time.monotonic() < began + START_S, f"never answered {wanted}"
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
