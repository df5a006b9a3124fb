"""Real processes that are killed count each key once, and what breaks this on the way is found."""

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict

from tests import hop
from tests.hop import Exchange, Hop
from tests.prove.tallies import NAME, TallyFire, prove_tallies
from tests.prove.tally_history import Asked
from tests.prove.verdict import Verdict

pytestmark = [pytest.mark.process]

SECONDS = 3.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is late is so by less, so that it has arrived sooner; and clients ask less often than
    in the proof, which looks for what is rare."""
    monkeypatch.setattr(TallyFire, "think_s", 0.1)
    monkeypatch.setattr(hop, "LATE_S", (0.5, 2.0))
    monkeypatch.setattr(hop, "REPEATED_S", (0.0, 3.0))


def shown(verdict: Verdict) -> Verdict:
    print(verdict)
    return verdict


def test_on_one_sqlite_file_each_key_is_counted_once() -> None:
    verdict = shown(prove_tallies("sqlite", seconds=SECONDS, quiet=True))
    assert verdict.holds, verdict


@pytest.mark.needs_engine
@pytest.mark.usefixtures("dynoxide_url")  # where it is missing this is skipped, and not in CI
def test_on_a_table_behind_a_faulty_network_each_key_is_counted_once() -> None:
    verdict = shown(prove_tallies("dynamodb", seconds=SECONDS, quiet=True))
    assert verdict.holds, verdict


@pytest.mark.parametrize(
    ("status", "answer", "asks"),
    [
        (200, {"key": "k", "amount": "1000.00", "kind": "add"}, ["c", "hop"]),
        (409, {"key": "k", "amount": "1000.00", "code": "out_of_bounds"}, ["c", "hop"]),
        (409, {"code": "tally_suspended", "outcome": "not_applied"}, ["c"]),
        (503, {"code": "add_unsettled", "outcome": "unknown"}, ["c"]),
    ],
)
def test_a_copy_of_the_network_asks_for_what_became_of_it(
    tmp_path: Path, status: int, answer: dict[str, str], asks: list[str]
) -> None:
    fire = TallyFire(tmp_path, str, "", seed=1)
    fire.history.append(Asked("c", "add", "k", "1000", 1, outcome="not_applied"))
    target, said = f"/v1/tallies/{NAME}/add", json.dumps(answer).encode()
    fire._note_copy(Exchange(target, b"", status, said, {}, copy=True))
    assert [one.client for one in fire.history] == asks
    assert {one.outcome for one in fire.history[1:]} <= {"unknown"}


# --- planted faults -------------------------------------------------------------------------------


def test_a_cache_before_the_sum_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pass_on, kept = Hop._pass_on, dict[str, Exchange]()

    async def cached(
        self: Hop, request: web.Request, body: bytes, *, copy: bool = False
    ) -> Exchange:
        exchange = await pass_on(self, request, body, copy=copy)
        if request.path != f"/v1/tallies/{NAME}" or exchange.status != 200:
            return exchange
        return kept.setdefault(request.path, exchange)

    monkeypatch.setattr(Hop, "_pass_on", cached)
    verdict = shown(prove_tallies("sqlite", seconds=1.0, quiet=True))
    assert verdict.violations[0].startswith(("order", "read")), verdict


def test_a_hop_that_names_a_new_key_at_each_try_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pass_on, tries = Hop._pass_on, count()

    async def renamed(self: Hop, request: Any, body: bytes, *, copy: bool = False) -> Exchange:
        if "Idempotency-Key" in request.headers:
            headers = CIMultiDict(request.headers)
            headers["Idempotency-Key"] += f".{next(tries)}"
            request = SimpleNamespace(
                method=request.method, headers=headers, path_qs=request.path_qs
            )
        return await pass_on(self, request, body, copy=copy)

    monkeypatch.setattr(Hop, "_pass_on", renamed)
    verdict = shown(prove_tallies("sqlite", seconds=1.0, quiet=True))
    assert verdict.violations[0].startswith(("fate", "lost")), verdict
