"""What both clients promise about tallies: one key, counted once, exact, honest errors."""

import asyncio
import os
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.client import (
    AddUnsettled,
    AsyncClient,
    AsyncClientTally,
    BadAmount,
    BadKey,
    Client,
    ClientTally,
    KeyReused,
    NotOpen,
    OutOfBounds,
    Refused,
    SettledAdd,
    TallyNotRead,
    TallySuspended,
    TallyValue,
    UnknownAdd,
    UnknownTally,
    lookup,
)
from idservice.client.address import ServiceAddress
from idservice.client.http_async import AsyncTransport
from idservice.core.access_key import RANDOM_NUMBERS, Role, key_text
from idservice.core.limits import KEY
from idservice.core.tally import AddFate, TallyState
from idservice.stores.chained import ChainedStore
from idservice.tallies.changes import new_tally
from tests.client.conftest import FORKS, answer, apart
from tests.client.sums import AT, Heard, Sums, added, hidden, lost, refused, summing
from tests.served import Served, served
from tests.simulation.serving import table
from tests.simulation.store import SimStore

ACCESS_KEY = key_text(Role.USE, range(RANDOM_NUMBERS))
TIME = datetime(2026, 11, 3, 10, 0, 0, 123_000, UTC)
PAGE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
MOVED = b"HTTP/1.1 307 Moved\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n"


class Calls:
    """A tally of either client, asked as the asynchronous one is."""

    def __init__(self, tally: Any) -> None:
        self.tally = tally

    async def __call__(self, what: str, *arguments: Any, **options: Any) -> Any:
        call = getattr(self.tally, what)
        if isinstance(self.tally, ClientTally):
            return await asyncio.to_thread(call, *arguments, **options)
        return await call(*arguments, **options)

    async def add(self, amount: Any, **key: Any) -> SettledAdd:
        return await self("add", amount, **key)  # type: ignore[no-any-return]

    async def value(self) -> TallyValue:
        return await self("value")  # type: ignore[no-any-return]

    async def recorded(self, key: Any) -> SettledAdd:
        return await self("recorded", key)  # type: ignore[no-any-return]


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def made(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def gifts(
    made: Any, url: str, *, name: str = "gifts", **options: Any
) -> AsyncIterator[Calls]:
    """A tally of a client that is open for the time of a test."""
    client = made(url, **{"timeout": 30.0, **options})
    if made is Client:
        with client:
            yield Calls(client.tally(name))
    else:
        async with client:
            tally = client.tally(name)
            assert isinstance(tally, AsyncClientTally)
            yield Calls(tally)


# --- adds -----------------------------------------------------------------------------------------


async def test_an_add_is_answered_with_the_exact_sum(made: Any) -> None:
    async with summing(Sums()) as url, gifts(made, url) as tally:
        told = await tally.add("12.50", key="don-4711")
        assert told == SettledAdd(
            "gifts", "don-4711", AddFate.COUNTED, Decimal("12.50"), Decimal("12.50"), TIME, 7
        )
        assert (str(told.sum), told.sum_text, told.amount_text) == ("12.50",) * 3
        assert (await tally.add("12.50", key="don-4711")).replayed
        assert (await tally.add(-2)).sum == Decimal("10.50")
        assert (await tally.add(Decimal("1E+1"))).sum_text == "20.50"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("9007199254740993.10", "9007199254740993.10"),
        (9007199254740993, "9007199254740993"),
        (Decimal("9007199254740993.10"), "9007199254740993.10"),
        (Decimal("1E-9"), "0.000000001"),
        ("0.1", "0.1"),
        (0, "0"),
    ],
)
async def test_an_amount_travels_as_it_is_written(made: Any, amount: Any, text: str) -> None:
    sums = Sums()
    exact = {"amount": text, "sum": text}
    sums.spoils = [lambda heard, _: added(heard, Decimal(0), **exact)]
    async with summing(sums) as url, gifts(made, url) as tally:
        told = await tally.add(amount, key="k")
    assert [heard.body for heard in sums.heard] == [f'{{"amount": "{text}"}}'.encode()]
    assert (told.amount_text, told.sum_text) == (text, text)


async def test_a_retry_has_the_same_key_and_is_counted_once(made: Any) -> None:
    sums = Sums(lost, hidden(PAGE), hidden(MOVED))
    async with summing(sums) as url, gifts(made, url) as tally:
        told = await tally.add("12.50")
    assert (told.sum, told.replayed) == (Decimal("12.50"), True)
    assert [heard.key for heard in sums.heard] == [told.key] * 4
    assert KEY.fullmatch(told.key)


async def test_each_add_without_a_key_has_another_one(made: Any) -> None:
    sums = Sums()
    async with summing(sums) as url, gifts(made, url) as tally:
        assert (await tally.add(1)).key != (await tally.add(1)).key
    assert sums.sum == 2


async def test_with_lost_answers_each_add_is_counted_once(made: Any) -> None:
    rng, sums = Random(7), Sums()

    def losing(heard: Heard) -> bytes | None:
        said = sums(heard)
        return None if rng.random() < 0.3 else said

    async with summing(losing) as url, gifts(made, url, timeout=20.0) as tally:
        told = [await tally.add("0.01") for _ in range(30)]
    assert [one.sum for one in told] == [Decimal(n) / 100 for n in range(1, 31)]
    assert sums.sum == Decimal("0.30")
    assert len(sums.heard) > 30


async def test_an_unsettled_add_is_sent_again_until_it_is_told(made: Any) -> None:
    unsettled = errors.AddUnsettled(name="gifts", key="k", why="the store is slow")
    sums = Sums(hidden(refused(unsettled, key="k")), hidden(refused(unsettled, key="k")))
    async with summing(sums) as url, gifts(made, url) as tally:
        assert (await tally.add(5, key="k")).sum == 5
    assert len(sums.heard) == 3


# --- what is not believed -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"key": "other"},
        {"tally": "other"},
        {"amount": "12.51"},
        {"amount": 12.5},
        {"sum": 12.5},
        {"sum": "12.5"},  # with other decimals than the amount
        {"sum": "1e3"},
        {"at": "yesterday"},
        {"rev": "7"},
        {"replayed": 0},
    ],
    ids=str,
)
async def test_an_answer_to_something_else_proves_nothing(made: Any, other: Any) -> None:
    sums = Sums(lambda heard, _: added(heard, Decimal("12.50"), **other))
    async with summing(sums) as url, gifts(made, url) as tally:
        assert (await tally.add("12.50", key="k")).replayed
    assert [heard.key for heard in sums.heard] == ["k", "k"]


async def test_a_refusal_of_another_key_proves_nothing(made: Any) -> None:
    other = out_of_bounds("other")
    async with summing(Sums(hidden(other))) as url, gifts(made, url) as tally:
        assert (await tally.add(-5, key="k")).sum == -5


# --- errors ---------------------------------------------------------------------------------------


def out_of_bounds(key: str = "k", **members: Any) -> bytes:
    error = errors.OutOfBounds(
        name="gifts", key=key, amount="-5.00", sum="3.00", at=0, rev=9, replayed=False,
        beyond="below 0.00",
    )  # fmt: skip
    about = {"key": key, "amount": "-5.00", "sum": "3.00", "at": AT, "rev": 9, "replayed": False}
    return refused(error, **about | members)


FINAL: dict[type[errors.IdserviceError], bytes] = {
    OutOfBounds: out_of_bounds(),
    KeyReused: refused(
        errors.KeyReused(name="gifts", key="k", amount="12.50", first="an add of 12.50"),
        key="k", amount="12.50",
    ),
    UnknownTally: refused(errors.UnknownTally(name="gifts")),
    TallySuspended: refused(errors.TallySuspended(name="gifts", by="by ann (audit)")),
    BadAmount: refused(errors.BadAmount(field="amount", value="-5", rule="12 or so")),
    Refused: refused(errors.UnknownPath(path="/v1/tallies/gifts/add")),
}  # fmt: skip


@pytest.mark.parametrize("kind", FINAL, ids=lambda kind: kind.__name__)
async def test_a_final_answer_is_told_at_once(made: Any, kind: Any) -> None:
    sums = Sums(hidden(FINAL[kind]))
    async with summing(sums) as url, gifts(made, url) as tally:
        with pytest.raises(kind) as raised:
            await tally.add(-5, key="k")
    error = raised.value
    assert (error.key, error.outcome) == ("k", errors.NOT_APPLIED)
    assert len(sums.heard) == 1
    if kind is OutOfBounds:
        assert str(error.sum) == "3.00"
        assert "stood at 3.00, and -5.00 would take it below 0.00. Nothing" in str(error)
    if kind is KeyReused:
        assert str(error.amount) == "12.50"
        assert "for an add of 12.50. Nothing" in str(error)
    if kind is TallySuspended:
        assert "is suspended by ann (audit). `idservice" in str(error)
    if kind is BadAmount:
        assert str(error) == "amount is '-5'; it must be 12 or so."


@pytest.mark.parametrize("kind", FINAL, ids=lambda kind: kind.__name__)
async def test_a_refusal_after_a_lost_answer_is_not_told_as_not_applied(
    made: Any, kind: Any
) -> None:
    """The lost request may arrive when the tally is open again; a bound and a first use are kept
    with the key."""
    kept = kind in (OutOfBounds, KeyReused, BadAmount)
    async with summing(Sums(lost, hidden(FINAL[kind]))) as url, gifts(made, url) as tally:
        with pytest.raises(kind) as raised:
            await tally.add(-5, key="k")
    assert raised.value.outcome == (errors.NOT_APPLIED if kept else errors.UNKNOWN)


async def test_after_the_deadline_the_same_key_may_be_sent_again(
    made: Any, tries: Callable[[int], None]
) -> None:
    tries(3)
    sums = Sums(*[lost] * 1000)
    async with summing(sums) as url, gifts(made, url) as tally:
        with pytest.raises(AddUnsettled, match="same key: it is counted once") as raised:
            await tally.add("12.50")
        error = raised.value
        assert (error.outcome, error.retryable) == (errors.UNKNOWN, True)
        assert [heard.key for heard in sums.heard] == [error.key] * 3
        sums.spoils = []
        async with gifts(made, url) as later:
            told = await later.add("12.50", key=error.key)
    assert (told.sum, told.replayed) == (Decimal("12.50"), True)


async def test_what_was_never_sent_is_unknown_too(made: Any, tries: Callable[[int], None]) -> None:
    """An earlier call with this key may have been counted."""
    tries(1)
    async with gifts(made, "http://127.0.0.1:1") as tally:
        with pytest.raises(AddUnsettled, match="cannot reach http") as raised:
            await tally.add(1, key="k")
        assert (raised.value.outcome, raised.value.key) == (errors.UNKNOWN, "k")


@pytest.mark.parametrize("amount", [0.1, 12.0, None, True, b"1", [1]], ids=repr)
async def test_an_amount_that_is_not_exact_is_refused_unsent(made: Any, amount: Any) -> None:
    sums = Sums()
    async with summing(sums) as url, gifts(made, url) as tally:
        with pytest.raises(TypeError, match=r"decimal\.Decimal") as raised:
            await tally.add(amount, key="k")
        assert ("0.1 + 0.2" in str(raised.value)) == isinstance(amount, float)
        for none in ("NaN", "-Infinity", "1E+999999999", "-1E-999999999", "1E+18", "1E-10"):
            with pytest.raises(BadAmount, match=re.escape(none)):
                await tally.add(Decimal(none), key="k")
        with pytest.raises(BadAmount, match="at most 18 digits before the point"):
            await tally.add(10**5000, key="k")  # more digits than Python writes of an int
    assert not sums.heard


async def test_a_key_that_is_missing_is_not_made_up(made: Any) -> None:
    """An object that is not saved yet has the id None: each retry would have a key of its own."""
    sums = Sums()
    async with summing(sums) as url, gifts(made, url) as tally:
        for key in (None, 4711, b"k"):
            with pytest.raises(TypeError, match=re.escape(repr(key))):
                await tally.add(1, key=key)
            with pytest.raises(TypeError, match=re.escape(repr(key))):
                await tally.recorded(key)
        for bad in ("", "a b", "a/b", "k" * 129, ACCESS_KEY):
            with pytest.raises(BadKey):
                await tally.add(1, key=bad)
    assert not sums.heard


@pytest.mark.parametrize("name", ["", "a/b", "..", "n" * 65, None, ACCESS_KEY])
def test_a_tally_has_a_name(made: Any, name: Any) -> None:
    with pytest.raises((errors.BadName, TypeError)):
        made("http://c:1").tally(name)


# --- reads ----------------------------------------------------------------------------------------


async def test_the_sum_and_a_record_are_read(made: Any) -> None:
    sums = Sums()
    async with summing(sums) as url, gifts(made, url) as tally:
        await tally.add("12.5", key="a")
        sums.spoils = [lost, hidden(PAGE)]
        assert await tally.value() == TallyValue("gifts", Decimal("12.50"), TIME, TIME, 7)
        assert (await tally.value()).sum_text == "12.50"
        told = await tally.recorded("a")
        assert (told.fate, told.amount_text, told.replayed) == (AddFate.COUNTED, "12.50", True)
        with pytest.raises(UnknownAdd) as raised:
            await tally.recorded("b")
        assert (raised.value.key, raised.value.as_of) == ("b", TIME)


async def test_a_read_without_an_answer_says_so(made: Any, tries: Callable[[int], None]) -> None:
    tries(2)
    async with summing(Sums(*[hidden(PAGE)] * 1000)) as url, gifts(made, url) as tally:
        for read in (tally.value, lambda: tally.recorded("k")):
            with pytest.raises(TallyNotRead, match=r"within 30 s: ") as raised:
                await read()
            assert raised.value.outcome == errors.NOT_APPLIED


@pytest.mark.parametrize(
    "other", [{"tally": "other"}, {"sum": 12.5}, {"as_of": None}, {"rev": True}], ids=str
)
async def test_a_sum_of_something_else_is_not_believed(made: Any, other: Any) -> None:
    body = {"tally": "gifts", "sum": "1.00", "at": AT, "as_of": AT, "rev": 3}
    sums = Sums(hidden(answer(body | other)))
    async with summing(sums) as url, gifts(made, url) as tally:
        assert (await tally.value()).sum == 0
    assert len(sums.heard) == 2


# --- clients --------------------------------------------------------------------------------------


async def test_a_client_that_is_not_open_adds_nothing(made: Any) -> None:
    sums = Sums()
    async with summing(sums) as url:
        async with gifts(made, url) as tally:
            pass
        for call in (lambda: tally.add(1, key="k"), tally.value):
            with pytest.raises(NotOpen) as raised:
                await call()
            assert raised.value.outcome == errors.NOT_APPLIED
    assert not sums.heard


async def test_an_add_under_way_at_the_close_is_unknown() -> None:
    sums = Sums(*[lost] * 1000)
    async with summing(sums) as url:
        client = Client(url, timeout=60.0).open()
        adding = asyncio.ensure_future(asyncio.to_thread(client.tally("gifts").add, 1, key="k"))
        while not sums.heard:
            await asyncio.sleep(0)
        await asyncio.to_thread(client.close)
        with pytest.raises(NotOpen) as raised:
            await adding
    assert (raised.value.outcome, raised.value.key) == (errors.UNKNOWN, "k")


async def test_threads_share_a_tally() -> None:
    sums = Sums()

    def work(url: str) -> list[SettledAdd]:
        told: list[SettledAdd] = []
        with Client(url, timeout=30.0) as client:
            tally = client.tally("gifts")
            each = [
                threading.Thread(target=lambda: told.extend(tally.add(1) for _ in range(25)))
                for _ in range(8)
            ]
            for thread in each:
                thread.start()
            for thread in each:
                thread.join()
        return told

    async with summing(sums) as url:
        told = await asyncio.to_thread(work, url)
    assert sorted(one.sum for one in told) == list(range(1, 201))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
async def test_a_forked_child_adds_over_connections_of_its_own(fork: Callable[[], int]) -> None:
    sums = Sums()

    def work(url: str) -> int:
        with Client(url, timeout=30.0) as client:
            tally = client.tally("gifts")
            tally.add(1, key="parent")
            pid = fork()
            if pid == 0:  # pragma: no cover - another process
                try:
                    os._exit(0 if tally.add(2, key="child").sum == 3 else 1)
                finally:
                    os._exit(2)
            _, status = os.waitpid(pid, 0)
            assert tally.add(4, key="again").sum == 7
            return os.waitstatus_to_exitcode(status)

    async with summing(sums) as url:
        assert await asyncio.to_thread(apart, lambda: work(url)) == 0


async def test_another_event_loop_is_told_to_open_its_own() -> None:
    async with AsyncClient("http://c:1") as client:
        tally = client.tally("gifts")
        with pytest.raises(NotOpen, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(tally.value()))


async def test_the_next_try_begins_with_another_address(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first instance takes every request and answers none."""
    sums, silent = Sums(), list[Heard]()

    def hears(heard: Heard) -> None:
        silent.append(heard)

    async with summing(sums, "127.0.0.2") as url:
        port = int(url.rpartition(":")[2])
        async with summing(hears, "127.0.0.1", port):
            both = [
                (socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))
                for host in ("127.0.0.1", "127.0.0.2")
            ]
            monkeypatch.setattr(lookup, "addresses", lambda *_: both)
            monkeypatch.setattr(lookup.LookUp, "_run", lambda self: found(self, both))
            async with gifts(made, f"http://central.test:{port}") as tally:
                told = await tally.add(3, key="k")
                assert (await tally.add(4)).sum == 7
    assert (told.sum, told.replayed) == (3, False)
    assert [heard.key for heard in silent] == ["k"]


def found(looking: lookup.LookUp, addresses: list[Any]) -> None:
    """A look-up that ends with these addresses."""
    looking.found = addresses
    looking._end(looking.error)


# --- a real service -------------------------------------------------------------------------------


@pytest.fixture(params=["itself", "sidecar"])
async def real(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """A service with an open tally, and a closed one; also as a sidecar passes it on."""
    store = SimStore(Random(1), table("default"))
    store.tallies.items["gifts"] = new_tally("gifts", decimals=2, floor="0")
    store.tallies.items["closed"] = replace(new_tally("closed"), state=TallyState.SUSPENDED)
    async with served(store, control=False) as service:
        if request.param == "itself":
            yield service
        else:
            way = AsyncTransport(ServiceAddress.parse(service.url))
            async with ChainedStore(way) as chained, served(chained) as sidecar:
                yield sidecar


async def test_a_service_understands_what_a_client_says(made: Any, real: Served) -> None:
    async with gifts(made, real.url) as tally:
        key = "don:47.11~a_b-c"
        told = await tally.add("12.5", key=key)
        assert (told.sum_text, told.replayed, told.at.tzinfo) == ("12.50", False, UTC)
        assert await tally.add(Decimal("12.50"), key=key) == replace(told, replayed=True)
        assert await tally.recorded(key) == replace(told, replayed=True)
        assert (await tally.add(1)).sum_text == "13.50"
        with pytest.raises(OutOfBounds) as beyond:
            await tally.add(-100, key="less")
        assert (beyond.value.sum, beyond.value.key) == (Decimal("13.50"), "less")
        assert (await tally.recorded("less")).fate is AddFate.REFUSED
        with pytest.raises(KeyReused) as reused:
            await tally.add(7, key="less")
        assert reused.value.amount == -100
        with pytest.raises(BadAmount, match="at most 2 digits after the point"):
            await tally.add("0.001")
        with pytest.raises(BadAmount, match="a number such as"):
            await tally.add("12,50")
        with pytest.raises(UnknownAdd) as unknown:
            await tally.recorded("never")
        assert unknown.value.as_of >= told.at
        value = await tally.value()
        assert (value.sum, value.rev) == (Decimal("13.50"), told.rev + 2)
        assert value.as_of >= value.at >= told.at


async def test_a_service_refuses_adds_to_a_tally_that_is_closed(made: Any, real: Served) -> None:
    for name, kind in (("closed", TallySuspended), ("other", UnknownTally)):
        async with gifts(made, real.url, name=name) as tally:
            with pytest.raises(kind):
                await tally.add(1)
