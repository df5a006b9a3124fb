"""Access keys on the fast lane: judged as they are on aiohttp's way, and once for each request."""

import logging
import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from idservice.access.gate import Gate
from idservice.access.keys import Keys
from idservice.access.passes import OPEN, Pass
from idservice.core.access_key import RANDOM_NUMBERS, Role, key_text
from idservice.server.workers.link import PoolView
from idservice.web import ids
from idservice.web.fast_lane import responses, template
from idservice.web.fast_lane.connection import FastConnection
from idservice.web.fast_lane.connections import FastConnections
from idservice.web.fast_lane.question import Question
from idservice.web.fast_lane.responses import Responder
from idservice.web.fast_lane.target import Target
from idservice.web.request import WebLimits
from tests.simulation.store import SimStore, Table
from tests.web.conftest import Serve
from tests.web.fast_lane import keyed
from tests.web.fast_lane.hand import answered
from tests.web.fast_lane.keyed import NOW, PROMISES, Bearers, Promise, lanes, said
from tests.web.fast_lane.pair import H, Pair, head, without_date
from tests.web.rows import Rows
from tests.web.wire import connected, request


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
async def test_it_holds(serve: Serve, promise: Promise) -> None:
    await promise(serve)


# --- planted faults -------------------------------------------------------------------------------

_find_ids: Callable[..., Any] = Responder._find_ids
_issue: Callable[..., Any] = ids.issue


def unjudged_where_the_path_names_no_counter(self: Responder, *given: Any, **more: Any) -> Any:
    name, target, accept, authorization, rights = given
    if target.partition("?")[0] in self._paths:
        rights = OPEN
    return _find_ids(self, name, target, accept, authorization, rights, **more)


def closes_one_way_only(self: Target, refusal: Exception) -> None:
    self.plain = self.single = False


def understands_what_ended(self: FastConnections, head: bytes, peer: Any) -> Any:
    known = self._known.get(head)
    return known if known is not None else _understand(self, head, peer)


def keeps_the_question(self: FastConnection) -> None:
    self._head = self._template = None


def reads_the_first_key(self: Question, data: bytes) -> bytes | None:
    return None if _other_key(self, data) is None else self._head[self._start : self._end]


_other_key: Callable[..., Any] = Question.other_key
_understand: Callable[..., Any] = FastConnections.understand
WITHOUT = tuple(name for name in template.READ if name != b"authorization")
FAULTS: list[tuple[str, object, Promise]] = [
    ("web.fast_lane.template.READ", WITHOUT, keyed.a_proxy_shares_a_connection),
    ("web.fast_lane.question.Question.other_key", reads_the_first_key,
     keyed.only_the_key_is_another),
    ("web.fast_lane.connection.FastConnection._forget", keeps_the_question,
     keyed.another_key_waits_for_the_request_before_it),
    ("web.fast_lane.template._no_key", template._in_header,
     keyed.tokens_vary_where_none_is_asked_for),
    ("web.fast_lane.template._no_key", re.compile(rb"(?! Bearer idk_)[ -~]*"),
     keyed.tokens_vary_where_none_is_asked_for),
    ("web.fast_lane.responses.Responder._find_ids", unjudged_where_the_path_names_no_counter,
     keyed.every_path_is_judged),
    ("access.passes.Pass.check", lambda self, role, name=None: None, keyed.every_path_is_judged),
    ("access.passes.Pass.arm", lambda self, armed: None, keyed.a_key_ends_on_a_busy_connection),
    ("web.fast_lane.target.Target.disarm", closes_one_way_only,
     keyed.a_key_ends_on_a_busy_connection),
    ("web.fast_lane.target.Target.disarm", closes_one_way_only,
     keyed.a_batch_waits_for_its_turn_while_its_key_ends),
    ("access.keys.Keys.tick", lambda self: None, keyed.a_key_ends_on_a_busy_connection),
    ("access.keys.Keys._tell", lambda self: None, keyed.a_key_is_good_again_on_its_connection),
    ("access.keys.Keys._tell", lambda self: None, keyed.a_key_comes_that_was_refused),
    ("web.fast_lane.target.Target.received", lambda self, served: served,
     keyed.a_request_waits_while_its_key_ends),
    ("web.fast_lane.connections.FastConnections.understand", understands_what_ended,
     keyed.a_key_is_good_again_on_its_connection),
    ("web.ids.issue", lambda service, name, asked, rights: _issue(service, name, asked),
     keyed.it_waits_for_aiohttp_while_its_key_ends),
]  # fmt: skip


@pytest.mark.parametrize(("place", "fault", "promise"), FAULTS)
async def test_a_planted_fault_is_found(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, place: str, fault: object, promise: Promise
) -> None:
    monkeypatch.setattr(f"idservice.{place}", fault)
    with pytest.raises((AssertionError, TimeoutError)):
        await promise(serve)


# --- beside aiohttp -------------------------------------------------------------------------------

WRONG = key_text(Role.USE, [7] * RANDOM_NUMBERS).encode()
# By what is shown, with the keys in braces: none is longer than a head may be.
SHOWN: dict[str, list[bytes]] = {
    "none": [],
    "one for all": [b"Authorization: {all}"],
    "the right one": [b"Authorization: {mine}"],
    "one to read": [b"Authorization: {read}"],
    "one of a prefix": [b"Authorization: {prefix}"],
    "one for another": [b"Authorization: {foreign}"],
    "revoked": [b"Authorization: {revoked}"],
    "expired": [b"Authorization: {expired}"],
    "unknown": [b"Authorization: Bearer " + WRONG],
    "a typo": [b"Authorization: Bearer " + WRONG[:-1] + b"!"],
    "cut off": [b"Authorization: {cut}"],
    "longer": [b"Authorization: {mine}x"],
    "no key of ours": [b"Authorization: Bearer abc"],
    "the mark alone": [b"Authorization: Bearer idk_"],
    "nothing": [b"Authorization:"],
    "a scheme alone": [b"Authorization: Bearer "],
    "a scheme without a space": [b"Authorization: Bearer"],
    "another scheme": [b"Authorization: Basic dXNlcjpwYXNz"],
    "a key in another scheme": [b"Authorization: Basic idk_abc"],
    "lower case": [b"authorization: {lower}"],
    "upper case": [b"AUTHORIZATION: {upper}"],
    "two spaces": [b"Authorization: {spaced}"],
    "a tab": [b"Authorization: {tab}"],
    "spaces around": [b"Authorization: \t {mine} \t "],
    "not ASCII": [b"Authorization: Bearer idk_\xe9"],
    "not UTF-8, and a key": [b"Authorization: {mine}\xff"],
    "two, the right one first": [b"Authorization: {mine}", b"Authorization: {foreign}"],
    "two, the right one last": [b"authorization: {foreign}", b"Authorization: {mine}"],
    "the same twice": [b"Authorization: {mine}", b"AUTHORIZATION: {mine}"],
    "one of ours beside another": [b"Authorization: Basic dXNl", b"Authorization: {mine}"],
    "elsewhere": [b"Proxy-Authorization: {mine}", b"X-Key: {mine}"],
    "as JSON": [b"Accept: application/json", b"Authorization: {mine}"],
}
ADD = (
    b"Host: 127.0.0.1", b"Content-Type: application/json", b"Idempotency-Key: a",
    b"Content-Length: 14",
)  # fmt: skip
LINES = [
    *[b"GET " + at + b" HTTP/1.1" for at in (
        b"/next", b"/old", b"/v1/counters/c/next", b"/v1/counters/strict/next?count=2",
        b"/v1/counters/nobody/next", b"/v1/counters/-/next", b"/next?count=2", b"/next?count=0",
        b"/next?n=3", b"/next?count=2&format=ranges", b"/v1/counters/%63/next", b"/nowhere",
        b"/livez", b"/readyz", b"/openapi.json?", b"/v1/counters/nobody", b"/v1/tallies/none",
    )],
    b"POST /next HTTP/1.1", b"HEAD /livez HTTP/1.1", b"PUT /next HTTP/1.1",
    b"GET /next HTTP/1.1",
]  # fmt: skip


@pytest.fixture(params=[True, False], ids=["asking", "not asking"])
def asks(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def made_keyed_pair(serve: Serve, asks: bool) -> tuple[Pair, dict[bytes, bytes]]:
    """Two services with the same keys, one with the lane; and what shows each key."""
    now, shown = [NOW - 100], {}
    pair = []
    for lane in (True, False):
        one = await serve(
            store=SimStore(Random(1), Table()), routes={"/old": "c"}, lane=lane, asks=asks,
            clock=lambda: now[0],
        )  # fmt: skip
        pair.append(one)
        await one.create("c", start=990)
        await one.create("strict", strict=True)
        for name in ("c", "strict"):
            await one.service.local_counter(name)
        await one.service.warm()
        bearers = Bearers(one)
        await bearers.make("all", "use", "*")
        await bearers.make("mine", "use", "default", "c", "strict")
        await bearers.make("read", "read", "*")
        await bearers.make("prefix", "use", "default.*", "c.*")
        await bearers.make("foreign", "use", "acme.*")
        await bearers.make("revoked", "use", "*")
        await bearers.make("expired", "use", "*", expires=int(NOW * 1000) - 1)
        await bearers.revoke("revoked")
        mine = bearers.shown["mine"].removeprefix(b"Bearer ")
        bearers.shown |= {
            "cut": b"Bearer " + mine[:-1], "lower": b"bearer " + mine, "upper": b"BEARER " + mine,
            "spaced": b"Bearer  " + mine, "tab": b"Bearer\t" + mine,
        }  # fmt: skip
        assert not shown or shown == bearers.shown
        shown = bearers.shown
    now[0] = NOW
    return Pair(*pair), {b"{%s}" % words.encode(): text for words, text in shown.items()}


@pytest.fixture
async def keyed_pair(serve: Serve, asks: bool) -> tuple[Pair, dict[bytes, bytes]]:
    return await made_keyed_pair(serve, asks)


def filled(text: bytes, shown: dict[bytes, bytes]) -> bytes:
    for words, key in shown.items():
        text = text.replace(words, key)
    return text


@pytest.mark.long
async def test_what_is_shown_is_judged_alike(
    serve: Serve, subtests: pytest.Subtests, asks: bool
) -> None:
    rows = Rows(subtests, lambda: made_keyed_pair(serve, asks))
    right = {"one for all", "the right one", "lower case", "upper case", "two spaces",
             "spaces around", "as JSON"}  # fmt: skip
    for name, lines in SHOWN.items():
        async with rows.row(name) as (pair, shown):
            more = [filled(line, shown) for line in lines]
            requests = [head(line, H, *more) for line in LINES]
            add = head(b"POST /v1/tallies/none/add HTTP/1.1", *ADD, *more) + b'{"amount":"1"}'
            answers = await pair.alike(*requests, add)  # the first ones read the key
            answers = await pair.alike(b"".join([*requests, add]))
            judged = answers.split(b"HTTP/1.1 ")[1][:3]
            assert (judged == b"200") is (name in right or (not asks and name in FOREIGN)), answers


FOREIGN = {  # on a listener that does not ask they count for nothing
    "none", "no key of ours", "nothing", "a scheme alone", "a scheme without a space",
    "another scheme", "a key in another scheme", "a tab", "elsewhere",
}  # fmt: skip


async def test_two_keys_that_alternate_are_judged_alike(
    keyed_pair: tuple[Pair, dict[bytes, bytes]], asks: bool
) -> None:
    pair, shown = keyed_pair
    right, wrong, open_ = (
        [head(b"GET /next?count=2 HTTP/1.1", H, *more, b"x: %d" % number) for number in range(4)]
        for more in ([b"Authorization: " + shown[b"{mine}"]],
                     [b"Authorization: " + shown[b"{foreign}"]], [])
    )  # fmt: skip
    requests = [one for three in zip(right, wrong, open_, strict=True) for one in three]
    for pieces in (requests, [b"".join(requests)], [*right, *wrong, *right, *open_]):
        answers = await pair.alike(*pieces)
        served = 4 * (1 if asks else 2) + 4 * (pieces[:4] == right) + 1
        assert answers.count(b" 200 OK") == served


async def test_any_mix_on_one_connection_is_judged_alike(
    keyed_pair: tuple[Pair, dict[bytes, bytes]],
) -> None:
    """Templates and known requests come and go: most of a mix repeat one line, and a few keys."""
    pair, shown = keyed_pair
    random, served = Random(7), 0
    for _ in range(40):
        lines, ways = random.sample(LINES, 2), random.sample(list(SHOWN.values()), 3)
        requests = []
        for number in range(random.randrange(3, 12)):
            more = [filled(one, shown) for one in random.choice(ways)]
            random.shuffle(more := [*more, b"x-id: %d" % number])
            requests.append(head(random.choice(lines), H, *more))
        pieces = requests if random.random() < 0.5 else [b"".join(requests)]
        served += (await pair.alike(*pieces)).count(b" 200 OK")
    assert served > 100


# --- what it costs --------------------------------------------------------------------------------


async def test_a_wrong_key_reads_no_store_and_leaves_nothing_behind(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "REFUSALS_MAX", 4)
    monkeypatch.setattr("idservice.access.refusal_log._others._next", 0.0)
    async with lanes(serve) as hand:
        responder, random = hand.lanes.responder, Random(5)
        for _ in range(64):  # each bucket is read once, whatever is sent
            lane, wire = hand.lane()
            text = key_text(Role.USE, [random.getrandbits(32) for _ in range(RANDOM_NUMBERS)])
            lane.data_received(
                head(b"GET /next HTTP/1.1", H, b"Authorization: Bearer %b" % text.encode())
            )
            await answered(wire, 1)
        store = hand.serving.store
        assert isinstance(store, SimStore)
        asked, written = store.calls, 0
        lane, wire = hand.lane()
        caplog.clear()
        with caplog.at_level(logging.INFO, "idservice.access"):
            for number in range(64):
                numbers = [random.getrandbits(32) for _ in range(RANDOM_NUMBERS)]
                text = key_text(Role.USE, numbers).encode()
                for key in (text, text, text[:-1] + b"!", b"idk_%d" % number, b"", b"%d" % number):
                    lane.data_received(
                        head(b"GET /next HTTP/1.1", H, b"Authorization: Bearer %b" % key)
                    )
                    written += 1
                lane.data_received(hand.get("foreign", to=b"/v1/counters/n%d/next" % number))
        answers = said(wire)
        assert answers.count(401) == written
        assert answers.count(403) == 64
        assert store.calls == asked
        assert len(responder._refusals) <= 4
        assert len(responder.answers) <= responses.ANSWERS_MAX < written
        assert not hand.taken
        logged = [one for one in caplog.records if getattr(one, "action", "") == "key_refused"]
        assert len(logged) <= 2  # in a second: one of the valid key, and one of all others


async def test_a_refusal_is_logged_by_the_id_of_its_key(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lanes(serve) as hand:
        lane, wire = hand.lane()
        await hand.bearers.revoke("mine")
        monkeypatch.setattr("idservice.access.refusal_log._others._next", 0.0)
        caplog.clear()  # others were refused before
        with caplog.at_level(logging.INFO, "idservice.access"):
            lane.data_received(hand.get("mine"))
        assert said(wire) == [401]
        [logged] = [one for one in caplog.records if getattr(one, "action", "") == "key_refused"]
        assert f"(key {hand.bearers.ids['mine']}, revoked at " in logged.getMessage()
        assert hand.bearers.shown["mine"].decode()[-20:] not in logged.getMessage()


async def test_what_is_remembered_of_keys_is_bounded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "KEYED_TARGETS_MAX", 3)
    monkeypatch.setattr(responses, "KEYS_MAX", 2)
    async with lanes(serve) as hand:
        responder = hand.lanes.responder
        lane, wire = hand.lane()
        for number in range(9):
            for words in ("mine", "short"):
                lane.data_received(hand.get(words, to=b"/next?r=%d" % number))
            lane.data_received(hand.get("foreign", to=b"/old?r=%d" % number))
        assert said(wire) == [200] * 27
        assert len(responder._keyed) == 2
        assert all(len(lines[0]) <= 3 for lines in responder._keyed.values())
        assert not responder._open[0]


async def test_a_key_is_forgotten_with_its_end(serve: Serve) -> None:
    async with lanes(serve) as hand:
        responder = hand.lanes.responder
        assert len(responder._keyed) == 3
        await hand.bearers.revoke("mine")
        assert len(responder._keyed) == 2


async def test_each_listener_judges_by_its_own_gate(serve: Serve) -> None:
    """Two listeners of one process share the keys, and neither what is known of requests."""
    async with lanes(serve) as hand:
        serving, keys = hand.serving, hand.bearers.known
        view = PoolView(serving.service, serving.tallies)
        open_listener = Responder(
            serving.service, view, {"/next": "c"}, WebLimits(), Gate(keys, asks=False)
        )
        line, shown = b"GET /next HTTP/1.1", hand.bearers.shown["mine"]
        assert isinstance(hand.lanes.responder.find(line, b"", shown), Target)
        refused, anybody = open_listener.find(line, b"", shown), open_listener.find(line, b"", b"")
        assert isinstance(refused, bytes)
        assert b"key_not_enough" in refused
        assert isinstance(anybody, Target)
        closed = hand.lanes.responder.find(line, b"", b"")
        assert isinstance(closed, bytes)
        assert b"key_missing" in without_date(closed)
        assert isinstance(keys, Keys)
        assert isinstance(keys.known(shown), Pass)


async def test_each_refusal_is_counted_also_where_its_answer_is_known(serve: Serve) -> None:
    serving = await serve(asks=True)
    [keys] = serving.service.followers
    assert isinstance(keys, Keys)
    ask = request("/next", headers={"Authorization": f"Bearer {WRONG.decode()}"})
    async with connected(serving.port) as wire:
        for _ in range(5):
            await wire.send(ask)
            assert (await wire.answer()).status == 401
    assert keys.refusals == {"key_unknown": 5}


async def test_long_lines_of_a_key_take_no_memory_and_end_with_it(serve: Serve) -> None:
    async with lanes(serve) as hand:
        lane, wire = hand.lane()
        rights = hand.bearers.known._passes[hand.bearers.ids["mine"]]
        text, _ = hand.lanes.responder._lines_of(rights)
        before = len(text)
        for number in range(8):
            lane.data_received(hand.get("mine", to=b"/next?x%d=%s" % (number, b"y" * 600)))
        assert said(wire) == [200] * 8
        assert len(text) == before
        await hand.bearers.revoke("mine")
        lane.data_received(hand.get("mine", to=b"/next?x7=" + b"y" * 600))
        assert said(wire) == [401]
