"""A service as the store: what its answers and refusals come to, over real connections."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from idservice import errors
from idservice.allocation import direct
from idservice.allocation.local_state import LocalState
from idservice.allocation.service import Service
from idservice.catalogue.catalogue import Catalogue
from idservice.catalogue.changes import Configure, MoveAway
from idservice.catalogue.counters import ensure, new_counter, shown
from idservice.client import protocol
from idservice.client.address import ServiceAddress
from idservice.client.http_async import AsyncTransport
from idservice.client.protocol import NotSent, NoUsableAnswer, Reply
from idservice.server.startup import build_instance
from idservice.stores import initialise, open_store
from idservice.stores.chained import PART_BELIEVED_S, ChainedStore
from idservice.stores.protocol import IdStore
from idservice.stores.records import (
    ACTIVE,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    MOVED,
    SUSPENDED,
    Counter,
    Loan,
)
from idservice.web.problems import problem
from idservice.web.request import WebLimits
from tests.listening import listening
from tests.served import Served, served
from tests.simulation.loop import elapse, run
from tests.simulation.serving import table
from tests.simulation.store import SimStore, Table

random = Random(1)


@asynccontextmanager
async def sidecar_of(
    store: IdStore, *, declared: Sequence[str] = ()
) -> AsyncIterator[tuple[Service, Catalogue]]:
    """An instance over a service as its store."""
    service, catalogue, _ = build_instance(store, random=random, declared=declared)
    async with service:
        yield service, catalogue


class Said(AsyncTransport):
    """A service that answers what it is told to."""

    def __init__(self, *replies: Reply | Exception | dict[str, Any]) -> None:
        super().__init__(ServiceAddress.parse("http://central:8080"))
        self.replies = list(replies)
        self.asked: list[str] = []

    async def send(self, method: str, target: str, body: bytes = b"") -> Reply:
        self.asked.append(target)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, Reply):
            return reply
        query = dict(pair.split("=") for pair in target.partition("?")[2].split("&"))
        count = int(query["count"])
        body_ = {
            "counter": "orders", "count": count, "epoch": 1, "mode": "block",
            "ranges": [{"first": reply.pop("first", 0), "step": 1, "count": count}],
            "nonce": query["nonce"], **reply,
        }  # fmt: skip
        return Reply(200, "application/json", protocol.json.dumps(body_).encode())


def refusal(error: errors.IdserviceError) -> Reply:
    response = problem(error)
    assert isinstance(response.body, bytes)
    pause = response.headers.get("Retry-After", "")
    return Reply(response.status, response.content_type, response.body, pause)


COUNTER = Counter(name="orders", epoch="0.chained", limit=LIMIT_MAX, strict=True)


async def lend(store: ChainedStore, count: int = 5) -> Loan:
    return await store.reserve(COUNTER, count=count, seen=0, room=10**6)


# --- loans ----------------------------------------------------------------------------------------


async def test_the_first_answer_tells_epoch_and_mode() -> None:
    loan = await lend(ChainedStore(Said({"epoch": 4, "first": 10})))
    assert loan.blocks == (range(10, 15),)
    assert (loan.counter.ordinal, loan.counter.strict) == (4, False)
    assert loan.counter.limit == LIMIT_DEFAULT
    text = await lend(ChainedStore(Said({"mode": "strict", "first": "10"})))
    assert text.counter.strict
    assert text.counter.limit == LIMIT_MAX


async def test_an_older_epoch_is_discarded_and_a_newer_one_is_told() -> None:
    store = ChainedStore(Said({"epoch": 2}, {"epoch": 1}, {"epoch": 3}, {"epoch": 2}))
    assert (await lend(store)).counter.ordinal == 2
    told = r"epoch 1 has ended.*older copy.*start this process again"
    with pytest.raises(errors.OutcomeUnknown, match=told):
        await lend(store)
    assert (await lend(store)).counter.ordinal == 3
    with pytest.raises(errors.OutcomeUnknown, match="epoch 2 has ended"):
        await lend(store)


async def test_every_request_has_a_nonce_of_its_own() -> None:
    central = Said(*({} for _ in range(20)))
    store = ChainedStore(central)
    for _ in range(20):
        await lend(store)
    assert len({target.partition("nonce=")[2] for target in central.asked}) == 20


async def test_more_than_an_answer_may_hold_is_asked_for_in_parts() -> None:
    central = Said({"first": 0}, {"first": 3_000_000}, {"first": 9_000_000})
    loan = await lend(ChainedStore(central), 2_500_000)
    assert sum(map(len, loan.blocks)) == 2_500_000
    assert [block.start for block in loan.blocks] == [0, 3_000_000, 9_000_000]


async def test_a_service_that_gives_less_at_once_is_asked_for_less() -> None:
    bad = refusal(errors.BadCount(value="100", most=30))
    central = Said(bad, bad, {"first": 0}, {"first": 50}, {"first": 100}, {"first": 200}, {})
    store = ChainedStore(central)
    loan = await lend(store, 100)
    assert [len(block) for block in loan.blocks] == [25, 25, 25, 25]
    assert len((await lend(store, 20)).blocks[0]) == 20


async def test_names_that_clients_make_up_take_no_memory() -> None:
    bad = refusal(errors.BadCount(value="100", most=99))
    store = ChainedStore(Said(bad, refusal(errors.UnknownCounter(name="orders"))))
    with pytest.raises(errors.UnknownCounter):
        await lend(store, 100)
    assert not store._part_max
    assert not store._known


async def test_beyond_the_rate_there_the_parts_before_are_borrowed() -> None:
    """To burn them would leave nothing: the next refill asks for as much again."""
    late = refusal(errors.RateExceeded(name="orders", rate=" of 9 ids/s", seconds=2.5))
    loan = await lend(ChainedStore(Said({"epoch": 1}, late)), 1_500_000)
    assert sum(map(len, loan.blocks)) == 1_000_000
    with pytest.raises(errors.RateExceeded) as refused:
        await lend(ChainedStore(Said(late)))
    assert refused.value.retry_after_s(0.0) == 3


def test_a_loan_in_many_parts_ends_before_it_is_cut_off_and_burnt() -> None:
    class Central(Said):
        highest = 1

        async def send(self, method: str, target: str, body: bytes = b"") -> Reply:
            await elapse(0.01)
            count = int(target.partition("count=")[2].partition("&")[0])
            size = errors.RequestTooLarge(name="orders", value=9, most=1, bound="request_max")
            self.replies = [refusal(size) if count > self.highest else {"first": len(self.asked)}]
            return await super().send(method, target, body)

    async def main() -> None:
        central = Central()
        store = ChainedStore(central)
        async with asyncio.timeout(2.0):  # as long as a request waits
            loan = await lend(store, 1000)
        assert 30 <= sum(map(len, loan.blocks)) <= 60
        central.highest = 1000
        await elapse(PART_BELIEVED_S)
        assert [len(block) for block in (await lend(store, 1000)).blocks] == [1000]

    run(main())


async def test_ids_that_may_be_used_up_beyond_the_rate_are_not_left_out() -> None:
    error = errors.RateExceeded(name="orders", rate="", seconds=2.5)
    error.outcome = errors.UNKNOWN
    with pytest.raises(errors.OutcomeUnknown):
        await lend(ChainedStore(Said({"epoch": 1}, refusal(error))), 1_500_000)


async def test_what_a_service_lent_to_one_caller_is_never_told_as_not_applied() -> None:
    late = refusal(errors.RateExceeded(name="orders", rate=" of 9 ids/s", seconds=2.5))
    store = ChainedStore(Said({"epoch": 1}, late, late))
    blocks = await direct.take(store, COUNTER, 1_500_000, random=random)
    assert sum(map(len, blocks)) == 1_000_000
    with pytest.raises(errors.RateExceeded):
        await direct.take(store, COUNTER, 500_000, random=random)


async def test_what_one_counter_gives_at_once_is_not_taken_for_that_of_another() -> None:
    bad = refusal(errors.RequestTooLarge(name="orders", value=9, most=5, bound="request_max"))
    central = Said(bad, {"first": 0}, {"first": 9}, {"counter": "other", "epoch": 1})
    store = ChainedStore(central)
    assert [len(block) for block in (await lend(store, 8)).blocks] == [4, 4]
    other = msgspec.structs.replace(COUNTER, name="other")
    loan = await store.reserve(other, count=8, seen=0, room=10**6)
    assert [len(block) for block in loan.blocks] == [8]


async def test_a_sidecar_passes_on_that_the_rate_is_exceeded(central: Served, data: Table) -> None:
    data.create(new_counter("slow", random, rate_max=5.0, request_max=4))
    async with open_store(central.url) as store, Service(store, random=random) as sidecar:
        supply, ids = await sidecar.local_counter("slow"), []
        with pytest.raises(errors.RateExceeded):
            while len(ids) < 100:
                ids.append(await supply.next_id())
        assert 4 <= len(set(ids)) == len(ids) <= 20
        assert supply.unavailable_reason is None or supply.state is LocalState.SERVING
        # When the service fails later, an old 429 is not the reason.
        supply._context.health.failed(errors.StoreError(store=central.url, why="gone"))
        reason = supply.unavailable_reason
        assert reason is not None
        assert reason.code == "store_unavailable"


async def test_a_part_that_fails_makes_the_whole_unknown() -> None:
    busy = refusal(errors.TooManyWaiting(name="orders", count=1))
    for end in (busy, {"epoch": 2}, NotSent(url="u", why="connection refused")):
        with pytest.raises(errors.OutcomeUnknown):
            await lend(ChainedStore(Said({"epoch": 1}, end)), 1_500_000)


@pytest.mark.parametrize(
    ("reply", "expected", "outcome"),
    [
        (NoUsableAnswer(url="u", why="reset"), errors.OutcomeUnknown, errors.UNKNOWN),
        (NotSent(url="u", why="refused"), errors.NotReached, errors.NOT_APPLIED),
        (Reply(302, "text/html", b""), errors.OutcomeUnknown, errors.UNKNOWN),
        (Reply(503, "text/html", b"<h1>"), errors.OutcomeUnknown, errors.UNKNOWN),
        ({"nonce": "another"}, errors.OutcomeUnknown, errors.UNKNOWN),
        (errors.IdserviceError(), errors.OutcomeUnknown, errors.UNKNOWN),
        (errors.Exhausted(name="orders", count=5, limit=9), errors.NoRoom, errors.NOT_APPLIED),
        (errors.UnknownCounter(name="orders"), errors.UnknownCounter, errors.NOT_APPLIED),
        (errors.CounterSuspect(name="orders", why="w"), errors.Withheld, errors.NOT_APPLIED),
        (errors.UnknownPath(path="/"), errors.Withheld, errors.NOT_APPLIED),
        (errors.Stopped(), errors.NotApplied, errors.NOT_APPLIED),
        (errors.TooManyWaiting(name="n", count=1), errors.NotApplied, errors.NOT_APPLIED),
    ],
)
async def test_each_way_an_exchange_can_end(
    reply: Any, expected: type[errors.IdserviceError], outcome: str
) -> None:
    if isinstance(reply, errors.IdserviceError) and not isinstance(reply, NoUsableAnswer):
        reply = refusal(reply)
    with pytest.raises(expected) as refused:
        await lend(ChainedStore(Said(reply)))
    assert type(refused.value) is expected
    assert refused.value.outcome == outcome


# --- over a socket --------------------------------------------------------------------------------


@pytest.fixture
def data() -> Table:
    return table("default", "orders")


@pytest.fixture
async def central(data: Table) -> AsyncIterator[Served]:
    """A service whose data plane is all that can be reached."""
    async with served(SimStore(Random(1), data), control=False) as central:
        yield central


def test_the_addresses_of_services_are_those_of_a_chained_store() -> None:
    for address in ("http://central:8080", "https://central", "unix:/run/ids.sock"):
        store = open_store(address, hold_s=3.0)
        assert isinstance(store, ChainedStore)
        assert (store.address, store.hold_s) == (address, 3.0)
    with pytest.raises(errors.Usage, match="http://HOST:PORT"):
        open_store("http://central:8080/v1")


async def test_the_data_plane_is_enough(central: Served) -> None:
    async with (
        open_store(central.url) as store,
        sidecar_of(store, declared=["default"]) as (sidecar, catalogue),
    ):
        await store.verify()
        await sidecar.warm()
        supply = await sidecar.local_counter("orders")
        assert [await supply.next_id() for _ in range(50)] == list(range(50))
        assert (supply.counter.ordinal, supply.counter.strict) == (1, False)
        assert sum(map(len, await supply.next_batch(1000))) == 1000
        assert len(central.asked) < 20
        with pytest.raises(errors.NotShown, match="admin-listen"):
            await store.counters()
        with pytest.raises(errors.NotShown, match="admin-listen"):
            await catalogue.counter("orders")
        with pytest.raises(errors.NotShown, match="admin-listen"):
            await catalogue.create(new_counter("tickets", random))


async def test_starting_and_showing_use_no_id(central: Served) -> None:
    async with open_store(central.url) as store:
        async with sidecar_of(store, declared=["orders"]) as (sidecar, catalogue):
            await sidecar.warm()
            for ask in (catalogue.counter("orders"), catalogue.page("", 1000)):
                with pytest.raises(errors.NotShown):
                    await ask
            assert sidecar.health.up, "it answered, and will not say anything else"
        async with sidecar_of(store) as (sidecar, catalogue):
            assert await (await sidecar.local_counter("orders")).next_id() == 0


async def test_a_unix_socket_leads_to_a_service(data: Table, tmp_path: Path) -> None:
    path = str(tmp_path / "ids.sock")
    async with (
        served(SimStore(Random(1), data), path=path) as central,
        open_store(central.url) as store,
        Service(store, random=random) as sidecar,
    ):
        await store.verify()
        assert await (await sidecar.local_counter("default")).next_id() == 0


async def test_names_that_are_not_there_are_refused_and_not_kept(central: Served) -> None:
    async with open_store(central.url) as store, Service(store, random=random) as sidecar:
        for number in range(20):
            with pytest.raises(errors.UnknownCounter):
                await (await sidecar.local_counter(f"n{number}")).next_id()
        assert not sidecar.local_counters


async def test_a_name_of_which_nothing_was_told_is_not_on_the_metrics_page(
    central: Served,
) -> None:
    async with open_store(central.url) as store, Service(store, random=random) as sidecar:
        await sidecar.local_counter("ghost")
        assert await (await sidecar.local_counter("orders")).next_id() == 0
        assert list(sidecar.local_counters) == ["ghost", "orders"]
        assert [one.counter for one in (await sidecar.snapshot()).readings] == ["orders"]


async def test_one_name_that_two_hold_is_missed_twice_without_harm(
    central: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idservice.allocation.local_counter.SUSPECT_RECHECK_S", 0.0)
    async with open_store(central.url) as store, Service(store, random=random) as sidecar:
        stale = await sidecar.local_counter("tickets")  # as a desk keeps it
        with pytest.raises(errors.UnknownCounter):
            await stale.next_id()
        fresh = await sidecar.local_counter("tickets")
        assert fresh is not stale
        with pytest.raises(errors.UnknownCounter):
            await stale.next_id()
        assert sidecar.local_counters == {"tickets": fresh}


async def test_a_counter_that_comes_later_is_found_by_who_asks_the_service_again(
    central: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by nobody else: what the service forgot it would neither count nor stop."""
    monkeypatch.setattr("idservice.allocation.local_counter.SUSPECT_RECHECK_S", 0.0)
    async with open_store(central.url) as store, Service(store, random=random) as sidecar:
        supply = await sidecar.local_counter("tickets")  # as a desk keeps it
        with pytest.raises(errors.UnknownCounter):
            await supply.next_id()
        await central.catalogue.create(new_counter("tickets", random, start=7))
        for ask in (supply.next_id, lambda: supply.next_batch(3)):
            with pytest.raises(errors.UnknownCounter):
                await ask()
        supply.recheck()
        assert supply.unavailable_reason
        assert await (await sidecar.local_counter("tickets")).next_id() == 7


async def test_a_counter_suspended_at_the_central_ends_here_after_its_ids(
    central: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("idservice.allocation.local_counter.SUSPECT_RECHECK_S", 0.0)
    async with open_store(central.url) as store, sidecar_of(store) as (sidecar, catalogue):
        supply = await sidecar.local_counter("orders")
        first = await supply.next_id()
        await central.catalogue.change("orders", Configure(state=SUSPENDED))
        with pytest.raises(errors.Suspended):
            for _ in range(1000):
                await supply.next_id()
        await central.catalogue.change("orders", Configure(state=ACTIVE))
        assert await supply.next_id() > first
        assert supply.counter.ordinal == 3
        said = [one.getMessage() for one in caplog.records if one.module == "local_state"]
        assert "is suspended by an operator" in said[0], "the sidecar's log says it, too"
        assert said[1:] == ["counter orders: its ids are lent again"]
        with pytest.raises(errors.ChangedElsewhere, match="Name that store with --store"):
            await catalogue.change("orders", Configure(state=SUSPENDED))


async def test_a_strict_counter_is_never_taken_ahead(central: Served, data: Table) -> None:
    data.create(new_counter("strict", random, strict=True))
    async with open_store(central.url) as store, Service(store, random=random) as sidecar:
        supply = await sidecar.local_counter("strict")
        assert [await supply.next_id() for _ in range(10)] == list(range(10))
        assert data.positions["strict", 0].next == 10
        assert not supply.reading().gaps


async def test_the_end_of_a_counter_is_reached_to_the_last_id(
    central: Served, data: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idservice.core.timeouts.BACKOFF_FIRST_S", 0.0)
    data.create(new_counter("short", random, limit=49))
    async with open_store(central.url) as store, Service(store, random=random) as sidecar:
        supply = await sidecar.local_counter("short")
        assert [await supply.next_id() for _ in range(47)] == list(range(47))
        with pytest.raises(errors.Exhausted, match="at http://"):
            await supply.next_batch(5)
        assert sorted([await supply.next_id() for _ in range(3)]) == [47, 48, 49]
        with pytest.raises(errors.Exhausted):
            await supply.next_id()


async def test_what_the_control_plane_shows_is_passed_on(data: Table) -> None:
    async with (
        served(SimStore(Random(1), data)) as central,
        open_store(central.url) as store,
        sidecar_of(store) as (_, catalogue),
    ):
        _, created = await ensure(
            store,
            new_counter("big", random, start=5, limit=2**60, strict=True),
            runway=30.0,
            random=random,
        )
        assert created
        _, created = await ensure(
            store,
            new_counter("big", random, start=5, limit=2**60, strict=True),
            runway=30.0,
            random=random,
        )
        assert not created
        with pytest.raises(errors.CounterDiffers, match="start is 5, not 6"):
            await ensure(store, new_counter("big", random, start=6), runway=30.0, random=random)
        counter, (position,) = await catalogue.counter("big")
        assert (counter.limit, counter.strict, position.next) == (2**60, True, 5)
        assert [c.name for c in await store.counters()] == ["big", "default", "orders"]
        assert await store.counter("none") is None
        with pytest.raises(errors.NotApplied, match="adopted"):
            await store.create(
                Counter(name="x", epoch="1.a", adopted=dynamo_item())  # type: ignore[call-arg]
            )


def shown_as(name: str, **more: object) -> dict[str, object]:
    """A counter as a service shows it."""
    return {
        "counter": name, "state": "active", "epoch": 1, "start": 0, "limit": LIMIT_DEFAULT,
        "strict": False, "shards": 1, "runway": 30.0, **more,
    }  # fmt: skip


def json_reply(**body: object) -> Reply:
    return Reply(200, "application/json", protocol.json.dumps(body).encode())


async def test_every_page_of_counters_is_read() -> None:
    pages = [
        json_reply(counters=[shown_as("a"), shown_as("b")], next="b"),
        json_reply(counters=[shown_as("c")], next="c"),
        json_reply(counters=[]),
    ]
    said = Said(*pages)
    assert [c.name for c in await ChainedStore(said).counters()] == ["a", "b", "c"]
    assert said.asked == ["/v1/counters", "/v1/counters?after=b", "/v1/counters?after=c"]


async def test_a_list_that_leads_back_ends() -> None:
    said = Said(*[json_reply(counters=[shown_as("b")], next="b")] * 2)
    assert len(await ChainedStore(said).counters()) == 2


@pytest.mark.parametrize("number", [90.0, 1e300, -1, True, None, "", " 90", "1_0", "90.0", "٩"])
@pytest.mark.parametrize("field", ["start", "limit", "next"])
async def test_a_number_that_is_not_plain_is_not_believed(field: str, number: object) -> None:
    store = ChainedStore(Said(json_reply(**{**shown_as("orders"), field: number})))
    with pytest.raises(errors.NotApplied, match="not as expected"):
        await store.entry("orders")


async def test_a_counter_shown_from_memory_there_has_no_position_here() -> None:
    """Its `next` would be taken for 0."""
    reply = json_reply(**shown_as("orders", store="down"))
    store = ChainedStore(Said(reply, refusal(errors.BadCount(value="0", most=9)), reply))
    for call in (store.position(COUNTER), store.counter("orders")):
        with pytest.raises(errors.NotApplied, match="the store that it uses does not answer"):
            await call


@pytest.mark.parametrize("state", [SUSPENDED, MOVED])
async def test_a_counter_that_hands_out_nothing_there_is_shown_so_here(
    data: Table, state: str
) -> None:
    async with (
        served(SimStore(Random(1), data)) as central,
        open_store(central.url) as store,
        sidecar_of(store) as (sidecar, catalogue),
    ):
        wish = Configure(state=SUSPENDED)
        if state == MOVED:
            wish = MoveAway(to="sqlite:/there.db")
        await central.catalogue.change("orders", wish)
        counter, _ = await catalogue.counter("orders")
        assert counter.state == state
        assert [one.state for one in await catalogue.page("", 1000)] == [ACTIVE, state]
        assert (await shown(store, "orders")) == counter
        supply = await sidecar.local_counter("orders")
        with pytest.raises(errors.Suspended):  # as it is told there, at each request
            await supply.next_id()
        if state == SUSPENDED:
            await central.catalogue.change("orders", Configure(state=ACTIVE))
            supply.recheck()
            assert (await catalogue.counter("orders"))[0].state == ACTIVE


@pytest.mark.parametrize("closed", ["position lost", "suspended"])
async def test_a_counter_that_is_closed_there_keeps_no_sidecar_from_starting(
    data: Table, closed: str
) -> None:
    async with (
        served(SimStore(Random(1), data)) as central,
        open_store(central.url) as store,
        sidecar_of(store, declared=["orders", "default"]) as (sidecar, _),
    ):
        if closed == "suspended":
            await central.catalogue.change("orders", Configure(state=SUSPENDED))
        else:
            del data.positions["orders", 0]
        await sidecar.warm()
        assert await (await sidecar.local_counter("default")).next_id() >= 0
        with pytest.raises(errors.Suspended if closed == "suspended" else errors.CounterSuspect):
            await (await sidecar.local_counter("orders")).next_id()
        assert sidecar.health.up
        assert central.service.health.up, "one counter is the obstacle, not the store"


def dynamo_item() -> Any:
    from idservice.stores.records import Adopted

    return Adopted("t", (("k", "S", "v"),), "value", "old")


async def test_a_range_max_below_our_own_is_found_out(data: Table) -> None:
    async with (
        served(SimStore(Random(1), data), web_limits=WebLimits(range_max=100)) as central,
        open_store(central.url) as store,
        Service(store, random=random) as sidecar,
    ):
        assert sum(map(len, await (await sidecar.local_counter("orders")).next_batch(1000))) == 1000


async def test_a_store_that_is_no_service_is_not_ready() -> None:
    async with open_store("http://127.0.0.1:1") as store:
        with pytest.raises(errors.StoreUnready) as refused:
            await store.verify()
        assert refused.value.waiting_helps
        assert "(connection refused)" in str(refused.value)
        assert "ssl" not in str(refused.value)
        with pytest.raises(errors.Usage, match="where it runs"):
            await initialise(store, new_counter("default", random))
    with pytest.raises(errors.StoreUnready, match="is not idservice"):
        await ChainedStore(Said(Reply(200, "text/html", b"<h1>"))).verify()


async def test_a_silent_store_is_waited_for_no_longer_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("idservice.stores.chained.ANSWER_MAX_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with open_store(f"http://127.0.0.1:{silent.getsockname()[1]}") as store:
            with pytest.raises(errors.StoreUnready, match=r"within 0\.05 s") as refused:
                async with asyncio.timeout(10):
                    await store.verify()
    assert refused.value.waiting_helps


async def test_no_redirect_is_followed_and_no_proxy_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = (
        b"HTTP/1.1 307 Over there\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    )
    asked: list[bytes] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with listening(redirect) as port, open_store(f"http://127.0.0.1:{port}") as store:
        assert isinstance(store, ChainedStore)
        with pytest.raises(errors.OutcomeUnknown, match="307"):
            await lend(store)
    assert len(asked) == 1
