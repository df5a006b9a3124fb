"""Changes of one counter over HTTP that are sent at once: none follows another one unheard."""

import asyncio
import logging
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.catalogue import rules
from idservice.catalogue.changes import SetNext
from idservice.stores.records import Counter

from .conftest import Serving
from .test_change import PATH, Patience, finished, orders, send, serving, unopposed
from .test_contract import assert_problem

__all__ = ["orders", "serving"]  # fixtures, used by name
GUARD_S = 60.0


class Race:
    """Two changes that each find no other one under way, before the first is begun."""

    def __init__(self, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost = asyncio.Event()  # one of them looks again: another change was begun
        self.patience = Patience(monkeypatch)
        self._both, self._looks = asyncio.Barrier(2), 0
        self._carry_out = serving.catalogue.carry_out
        monkeypatch.setattr(serving.catalogue, "carry_out", self._look)

    async def _look(self, name: str) -> None:
        self._looks += 1
        if self._looks > 2:
            self.lost.set()
        await self._carry_out(name)
        if self._looks <= 2:
            await self._both.wait()


def begun(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log tells of changes that were begun."""
    told = [one for one in caplog.records if getattr(one, "action", "") == "counter_changed"]
    return [one.getMessage() for one in told]


async def test_of_two_changes_sent_at_once_the_second_is_refused_and_never_begun(
    orders: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Both were answered 202. The second one followed the first, and repeated its ids."""
    caplog.set_level(logging.INFO, "idservice.change")
    race = Race(orders, monkeypatch)
    async with asyncio.timeout(GUARD_S):
        wish: dict[str, Any] = {"next": 5, "allow_lower": True, "reason": "a typo"}
        both = [asyncio.create_task(send(orders, "POST", f"{PATH}/set", **wish)) for _ in "12"]
        await race.lost.wait()
        race.patience.end()
        first, second = sorted(await asyncio.gather(*both), key=lambda answer: answer.status)
    assert (first.status, first.json["change"]) == (202, "set")
    assert_problem(second, 503, "changing", outcome="not_applied")
    assert "(a typo), until about" in second.json["detail"]
    done = await finished(orders)
    assert (done.base, done.ordinal, done.intent) == (5, 2, None)
    assert len(begun(caplog)) == 1


async def test_a_change_waits_for_a_quick_one_that_was_begun_in_between(
    orders: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "idservice.change")
    race, seal = Race(orders, monkeypatch), orders.store.seal

    async def sealed_late(*what: Any) -> None:
        await race.lost.wait()
        await seal(*what)

    monkeypatch.setattr(orders.store, "seal", sealed_late)
    async with asyncio.timeout(GUARD_S):
        both = [send(orders, "POST", f"{PATH}/set", next=next) for next in (500, 900)]
        answers = await asyncio.gather(*both)
    # The lower one comes too late if the higher one was first, and is refused for that.
    assert [answer.status for answer in answers] in ([200, 200], [409, 200])
    assert len(begun(caplog)) == sum(answer.status == 200 for answer in answers)


async def unheard(caplog: pytest.LogCaptureFixture, action: str) -> logging.LogRecord:
    """What the log tells of the change that failed after its answer."""
    while True:
        for one in caplog.records:
            if getattr(one, "action", "") == action:
                return one
        await asyncio.sleep(0)


async def test_a_change_that_may_still_begin_is_not_said_to_go_on(
    orders: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was answered 202. Another operator's change came first, and it ended without a trace."""
    patience, read = Patience(monkeypatch), orders.store.entry
    asked, answers = asyncio.Event(), asyncio.Event()

    async def held(name: str) -> Counter | None:
        asked.set()
        await answers.wait()
        return await read(name)

    monkeypatch.setattr(orders.catalogue, "carry_out", unopposed)
    monkeypatch.setattr(orders.store, "entry", held)
    async with asyncio.timeout(GUARD_S):
        wish = send(orders, "POST", f"{PATH}/set", next=700, reason="ticket 17")
        sent = asyncio.create_task(wish)
        await asked.wait()
        patience.end()
        answer = await sent
        assert_problem(answer, 503, "store_unavailable", outcome="unknown")
        assert "may still begin; show the counter" in answer.json["detail"]
        entry = await read("orders")
        assert entry is not None
        found = [await orders.store.shard_state(entry, 0)]
        begun = rules.begun(entry, SetNext(next=500, by="ann"), found, Random(1))
        assert await orders.store.rewrite(entry, begun)
        answers.set()
        told = await unheard(caplog, "change_failed")
    assert told.levelname == "WARNING"
    assert "counter orders: set by http:127.0.0.1 (ticket 17)" in told.getMessage()
    assert "set by ann" in told.getMessage()


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (errors.PositionMissing(store="here", name="orders"), "change_failed"),
        (RuntimeError("a bug"), "change_bug"),
    ],
)
async def test_an_error_after_the_answer_202_is_logged(
    orders: Serving,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    action: str,
) -> None:
    """It went into a future that nobody read."""
    patience, begun, answered = Patience(monkeypatch), asyncio.Event(), asyncio.Event()

    async def lost(*_: Any) -> None:
        begun.set()
        await answered.wait()
        raise error

    monkeypatch.setattr(orders.store, "seal", lost)
    async with asyncio.timeout(GUARD_S):
        sent = asyncio.create_task(send(orders, "PATCH", PATH, state="suspended"))
        await begun.wait()
        patience.end()
        answer = await sent
        assert (answer.status, answer.json["change"]) == (202, "suspend")
        assert answer.json["last_change"]["by"] == "http:127.0.0.1"
        answered.set()
        told = await unheard(caplog, action)
    assert "counter orders: suspend by http:127.0.0.1" in told.getMessage()
    assert told.levelname == ("WARNING" if action == "change_failed" else "ERROR")
