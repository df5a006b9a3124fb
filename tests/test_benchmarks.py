"""The benchmarks run, in toy sizes: what they measure is judged by `make bench` alone."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.measure import supported

pytestmark = pytest.mark.skipif(bool(supported()), reason=supported())


@pytest.mark.process
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_and_its_own_checks_hold(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--quick", "--results", str(tmp_path)]) == 0
    (written,) = tmp_path.iterdir()
    rows = json.loads(written.read_text())["rows"]
    assert rows
    printed = capsys.readouterr().out
    for row in rows:
        assert row["what"] in printed
        assert row["figure"] is not None or row["note"], "skipped without a reason"
