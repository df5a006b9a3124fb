"""Changing counters over HTTP: who may, what it does to requests for ids, and what is refused."""

import asyncio
import logging
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from idservice.allocation.context import Limits
from idservice.stores.records import Counter
from idservice.stores.sqlite.store import SQLiteStore

from .conftest import Serve, Serving
from .rows import Rows
from .test_contract import assert_problem
from .wire import Answer

PATH = "/v1/counters/orders"


@pytest.fixture
async def serving(serve: Serve, tmp_path: Path) -> Serving:
    """A service over a file."""
    return await serve(store=SQLiteStore(str(tmp_path / "ids.db")))


@pytest.fixture
async def orders(serving: Serving) -> Serving:
    """A service with a counter in use: 0 to 9 are answered."""
    return await with_orders(serving)


async def with_orders(serving: Serving) -> Serving:
    await serving.create("orders")
    assert (await serving.ask(f"{PATH}/next?count=10")).status == 200
    return serving


@pytest.fixture
def rows(
    serve: Serve, subtests: pytest.Subtests, tmp_path_factory: pytest.TempPathFactory
) -> Rows[Serving]:
    """The same, and a tally, for row after row; none may change them."""

    async def made() -> Serving:
        store = SQLiteStore(str(tmp_path_factory.mktemp("rows") / "ids.db"))
        serving = await with_orders(await serve(store=store))
        assert (await serving.ask("/v1/tallies/gifts", "PUT")).status == 201
        return serving

    return Rows(subtests, made)


async def send(serving: Serving, method: str, path: str, **body: Any) -> Answer:
    return await serving.ask(path, method, body=msgspec.json.encode(body) if body else b"")


class Patience:
    """A route waits for a change until the test says so, however busy the machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._limits: list[asyncio.Timeout] = []
        waits = SimpleNamespace(timeout=self._timeout)
        monkeypatch.setattr("idservice.web.counters.asyncio", waits)

    def end(self) -> None:
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    def ends_once_begun(self, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        """End it as soon as a change has sealed a shard."""
        seal = serving.store.seal

        async def sealed(*what: Any) -> None:
            await seal(*what)
            self.end()

        monkeypatch.setattr(serving.store, "seal", sealed)

    def _timeout(self, _: float) -> asyncio.Timeout:
        self._limits.append(asyncio.timeout(None))
        return self._limits[-1]


async def unopposed(name: str) -> None:
    """No other change is under way: found out before any deadline, however busy the machine."""


def based(entry: Counter) -> bool:
    return entry.intent is not None and entry.intent.base is not None


async def finished(serving: Serving) -> Counter:
    """The counter once the change under way is done, which waits for nobody from here on."""
    assert serving.catalogue._changer is not None
    serving.catalogue._changer._stale_s = 0.0
    await serving.catalogue.carry_out("orders")
    done = await serving.store.entry("orders")
    assert done is not None
    return done


async def next_of(serving: Serving) -> int:
    answer = await serving.ask(f"{PATH}/next")
    assert answer.status == 200, answer
    return int(answer.body)


async def test_a_suspended_counter_answers_423_at_once_until_it_is_resumed(orders: Serving) -> None:
    suspended = await send(orders, "PATCH", PATH, state="suspended")
    assert (suspended.status, suspended.json["state"]) == (200, "suspended")
    for target in (f"{PATH}/next", f"{PATH}/next?count=3", f"{PATH}/next?format=ranges"):
        for method in ("GET", "POST"):
            assert_problem(await orders.ask(target, method), 423, "suspended")
    assert (await orders.ask(PATH)).json["state"] == "suspended"
    assert (await send(orders, "PATCH", PATH, state="suspended")).status == 200
    resumed = await send(orders, "PATCH", PATH, state="active")
    assert (resumed.json["state"], resumed.json["epoch"]) == ("active", 3)
    assert await next_of(orders) >= 10


async def test_who_waits_while_a_counter_is_suspended_is_told_so(orders: Serving) -> None:
    supply = await orders.service.local_counter("orders")
    waiting = asyncio.create_task(orders.ask(f"{PATH}/next?count=10000"))
    while not len(supply._queue):
        await asyncio.sleep(0)
    await send(orders, "PATCH", PATH, state="suspended")
    answer = await waiting
    assert answer.status in (200, 423)


async def test_a_deleted_counter_is_unknown_and_created_again_above_its_ids(
    orders: Serving,
) -> None:
    assert (await send(orders, "DELETE", PATH, reason="over")).json["state"] == "deleted"
    assert_problem(await orders.ask(f"{PATH}/next"), 404, "unknown_counter")
    assert_problem(await orders.ask(PATH), 404, "unknown_counter")
    assert_problem(await send(orders, "DELETE", PATH), 404, "unknown_counter")
    assert_problem(await send(orders, "POST", f"{PATH}/set", next=5), 404, "unknown_counter")
    listed = (await orders.ask("/v1/counters")).json["counters"]
    assert [counter["counter"] for counter in listed] == ["default"]
    assert (await send(orders, "PUT", PATH, start=3)).status == 201
    assert (await send(orders, "PUT", PATH, start=3)).status == 200
    assert await next_of(orders) >= 10


async def test_a_set_goes_on_from_there(orders: Serving) -> None:
    answer = await send(orders, "POST", f"{PATH}/set", next=5000, reason="a gap for the old system")
    assert (answer.status, answer.json["epoch"]) == (200, 2)
    assert (await orders.ask(PATH)).json["next"] >= 5000
    ids = [await next_of(orders) for _ in range(300)]
    assert ids == sorted(set(ids))
    assert ids[-1] >= 5000


async def test_a_set_to_ids_in_use_or_far_away_is_refused_and_changes_nothing(
    orders: Serving,
) -> None:
    before = await orders.store.entry("orders")
    for body in ({"next": 5}, {"next": 10**9}, {"next": 2**53}, {"next": "9007199254740992"}):
        answer = await send(orders, "POST", f"{PATH}/set", **body)
        assert_problem(answer, 409, "change_refused")
        assert answer.json["outcome"] == "not_applied"
    assert await orders.store.entry("orders") == before
    forced = await send(orders, "POST", f"{PATH}/set", next=10**9, force=True)
    assert forced.status == 200


async def test_ids_go_down_only_after_the_longest_silence_of_any_instance(
    orders: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    Patience(monkeypatch).ends_once_begun(orders, monkeypatch)
    answer = await send(orders, "POST", f"{PATH}/set", next=5, allow_lower=True)
    assert (answer.status, answer.json["change"]) == (202, "set")
    assert orders.catalogue._changer is not None
    assert orders.catalogue._changer._stale_s == 60.0
    entry = await orders.store.entry("orders")
    assert entry is not None
    assert entry.intent is not None
    position = await orders.store.position(entry)
    assert position is not None
    assert position.epoch.startswith("sealed:2.")


@pytest.mark.parametrize("begun", [True, False])
async def test_a_change_is_said_to_be_refused_only_if_it_does_not_go_on_unheard(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    monkeypatch.setattr("idservice.web.counters.ANSWER_AFTER_S", 0.1)
    serving = await serve(limits=Limits(wait=0.1))
    await serving.create("orders")
    answers, read = asyncio.Event(), serving.store.counter
    if begun:
        monkeypatch.setattr(serving.catalogue, "carry_out", unopposed)

    async def silent(name: str) -> Counter | None:
        await answers.wait()
        return await read(name)

    monkeypatch.setattr(serving.store, "counter", silent)
    answer = await send(serving, "PATCH", PATH, state="suspended")
    outcome = "unknown" if begun else "not_applied"
    assert_problem(answer, 503, "store_unavailable", outcome=outcome)
    answers.set()
    if not begun:
        entry = await serving.store.entry("orders")
        assert entry is not None
        assert (entry.state, entry.intent) == ("active", None)
        return
    while (await serving.ask(PATH)).json.get("state") != "suspended":
        pass  # it was carried out in spite of that answer


async def test_a_store_that_is_slow_to_tell_of_changes_is_no_change_by_an_operator(
    orders: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idservice.web.counters.ANSWER_AFTER_S", 0.1)

    async def silent(_: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(orders.catalogue, "carry_out", silent)
    answer = await send(orders, "PATCH", PATH, state="suspended")
    assert_problem(answer, 503, "store_unavailable", outcome="not_applied")
    assert (await orders.ask(PATH)).json["state"] == "active"


async def test_ids_go_down_where_somebody_answers_for_it(orders: Serving) -> None:
    orders.catalogue._changer._stale_s = 0.0
    answer = await send(orders, "POST", f"{PATH}/set", next=5, allow_lower=True)
    assert answer.status == 200
    assert await next_of(orders) == 5


async def test_a_limit_that_leaves_no_ids_needs_force_and_is_called_exhausted(
    orders: Serving,
) -> None:
    """It was taken without a word, and called `active`."""
    refused = await send(orders, "PATCH", PATH, limit=5)
    assert_problem(refused, 409, "change_refused")
    assert "exhausted at once" in refused.json["detail"]
    forced = await send(orders, "PATCH", PATH, limit=5, force=True)
    assert (forced.status, forced.json["state"]) == (200, "exhausted")
    assert (await orders.ask(PATH)).json["state"] == "exhausted"
    assert_problem(await orders.ask(f"{PATH}/next"), 410, "exhausted")


async def test_the_last_change_is_shown_and_told_to_refused_requests(orders: Serving) -> None:
    """A suspended counter was suspended by nobody, at no time, for no reason."""
    await send(orders, "PATCH", PATH, state="suspended", reason="a break")
    shown = (await orders.ask(PATH)).json["last_change"]
    assert datetime.fromisoformat(shown.pop("at")).tzinfo is not None
    assert shown == {"what": "suspend", "by": "http:127.0.0.1", "reason": "a break"}
    refused = await orders.ask(f"{PATH}/next")
    assert_problem(refused, 423, "suspended")
    assert "suspended by http:127.0.0.1 at 20" in refused.json["detail"]
    assert "(a break)" in refused.json["detail"]
    (status,) = (await orders.ask("/v1/status?find=orders")).json["counters"]
    assert "suspend by http:127.0.0.1" in status["last_change"]
    assert b"suspend by http:127.0.0.1" in (await orders.ask("/?find=orders")).body


async def test_a_change_that_closes_the_counter_for_a_time_names_itself(
    orders: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests waited, and were told that the store refused; the status said `short`."""
    with monkeypatch.context() as patched:
        Patience(patched).ends_once_begun(orders, patched)
        first = await send(orders, "POST", f"{PATH}/set", next=5, allow_lower=True, reason="a typo")
    assert first.status == 202
    entry = await orders.store.entry("orders")
    assert entry is not None
    orders.service.apply_entry(entry)  # which it reads within two seconds
    for target in (f"{PATH}/next", f"{PATH}/next?count=3", f"{PATH}/next?format=ranges"):
        refused = await orders.ask(target)
        assert_problem(refused, 503, "changing")
        assert 10 < int(refused.headers["retry-after"]) <= 61
        said = refused.json["detail"]
        assert all(part in said for part in ("set by http:127.0.0.1 at", "a typo", "until about"))
        assert (refused.json["retryable"], refused.json["outcome"]) == (True, "not_applied")
    assert (await orders.ask(PATH)).json["state"] == "changing"
    (status,) = (await orders.ask("/v1/status?find=orders")).json["counters"]
    assert (status["state"], status["code"]) == ("changing", "changing")


async def test_a_change_is_refused_while_another_is_under_way_and_does_not_follow_it(
    orders: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was answered 202 with the other change. Sent again, it closed the counter for a minute
    more each time, and repeated the ids that were handed out in between."""
    with monkeypatch.context() as patched:
        Patience(patched).ends_once_begun(orders, patched)
        first = await send(orders, "POST", f"{PATH}/set", next=5, allow_lower=True, reason="a typo")
    assert first.status == 202
    assert first.json["last_change"]["until"] > first.json["last_change"]["at"]
    while (begun := await orders.store.entry("orders")) is None or not based(begun):
        pass
    monkeypatch.setattr("idservice.web.counters.ANSWER_AFTER_S", 0.1)
    for method, path, body in (
        ("POST", f"{PATH}/set", {"next": 5, "allow_lower": True, "reason": "sent again"}),
        ("POST", f"{PATH}/set", {"next": 2**53}),
        ("PATCH", PATH, {"limit": 99}),
        ("DELETE", PATH, {}),
    ):
        refused = await send(orders, method, path, **body)
        assert_problem(refused, 503, "changing")
        assert (refused.json["retryable"], refused.json["outcome"]) == (True, "not_applied")
        assert "(a typo), until about" in refused.json["detail"]
        assert 10 < int(refused.headers["retry-after"]) <= 61
    assert await orders.store.entry("orders") == begun
    done = await finished(orders)
    assert (done.base, done.ordinal, done.intent) == (5, 2, None)
    assert done.last_change is not None
    assert done.last_change.reason == "a typo"


async def test_limit_and_runway_are_changed_in_place(orders: Serving) -> None:
    answer = await send(orders, "PATCH", PATH, limit=12, runway=90, force=True)
    assert (answer.json["limit"], answer.json["runway"]) == (12, 90)
    left = [await next_of(orders) for _ in range(13 - (await orders.ask(PATH)).json["next"])]
    assert all(id <= 12 for id in left)
    assert_problem(await orders.ask(f"{PATH}/next?count=9"), 410, "exhausted")
    assert (await send(orders, "PATCH", PATH, limit=10**6)).status == 200
    assert await next_of(orders) <= 10**6
    epoch = (await orders.ask(PATH)).json["epoch"]
    assert (await send(orders, "PATCH", PATH, runway=60)).json["epoch"] == epoch


NOT_UNDERSTOOD = [
    ("PATCH", PATH, b""),
    ("PATCH", PATH, b"{}"),
    ("PATCH", PATH, b'{"state":"deleted"}'),
    ("PATCH", PATH, b'{"state":7}'),
    ("PATCH", PATH, b'{"next":7}'),
    ("PATCH", PATH, b'{"limit":1.5}'),
    ("PATCH", PATH, b'{"limit":"0x10"}'),
    ("PATCH", PATH, b'{"runway":0.5}'),
    ("PATCH", PATH, b'{"runway":9,"reason":"two\\nlines"}'),
    ("PATCH", PATH, b'{"runway":9,"reason":7}'),
    ("PATCH", PATH, b'{"limit":9,"force":"yes"}'),
    ("DELETE", PATH, b"[]"),
    ("DELETE", PATH, b'{"why":"x"}'),
    ("DELETE", PATH, b'{"reason":"' + b"x" * 201 + b'"}'),
    ("POST", f"{PATH}/set", b""),
    ("POST", f"{PATH}/set", b'{"next":-1}'),
    ("POST", f"{PATH}/set", b'{"next":"1_0"}'),
    ("POST", f"{PATH}/set", b'{"next":5,"allow_lower":"yes"}'),
    ("POST", "/v1/counters/-x/set", b'{"next":5}'),
]


async def test_a_change_that_is_not_understood_changes_nothing(rows: Rows[Serving]) -> None:
    for method, path, body in NOT_UNDERSTOOD:
        async with rows.row(method, path, body) as orders:
            before = await orders.store.counters()
            answer = await orders.ask(path, method, body=body)
            assert answer.status == 400, answer
            assert answer.json["code"] in ("bad_configuration", "bad_name")
            assert await orders.store.counters() == before


NOT_READ = [
    ("PUT", "/v1/counters/new?start=500", b""),
    ("PATCH", f"{PATH}?force=false", b'{"limit":50}'),
    ("DELETE", f"{PATH}?dry_run=true", b""),
    ("POST", f"{PATH}/set?next=700", b'{"next":500}'),
    ("PUT", "/v1/tallies/new?start=5", b""),
    ("POST", "/v1/tallies/gifts/add?amount=3", b'{"amount":"5"}'),
    ("POST", "/v1/tallies/gifts/set?sum=3", b'{"sum":"5"}'),
    ("DELETE", "/v1/tallies/gifts?dry_run=1", b""),
    ("POST", "/v1/keys?role=use", b'{"role":"admin","scopes":["*"]}'),
]


async def test_a_query_that_a_change_does_not_read_is_refused(rows: Rows[Serving]) -> None:
    """A counter that was to start from 500 started from 0, and a dry run deleted."""
    for method, path, body in NOT_READ:
        async with rows.row(method, path) as orders:
            before = await orders.store.counters(), await orders.store.tallies.tallies()
            answer = await orders.ask(path, method, headers={"Idempotency-Key": "k"}, body=body)
            assert_problem(answer, 400, "not_read")
            after = await orders.store.counters(), await orders.store.tallies.tallies()
            assert after == before


CHANGES = [
    ("PATCH", PATH, b'{"state":"suspended"}'),
    ("DELETE", PATH, b""),
    ("POST", f"{PATH}/set", b'{"next":500}'),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
async def test_what_may_not_create_a_counter_may_not_change_one(
    orders: Serving, method: str, path: str, body: bytes
) -> None:
    before = await orders.store.counters()
    for headers in (
        {"Host": "ids.example.com"},
        {"Origin": "https://evil.example.com"},
        {"Sec-Fetch-Site": "cross-site"},
        {"X-Forwarded-For": "192.0.2.1"},
    ):
        answer = await orders.ask(path, method, headers=headers, body=body)
        assert_problem(answer, 403, "write_refused")
    assert await orders.store.counters() == before


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
async def test_a_listener_that_is_reached_from_outside_changes_nothing(
    serve: Serve, method: str, path: str, body: bytes
) -> None:
    serving = await serve(data=False, writable=False)
    await serving.create("orders")
    before = await serving.store.counters()
    assert_problem(await serving.ask(path, method, body=body), 403, "write_refused")
    assert await serving.store.counters() == before


async def test_a_change_is_logged_with_who_what_and_why(
    orders: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "idservice.change")
    await send(orders, "POST", f"{PATH}/set", next=500, reason="ticket 17")
    begun, done = (r for r in caplog.records if r.name == "idservice.change")
    assert begun.action == "counter_changed"  # type: ignore[attr-defined]
    assert begun.getMessage() == (
        "counter orders: set by http:127.0.0.1 (ticket 17): epoch 1 -> 2, ids from at least 500"
    )
    assert done.action == "change_done"  # type: ignore[attr-defined]
    assert done.getMessage() == "counter orders: set is done: epoch 2, ids from 500"
