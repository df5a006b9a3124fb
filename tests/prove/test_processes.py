"""Real processes under fire repeat no id and lose none uncounted; and faults planted in them, or on
their way to the store, are found."""

import json
import os
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from idservice.core.epoch import GONE_BACK
from tests.hop import Exchange, Hop
from tests.processes import ROOT, START_S
from tests.prove import changes, fire, processes
from tests.prove.account import Account
from tests.prove.fire import PLAIN
from tests.prove.processes import prove_processes, uncounted
from tests.prove.verdict import Verdict
from tests.simulation.checker import answered

pytestmark = [pytest.mark.process]

SECONDS = 1.0  # of faults, and more until each kind was there
# A process that notices it by itself marks the position, which keeps the others from the same ids.
# So the mark is forgotten too.
FORGETFUL = f"""
import sqlite3
real = sqlite3.connect

class Forgetful(sqlite3.Connection):
    def execute(self, statement, *values):
        if "SET next = next +" in statement:
            statement = statement.replace("next = next + :count, mark = next + :count,", "")
            statement = statement.replace("RETURNING next,", "RETURNING next + :count,")
            super().execute('''
                CREATE TEMP TRIGGER IF NOT EXISTS no_mark BEFORE UPDATE OF epoch ON position
                WHEN new.epoch LIKE '{GONE_BACK}%' BEGIN SELECT raise(IGNORE); END
            ''')
        return super().execute(statement, *values)

sqlite3.connect = lambda *a, **b: real(*a, factory=Forgetful, **b)
"""


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer clients ask less often than in the proof, which looks for what is rare."""
    monkeypatch.setattr(fire.Fire, "think_s", 0.1)
    monkeypatch.setattr(processes, "CLIENTS", 8)


def shown(verdict: Verdict) -> Verdict:
    print(verdict)
    return verdict


@pytest.mark.needs_engine
@pytest.mark.usefixtures("dynoxide_url")  # where it is missing this is skipped, and not in CI
def test_behind_a_faulty_network_no_id_repeats_and_each_loss_is_counted() -> None:
    verdict = shown(prove_processes("dynamodb", seconds=SECONDS, quiet=True))
    assert verdict.holds, verdict


def test_on_one_sqlite_file_no_id_comes_twice() -> None:
    verdict = shown(prove_processes("sqlite", seconds=SECONDS, quiet=True))
    assert verdict.holds, verdict


# --- planted faults -------------------------------------------------------------------------------


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, and nothing is done to them: what is planted is enough, once each of them has
    given ids. They need not recover."""

    def each_gave_ids(run: fire.Fire, end: float) -> bool:
        plain = [op for op in answered(run.report.history) if op.counter == PLAIN]
        gave = {op.instance.partition("/")[0] for op in plain}
        return len(gave) == processes.PROCESSES or time.monotonic() > end + START_S

    monkeypatch.setattr(processes, "PROCESSES", 2)
    monkeypatch.setattr(fire.Fire, "upsets", ())
    monkeypatch.setattr(fire.Fire, "_enough", each_gave_ids)
    monkeypatch.setattr(fire, "PATIENCE_S", 0.0)
    monkeypatch.setattr(changes, "CHANGES", (("fence", "--ahead", "1"),))


@pytest.mark.usefixtures("_small")
def test_a_write_that_is_acknowledged_and_forgotten_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FORGETFUL)
    planted = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    verdict = shown(prove_processes("sqlite", seconds=SECONDS, quiet=True, planted=planted))
    assert any(violation.startswith("unique") for violation in verdict.violations), verdict


@pytest.mark.needs_engine
@pytest.mark.usefixtures("_small", "dynoxide_url")
def test_a_cache_between_the_service_and_its_table_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pass_on, kept = Hop._pass_on, dict[str, Exchange]()

    async def cached(
        hop: Hop, request: web.Request, body: bytes, *, copy: bool = False
    ) -> Exchange:
        exchange = await pass_on(hop, request, body, copy=copy)
        if b":room" not in body or exchange.status != 200:
            return exchange
        return kept.setdefault(str(json.loads(body)["Key"]), exchange)

    monkeypatch.setattr(Hop, "_pass_on", cached)
    verdict = shown(prove_processes("dynamodb", seconds=SECONDS, quiet=True))
    assert any(violation.startswith("unique") for violation in verdict.violations), verdict


def test_ids_that_are_lost_without_being_counted_are_found_out() -> None:
    run: Any = SimpleNamespace(
        clean={
            "i1": SimpleNamespace(records=lambda action: [{"message": "counter plain: 4 ids …"}])
        },
        counted={
            ("i1", PLAIN): Counter(unknown=2, expired=1),
            ("i2", PLAIN): Counter(late=3),
            ("i2", "strict"): Counter(late=9),
        },
    )
    for clean, short in (({"i1": 7, "i2": 3}, set()), ({"i1": 8}, {"i1"}), ({"i2": 4}, {"i2"})):
        assert set(uncounted(run, PLAIN, Account(clean=Counter(clean)))) == short
