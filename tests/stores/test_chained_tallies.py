"""Tallies of a service: a sidecar answers as the service would, and never counts twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.client.address import ServiceAddress
from idservice.client.http_async import TALLIES_AT_ONCE, AsyncTransport
from idservice.client.protocol import NotSent, NoUsableAnswer, Reply
from idservice.core.tally import AddFate, AddRecord, TallyState
from idservice.server.startup import build_instance
from idservice.stores.chained import ChainedStore
from idservice.stores.chained_tallies import ChainedTallies
from idservice.stores.tally_source import TallyReading, Told
from idservice.tallies.changes import TallyPatch, new_tally
from idservice.tallies.service import Tallies
from idservice.web.problems import TIMES, problem
from tests.served import served
from tests.simulation.loop import elapse, run
from tests.simulation.serving import table
from tests.simulation.store import SimStore

URL = "http://central:8080"
AT, AT_MS = "2026-11-03T10:00:00.123Z", 1_793_700_000_123
PROBLEM = "application/problem+json"


class Way(AsyncTransport):
    """The way to a service that answers one thing after the other; the last one again and again."""

    def __init__(self, *replies: Reply | NoUsableAnswer, takes_s: float = 0.0) -> None:
        super().__init__(ServiceAddress.parse(URL))
        self.replies = list(replies)
        self.takes_s = takes_s
        self.keys: list[str] = []
        self.bodies: list[bytes] = []

    async def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        key: str = "",
        limit_s: float | None = None,
    ) -> Reply:
        self.keys.append(key)
        self.bodies.append(body)
        await elapse(min(self.takes_s, limit_s or 9.0))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Reply):
            return reply
        raise reply


def said(status: int = 200, **other: Any) -> Reply:
    body = {
        "tally": "gifts", "key": "k", "amount": "12.50", "sum": "-3.25", "at": AT, "rev": 7,
        "replayed": False, **other,
    }  # fmt: skip
    return Reply(status, "application/json", json.dumps(body).encode())


def refusal(error: errors.IdserviceError, **members: Any) -> Reply:
    response = problem(error)
    assert isinstance(response.body, bytes)
    body = json.loads(response.body) | members
    return Reply(response.status, response.content_type, json.dumps(body).encode())


UNANSWERED = NoUsableAnswer(url=URL, why="connection reset")
PAGE = Reply(502, "text/html", b"<h1>Bad Gateway</h1>")


def chained(way: Way) -> ChainedTallies:
    return ChainedTallies(way, random=Random(1))


# --- one answer -----------------------------------------------------------------------------------


async def test_an_add_comes_back_in_units() -> None:
    told = await chained(Way(said())).add("gifts", "k", "12.5")
    assert told == Told("gifts", 2, AddRecord("k", AddFate.COUNTED, 1250, -325, 7, AT_MS))
    whole = await chained(Way(said(amount="12", sum="30", replayed=True))).add("gifts", "k", "12")
    assert (whole.decimals, whole.record.sum, whole.replayed) == (0, 30, True)


async def test_no_amount_goes_through_a_float() -> None:
    large, sum = "9007199254740993.10", "9007199254740993.20"
    way = Way(said(amount=large, sum=sum))
    told = await chained(way).add("gifts", "k", large)
    assert way.bodies == [f'{{"amount": "{large}"}}'.encode()]
    assert (told.record.amount, told.record.sum) == (900719925474099310, 900719925474099320)


async def test_a_sum_and_a_record_come_back_as_they_are() -> None:
    value = await chained(Way(said(as_of="2026-11-03T10:00:01Z"))).value("gifts")
    assert value == TallyReading("gifts", 2, -325, 7, AT_MS, 1_793_700_001_000)
    kept = await chained(Way(said(kind="set", by="ann", replayed=True))).recorded("gifts", "k")
    assert kept == Told("gifts", 2, AddRecord("k", AddFate.SET, 1250, -325, 7, AT_MS, "ann"), True)


def test_a_retry_to_the_service_has_the_key_of_the_caller() -> None:
    async def main() -> None:
        way = Way(UNANSWERED, PAGE, said(key="other"), said(replayed=True))
        assert (await chained(way).add("gifts", "k", "12.50")).replayed
        assert way.keys == ["k"] * 4

    run(main())


def test_adds_that_the_service_keeps_waiting_leave_connections_for_ids() -> None:
    async def main() -> None:
        way = Way(UNANSWERED, takes_s=9.0)
        sums = chained(way)
        adds = [asyncio.create_task(sums.add("gifts", f"k{at}", "1")) for at in range(120)]
        await elapse(0.5)
        assert len(way.keys) == TALLIES_AT_ONCE
        told = await asyncio.gather(*adds, return_exceptions=True)
        assert {type(one) for one in told} == {errors.AddUnsettled}
        assert any(f"{TALLIES_AT_ONCE} other requests about tallies" in str(one) for one in told)
        assert asyncio.get_running_loop().time() < 2.1

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        UNANSWERED,
        NotSent(url=URL, why="refused"),
        PAGE,
        Reply(307, "", b""),
        said(key="other"),
        refusal(errors.AddUnsettled(name="gifts", key="k", why="it is slow"), key="k"),
        refusal(errors.UnknownPath(path="/v1/tallies/gifts/add")),  # a service without tallies
        refusal(errors.Stopped()),
    ],
    ids=["broken", "not sent", "page", "redirect", "other key", "unsettled", "no route", "stops"],
)
def test_what_is_not_final_is_unknown(answer: Reply | NoUsableAnswer) -> None:
    async def main() -> None:
        with pytest.raises(errors.AddUnsettled, match="same key: it is counted once") as raised:
            await chained(Way(answer, takes_s=0.3)).add("gifts", "k", "12.50")
        assert raised.value.outcome == errors.UNKNOWN
        assert raised.value.fields["key"] == "k"
        assert asyncio.get_running_loop().time() <= 2.0

    run(main())


def test_a_suspension_after_a_lost_answer_is_not_told_as_not_applied() -> None:
    async def main() -> None:
        suspended = refusal(errors.TallySuspended(name="gifts", by="by ann"))
        with pytest.raises(errors.TallySuspended) as raised:
            await chained(Way(UNANSWERED, suspended)).add("gifts", "k", "12.50")
        assert raised.value.outcome == errors.UNKNOWN

    run(main())


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (NotSent(url=URL, why="refused"), errors.NotReached),
        (UNANSWERED, errors.NotAnswered),
        (said(tally="other"), errors.NotAnswered),
        (refusal(errors.Stopped()), errors.NotApplied),
        (refusal(errors.UnknownPath(path="/v1/tallies/gifts")), errors.NotApplied),
    ],
    ids=["not sent", "broken", "other tally", "stops", "no route"],
)
def test_a_read_that_fails_changed_nothing(answer: Any, kind: type[errors.StoreError]) -> None:
    async def main() -> None:
        for read in (lambda t: t.value("gifts"), lambda t: t.recorded("gifts", "k")):
            with pytest.raises(kind) as raised:
                await read(chained(Way(answer)))
            assert type(raised.value) is kind
            assert raised.value.outcome == errors.NOT_APPLIED
            assert raised.value.retryable == ("unknown_path" not in str(answer))

    run(main())


# --- the service and its sidecar answer alike -----------------------------------------------------

Step = Callable[[Tallies], Awaitable[object]]

# Each is asked of the service itself, and in a copy of the same world of a sidecar before it.
BATTERY: dict[str, Step] = {
    "an add": lambda t: t.add("gifts", "a", "12.50"),
    "again": lambda t: t.add("gifts", "a", "12.5"),
    "another amount": lambda t: t.add("gifts", "a", "12.51"),
    "a negative one": lambda t: t.add("gifts", "b", "-0.01"),
    "below the floor": lambda t: t.add("gifts", "c", "-100"),
    "again below the floor": lambda t: t.add("gifts", "c", "-100"),
    "above the ceiling": lambda t: t.add("gifts", "d", "2000000000000000"),
    "a refused key for less": lambda t: t.add("gifts", "c", "-1"),
    "too exact": lambda t: t.add("gifts", "e", "0.001"),
    "too large": lambda t: t.add("gifts", "e", "10000000000000000"),
    "no tally": lambda t: t.add("other", "a", "1"),
    "a tally without decimals": lambda t: t.add("whole", "a", "9007199254740993"),
    "a tally of nine decimals": lambda t: t.add("fine", "a", "0.000000001"),
    "another only": lambda t: t.add("whole", "b", "1"),
    "a record": lambda t: t.recorded("gifts", "a"),
    "a record of a refusal": lambda t: t.recorded("gifts", "c"),
    "a record of a set": lambda t: t.recorded("gifts", "set"),
    "no record": lambda t: t.recorded("gifts", "never"),
    "no record of no tally": lambda t: t.recorded("other", "a"),
    "a sum": lambda t: t.value("gifts"),
    "a sum of many digits": lambda t: t.value("whole"),
    "a sum of no tally": lambda t: t.value("other"),
    "suspended": lambda t: t.add("closed", "new", "1"),
    "counted before": lambda t: t.add("closed", "old", "1"),
    "a bad key": lambda t: t.add("gifts", "a b", "1"),
    "a bad name": lambda t: t.add("a/b", "a", "1"),
    "many keys of one add": lambda t: asyncio.gather(*(t.add("gifts", "z", "1") for _ in range(5))),
}


async def world() -> tuple[SimStore, Tallies, Service]:
    """A store with some tallies, and an instance that serves them."""
    store = SimStore(Random(1), table("default"))
    service, _, tallies = build_instance(store, random=Random(1))
    return store, tallies, service


async def prepare(tallies: Tallies) -> None:
    bounds = {"floor": "0", "ceiling": "1000000000000000"}
    await tallies.create(new_tally("gifts", decimals=2, **bounds))
    await tallies.create(new_tally("whole", only="9007199254740993"))
    await tallies.create(new_tally("fine", decimals=9))
    await tallies.create(new_tally("closed"))
    await tallies.set("gifts", "set", "3.00", by="ann")
    await tallies.add("closed", "old", "1")
    closed = TallyPatch(state=TallyState.SUSPENDED)
    await tallies.change("closed", closed, "suspend", by="ann", why="audit")


async def outcome(step: Step, tallies: Tallies) -> object:
    """What a step comes to, but for the time of day."""
    try:
        result = await step(tallies)
    except errors.IdserviceError as error:
        members = {name: error.fields[name] for name in error.members if name not in TIMES}
        return type(error), str(error), error.outcome, error.retryable, members
    results = result if isinstance(result, list) else [result]
    return [timeless(one) for one in results]


def timeless(result: object) -> object:
    if isinstance(result, Told):
        assert result.record.at > 1_700_000_000_000
        return replace(result, record=replace(result.record, at=0))
    assert isinstance(result, TallyReading)
    assert result.as_of >= result.at > 1_700_000_000_000
    return replace(result, at=0, as_of=0)


@asynccontextmanager
async def sidecar() -> AsyncIterator[tuple[Tallies, Tallies]]:
    """A service, and a sidecar that reaches it over HTTP, by its data plane alone."""
    store, tallies, service = await world()
    async with service, served(store, control=False) as central:
        await prepare(tallies)
        async with ChainedStore(AsyncTransport(ServiceAddress.parse(central.url))) as chained:
            other, _, passing = build_instance(chained, random=Random(2))
            async with other:
                yield tallies, passing


async def test_a_sidecar_answers_as_its_service_would() -> None:
    _, itself, service = await world()
    async with service, sidecar() as (_, passing):
        await prepare(itself)
        for what, step in BATTERY.items():
            assert await outcome(step, passing) == await outcome(step, itself), what


async def test_a_sidecar_tells_the_time_of_the_service() -> None:
    async with sidecar() as (itself, passing):
        told = await passing.add("gifts", "a", "1.50")
        assert told.record == (await itself.recorded("gifts", "a")).record
        assert await passing.recorded("gifts", "a") == await itself.recorded("gifts", "a")
        assert (await passing.value("gifts")).at == (await itself.value("gifts")).at


async def test_nothing_is_changed_through_a_sidecar() -> None:
    async with sidecar() as (_, passing):
        for change in (
            lambda: passing.create(new_tally("new")),
            lambda: passing.change("gifts", TallyPatch(floor="1"), "configure"),
            lambda: passing.set("gifts", "k", "0", by="ann"),
            lambda: passing.tallies(),
            lambda: passing.tally("gifts"),
            lambda: passing.audit("gifts"),
        ):
            with pytest.raises(errors.ChangedElsewhere):
                await change()


async def test_an_outage_of_the_service_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    way = Way(UNANSWERED)
    other, _, passing = build_instance(
        ChainedStore(way, wait_s=0.01), Limits(wait=0.01), random=Random(2)
    )
    async with other:
        for _ in range(3):
            with pytest.raises(errors.AddUnsettled):
                await passing.add("gifts", "k", "1")
        down = [record for record in caplog.records if record.action == "store_down"]  # type: ignore[attr-defined]
        assert len(down) == 1
        assert "connection reset" in down[0].message
        for name, key in (("gifts", "a b"), ("a/b", "k")):
            with pytest.raises((errors.BadKey, errors.BadName)):
                await passing.add(name, key, "1")
        assert other.health.down.is_set(), "nothing was asked"
        way.replies = [refusal(errors.UnknownTally(name="gifts"))]
        with pytest.raises(errors.UnknownTally):
            await passing.add("gifts", "k", "1")
        assert not other.health.down.is_set()
