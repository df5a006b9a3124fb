"""The status: which counters come first, what is said of them, and that looking costs nothing."""

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest

from idservice import errors
from idservice.core.sizing import PACE_MIN_S
from idservice.core.tally import TallyState
from idservice.observability import status, status_records
from idservice.observability.latency import LATENCY_BUCKETS_S, Latency
from idservice.observability.readings import Snapshot
from idservice.observability.tally_status import STANDINGS, TALLY_LEVELS
from idservice.server.workers.totals import Totals, WorkerStatus
from idservice.tallies.changes import TallyPatch, new_tally
from idservice.web.status_page import FILE, read_status_query

from . import scenes
from .conftest import Serve, Serving
from .rows import Rows
from .scenes import SCENES, Scene

STORE = "dynamodb:counters"
FILE_MAX = 30_000  # bytes


async def told(name: str, query: str = "", **more: Any) -> status.Status:
    return page(await Scene(SCENES[name], **more).snapshot(), query)


def page(snapshot: Snapshot, query: str = "") -> status.Status:
    return status.status(snapshot, read_status_query(query), store=STORE, time=1.0)


async def shown(serving: Serving, query: str = "") -> dict[str, Any]:
    answer = await serving.ask(f"/v1/status{query}")
    assert answer.status == 200, answer
    body: dict[str, Any] = answer.json
    return body


# --- which counters ------------------------------------------------------------------------------


async def test_counters_that_need_attention_come_first_with_what_is_to_be_done() -> None:
    said = await told("trouble")
    first = said.counters[:4]
    assert [(one.counter, one.state, one.level) for one in first] == [
        ("invoices", "suspect", "bad"),
        ("tickets", "exhausted", "bad"),
        ("refunds", "suspended", "warn"),
        ("bookings", "short", "warn"),
    ]
    assert [one.command for one in first] == [
        f"idservice fence invoices --past N --store {STORE}",
        f"idservice configure tickets --limit N --store {STORE}",
        f"idservice resume refunds --store {STORE}",
        f"idservice doctor --store {STORE}",
    ]
    assert all(one.why for one in first)
    others = said.counters[4:]
    assert {one.level for one in others} == {"ok"}
    assert not any(one.why or one.command for one in others)
    assert [one.counter for one in others] == sorted(one.counter for one in others)
    assert (said.attention, said.level) == (4, "bad")
    assert said.verdict == f"4 of {said.in_use} counters need attention."


async def test_the_verdict_tells_a_store_that_does_not_answer() -> None:
    assert (await told("nothing")).verdict == "No counter is in use yet."
    assert (await told("one")).verdict == "1 counter serves."
    said = await told("forty", store_error="no answer")
    assert said.verdict == "The store does not answer; 40 counters serve."
    assert said.level == "warn"
    assert not said.store.up


async def test_a_counter_that_an_operator_closed_neither_serves_nor_runs_short() -> None:
    said = await told("closed")
    assert said.verdict == "1 counter serves."
    assert (said.in_use, said.shortest) == (3, "orders")
    by_name = {one.counter: one for one in said.counters}
    assert {name: one.runway_seconds for name, one in by_name.items()} == {
        "orders": 45.0, "members": None, "tickets": None,
    }  # fmt: skip
    assert [by_name[name].level for name in ("orders", "members", "tickets")] == [
        "ok", "calm", "calm",
    ]  # fmt: skip


async def test_a_thousand_counters_are_shown_page_by_page_and_each_once() -> None:
    snapshot = await Scene(SCENES["thousand"]).snapshot()
    names = []
    for number in range(1, 21):
        said = page(snapshot, f"page={number}")
        assert (said.page, said.pages, said.found, len(said.counters)) == (number, 20, 1000, 50)
        names += [one.counter for one in said.counters]
    assert len(set(names)) == 1000
    assert page(snapshot, "page=21").page == 20, "what was behind it is gone"
    assert len(page(snapshot, "per=1000").counters) == 1000
    found = page(snapshot, "find=ders-7&per=7&page=2")
    assert (found.found, found.pages, found.in_use) == (11, 2, 1000)
    assert all("ders-7" in one.counter for one in found.counters)


async def test_a_page_that_cannot_be_shown_is_refused(rows: Rows[Serving]) -> None:
    for query in ("page=0", "page=x", "page=", "per=1001", "page=1_0", "find=a/b", "find=<b>"):
        async with rows.row(query) as serving:
            for path in ("/", "/v1/status"):
                answer = await serving.ask(f"{path}?{query}")
                assert (answer.status, answer.json["code"]) == (400, "bad_page")


def test_every_state_has_a_level_and_a_place() -> None:
    assert set(status.LEVELS) == set(status_records.State.__args__)  # type: ignore[attr-defined]
    assert set(status.STATES.values()) <= set(status.LEVELS)


def below(kind: type[errors.IdserviceError]) -> set[type[errors.IdserviceError]]:
    return {kind}.union(*(below(one) for one in kind.__subclasses__()))


def test_every_reason_for_handing_out_nothing_has_a_state() -> None:
    """Any other error is the store's, with nothing left in memory."""
    for kind in (
        errors.CounterSuspect, errors.StoreReplaced, errors.CatalogueStale, errors.Stopped,
        errors.Suspended, errors.UnknownCounter, errors.Exhausted,
    ):  # fmt: skip
        for one in below(kind):
            assert one.code in status.STATES, one


# --- what is said --------------------------------------------------------------------------------


async def test_a_counter_is_shown_as_it_is_in_memory(serve: Serve) -> None:
    serving = await serve()
    await serving.create("orders", start=700, limit=799)
    await serving.ask("/v1/counters/orders/next?count=3")
    [orders] = (await shown(serving))["counters"]  # the other one is not in use here
    assert (orders["counter"], orders["state"], orders["mode"]) == ("orders", "active", "block")
    assert (orders["epoch"], orders["issued"], orders["limit"]) == (1, 3, 799)
    supply = serving.service.local_counters["orders"]
    held = supply.allocator.held
    assert 0 < orders["ids_in_memory"] == held < orders["stock"] == held + 3
    assert orders["limit_used"] == (700 + held + 3) / 800
    assert orders["runs_out_seconds"] is None, "there was no time to see how fast they go"
    assert orders["reserve"]["count"] == 1
    assert orders["reserve"]["p50"] in LATENCY_BUCKETS_S


async def test_a_limit_runs_out_at_the_pace_of_all_instances(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = await serve()
    await serving.create("orders", limit=99_999)
    await serving.ask("/v1/counters/orders/next")
    pace = serving.service.local_counters["orders"].allocator.pace
    monkeypatch.setattr(pace, "highest", 49_999)
    monkeypatch.setattr(pace, "_from_at", pace._from_at - 1000 * PACE_MIN_S)
    counter = (await shown(serving, "?find=orders"))["counters"][0]
    assert counter["limit_used"] == 0.5
    rate = (49_999 - pace._from_id) / (1000 * PACE_MIN_S)
    assert counter["runs_out_seconds"] == pytest.approx(50_000 / rate, rel=0.01)


async def test_a_counter_that_is_used_up_is_exhausted_and_says_so(serve: Serve) -> None:
    serving = await serve()
    await serving.create("tickets", start=7, limit=9)
    for _ in range(3):
        assert (await serving.ask("/v1/counters/tickets/next")).status == 200
    assert (await serving.ask("/v1/counters/tickets/next")).status == 410
    counter = (await shown(serving))["counters"][0]
    assert (counter["counter"], counter["state"], counter["code"]) == (
        "tickets", "exhausted", "exhausted",
    )  # fmt: skip
    assert (counter["limit_used"], counter["runs_out_seconds"]) == (1.0, 0.0)


async def test_what_several_workers_hold_is_shown_as_one() -> None:
    parts = [await Scene(SCENES["trouble"]).snapshot(), await Scene(SCENES["forty"]).snapshot()]
    totals = Totals()
    for number, part in enumerate(parts):
        totals.reported(number, WorkerStatus(None, part))
    wanted = status.StatusQuery(per=1000)

    def together() -> dict[str, status.CounterStatus]:
        snapshot = totals.snapshot([0, 1], restarts=0)
        said = status.status(snapshot, wanted, store=STORE, time=1.0)
        assert said.uptime_seconds == 8040.0
        return {one.counter: one for one in said.counters}

    invoices = together()["invoices"]
    assert (invoices.state, invoices.epoch) == ("suspect", 2), "of one is of who is connected to it"
    of_each = [next(one for one in part.readings if one.counter == "invoices") for part in parts]
    assert invoices.ids_in_memory == sum(one.held for one in of_each)
    assert invoices.reserve is not None
    assert invoices.reserve.count == sum(sum(one.stats.latency.counts) for one in of_each)
    totals.ended(0)
    after = together()
    assert after["invoices"].state == "active", "its trouble went with it"
    assert after["receipts"].state == "unused"


def test_half_of_all_ended_within_the_upper_end_of_a_bucket() -> None:
    latency = Latency()
    assert latency.at_most(0.5) is None
    for seconds in (0.0004, 0.002, 0.002, 60.0):
        latency.observe(seconds)
    assert latency.at_most(0.25) == 0.001
    assert latency.at_most(0.5) == 0.0025
    assert latency.at_most(0.99) == math.inf
    assert Latency.sum([latency, Latency([1], 0.1)]).counts[0] == 2


# --- tallies -------------------------------------------------------------------------------------


async def test_tallies_in_trouble_come_first_with_what_is_to_be_done() -> None:
    said = await told("one", tallies=scenes.sums())
    assert [(one.tally, one.state, one.level) for one in said.tallies] == [
        ("seats", "suspect", "bad"),
        ("refunds", "suspended", "warn"),
        ("donations", "active", "ok"),
        ("sales", "active", "ok"),
    ]
    assert [one.command for one in said.tallies] == [
        f"idservice fence --all --ahead N --store {STORE}",
        f"idservice tally resume refunds --store {STORE}",
        "",
        "",
    ]
    assert (said.level, said.tallies_in_use) == ("bad", 4)
    found = await told("one", "find=sal", tallies=scenes.sums())
    assert [one.tally for one in found.tallies] == ["sales"]
    one = found.tallies[0]
    assert (one.adds_per_second, one.waiting, one.commits_per_second) == (1840.0, 31, 52.0)
    assert one.commit is not None
    assert (one.lost_share, one.commit.p99) == (0.0, 0.025)


async def test_a_tally_is_shown_once_it_is_added_to_and_nothing_is_read_for_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = await serve()
    await serving.tallies.create(new_tally("gifts"))
    assert (await shown(serving))["tallies"] == []
    for number in range(3):
        await serving.tallies.add("gifts", f"k{number}", "1")
    await serving.tallies.change("gifts", TallyPatch(state=TallyState.SUSPENDED), "suspend")
    with pytest.raises(errors.TallySuspended):
        await serving.tallies.add("gifts", "late", "1")
    monkeypatch.setattr(serving.store, "tallies", None)
    (gifts,) = (await shown(serving))["tallies"]
    assert (gifts["tally"], gifts["state"], gifts["code"]) == (
        "gifts", "suspended", "tally_suspended",
    )  # fmt: skip
    assert gifts["adds"] == {"counted": 3, "tally_suspended": 1}
    html = (await serving.ask("/")).body.decode()
    assert "is suspended by an operator" in html


def test_every_error_that_an_add_may_get_now_has_a_standing() -> None:
    for kind in (
        errors.TallyWentBack, errors.AddUnsettled, errors.TallySuspended, errors.UnknownTally,
    ):  # fmt: skip
        assert kind.code in STANDINGS
    assert set(STANDINGS.values()) == set(TALLY_LEVELS)


# --- who may see it, and what it costs -----------------------------------------------------------


async def test_a_look_uses_no_id_and_asks_the_store_for_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idservice.allocation.catalogue_watch.POLL_S", 3600.0)  # it asks, too
    serving = await serve()
    await serving.create("orders")
    await serving.ask("/v1/counters/orders/next")
    asked: list[str] = []
    for name in dir(serving.store):
        method = getattr(serving.store, name)
        if not name.startswith("_") and callable(method):
            monkeypatch.setattr(serving.store, name, lambda *_, name=name, **__: asked.append(name))
    before = {name: s.reading().issued for name, s in serving.service.local_counters.items()}
    for _ in range(3):
        for path in ("/", "/v1/status", "/?find=ord&page=9", "/v1/status?per=1"):
            assert (await serving.ask(path)).status == 200
    assert asked == []
    assert {
        name: s.reading().issued for name, s in serving.service.local_counters.items()
    } == before


async def test_it_is_not_shown_where_ids_are_served_to_everybody(serve: Serve) -> None:
    serving = await serve(control=False)
    for path in ("/", "/v1/status"):
        answer = await serving.ask(path)
        assert (answer.status, answer.json["code"]) == (404, "unknown_path")


async def test_an_old_path_of_somebody_s_goes_before_the_page(serve: Serve) -> None:
    serving = await serve(routes={"/": "default"})
    first = await serving.ask("/")
    assert (first.status, first.body) == (200, b"0")
    assert (await serving.ask("/v1/status")).status == 200


async def test_the_page_is_only_looked_at(serve: Serve) -> None:
    serving = await serve()
    for path in ("/", "/v1/status"):
        answer = await serving.ask(path, "POST")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        seen = await serving.ask(path, "HEAD")
        assert (seen.status, seen.body) == (200, b"")
        assert int(seen.headers["content-length"]) > 100


# --- the file ------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Everything a page leads to or loads, and every attribute that would be code or style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src", "action", "formaction", "srcset", "poster", "data", "ping"):
                self.found.append(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")


async def served(serve: Serve) -> tuple[str, str]:
    """The page, and its policy."""
    serving = await serve()
    for name in ("orders", "next"):
        await serving.create(name)
        await serving.ask(f"/v1/counters/{name}/next")
    answer = await serving.ask("/?per=1&page=2")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    return answer.body.decode(), answer.headers["content-security-policy"]


async def test_no_link_of_the_page_uses_an_id_or_leads_outside(serve: Serve) -> None:
    html, _ = await served(serve)
    links = Links(html)
    assert not links.inline
    allowed = r"\?page=[0-9]+&per=[0-9]+&find=|v1/status|metrics|openapi\.json|data:image/svg.*"
    assert len(links.found) >= 5
    assert [link for link in links.found if not re.fullmatch(allowed, link)] == []
    assert re.findall(r"fetch\((.*?)[,)]", html) == ["location.href"]


async def test_the_policy_allows_nothing_but_the_parts_of_the_page(
    serve: Serve,
) -> None:
    html, policy = await served(serve)
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy
    for element in ("script", "style"):
        [part] = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert rules[f"{element}-src"] == f"'sha256-{digest}'"


def test_the_file_is_small_and_loads_nothing() -> None:
    text = FILE.read_text()
    assert len(text.encode()) < FILE_MAX
    assert set(re.findall(r"https?://[^'\"\s]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert "url(" not in text


async def test_words_of_others_are_shown_as_words() -> None:
    scene = Scene(SCENES["trouble"], store_error='<script>alert("x")</script> & $rows')
    async with (
        scenes.shown(scene) as url,
        aiohttp.ClientSession() as session,
        session.get(url) as answer,
    ):
        html = await answer.text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; $rows" in html
