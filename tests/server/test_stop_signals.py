"""Signals that end a command, from its first line on."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests.forked import ROOT
from tests.processes import START_S, environment, started

pytestmark = pytest.mark.process

# A start that gets a signal while it imports the command line, and then goes on.
SIGNALLED = """
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "idservice.cli.main":
            os.kill(os.getpid(), int(sys.argv.pop()))
sys.meta_path.insert(0, Finder())
from idservice.__main__ import main
sys.exit(main())
"""
FIRST = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
FIRST_WORKS = shutil.which("unshare") and not subprocess.run([*FIRST, "true"]).returncode
NAMED = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda one: one.name
)


def at_import(number: signal.Signals, *before: str) -> subprocess.CompletedProcess[str]:
    start = [*before, sys.executable, "-c", SIGNALLED, "--version", str(int(number))]
    return subprocess.run(start, capture_output=True, text=True, timeout=START_S)


@NAMED
def test_a_signal_during_the_imports_ends_a_command(number: signal.Signals) -> None:
    ended = at_import(number)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "", "")


@pytest.mark.skipif(not FIRST_WORKS, reason="no namespace of processes can be made here")
@NAMED
def test_the_first_process_of_a_container_hears_a_signal_at_once(number: signal.Signals) -> None:
    assert at_import(number, *FIRST).returncode == 128 + number


@pytest.mark.skipif(not FIRST_WORKS, reason="no namespace of processes can be made here")
def test_the_image_keeps_a_signal_that_comes_before_the_first_line() -> None:
    [entry] = [one for one in (ROOT / "Dockerfile").read_text().splitlines() if "ENTRYPOINT" in one]
    env, block, _ = json.loads(entry.partition(" ")[2])
    then = f"kill -TERM $$; exec {sys.executable} -m idservice --version"
    ended = subprocess.run(
        [*FIRST, env, block, "sh", "-c", then],
        env=environment(),
        capture_output=True,
        timeout=START_S,
    )
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, b"")


def test_nohup_keeps_its_meaning() -> None:
    assert "idservice" in at_import(signal.SIGHUP, "nohup").stdout


@NAMED
def test_a_command_told_to_end_ends_as_by_ctrl_c(tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, TemporaryFile("w+") as said:
        store = f"http://127.0.0.1:{silent.getsockname()[1]}"
        out = said.fileno()
        process = started(("next", "--store", store), tmp_path, environment(), out, out)
        silent.settimeout(START_S)
        with silent.accept()[0]:
            process.send_signal(number)
            assert process.wait(START_S) == 1
        said.seek(0)
        assert said.read() == ""
