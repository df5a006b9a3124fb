"""Changes of one counter over HTTP that are sent at once: none follows another one unheard."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from .conftest import Serving
from .test_change import PATH, orders, send
from .test_contract import assert_problem

__all__ = ["orders"]
GUARD_S = 60.0


class Race:
    """Two changes that each find no other one under way, before the first is begun. Their patience
    ends when the test says so."""

    def __init__(self, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost = asyncio.Event()  # one of them looks again: another change was begun
        self._both, self._looks = asyncio.Barrier(2), 0
        self._limits: list[asyncio.Timeout] = []
        self._carry_out = serving.catalogue.carry_out
        monkeypatch.setattr(serving.catalogue, "carry_out", self._look)
        patience = SimpleNamespace(timeout=self._timeout)
        monkeypatch.setattr("idservice.web.counters.asyncio", patience)

    def end_patience(self) -> None:
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    def _timeout(self, _: float) -> asyncio.Timeout:
        self._limits.append(asyncio.timeout(None))
        return self._limits[-1]

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
        race.end_patience()
        first, second = sorted(await asyncio.gather(*both), key=lambda answer: answer.status)
    assert (first.status, first.json["change"]) == (202, "set")
    assert_problem(second, 503, "changing", outcome="not_applied")
    assert "(a typo), until about" in second.json["detail"]
    assert orders.catalogue._changer is not None
    orders.catalogue._changer._stale_s = 0.0
    await orders.catalogue.carry_out("orders")
    done = await orders.store.entry("orders")
    assert done is not None
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
