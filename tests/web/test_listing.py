"""Counters are listed page by page, and shown from memory while the store does not answer."""

from typing import Any

import pytest

from idservice.stores.records import LIMIT_DEFAULT

from .conftest import Serve, Serving
from .test_contract import Away, assert_problem

pytestmark = pytest.mark.parametrize("lane", [False], indirect=True)  # the lane hands both over

NAMES = ["a", "b.1", "default", "z"]


async def listed(serving: Serving, query: str) -> tuple[list[str], str | None]:
    """Names of the counters of a page, and what leads to the page after it."""
    body = (await serving.ask(f"/v1/counters{query}")).json
    return [counter["counter"] for counter in body["counters"]], body.get("next")


async def test_counters_are_listed_page_by_page(serving: Serving) -> None:
    for name in NAMES:
        if name != "default":
            await serving.create(name)
    assert await listed(serving, "") == (NAMES, None)
    assert await listed(serving, "?limit=4") == (NAMES, None)
    assert await listed(serving, "?limit=3") == (NAMES[:3], "default")
    assert await listed(serving, "?limit=3&after=default") == (["z"], None)
    assert await listed(serving, "?after=z") == ([], None)
    assert await listed(serving, "?after=b") == (NAMES[1:], None), "it need not exist"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=", "limit=x", "after=", "after=-", "after=a&after=b"]
)
async def test_a_page_that_cannot_be_is_refused(serving: Serving, query: str) -> None:
    answer = await serving.ask(f"/v1/counters?{query}")
    assert_problem(answer, 400, "repeated_key" if "&" in query else "bad_page")


@pytest.fixture
def away(tmp_path: Any) -> Away:
    return Away(str(tmp_path / "ids.db"))


async def test_a_counter_in_use_is_shown_while_the_store_is_down(serve: Serve, away: Away) -> None:
    serving = await serve(store=away)
    await serving.create("big", start=5, limit=2**60, shards=2)
    for path in ("/next", "/v1/counters/big/next"):
        assert (await serving.ask(path)).status == 200
    up = {name: (await serving.ask(f"/v1/counters/{name}")).json for name in ("default", "big")}
    away.away = True
    shown = (await serving.ask("/v1/counters/default")).json
    assert (shown["store"], shown["limit"], shown["start"]) == ("down", LIMIT_DEFAULT, 0)
    assert shown["ids_in_memory"] == up["default"]["ids_in_memory"] > 0
    for name, before in up.items():
        down = (await serving.ask(f"/v1/counters/{name}")).json
        for field in ("next", "next_by_shard", "runway_seconds"):
            before.pop(field, None)
        before |= {"store": "down", "runway_seconds": down["runway_seconds"]}
        assert down == before, "all but the position, which only the store knows"
    assert_problem(await serving.ask("/v1/counters/never"), 503, "store_unavailable")
    away.away = False
    assert "store" not in (await serving.ask("/v1/counters/default")).json
