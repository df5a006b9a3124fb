"""Access keys on the fast lane: what is sent with one, and what must hold while it comes and goes.

Each promise is a scene of its own, so that planted faults can be tried on it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

from idservice.access.changes import KeyChanges
from idservice.access.keys import Keys
from idservice.core.access_key import BUCKETS, Role
from idservice.core.gap_causes import GapCause
from idservice.stores.key_store import KeyBucket
from tests.simulation.store import SimStore, Table
from tests.web.conftest import Serve, Serving
from tests.web.fast_lane.hand import Hand, Transport, answered, empty, turns
from tests.web.fast_lane.pair import H, head

NOW = 1.8e9
TO = b"/next"
LATER = 10_000  # milliseconds until a key ends that does


class Bearers:
    """A service that asks, and headers that show keys of its store."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.ids: dict[str, str] = {}
        self.shown: dict[str, bytes] = {}

    async def make(self, words: str, role: str, *scopes: str, expires: int | None = None) -> None:
        """Make a key that is called so in `words`."""
        id, headers = await self.serving.make(role, *scopes, expires=expires)
        self.ids[words] = id
        self.shown[words] = headers["Authorization"].encode()

    async def revoke(self, words: str) -> None:
        assert self.serving.keys is not None
        await self.serving.keys.revoke(self.ids[words])

    @property
    def known(self) -> Keys:
        """The keys that the service knows."""
        [keys] = self.serving.service.followers
        assert isinstance(keys, Keys)
        return keys


class Lanes(Hand):
    """Lanes of a service that asks, with two keys: one for the default counter, one for another."""

    def __init__(self, bearers: Bearers) -> None:
        super().__init__(bearers.serving, old="c")
        self.bearers = bearers

    def get(self, words: str, *more: bytes, to: bytes = TO) -> bytes:
        """A request that shows a key."""
        shown = b"Authorization: " + self.bearers.shown[words]
        return head(b"GET " + to + b" HTTP/1.1", H, shown, *more)


@asynccontextmanager
async def lanes(
    serve: Serve, *, clock: Callable[[], float] = lambda: NOW, asks: bool = True
) -> AsyncIterator[Lanes]:
    """A service that asks, and whose keys are read."""
    store = SimStore(Random(1), Table())
    serving = await serve(store=store, asks=asks, clock=clock, routes={"/old": "c"})
    await serving.create("c", start=500)
    await serving.service.warm()
    for name in ("default", "c"):
        supply = await serving.service.local_counter(name)
        while supply.allocator.held < 64:
            await supply.next_batch(1)
    bearers = Bearers(serving)
    await bearers.make("mine", "use", "default")
    await bearers.make("foreign", "use", "c")
    await bearers.make("short", "use", "default", expires=int(NOW * 1000) + LATER)
    hand = Lanes(bearers)
    lane, transport = hand.lane()
    for number, words in enumerate(bearers.shown):
        lane.data_received(hand.get(words))
        await answered(transport, number + 1)
    try:
        yield hand
    finally:
        await hand.close()


def said(transport: Transport) -> list[int]:
    """The statuses of the answers since the last call."""
    written, transport.written = transport.written, b""
    return [int(one[:3]) for one in written.split(b"HTTP/1.1 ")[1:]]


# --- what must hold -------------------------------------------------------------------------------


async def a_proxy_shares_a_connection(serve: Serve) -> None:
    """A template learnt from one client serves no other."""
    async with lanes(serve) as hand:
        lane, wire = hand.lane()
        for number in range(4):  # `Authorization` is in the middle, and the template is learnt
            lane.data_received(hand.get("mine", b"x-id: %d" % number))
        assert said(wire) == [200] * 4
        assert lane._template is not None
        issued = hand.issued
        lane.data_received(hand.get("foreign", b"x-id: 1"))
        lane.data_received(hand.get("foreign", b"x-id: 77"))
        lane.data_received(head(b"GET /next HTTP/1.1", H, b"Authorization: ", b"x-id: 1"))
        assert said(wire) == [403, 403, 401]
        # Two that differ in the key alone: neither may become a template for the other.
        lane, wire = hand.lane()
        for words in ("mine", "short") * 2:
            lane.data_received(hand.get(words))
        lane.data_received(hand.get("foreign"))
        lane.data_received(head(b"GET /next HTTP/1.1", H, b"Authorization: Bearer idk_x"))
        assert said(wire) == [200] * 4 + [403, 401]
        assert hand.issued == issued + 4


async def only_the_key_is_another(serve: Serve) -> None:
    """Each is judged as if it were the first one of its connection."""
    async with lanes(serve) as hand:
        mine = hand.bearers.shown["mine"]
        hand.bearers.shown |= {
            "typo": mine[:-1] + b"!", "another typo": mine + b"x", "basic": b"Basic a",
            "spelt otherwise": b"bearer  " + mine[7:], "the scheme alone": b"Bearer",
        }  # fmt: skip
        for to in (TO, b"/next?count=2", b"/next?count=0", b"/old", b"/livez", b"/nowhere"):
            for words in hand.bearers.shown:
                lane, wire = hand.lane()
                for shown in ("typo", words, "another typo", words, "foreign"):
                    request, (alone, apart) = hand.get(shown, to=to), hand.lane()
                    for one, written in ((lane, wire), (alone, apart)):
                        one.data_received(request)
                        await answered(written, 1)
                    answer, expected = wire.written, apart.written
                    statuses = said(wire)
                    assert statuses == said(apart), (to, shown)
                    assert statuses == [200] or answer == expected, (to, shown)  # ids differ
        lane, wire = hand.lane()
        lane.data_received(hand.get("typo"))
        await hand.bearers.revoke("mine")
        for words in ("mine", "basic", "short", "mine"):
            lane.data_received(hand.get(words))
        assert said(wire) == [401, 401, 401, 200, 401]


async def another_key_waits_for_the_request_before_it(serve: Serve) -> None:
    """Also where the one before is not whole yet."""
    async with lanes(serve) as hand:
        lane, wire = hand.lane()
        lane.data_received(hand.get("foreign"))
        assert said(wire) == [403]
        lane.data_received(b"GET /livez HTTP/1.1\r\nX-Id: ")
        lane.data_received(hand.get("mine"))
        assert said(wire) == [200]
        assert wire.done == []
        lane.data_received(hand.get("foreign"))
        assert said(wire) == [403]
        go_on = await empty(hand.serving)
        lane.data_received(hand.get("mine"))
        lane.data_received(hand.get("foreign"))
        assert not wire.written
        go_on()
        await answered(wire, 2)
        assert said(wire) == [200, 403]


async def tokens_vary_where_none_is_asked_for(serve: Serve) -> None:
    """A template learnt from two of them serves a third, and never a key (K2)."""
    async with lanes(serve, asks=False) as hand:

        def with_token(value: bytes) -> bytes:
            return head(b"GET /next HTTP/1.1", H, b"Authorization:" + value, b"x-id: 1")

        lane, wire = hand.lane()
        for value in (b" Bearer a.b", b" Bearer c.d", b" Basic ZTpm", b" bearer idk", b"Bearer "):
            lane.data_received(with_token(value))
        assert lane._template is not None
        assert lane._template.fits(with_token(b" Bearer e.f"))
        assert said(wire) == [200] * 5
        foreign = hand.bearers.shown["foreign"]
        for spelt in (b" %s", b"%s", b"   %s ", b"\t%s"):
            lane.data_received(with_token(b" Bearer g.h"))
            lane.data_received(with_token(spelt % foreign))
            assert said(wire) == [200, 403], spelt
        for scheme in (b"BEARER", b"bearer  "):
            lane.data_received(with_token(b" Bearer g.h"))
            lane.data_received(with_token(b" " + foreign.replace(b"Bearer", scheme)))
            assert said(wire) == [200, 403], scheme
        # Nor is one learnt from a key.
        lane, wire = hand.lane()
        for words in ("mine", "short"):
            lane.data_received(with_token(b" " + hand.bearers.shown[words]))
            assert lane._template is None
        lane.data_received(with_token(b" Bearer g.h"))
        assert lane._template is None
        assert said(wire) == [200] * 3


async def every_path_is_judged(serve: Serve) -> None:
    """`/next`, paths of `--route` and named counters need the key; health checks do not."""
    async with lanes(serve) as hand:
        lane, wire = hand.lane()
        for words, expected in (("mine", [200, 403, 200, 403]), ("foreign", [403, 200, 403, 200])):
            for at in (b"/next", b"/old", b"/v1/counters/default/next", b"/v1/counters/c/next"):
                lane.data_received(hand.get(words, to=at))
            assert said(wire) == expected, words
        for at in (
            b"/next",
            b"/old",
            b"/v1/counters/c/next",
            b"/v1/counters/nobody/next",
            b"/livez",
        ):
            lane.data_received(head(b"GET " + at + b" HTTP/1.1", H))
        assert said(wire) == [401, 401, 401, 401, 200]
        lane.data_received(head(b"GET /readyz HTTP/1.1", H))
        await answered(wire, 1)
        assert said(wire) == [200]
        assert not hand.taken


async def a_key_ends_on_a_busy_connection(serve: Serve) -> None:
    """Known bytes, a template, requests in one go, and heads that the listener knows."""
    now = [NOW]
    async with lanes(serve, clock=lambda: now[0]) as hand:
        (lane, wire), (other, elsewhere), (batches, many) = hand.lane(), hand.lane(), hand.lane()
        for number in range(3):
            lane.data_received(hand.get("short"))
            other.data_received(hand.get("short", b"x-id: %d" % number))
            batches.data_received(hand.get("short", to=b"/next?count=2"))
        assert other._template is not None
        assert said(wire) + said(elsewhere) + said(many) == [200] * 9
        now[0] += 2 * LATER / 1000
        hand.bearers.known.tick()
        issued = hand.issued
        lane.data_received(hand.get("short"))
        lane.data_received(hand.get("short") * 3)
        other.data_received(hand.get("short", b"x-id: 4"))
        other.data_received(hand.get("short", b"x-id: 5") + hand.get("short", b"x-id: 6"))
        batches.data_received(hand.get("short", to=b"/next?count=2"))
        assert b"key_expired" in wire.written
        assert said(wire) + said(elsewhere) + said(many) == [401] * 8
        lane, wire = hand.lane()
        lane.data_received(hand.get("short"))
        lane.data_received(hand.get("short", b"x-id: 1"))
        assert said(wire) == [401] * 2
        assert hand.issued == issued


async def a_request_waits_while_its_key_ends(serve: Serve) -> None:
    """The ids that come for it go to nobody; others are served."""
    async with lanes(serve) as hand:
        supply = hand.serving.service.local_counters["default"]
        (lane, wire), (other, elsewhere), (batches, many) = hand.lane(), hand.lane(), hand.lane()
        lane.data_received(hand.get("mine"))
        assert said(wire) == [200]
        go_on = await empty(hand.serving)
        lane.data_received(hand.get("mine") * 2)
        batches.data_received(hand.get("mine", to=b"/next?count=3"))
        other.data_received(hand.get("short"))
        assert supply.reading().waiting == 3
        await hand.bearers.revoke("mine")
        assert not wire.written
        go_on()
        await answered(elsewhere, 1)
        await answered(wire, 2)
        await answered(many, 1)
        assert b"key_unknown" in wire.written
        assert (said(wire), said(elsewhere), said(many)) == ([401, 401], [200], [401])
        assert supply.allocator.gaps == {GapCause.ABANDONED: 1 + 3}
        assert not supply.stats.refusals


async def a_batch_waits_for_its_turn_while_its_key_ends(serve: Serve) -> None:
    """No ids are taken for it."""
    async with lanes(serve) as hand:
        lane, wire = hand.lane()
        hand.lanes.turns.spend(1000)
        lane.data_received(hand.get("mine", to=b"/next?count=2000"))
        issued = hand.issued
        assert not wire.written
        await hand.bearers.revoke("mine")
        await answered(wire, 1)
        assert said(wire) == [401]
        assert hand.issued == issued


async def a_key_is_good_again_on_its_connection(serve: Serve) -> None:
    """The store was silent for a minute: all keys end, and come back once it is heard of."""
    async with lanes(serve) as hand:
        lane, wire = hand.lane()
        keys, heard = hand.bearers.known, hand.bearers.known._heard_at
        requests = [hand.get("mine"), hand.get("mine") * 2, hand.get("mine", to=b"/next?count=2")]
        for request in requests:
            lane.data_received(request)
        assert said(wire) == [200] * 4
        keys._heard_at = heard - 61.0
        keys.tick()
        for request in requests:
            lane.data_received(request)
        assert b"catalogue_stale" in wire.written
        assert said(wire) == [503] * 4
        keys.heard(asyncio.get_running_loop().time())
        for request in requests * 2:
            lane.data_received(request)
        assert said(wire) == [200] * 8
        await turns()


async def a_key_comes_that_was_refused(serve: Serve) -> None:
    """Another instance made it, and this one had not heard of it: its refusal is known."""
    async with lanes(serve) as hand:
        lane, wire = hand.lane()
        keys, store = hand.bearers.known, hand.serving.store
        assert isinstance(store, SimStore)
        for number in BUCKETS:
            if number not in keys._buckets:
                keys.put(KeyBucket(number))
        elsewhere = KeyChanges(store.keys, random=Random(9), clock=lambda: NOW)
        _, text = await elsewhere.create(Role.USE, ("default",))
        hand.bearers.shown["new"] = b"Bearer " + text.encode()
        for _ in range(2):
            lane.data_received(hand.get("new"))
        assert said(wire) == [401, 401]
        await keys.read_again()
        lane.data_received(hand.get("new"))
        assert said(wire) == [200]


async def it_waits_for_aiohttp_while_its_key_ends(serve: Serve) -> None:
    """The same where aiohttp answers, as it does behind middleware."""
    serving = await serve(
        store=SimStore(Random(1), Table()),
        asks=True,
        lane=False,
        clock=lambda: NOW,
    )
    await serving.service.warm()
    bearers = Bearers(serving)
    await bearers.make("mine", "use", "default")
    shown = {"Authorization": bearers.shown["mine"].decode()}
    assert (await serving.ask(headers=shown)).status == 200
    go_on = await empty(serving)
    waiting = asyncio.ensure_future(serving.ask(headers=shown))
    supply = serving.service.local_counters["default"]
    while not supply.reading().waiting:
        await asyncio.sleep(0)
    await bearers.revoke("mine")
    go_on()
    answer = await waiting
    assert answer.status == 401
    assert answer.json["code"] == "key_unknown"
    assert supply.allocator.gaps == {GapCause.ABANDONED: 1}


Promise = Callable[[Serve], Awaitable[None]]
PROMISES: list[Promise] = [
    a_proxy_shares_a_connection,
    only_the_key_is_another,
    another_key_waits_for_the_request_before_it,
    tokens_vary_where_none_is_asked_for,
    every_path_is_judged,
    a_key_ends_on_a_busy_connection,
    a_request_waits_while_its_key_ends,
    a_batch_waits_for_its_turn_while_its_key_ends,
    a_key_is_good_again_on_its_connection,
    a_key_comes_that_was_refused,
    it_waits_for_aiohttp_while_its_key_ends,
]
