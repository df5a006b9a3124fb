"""What a key shows of a service: its own names and their sums, and nothing of others (K5)."""

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from idservice import errors
from idservice.core.access_key import outermost
from idservice.observability.readings import TELLABLE, UNTOLD, seen
from idservice.observability.status import StatusQuery, status
from idservice.stores.records import Counter
from idservice.stores.sqlite.store import SQLiteStore
from tests.web import scenes

from .conftest import Serve, Serving
from .test_contract import assert_problem

IN_AIOHTTP = pytest.mark.parametrize("lane", [False], indirect=True)  # the lane hands all over

OTHERS = ("acme", "acme2.orders", "acme-eu.orders", "globex.orders", "globex.acme.a", "z")
OWN = ("acme.eu.a", "acme.orders", "acme.x")


@dataclass
class Paged(SQLiteStore):
    """A store that notes what was read of it."""

    path: str
    pages: list[tuple[str, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.path)

    async def page(self, after: str, most: int) -> list[Counter]:
        found = await super().page(after, most)
        self.pages.append((after, most, len(found)))
        return found


async def busy(serving: Serving) -> None:
    """Counters of several tenants, each asked for ids, and a tally of each."""
    for name in (*OTHERS, *OWN):
        await serving.create(name)
        await serving.ask(f"/v1/counters/{name}/next?count=7")
        put: dict[str, Any] = {"headers": {"Content-Type": "application/json"}}
        await serving.ask(f"/v1/tallies/{name}", "PUT", **put)
        put["headers"]["Idempotency-Key"] = "a"
        await serving.ask(f"/v1/tallies/{name}/add", "POST", body=b'{"amount":"3"}', **put)


async def names(serving: Serving, path: str, key: dict[str, str], kind: str) -> list[list[str]]:
    """The names of a list, page by page."""
    pages, after = [], ""
    while True:
        answer = await serving.ask(f"{path}{after}", headers=key)
        assert answer.status == 200, answer
        pages.append([one[kind] for one in answer.json[path[4:].partition("?")[0]]])
        if "next" not in answer.json:
            return pages
        after = f"&after={answer.json['next']}"


@IN_AIOHTTP
@pytest.mark.parametrize(
    ("scopes", "shown"),
    [
        (("acme.*",), [*OWN]),
        (("acme.orders",), ["acme.orders"]),
        (("acme.eu.*", "acme.orders"), ["acme.eu.a", "acme.orders"]),
        (("globex.*", "acme.*", "acme.orders"), [*OWN, "globex.acme.a", "globex.orders"]),
        (("acme.nothing", "zz.*", "a.*"), []),
        (("*",), sorted([*OTHERS, *OWN, "default"])),
    ],
)
async def test_lists_show_the_names_in_a_scope_page_by_page(
    serve: Serve, scopes: tuple[str, ...], shown: list[str]
) -> None:
    serving = await serve()
    await busy(serving)
    _, key = await serving.make("read", *scopes)
    for limit in (1, 2, 1000):
        cut = [shown[at : at + limit] for at in range(0, len(shown), limit)] or [[]]
        assert await names(serving, f"/v1/counters?limit={limit}", key, "counter") == cut
        sums = [[name for name in page if name != "default"] for page in cut]
        if scopes != ("*",):
            assert await names(serving, f"/v1/tallies?limit={limit}", key, "tally") == sums


@IN_AIOHTTP
async def test_a_filtered_page_reads_little_beyond_it(serve: Serve, tmp_path: Any) -> None:
    store = Paged(str(tmp_path / "ids.db"))
    serving = await serve(store=store)
    for at in range(40):
        await serving.create(f"a.{at:02}")
        await serving.create(f"m.{at:02}")
    _, key = await serving.make("read", "m.*", "a.03")
    assert len(await names(serving, "/v1/counters?limit=10", key, "counter")) == 5
    assert [read for _, _, read in store.pages] == [10, 11, 11, 11, 1]
    store.pages.clear()
    _, key = await serving.make("read", "a.05", "a.06")
    await names(serving, "/v1/counters?limit=10", key, "counter")
    assert not store.pages, "single names are read alone"


def test_scopes_within_others_are_read_once() -> None:
    assert outermost(["b", "a.x", "a.*", "a.b.*", "a"]) == ["a", "a.*", "b"]
    assert outermost(["*", "a.*"]) == ["*"]


@IN_AIOHTTP
async def test_the_status_shows_a_key_its_own_and_no_sum_of_others(serve: Serve) -> None:
    alone = await serve()
    await busy(alone)
    _, key = await alone.make("read", "acme.*")
    whole = (await alone.ask("/v1/status")).json
    shown = (await alone.ask("/v1/status", headers=key)).json
    assert [one["counter"] for one in shown["counters"]] == sorted(OWN)
    assert [one["tally"] for one in shown["tallies"]] == sorted(OWN)
    assert shown["issued"] == 7 * len(OWN) < whole["issued"]
    assert shown["ids_in_memory"] == sum(one["ids_in_memory"] for one in shown["counters"])
    assert (shown["in_use"], shown["found"], shown["tallies_in_use"]) == (3, 3, 3)
    assert shown["reserve"]["count"] == sum(one["reserve"]["count"] for one in shown["counters"])
    assert shown["verdict"].startswith("3 counters serve")
    for path in ("/", "/v1/status", "/v1/counters", "/v1/tallies"):
        text = (await alone.ask(path, headers=key)).text
        assert not [name for name in OTHERS if f"{name}<" in text or f'"{name}"' in text]
    found = (await alone.ask("/v1/status?find=globex", headers=key)).json
    assert (found["found"], found["counters"]) == (0, [])


@IN_AIOHTTP
@pytest.mark.parametrize("others", [True, False])
async def test_a_key_that_covers_nothing_in_use_is_told_so_and_nothing_of_others(
    serve: Serve, others: bool
) -> None:
    alone = await serve()
    if others:
        await busy(alone)
    _, key = await alone.make("read", "nothing.*")
    page = await alone.ask("/", headers=key)
    shown = (await alone.ask("/v1/status", headers=key)).json
    assert page.text.count("No counter that this key covers is in use.") == 2
    assert shown["verdict"] == "No counter that this key covers is in use."


async def test_trouble_of_others_is_not_in_the_verdict_nor_in_the_errors() -> None:
    failed = "reserving ids of counter invoices failed"
    scene = scenes.Scene(lambda _: scenes.in_trouble(), store_error=failed, tallies=scenes.sums())
    snapshot, wanted = await scene.snapshot(), StatusQuery()
    whole = status(snapshot, wanted, store="s", time=scene.now)
    assert whole.attention > 2
    shown = status(seen(snapshot, "receipts".__eq__), wanted, store="s", time=scene.now)
    assert (shown.attention, shown.level, shown.in_use) == (0, "warn", 1)
    assert shown.verdict == "The store does not answer; 1 counter serves."
    assert "invoices" not in str(shown)


async def test_trouble_of_its_own_is_told_without_the_store() -> None:
    said = "The store dynamodb:ids failed"
    scene = scenes.Scene(lambda _: scenes.in_trouble(), store_error=said, tallies=scenes.sums())
    snapshot = await scene.snapshot()
    told = [
        replace(one, state=msgspec.structs.replace(one.state, why=said))
        for one in snapshot.readings
        if one.state is not None and one.state.code not in TELLABLE
    ]
    tallies = [
        replace(one, why=said, trouble=said) for one in snapshot.tallies if one.code not in TELLABLE
    ]
    assert told
    assert tallies
    wrong = replace(snapshot, readings=told, tallies=tallies)
    shown = status(seen(wrong, lambda _: True), StatusQuery(), store="STORE", time=scene.now)
    assert shown.attention == len(told)
    assert "dynamodb" not in str(shown)
    assert {one.why for one in shown.counters} == {UNTOLD}


@IN_AIOHTTP
async def test_the_address_of_the_store_is_no_tenants(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise errors.NotApplied(store=serving.store.address, action="reading", why="away")

    serving = await serve()
    await serving.create("acme.orders")
    _, tenant = await serving.make("admin", "acme.*")
    _, owner = await serving.make("read", "*")
    paths = ["/", "/v1/status", "/v1/counters", "/v1/counters/acme.orders", "/v1/tallies"]
    texts = [(await serving.ask(path, headers=tenant)).text for path in paths]
    for name in ("page", "counter"):
        monkeypatch.setattr(serving.store, name, away)
    texts += [(await serving.ask(path, headers=tenant)).text for path in paths]
    assert any("store_unavailable" in text for text in texts)
    assert not [text for text in texts if serving.store.address in text]
    for path in ("/", "/v1/status", "/v1/counters"):
        assert serving.store.address in (await serving.ask(path, headers=owner)).text


@IN_AIOHTTP
async def test_a_browser_is_told_how_to_see_the_status(serve: Serve) -> None:
    refused = await (await serve(asks=True)).ask("/")
    assert_problem(refused, 401, "key_missing")
    assert "idservice top" in refused.json["detail"]


@IN_AIOHTTP
async def test_metrics_need_a_key_for_everything(serve: Serve) -> None:
    serving = await serve()
    _, some = await serving.make("admin", "acme.*")
    _, everything = await serving.make("read", "*")
    assert_problem(await serving.ask("/metrics", headers=some), 403, "key_not_enough")
    assert (await serving.ask("/metrics", headers=everything)).status == 200
    assert (await serving.ask("/metrics")).status == 200, "none is asked for"
