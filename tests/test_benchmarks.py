"""The benchmarks run, in toy sizes: what they measure is judged by `make bench` alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import picture
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.measure import cores, cpu_seconds, cpu_seconds_of_all, supported
from benchmarks.processes import children, on_load_core, process
from benchmarks.wrk import run_wrk
from tests import forked
from tests.forked import Forked

pytestmark = pytest.mark.skipif(bool(supported()), reason=supported())


# These import little that our commands do not.
FORKED = ("idservice", "benchmarks.delayed", "benchmarks.plain", "benchmarks.plain_adds")


def _started(arguments: Sequence[str], **how: Any) -> Any:
    """What `Popen` does, but commands and servers of ours are forked."""
    module = arguments[2] if list(arguments[:2]) == [sys.executable, "-m"] else ""
    if module not in FORKED:
        return subprocess.Popen(arguments, **how)
    out = how["stdout"].fileno()
    return Forked(arguments[3:], folder=how["cwd"], env=how["env"], out=out, err=out, module=module)


@pytest.mark.process
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_and_its_own_checks_hold(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("idservice.cli.bench.load.GRACE_S", 60.0)  # a busy machine answers late
    if name != "start":  # there a start is what is measured
        forked.get_ready()  # before this process is held to one core
        monkeypatch.setattr("benchmarks.processes.Popen", _started)
    assert main([name, "--quick", "--results", str(tmp_path)]) == 0
    (written,) = tmp_path.glob("*.json")
    rows = json.loads(written.read_text())["rows"]
    assert rows
    printed = capsys.readouterr().out
    for row in rows:
        assert row["what"] in printed
        assert row["figure"] is not None or row["note"], "skipped without a reason"
        assert row["figure"] is not None or not os.environ.get("CI"), row["note"]
    for drawn in tmp_path.glob("*.svg"):
        ElementTree.parse(drawn)


BUSY_AT_FIRST = """#!/bin/sh
echo run >> {runs}
[ $(wc -l < {runs}) = 1 ] && echo "  0 requests in 10.00ms, 0.00B read" && exit
echo "  50 requests in 20.00ms, 9.00KB read"
"""


@pytest.mark.process
def test_a_toy_round_without_an_answer_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, wrk = tmp_path / "runs", tmp_path / "wrk"
    wrk.write_text(BUSY_AT_FIRST.format(runs=runs))
    wrk.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    ran = run_wrk("http://127.0.0.1:1", 0.1)
    assert len(runs.read_text().splitlines()) >= 2  # more where the machine is busy now
    assert (ran.answered, ran.per_second) == (50, pytest.approx(2_500))
    runs.unlink()
    with pytest.raises(SystemExit, match="nothing was answered in 1 s"):
        run_wrk("http://127.0.0.1:1", 1)


@pytest.mark.process
def test_a_server_has_another_core_than_what_loads_it() -> None:
    allowed, (server, load) = os.sched_getaffinity(0), cores()
    assert len({server, load}) == min(2, len(allowed))
    with on_load_core(), process([sys.executable, "-c", "input()"]) as child:
        assert os.sched_getaffinity(0) == {load}
        assert os.sched_getaffinity(child.pid) == {server}


@pytest.mark.process
def test_the_cpu_of_a_process_includes_what_it_started_and_what_ended(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    parent = f"""if True:
        from pathlib import Path; from subprocess import *; from sys import executable as python
        burn = "import time\\nwhile time.process_time() < 0.2: pass\\n"
        run([python, "-c", burn])
        Path({str(ended)!r}).touch()
        Popen([python, "-c", burn + "input()"], stdin=PIPE).wait()  # lives as long as its parent
    """
    with process([sys.executable, "-c", parent]) as child:
        while not ended.exists():
            time.sleep(0.01)
        (lives,) = children(child.pid, 1)
        while cpu_seconds(lives) < 0.2:
            time.sleep(0.01)
        assert cpu_seconds_of_all(child.pid) >= cpu_seconds(child.pid) + 2 * 0.2 - 0.03


def test_pictures_are_drawn_anew_from_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["cost", "--quick", "--results", str(tmp_path)]) == 0
    (results,) = tmp_path.glob("*.json")
    (first,) = tmp_path.glob("*.svg")
    folder = tmp_path / "docs"
    folder.mkdir()
    monkeypatch.setattr("sys.argv", ["picture", str(results), "--folder", str(folder)])
    assert picture.main() == 0
    assert (folder / "cost.svg").read_text() == first.read_text()


def test_bars_keep_to_their_lengths_and_mark_the_goal() -> None:
    rows = [picture.Bar("a <b>", 10.0), picture.Bar("ours", 5.0, highlight=True, goal=6.0)]
    drawn = ElementTree.fromstring(picture.bars(rows, title="t", unit="µs"))
    lengths = [
        float(rect.attrib["width"])
        for rect in drawn.iter("{http://www.w3.org/2000/svg}rect")
        if rect.get("class") in ("b", "h")
    ]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=0.1)
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a <b>", "10 µs", "ours", "5 µs", "dashed: the goal"} <= set(texts)


def test_a_line_is_said_to_meet_the_limit_where_it_rises_above_it() -> None:
    rising = picture.Line("rising", [(10, 1), (1_000, 100), (100_000, 10_000)])
    flat = picture.Line("flat", [(10, 1), (100_000, 1)])
    drawn = picture.lines([rising, flat], title="t", subtitle="s", x="x", limit=(50.0, "the limit"))
    assert drawn.count("<circle") == 1
    assert ">500<" in drawn
