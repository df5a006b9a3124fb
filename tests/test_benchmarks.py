"""The benchmarks run, in toy sizes: what they measure is judged by `make bench` alone."""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import picture
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.measure import cores, cpu_seconds, cpu_seconds_of_all, supported
from benchmarks.processes import children, on_load_core, process
from benchmarks.wrk import run_wrk

pytestmark = pytest.mark.skipif(bool(supported()), reason=supported())


@pytest.mark.process
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_and_its_own_checks_hold(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


class _Ids(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(b"1")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.process
def test_a_toy_round_without_an_answer_is_taken_again() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Ids) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url, began_with_s = f"http://127.0.0.1:{server.server_port}", 1e-6
            ran = run_wrk(url, began_with_s, connections=1)
        finally:
            server.shutdown()
            thread.join()
    assert ran.answered > 0
    assert ran.seconds > began_with_s
    assert ran.per_second == ran.answered / ran.seconds


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
