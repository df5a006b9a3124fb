"""What both clients promise: distinct ids, few exchanges, deadlines, honest errors."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest

from idservice import errors
from idservice.catalogue.counters import new_counter
from idservice.client import BadBatch, NotOpen, Refused, WaitedTooLong
from idservice.core.access_key import RANDOM_NUMBERS, Role, key_text
from idservice.web.problems import problem
from idservice.web.request import WebLimits
from tests.client.conftest import Central, answer, asked, saying
from tests.processes import environment
from tests.served import Served, served
from tests.simulation.store import SimStore, Table


def refusal(error: errors.IdserviceError) -> bytes:
    response = problem(error)
    assert isinstance(response.body, bytes)
    return answer(json.loads(response.body), error.status, response.content_type)


# --- ids ------------------------------------------------------------------------------------------


async def test_ids_are_distinct_and_cost_few_exchanges(kind: Any, service: Served) -> None:
    async with kind(service.url, "orders") as one, kind(service.url, "orders") as two:
        ids = [await client.next_id() for _ in range(1000) for client in (one, two)]
        ids += await one.batch(10)
        ids += await two.batch(20_000)
    assert len(set(ids)) == len(ids) == 22_010
    assert len(service.asked) < 200


async def test_ids_of_a_counter_with_shards_are_distinct_and_all_of_them_come(kind: Any) -> None:
    data = Table()
    data.init(new_counter("default", Random(1)))
    data.create(new_counter("orders", Random(2), shards=5, start=7, limit=1006))
    async with (
        served(SimStore(Random(1), data), control=False) as service,
        kind(service.url, "orders") as client,
    ):
        ids = [await client.next_id() for _ in range(20)]
        first = await client.batch(50)
        assert {id % 5 for id in first} == {ids[0] % 5}
        ids += [await client.next_id() for _ in range(930)]
        with pytest.raises(Refused, match="limit"):
            await client.next_id()
    assert sorted(ids + first) == list(range(7, 1007))


async def test_many_at_once_share_a_refill(kind: Any, service: Served) -> None:
    async with kind(service.url) as client:
        first = await client.next_id()
        ids = await asyncio.gather(*(client.next_id() for _ in range(300)))
    assert len({first, *ids}) == 301
    assert len(service.asked) < 100


async def test_the_first_request_asks_for_exactly_what_is_needed(kind: Any) -> None:
    for ask, count in (("next_id", 1), ("batch", 7)):
        central = Central()
        async with saying(central) as url, kind(url, "orders") as client:
            await (client.next_id() if ask == "next_id" else client.batch(7))
        assert central.counts == [count]


async def test_a_batch_comes_from_memory_or_by_an_exchange_of_exactly_that_many(kind: Any) -> None:
    central = Central()
    async with saying(central) as url, kind(url, "orders") as client:
        ids = [await client.next_id() for _ in range(100)]
        client_ = getattr(client, "client", client)
        held = client_._buffer.allocator.held
        before = len(central.counts)
        ids += await client.batch(held + 1000)
        assert held + 1000 in central.counts[before:]
        assert sorted({*ids}) == sorted(ids)


async def test_a_batch_beyond_one_exchange_comes_in_parts(kind: Any) -> None:
    central = Central(mode="strict")
    async with saying(central) as url, kind(url, "orders") as client:
        assert await client.batch(1_000_500) == list(range(1_000_500))
    assert central.counts == [1_000_000, 500]


@pytest.mark.parametrize("n", [0, -1, 1.0, "5", None, True, 10_000_001])
async def test_a_batch_of_no_size_is_refused_with_the_value(kind: Any, n: Any) -> None:
    async with kind("http://127.0.0.1:1") as client:
        with pytest.raises(BadBatch, match=repr(n)):
            await client.batch(n)


async def test_a_service_that_gives_less_at_once_is_asked_for_less(kind: Any, data: Table) -> None:
    limits = WebLimits(range_max=100)
    async with (
        served(SimStore(Random(1), data), web_limits=limits) as service,
        kind(service.url) as client,
    ):
        ids = await client.batch(1000)
        ids += [await client.next_id() for _ in range(1000)]
    assert len(set(ids)) == 2000


async def test_a_bounded_counter_gives_a_client_its_rate(kind: Any, data: Table) -> None:
    data.create(new_counter("slow", Random(1), rate_max=1000.0, request_max=20))
    async with (
        served(SimStore(Random(1), data)) as service,
        kind(service.url, "slow", timeout=10.0) as client,
    ):
        ids = await client.batch(30)
        ids += [await client.next_id() for _ in range(5)]
        assert len(set(ids)) == 35
        assert max(int(asked(target)[0]) for target in service.asked[-3:]) <= 20


async def test_ids_beyond_what_javascript_keeps_are_numbers(
    kind: Any, data: Table, service: Served
) -> None:
    data.create(new_counter("big", Random(1), start=2**62, limit=2**63 - 2))
    async with kind(service.url, "big") as client:
        assert await client.next_id() == 2**62


async def test_a_unix_socket_leads_to_the_service(kind: Any, data: Table, tmp_path: Path) -> None:
    path = str(tmp_path / "ids.sock")
    async with served(SimStore(Random(1), data), path=path) as service, kind(service.url) as client:
        assert len({await client.next_id() for _ in range(100)}) == 100


# --- strict ---------------------------------------------------------------------------------------


async def test_a_strict_counter_is_never_taken_ahead_and_rises_over_clients(
    kind: Any, data: Table, service: Served
) -> None:
    data.create(new_counter("strict", Random(1), strict=True))
    async with kind(service.url, "strict") as one, kind(service.url, "strict") as two:
        ids = [await client.next_id() for _ in range(10) for client in (one, two)]
        assert await one.batch(3) == [20, 21, 22]
        assert await two.next_id() == 23
    assert ids == list(range(20))
    assert data.positions["strict", 0].next == 24


async def test_a_counter_that_becomes_strict_drops_what_is_held(kind: Any) -> None:
    central = Central()
    async with saying(central) as url, kind(url, "orders") as client:
        for _ in range(20):
            await client.next_id()
        central.mode, central.epoch, central.next = "strict", 2, 10_000
        await client.batch(5000)  # more than is held: asks, and is told
        ids = [await client.next_id() for _ in range(5)]
    # A refill that was on its way at the change may come in between; nobody gets what it brings.
    alone = [first for first, n in zip(central.firsts, central.counts, strict=True) if n == 1]
    assert ids == alone[-5:]


async def test_ids_of_an_epoch_that_is_over_are_not_handed_out(kind: Any) -> None:
    central = Central(mode="strict", epoch=3)
    stale = Central(mode="strict", epoch=2, first=900)
    turn = iter(range(10**6))

    async def say(target: str) -> bytes:
        return (stale if next(turn) % 3 == 1 else central).ids(target)

    async with saying(say) as url, kind(url, "orders") as client:
        assert [await client.next_id() for _ in range(10)] == list(range(10))
    assert stale.counts


# --- faults ---------------------------------------------------------------------------------------


async def test_lost_answers_are_gaps_and_every_attempt_has_a_nonce_of_its_own(kind: Any) -> None:
    central, rng = Central(), Random(7)

    async def say(target: str) -> bytes | None:
        sent = central.ids(target)
        return None if rng.random() < 0.3 else sent

    async with saying(say) as url, kind(url, "orders", timeout=20.0) as client:
        ids = [await client.next_id() for _ in range(300)]
        for _ in range(20):
            ids += await client.batch(50)
    assert len(set(ids)) == 1300
    assert len(set(central.nonces)) == len(central.nonces)


async def test_an_answer_out_of_a_cache_is_refused(kind: Any) -> None:
    central = Central(mode="strict")
    kept: list[bytes] = []
    turn = iter(range(10**6))

    async def say(target: str) -> bytes:
        if next(turn) % 2 and kept:
            return kept[0]
        kept.append(central.ids(target))
        return kept[-1]

    async with saying(say) as url, kind(url, "orders") as client:
        assert [await client.next_id() for _ in range(6)] == list(range(6))


async def test_nobody_answers_in_time_and_the_outcome_is_unknown(kind: Any) -> None:
    central = Central(mode="strict")

    async def say(target: str) -> bytes | None:
        if central.nonces:
            await asyncio.get_running_loop().create_future()  # never
        return central.ids(target)

    async with saying(say) as url, kind(url, "orders") as client:
        await client.next_id()
        # Over this connection: to make one may take longer, and then nothing is sent.
        client._buffer.timeout_s = 0.05
        with pytest.raises(WaitedTooLong, match="orders") as refused:
            await client.next_id()
        assert refused.value.outcome == errors.UNKNOWN
        with pytest.raises(WaitedTooLong):
            await client.batch(5)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "unix:/nowhere", "http://nowhere.invalid"])
async def test_without_a_connection_no_id_is_used_up(
    kind: Any, url: str, monkeypatch: pytest.MonkeyPatch, tries: Callable[[int], None]
) -> None:
    tries(1)
    if "invalid" in url:
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=unknown))
    async with kind(url) as client:
        with pytest.raises(WaitedTooLong, match="Nothing was sent, so no ids are") as refused:
            await client.next_id()
    assert refused.value.outcome == errors.NOT_APPLIED


async def test_what_may_be_asked_again_is_asked_again(kind: Any) -> None:
    central = Central()
    busy = [refusal(errors.TooManyWaiting(name="orders", count=1)), refusal(errors.Stopped())]

    async def say(target: str) -> bytes:
        return busy.pop() if busy else central.ids(target)

    async with saying(say) as url, kind(url, "orders") as client:
        assert await client.next_id() == 0
    assert not busy


async def test_a_deadline_in_which_only_refusals_came_says_that_nothing_happened(
    kind: Any, tries: Callable[[int], None]
) -> None:
    tries(3)
    asks: list[str] = []

    async def say(target: str) -> bytes:
        asks.append(target)
        return refusal(errors.TooManyWaiting(name="orders", count=1))

    async with saying(say) as url, kind(url, "orders") as client:
        with pytest.raises(WaitedTooLong, match="already wait") as refused:
            await client.next_id()
    assert refused.value.outcome == errors.NOT_APPLIED
    assert len(asks) == 3


@pytest.mark.parametrize(
    "error",
    [
        errors.CounterSuspect(name="orders", why="it went back"),
        errors.UnknownCounter(name="orders"),
        errors.Exhausted(name="orders", count=1, limit=9),
        errors.PrefetchRefused(),
    ],
    ids=lambda error: error.code,
)
async def test_what_cannot_be_helped_is_raised_at_once(
    kind: Any, error: errors.IdserviceError
) -> None:
    central = Central()
    asks: list[int] = []
    refuses = False

    async def say(target: str) -> bytes:
        asks.append(asked(target)[0])
        return refusal(error) if refuses else central.ids(target)

    async with saying(say) as url, kind(url, "orders", timeout=60.0) as client:
        refuses = True
        for ask in (client.next_id, lambda: client.batch(3)):
            with pytest.raises(Refused) as refused:
                await ask()
            assert (refused.value.code, refused.value.status) == (error.code, error.status)
            assert refused.value.outcome == errors.NOT_APPLIED
        refuses = False
        await client.next_id()  # from now on it takes ahead
        refuses = True
        with pytest.raises(Refused) as refused:
            for _ in range(10_000):
                await client.next_id()
        assert refused.value.code == error.code
        refuses = False
        assert await client.next_id() >= 0


async def test_the_last_id_below_the_limit_is_reached(
    kind: Any, data: Table, service: Served
) -> None:
    data.create(new_counter("short", Random(1), limit=99))
    async with kind(service.url, "short", timeout=60.0) as client:
        ids = [await client.next_id() for _ in range(100)]
        with pytest.raises(Refused, match="no ids left"):
            await client.next_id()
    assert sorted(ids) == list(range(100))


async def test_no_redirect_is_followed_and_no_proxy_of_the_environment_is_used(
    kind: Any, monkeypatch: pytest.MonkeyPatch, tries: Callable[[int], None]
) -> None:
    tries(1)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    followed: list[str] = []

    async def over_there(target: str) -> bytes:
        followed.append(target)
        return answer({})

    async with saying(over_there) as there:

        async def say(target: str) -> bytes:
            return (
                f"HTTP/1.1 307 X\r\nLocation: {there}{target}\r\nContent-Length: 0\r\n\r\n"
            ).encode()

        async with saying(say) as url, kind(url, "orders") as client:
            with pytest.raises(WaitedTooLong, match="307"):
                await client.next_id()
    assert not followed


# --- life -----------------------------------------------------------------------------------------


async def test_a_client_is_used_between_its_beginning_and_its_end(
    kind: Any, service: Served
) -> None:
    client = kind(service.url)
    with pytest.raises(NotOpen, match="with statement"):
        await client.next_id()
    async with client:
        for _ in range(50):
            await client.next_id()
    for ask in (client.next_id, lambda: client.batch(1)):
        with pytest.raises(NotOpen, match="closed"):
            await ask()
    await client.close()


async def test_who_waits_is_told_that_it_is_closed(kind: Any) -> None:
    central = Central()
    stuck = asyncio.Event()

    async def say(target: str) -> bytes | None:
        if len(central.counts) < 3:
            return central.ids(target)
        stuck.set()
        return await asyncio.get_running_loop().create_future()  # never

    async with saying(say) as url:
        client = kind(url, "orders", timeout=60.0)
        async with client:

            async def takes() -> None:
                while True:
                    await client.next_id()

            taking = asyncio.create_task(takes())
            await stuck.wait()
        with pytest.raises(NotOpen, match="closed"):
            await taking
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()


async def test_a_client_may_be_entered_again(kind: Any, service: Served) -> None:
    client = kind(service.url)
    ids = []
    for _ in range(2):
        async with client:
            ids += [await client.next_id() for _ in range(60)]
    assert len(set(ids)) == 120


async def test_a_client_is_entered_once_at_a_time(kind: Any, service: Served) -> None:
    client = kind(service.url)
    async with client:
        before = await client.next_id()
        with pytest.raises(NotOpen, match="entered already") as refused:
            await client.__aenter__()
        assert refused.value.outcome == errors.NOT_APPLIED
        assert await client.next_id() > before, "the one that is in is not disturbed"
    with pytest.raises(NotOpen, match="closed"):
        await client.next_id()


async def test_an_open_client_stays_open_and_may_be_opened_again(
    kind: Any, service: Served
) -> None:
    client = kind(service.url)
    with pytest.raises(NotOpen, match=r"open\(\)"):
        await client.next_id()
    ids = []
    for _ in range(2):
        assert await client.open() is client
        ids += [await client.next_id() for _ in range(60)]
        assert await client.open() is client, "it has the ids that it had"
        with pytest.raises(NotOpen, match="entered already"):
            await client.__aenter__()
        ids += [await client.next_id() for _ in range(60)]
        await client.close()
        with pytest.raises(NotOpen, match="closed"):
            await client.next_id()
    assert len(set(ids)) == 240


async def test_opening_connects_to_nothing(kind: Any) -> None:
    client = await kind("http://127.0.0.1:1").open()
    await client.close()


async def test_a_batch_in_parts_is_of_one_epoch(kind: Any) -> None:
    central = Central(mode="strict")

    async def say(target: str) -> bytes:
        if len(central.counts) == 1:
            central.epoch, central.next = 2, 10_000_000
        return central.ids(target)

    async with saying(say) as url, kind(url, "orders", timeout=30.0) as client:
        ids = await client.batch(1_000_500)
    assert ids == list(range(10_000_000, 11_000_500))


@pytest.mark.parametrize(
    ("arguments", "rest", "error"),
    [
        (("central:8080",), {}, errors.Usage),
        ((None,), {}, TypeError),
        (("http://c:1", None), {}, TypeError),
        (("http://c:1", "a b"), {}, errors.BadName),
        (("http://c:1", key_text(Role.USE, range(RANDOM_NUMBERS))), {}, errors.BadName),
        (("http://c:1",), {"timeout": 0}, errors.Usage),
        (("http://c:1",), {"hold": 0.5}, errors.Usage),
        (("http://c:1",), {"hold": float("nan")}, errors.Usage),
    ],
)
def test_a_client_that_cannot_be_is_refused_where_it_is_made(
    kind: Any, arguments: Any, rest: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        kind(*arguments, **rest)


@pytest.mark.parametrize("value", ["x", None, "2", True, [], 1e9], ids=repr)
@pytest.mark.parametrize(
    ("what", "rule"), [("timeout", "from 0.01 to 3600"), ("hold", "from 1 to 60")]
)
def test_seconds_that_are_none_are_refused_with_the_value_and_the_rule(
    kind: Any, what: str, rule: str, value: Any
) -> None:
    with pytest.raises(errors.Usage) as refused:
        kind("http://c:1", **{what: value})
    assert str(refused.value) == f"{what} is {value!r}; it must be a number of seconds {rule}."


@pytest.mark.process
@pytest.mark.parametrize(
    ("line", "without"),
    [
        ("from idservice.client import Client", ("aiohttp", "msgspec", "asyncio")),
        ("from idservice.client import AsyncClient", ("msgspec", "uvloop", "aioboto3")),
    ],
)
def test_a_client_imports_nothing_that_it_does_not_need(
    line: str, without: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {line}; print(*sorted(sys.modules))"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = done.stdout.split()
    assert not {name for name in loaded if name.split(".")[0] in without}
    ours = {name for name in loaded if name.startswith("idservice.")}
    assert not {name for name in ours if name.split(".")[1] in ("stores", "web", "service")}
    outside = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names - {"idservice"}
    if "AsyncClient" not in line:
        assert not {name for name in outside if not name.startswith("_")}
