"""Tallies over HTTP: adds by their keys, sums and records, and what changes a tally."""

import re
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from idservice import errors
from idservice.access.gate import Gate
from idservice.stores.sqlite.store import SQLiteStore

from .conftest import Serve, Serving
from .test_contract import assert_problem
from .wire import Answer

GIFTS = "/v1/tallies/gifts"
BEYOND = ("key", "amount", "sum", "at", "rev", "replayed")
TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ"


async def send(serving: Serving, method: str, path: str, *, key: str = "", **body: Any) -> Answer:
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
    return await serving.ask(
        path, method, headers=headers, body=msgspec.json.encode(body) if body else b""
    )


async def add(serving: Serving, key: str, amount: Any) -> Answer:
    return await send(serving, "POST", f"{GIFTS}/add", key=key, amount=amount)


async def sum_of(serving: Serving) -> str:
    return str((await serving.ask(GIFTS)).json["sum"])


@pytest.fixture
async def serving(serve: Serve, tmp_path: Path) -> Serving:
    """A service over a file."""
    return await serve(store=SQLiteStore(str(tmp_path / "ids.db")))


@pytest.fixture
async def gifts(serving: Serving) -> Serving:
    """A service with a tally of two decimals that is never below 0."""
    created = await send(serving, "PUT", GIFTS, decimals=2, floor="0")
    assert created.status == 201, created
    return serving


async def test_an_add_is_counted_once_and_answered_with_its_sum_and_time(gifts: Serving) -> None:
    first = await add(gifts, "don-1", "12.50")
    assert first.status == 200
    told = first.json
    assert re.fullmatch(TIME, told.pop("at"))
    assert told == {
        "tally": "gifts", "key": "don-1", "amount": "12.50", "sum": "12.50", "rev": 1,
        "replayed": False,
    }  # fmt: skip
    for key, amount in (("don-1", "12.5"), ('"don-1"', 12.5), ("don-1", "12.50")):
        again = await add(gifts, key, amount)
        assert again.json == {**first.json, "replayed": True}
    assert first.headers["cache-control"] == again.headers["cache-control"] == "no-store"
    assert (await sum_of(gifts)) == "12.50"


async def test_a_sum_is_json_or_with_a_wish_for_text_its_digits_alone(gifts: Serving) -> None:
    await add(gifts, "a", "1234.5")
    for accept in (
        "",
        "*/*",
        "application/json",
        "text/plain;q=0.5, application/json",
        "text/html",
    ):
        answer = await gifts.ask(GIFTS, headers={"Accept": accept} if accept else {})
        told = answer.json
        assert re.fullmatch(TIME, told.pop("at"))
        assert re.fullmatch(TIME, told.pop("as_of"))
        assert told == {"tally": "gifts", "sum": "1234.50", "rev": 1}
    for accept in ("text/plain", "text/*", "text/plain, application/json", "text/plain, */*;q=0.1"):
        answer = await gifts.ask(GIFTS, headers={"Accept": accept, "If-None-Match": "*"})
        assert (answer.status, answer.body) == (200, b"1234.50")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
    head = await gifts.ask(GIFTS, "HEAD")
    assert (head.status, head.body) == (200, b"")


async def test_an_add_beyond_a_bound_is_refused_for_good(gifts: Serving) -> None:
    await add(gifts, "a", "10")
    refused = await add(gifts, "b", "-10.01")
    assert_problem(refused, 409, "out_of_bounds", members=BEYOND)
    assert (refused.json["sum"], refused.json["amount"]) == ("10.00", "-10.01")
    assert re.fullmatch(TIME, refused.json["at"])
    assert not refused.json["replayed"]
    await add(gifts, "c", "10")
    assert (await add(gifts, "b", "-10.01")).json == {**refused.json, "replayed": True}
    record = (await gifts.ask(f"{GIFTS}/adds/b")).json
    assert (record["kind"], record["sum"], record["rev"]) == ("refused", "10.00", 2)


async def test_a_key_that_was_used_for_another_amount_is_refused(gifts: Serving) -> None:
    await add(gifts, "a", "10")
    reused = await add(gifts, "a", "10.01")
    assert_problem(reused, 422, "key_reused", members=("key", "amount"))
    assert (reused.json["key"], reused.json["amount"]) == ("a", "10.00")


async def test_the_record_of_a_key_is_shown_and_an_unknown_key_says_up_to_when(
    gifts: Serving,
) -> None:
    told = (await add(gifts, "a", "-0.00")).json
    record = (await gifts.ask(f"{GIFTS}/adds/a")).json
    assert record.pop("kind") == "counted"
    assert {**record, "replayed": False} == told
    unknown = await gifts.ask(f"{GIFTS}/adds/b")
    assert_problem(unknown, 404, "unknown_add", members=("key", "as_of"))
    assert unknown.json["key"] == "b"
    assert re.fullmatch(TIME, unknown.json["as_of"])
    assert_problem(await gifts.ask(f"{GIFTS}/adds/b%20c"), 400, "bad_key")
    assert_problem(await gifts.ask("/v1/tallies/none/adds/b"), 404, "unknown_tally")


async def test_a_sum_is_set_once_for_its_key_and_tells_both_sums(gifts: Serving) -> None:
    await add(gifts, "a", "10")
    done = await send(gifts, "POST", f"{GIFTS}/set", key="zero", sum=0, reason="a new year")
    assert (done.json["before"], done.json["sum"], done.json["amount"]) == (
        "10.00",
        "0.00",
        "-10.00",
    )
    await add(gifts, "b", "3")
    again = await send(gifts, "POST", f"{GIFTS}/set", key="zero", sum="0")
    assert again.json == {**done.json, "replayed": True}
    assert await sum_of(gifts) == "3.00"
    record = (await gifts.ask(f"{GIFTS}/adds/zero")).json
    assert (record["kind"], record["by"]) == ("set", "http:127.0.0.1")
    below = await send(gifts, "POST", f"{GIFTS}/set", key="less", sum="-1")
    assert_problem(below, 409, "out_of_bounds", members=BEYOND)
    assert_problem(await send(gifts, "POST", f"{GIFTS}/set", sum="1"), 400, "key_missing")


async def test_a_tally_is_created_once_changed_and_deleted(gifts: Serving) -> None:
    assert (await send(gifts, "PUT", GIFTS, decimals=2, floor=0)).status == 200
    assert_problem(await send(gifts, "PUT", GIFTS, decimals=3, floor=0), 409, "tally_differs")
    changed = await send(gifts, "PATCH", GIFTS, ceiling="5", reason="a test")
    assert (changed.json["floor"], changed.json["ceiling"]) == ("0.00", "5.00")
    assert changed.json["last_change"]["reason"] == "a test"
    assert_problem(await add(gifts, "a", "6"), 409, "out_of_bounds", members=BEYOND)
    freed = await send(gifts, "PATCH", GIFTS, floor=None)
    assert (freed.json["floor"], freed.json["ceiling"]) == (None, "5.00")
    assert (await add(gifts, "b", "-6")).json["sum"] == "-6.00"
    assert (await send(gifts, "PATCH", GIFTS, state="suspended")).json["state"] == "suspended"
    assert_problem(await add(gifts, "c", "1"), 423, "tally_suspended")
    assert (await add(gifts, "b", "-6")).json["replayed"]
    assert (await send(gifts, "PATCH", GIFTS, state="active")).json["state"] == "active"
    assert (await send(gifts, "DELETE", GIFTS)).json["state"] == "deleted"
    for target, method in ((GIFTS, "GET"), (GIFTS, "PATCH"), (f"{GIFTS}/adds/b", "GET")):
        body = {"state": "active"} if method == "PATCH" else {}
        assert_problem(await send(gifts, method, target, **body), 404, "unknown_tally")
    assert_problem(await add(gifts, "d", "-6"), 404, "unknown_tally")
    assert (await add(gifts, "b", "-6")).json["replayed"], "its fate stays"
    assert (await gifts.ask("/v1/tallies")).json == {"tallies": []}
    assert (await send(gifts, "PUT", GIFTS)).status == 201
    assert not (await add(gifts, "b", "7")).json["replayed"]


async def test_tallies_are_listed_by_pages(serving: Serving) -> None:
    for name in "abc":
        await send(serving, "PUT", f"/v1/tallies/{name}", start=7 if name == "b" else 0)
    page = (await serving.ask("/v1/tallies?limit=2")).json
    assert [(one["tally"], one["sum"]) for one in page["tallies"]] == [("a", "0"), ("b", "7")]
    rest = (await serving.ask(f"/v1/tallies?limit=2&after={page['next']}")).json
    assert [one["tally"] for one in rest["tallies"]] == ["c"]
    assert "next" not in rest
    assert_problem(await serving.ask("/v1/tallies?limit=0"), 400, "bad_page")


async def test_a_tally_that_went_back_is_refused_and_in_a_list_marked(gifts: Serving) -> None:
    """Its page has the others, and the alarm's own command makes nobody believe it."""
    await send(gifts, "PUT", "/v1/tallies/other", start=7)
    for key in ("a", "b", "c"):
        await add(gifts, key, 5)
    restored: Any = gifts.store
    await restored._connection.write("set back", _set_back)
    page = (await gifts.ask("/v1/tallies")).json
    assert page["suspect"] == ["gifts"]
    (other,) = page["tallies"]
    assert (other["tally"], other["state"], other["sum"]) == ("other", "active", "7")
    first = (await gifts.ask("/v1/tallies?limit=1")).json
    assert first == {"tallies": [], "suspect": ["gifts"], "next": "gifts"}
    for method, body in (
        ("PATCH", {"state": "suspended"}),
        ("PATCH", {"ceiling": "100"}),
        ("DELETE", {"reason": "wrong"}),
        ("PUT", {"decimals": 2, "floor": "0"}),
        ("GET", {}),
    ):
        assert_problem(await send(gifts, method, GIFTS, **body), 503, "tally_went_back")
    assert_problem(await gifts.ask(f"{GIFTS}/adds/c"), 503, "tally_went_back")


def _set_back(database: sqlite3.Connection) -> None:
    database.execute("UPDATE tally SET sum = 500, rev = 1, adds = 1 WHERE name = 'gifts'")
    database.execute("DELETE FROM tally_add WHERE rev > 1")


@pytest.mark.parametrize(
    "error",
    [
        errors.KeysIllFormed(store="s", action="a read", item="3", why="w"),
        errors.CatalogueStale(seconds=58.0),
    ],
)
async def test_an_add_that_is_not_let_through_may_have_been_counted_before(
    gifts: Serving, monkeypatch: pytest.MonkeyPatch, error: errors.IdserviceError
) -> None:
    """It was answered `not_applied`, which is about the key (T3)."""
    assert (await add(gifts, "a", "1")).status == 200

    async def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(Gate, "admit", fails)
        refused = await add(gifts, "a", "1")
    assert (refused.status, refused.json["code"]) == (503, error.code)
    assert refused.json["outcome"] == "unknown"
    assert "same Idempotency-Key" in refused.json["detail"]
    assert (await add(gifts, "a", "1")).json["replayed"] is True
