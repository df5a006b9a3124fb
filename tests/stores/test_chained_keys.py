"""The access key of a sidecar: shown to its central, read again when refused, and nobody else's."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Self
from unittest import mock

import aiohttp
import pytest

from idservice import errors
from idservice.access.changes import KeyChanges
from idservice.access.gate import Gate
from idservice.access.keys import Keys
from idservice.allocation import local_counter, position_check
from idservice.allocation.service import Service
from idservice.client import own_key
from idservice.client.address import KEY_VARIABLE, ServiceAddress
from idservice.client.http_async import AsyncTransport
from idservice.client.own_key import OwnKey
from idservice.client.protocol import Reply
from idservice.core.access_key import RANDOM_NUMBERS, SCOPES_MAX, AccessKey, Role, key_text
from idservice.core.limits import ID_MAX
from idservice.observability import logs
from idservice.server import startup
from idservice.server.settings import ServeSettings
from idservice.server.startup import build_instance
from idservice.stores.chained import ChainedStore
from idservice.stores.findings import FAULT, OK
from idservice.tallies.changes import new_tally
from idservice.web.ids import several
from idservice.web.problems import problem
from idservice.web.request import WebLimits, read_id_request
from tests.served import Served, served
from tests.simulation.loop import elapse, run
from tests.simulation.serving import table
from tests.simulation.store import SimStore

HOLD_S = 10.0
HEARD_S = 3.0  # for a revocation to reach every instance (K3)
WRONG = key_text(Role.USE, range(RANDOM_NUMBERS))


# --- a real central -------------------------------------------------------------------------------


class Scene:
    """A central that asks for keys, and a file with a key of `acme.*` for its sidecars."""

    def __init__(self, store: SimStore, central: Served, folder: Path) -> None:
        self.store, self.central = store, central
        self.file = folder / "key"
        self.changes = KeyChanges(store.keys, random=Random(5), clock=time.time)

    async def make(self, *scopes: str, role: Role = Role.USE) -> str:
        _, text = await self.changes.create(role, scopes or ("acme.*",))
        await self._hear()
        self.file.write_text(f"{text}\n")
        return text

    async def revoke(self, text: str) -> None:
        await self.changes.revoke(text.split("_")[2])
        await self._hear()

    async def _hear(self) -> None:
        assert self.central.keys is not None
        await self.central.keys.read_again()

    def sidecar(self, **settings: Any) -> ChainedStore:
        """The store of a sidecar as `serve` opens it."""
        settings = {"store": self.central.url, "store_key_file": str(self.file), **settings}
        store = startup.opened(ServeSettings(**settings), {})
        assert isinstance(store, ChainedStore)
        return store


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    store = SimStore(Random(1), table("default", "acme.orders"))
    for name in ("acme.sum", "globex.sum"):
        store.tallies.items[name] = new_tally(name)
    async with served(store, asks=True) as central:
        yield Scene(store, central, tmp_path)


async def lend(store: ChainedStore, name: str = "acme.orders") -> tuple[range, ...]:
    counter = await store.counter(name)
    assert counter is not None
    return (await store.reserve(counter, count=2, seen=0, room=ID_MAX)).blocks


async def test_ids_and_sums_are_asked_for_with_the_key_of_the_sidecar(scene: Scene) -> None:
    key = await scene.make()
    async with scene.sidecar() as store:
        await store.verify()
        assert await lend(store) == (range(2),)
        assert (await store.tallies.add("acme.sum", "k", "1")).record.sum == 1
        assert (await store.tallies.value("acme.sum")).sum == 1
    assert set(scene.central.shown) == {f"Bearer {key}"}


async def test_the_key_of_a_request_is_not_passed_on_and_not_judged(scene: Scene) -> None:
    """Whoever reaches a sidecar has its rights: it listens on loopback."""
    key = await scene.make()
    async with scene.sidecar() as store, served(store) as sidecar, aiohttp.ClientSession() as http:
        for shown in (None, f"Bearer {WRONG}", "Basic dTpw"):
            headers = {"Authorization": shown} if shown else {}
            url = f"{sidecar.url}/v1/counters/acme.orders/next"
            async with http.get(url, headers=headers) as answer:
                assert answer.status == 200
    assert set(scene.central.shown) == {f"Bearer {key}"}


async def test_a_refused_key_is_told_with_its_file_and_what_to_do(scene: Scene) -> None:
    key = await scene.make()
    await scene.revoke(key)
    async with scene.sidecar() as store:
        with pytest.raises(errors.StoreKeyRefused) as refused:
            await lend(store)
        with pytest.raises(errors.NotApplied, match="revoked") as unread:
            await store.tallies.value("acme.sum")
        with pytest.raises(errors.AddUnsettled, match="revoked") as unsettled:
            await store.tallies.add("acme.sum", "k", "1")
        for one in (refused, unread, unsettled):
            assert f"into the file {scene.file}, which is read again" in str(one.value)
            assert key not in str(one.value)
        assert (refused.value.outcome, refused.value.retryable) == (errors.NOT_APPLIED, True)
        await store.verify()  # the service is there all the same
        (found,) = await store.examine(time.time, thorough=True)
        assert (found.level, found.about) == (FAULT, "key")
        assert str(scene.file) in found.why


async def test_an_examination_says_nothing_of_a_key_that_is_accepted(scene: Scene) -> None:
    await scene.make()
    async with scene.sidecar() as store:
        (found,) = await store.examine(time.time, thorough=True)
        assert (found.level, found.about) == (OK, "central")
        assert await lend(store) == (range(2),), "it used no id"


async def test_a_scope_that_is_missing_withholds_one_counter_alone(scene: Scene) -> None:
    await scene.make()
    async with scene.sidecar() as store:
        with pytest.raises(errors.StoreKeyNotEnough, match="a scope that covers 'default'") as told:
            await lend(store, "default")
        assert f"put it into the file {scene.file}, which is read again" in str(told.value)
        assert await lend(store) == (range(2),)


async def test_an_instance_whose_key_may_only_read_is_not_ready(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was, until the first request took an id in vain."""
    monkeypatch.setattr(own_key, "HELD_S", 0.0)
    await scene.make(role=Role.READ)
    async with scene.sidecar() as store:
        service, _, _ = build_instance(store, random=Random(1), declared=["acme.orders"])
        async with service:
            await service.warm()
            assert isinstance(await service.not_ready(), errors.StoreKeyNotEnough)
            await scene.make()
            assert await service.not_ready() is None
            assert await (await service.local_counter("acme.orders")).next_id() == 0


async def test_a_key_that_may_only_read_shows_a_counter(scene: Scene) -> None:
    await scene.make(role=Role.READ)
    async with (
        scene.sidecar() as store,
        served(store) as sidecar,
        aiohttp.ClientSession() as http,
    ):
        async with http.get(f"{sidecar.url}/v1/counters/acme.orders") as answer:
            assert answer.status == 200
            body = await answer.json()
        assert (body["counter"], body["next"]) == ("acme.orders", 0)


async def test_a_key_that_is_not_enough_tells_nothing_of_a_counter_and_is_no_bug(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """A suspect counter is looked at again and again; each time a traceback was logged."""
    await scene.make(role=Role.READ)
    async with scene.sidecar() as store:
        assert await position_check.look(store, "acme.orders") is None
    assert not [one for one in caplog.records if one.exc_info]


async def test_a_narrower_key_does_not_say_that_an_add_was_never_counted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Through a sidecar, and at the central with the caller's own key alike (T3)."""
    monkeypatch.setattr(own_key, "HELD_S", 0.0)
    wide = await scene.make()
    sent: dict[str, Any] = {"json": {"amount": "1"}, "headers": {"Idempotency-Key": "k"}}
    async with (
        scene.sidecar() as store,
        served(store) as sidecar,
        aiohttp.ClientSession() as http,
    ):
        add = "/v1/tallies/acme.sum/add"
        async with http.post(sidecar.url + add, **sent) as answer:
            assert answer.status == 200, "suppose that it is lost"
        scopes = [f"acme.{number:02}{'s' * 57}" for number in range(SCOPES_MAX)]
        narrow = await scene.make(*scopes)
        await scene.revoke(wide)
        headers = {"Authorization": f"Bearer {narrow}"}
        own = {**sent, "headers": {**sent["headers"], **headers}}
        for url, said, code in (
            (sidecar.url, sent, "store_key_not_enough"),
            (scene.central.url, own, "key_not_enough"),
            (scene.central.url, sent, "key_missing"),
        ):
            async with http.post(url + add, **said) as answer:
                body = await answer.json(content_type="application/problem+json")
            assert (body["code"], body["outcome"]) == (code, errors.UNKNOWN)
            assert body["retryable"] is False
            assert body["detail"].count("same Idempotency-Key: it is counted once.") == 1
        (said,) = [one.message for one in caplog.records if "wider key, and put" in one.message]
        assert f"and has {', '.join(scopes)}. Ask the owner" in said, (
            "a name that is cut is another"
        )
        await scene.make()
        async with http.post(sidecar.url + add, **sent) as answer:
            assert (answer.status, (await answer.json())["replayed"]) == (200, True)


BEYOND = [
    "GET {}/next", "GET {}/next?count=3", "GET {}/next?format=json", "GET {}/next?format=ranges",
    "POST {}/next", "GET {}", "GET tallies", "GET adds", "POST add",
]  # fmt: skip
OF_TALLIES = {"tallies": "", "adds": "/adds/k", "add": "/add"}


def beyond(asked: str, name: str) -> tuple[str, str]:
    """The method and the path of a request about a name."""
    method, what = asked.split(" ")
    if what in OF_TALLIES:
        return method, f"/v1/tallies/{name}{OF_TALLIES[what]}"
    return method, f"/v1/counters/{what.format(name)}"


@pytest.mark.parametrize("control", [True, False])
async def test_what_the_key_of_a_sidecar_lacks_is_refused_until_it_has_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, control: bool
) -> None:
    """The same whether or not there is such a name, on a central that shows counters or not."""
    monkeypatch.setattr(own_key, "HELD_S", 0.0)
    first = await scene.make()
    add = {"Idempotency-Key": "k"}
    async with (
        served(scene.store, asks=True, control=control) as central,
        scene.sidecar(store=central.url) as store,
        served(store) as sidecar,
        aiohttp.ClientSession() as http,
    ):
        for asked in BEYOND if control else [one for one in BEYOND if one != "GET {}"]:
            told = set()
            for name in ("default", "globex.sum", "globex.none"):
                method, path = beyond(asked, name)
                sent = {"json": {"amount": "1"}, "headers": add} if path.endswith("/add") else {}
                async with http.request(method, sidecar.url + path, **sent) as answer:
                    assert answer.status == 403, (path, await answer.text())
                    body = await answer.json(content_type="application/problem+json")
                assert (body["code"], body["retryable"]) == ("store_key_not_enough", False)
                added = path.endswith("/add")  # the same may be counted from before
                assert body["outcome"] == (errors.UNKNOWN if added else errors.NOT_APPLIED)
                told.add(body["detail"].replace(name, "NAME"))
                if asked != "GET {}":  # which is an operator's
                    assert central.url not in body["detail"]
                    assert str(scene.file) not in body["detail"]
                    assert "wider key" in body["detail"]
            assert len(told) == 1
        assert not sidecar.service.local_counters, "callers name any, without end"
        await scene.make("default", "globex.*")
        await scene.revoke(first)
        async with http.get(f"{sidecar.url}/next") as answer:
            assert (answer.status, await answer.text()) == (200, "0")
        async with http.post(
            f"{sidecar.url}/v1/tallies/globex.sum/add", json={"amount": "1"}, headers=add
        ) as answer:
            assert answer.status == 200


async def test_a_sidecar_whose_key_lacks_its_counter_starts_and_is_not_ready(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in (("HELD_S", own_key), ("SUSPECT_RECHECK_S", local_counter)):
        monkeypatch.setattr(module, name, 0.0)
    first = await scene.make()
    loop = asyncio.get_running_loop()
    async with (
        served(scene.store, asks=True, control=False) as central,
        scene.sidecar(store=central.url) as store,
    ):
        service, _, _ = build_instance(store, random=Random(1), declared=["default"])
        async with service:
            await startup.warm(service, deadline=loop.time())
            with pytest.raises(errors.StoreKeyNotEnough):  # nothing was borrowed until now
                await (await service.local_counter("default")).next_batch(1)
            assert isinstance(await service.not_ready(), errors.StoreKeyNotEnough)
            await scene.make("default")
            await scene.revoke(first)
            assert await (await service.local_counter("default")).next_batch(1) == [range(1)]
            assert await service.not_ready() is None


async def test_names_beyond_the_key_of_a_sidecar_do_not_fill_its_log(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(logs, "time", mock.Mock(wraps=time, monotonic=lambda: now))
    await scene.make()
    async with scene.sidecar() as store:
        service, _, _ = build_instance(store, random=Random(1), declared=["acme.orders"])
        async with service:
            caplog.clear()
            for number in range(20):
                now += 1.0 * (number == 10)
                with pytest.raises(errors.StoreKeyNotEnough, match="a scope that covers"):
                    await (await service.local_counter(f"globex.{number}")).next_batch(1)
    logged = [one for one in caplog.records if getattr(one, "action", "") == "store_key_not_enough"]
    first, second = (one.getMessage() for one in logged)  # one a second
    assert str(scene.file) in first
    assert second.endswith("(9 similar lines were not logged)")


async def test_a_start_with_a_bad_key_ends_with_what_to_do(scene: Scene) -> None:
    scene.file.write_text(WRONG)
    loop = asyncio.get_running_loop()
    async with scene.sidecar() as store:
        service, _, _ = build_instance(store, random=Random(1), declared=["acme.orders"])
        async with service:
            with pytest.raises(errors.StoreUnready, match=r"not valid here.*Put a key") as unready:
                await startup.warm(service, deadline=loop.time())
    assert str(scene.file) in str(unready.value)


async def test_a_renewed_file_is_read_without_a_restart(scene: Scene) -> None:
    first = await scene.make()
    async with scene.sidecar() as store:
        assert await lend(store) == (range(2),)
        second = await scene.make()
        assert await lend(store) == (range(2, 4),)
        assert scene.central.shown[-1] == f"Bearer {first}", "it is valid still"
        await scene.revoke(first)
        assert await lend(store) == (range(4, 6),)
    assert scene.central.shown[-1] == f"Bearer {second}"


async def test_a_sidecar_without_a_file_shows_the_key_of_the_variable(scene: Scene) -> None:
    key = await scene.make()
    settings = ServeSettings(store=scene.central.url)
    store = startup.opened(settings, {KEY_VARIABLE: key})
    assert isinstance(store, ChainedStore)
    async with store:
        assert await lend(store) == (range(2),)
    with pytest.raises(errors.Usage, match="IDSERVICE_KEY has no access key"):
        startup.opened(settings, {KEY_VARIABLE: key[:-1]})


def test_a_key_file_beside_a_store_of_our_own_is_refused(tmp_path: Path) -> None:
    settings = ServeSettings(store=f"sqlite:{tmp_path / 'a.db'}", store_key_file="key")
    with pytest.raises(errors.Usage, match="--store-key-file is for a --store that is another"):
        startup.opened(settings, {})
    startup.opened(ServeSettings(store="sqlite:a.db"), {KEY_VARIABLE: "is not looked at"})


# --- in virtual time ------------------------------------------------------------------------------


class GatedHop(AsyncTransport):
    """The way to a central whose gate judges each request, as its listener does."""

    def __init__(self, central: Service, gate: Gate, own_key: OwnKey) -> None:
        super().__init__(ServiceAddress.parse("http://central:8080"), own_key)
        self._central, self._gate = central, gate

    async def __aenter__(self) -> Self:
        return self

    async def _send(
        self,
        method: str,
        target: str,
        body: bytes,
        headers: Mapping[str, str],
        connected: asyncio.Event,
    ) -> Reply:
        connected.set()
        await elapse(0.01)
        if target == "/livez":
            return Reply(200, "text/plain", b"live")
        name = target.partition("?")[0].split("/")[3]
        try:
            shown = self.own_key.headers["Authorization"].encode()
            (await self._gate.admit([shown])).check(Role.USE, name)
            if method == "GET":
                raise errors.UnknownPath(path=target)
            asked = read_id_request(target, "", WebLimits())
            supply = await self._central.local_counter(name)
            blocks = await supply.next_batch(asked.count or 1)
        except errors.IdserviceError as error:
            refused = problem(error)
            assert isinstance(refused.body, bytes)
            return Reply(refused.status, refused.content_type, refused.body)
        kind, answer = several(supply.counter, asked, blocks)
        return Reply(200, kind, answer)


@asynccontextmanager
async def chain(
    key: OwnKey, central_store: SimStore, now: float
) -> AsyncIterator[tuple[Service, Keys]]:
    """A sidecar over a central that asks for keys."""
    central, _, _ = build_instance(central_store, random=Random(1))
    keys = startup.build_keys(central, central_store, "all", clock=lambda: now)
    assert keys is not None
    async with central:
        store = ChainedStore(GatedHop(central, Gate(keys, asks=True), key), hold_s=HOLD_S)
        sidecar, _, _ = build_instance(store, random=Random(2))
        async with store, sidecar:
            yield sidecar, keys


@pytest.mark.parametrize("seed", range(5))
def test_a_revocation_ends_the_ids_of_a_sidecar_within_3_s_and_its_hold(seed: int) -> None:
    async def scene() -> None:
        store, now = SimStore(Random(seed), table("acme.orders")), 1_800_000_000.0
        changes = KeyChanges(store.keys, random=Random(seed), clock=lambda: now)
        key, text = await changes.create(Role.USE, ("acme.*",))
        loop, rng = asyncio.get_running_loop(), Random(seed)
        async with chain(OwnKey(text), store, now) as (sidecar, _):
            supply = await sidecar.local_counter("acme.orders")
            for _ in range(200):  # it is busy, so it holds ids
                await supply.next_batch(3)
                await elapse(0.05)
            await elapse(rng.uniform(0.0, 3.0))
            await changes.revoke(key.id)
            revoked_at = last_at = loop.time()
            while loop.time() < revoked_at + 60.0:
                with suppress(errors.StoreKeyRefused, errors.WaitedTooLong):
                    await supply.next_batch(1)
                    last_at = loop.time()
                await elapse(0.05)
        assert last_at - revoked_at <= HEARD_S + HOLD_S
        assert last_at > revoked_at, "it held some"

    run(scene())


def test_a_narrower_key_ends_the_ids_of_a_sidecar_and_a_wider_one_brings_more(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        store, now = SimStore(Random(1), table("acme.orders")), 1_800_000_000.0
        changes = KeyChanges(store.keys, random=Random(1), clock=lambda: now)
        file, loop = tmp_path / "key", asyncio.get_running_loop()

        async def make(scope: str) -> AccessKey:
            key, text = await changes.create(Role.USE, (scope,))
            file.write_text(text)
            return key

        wide = await make("acme.*")
        async with chain(OwnKey(file=str(file)), store, now) as (sidecar, _):

            async def served_until(seconds: float) -> tuple[float, float]:
                """When the first and the last id were handed out, asking for so long."""
                first_at, last_at, end = math.inf, -math.inf, loop.time() + seconds
                while loop.time() < end:
                    with suppress(errors.StoreKeyNotEnough):
                        supply = await sidecar.local_counter("acme.orders")
                        await supply.next_batch(1)
                        first_at, last_at = min(first_at, loop.time()), loop.time()
                    await elapse(0.05)
                return first_at, last_at

            await served_until(10.0)
            narrow = await make("acme.other")
            await changes.revoke(wide.id)
            revoked_at = loop.time()
            _, last_at = await served_until(60.0)
            assert revoked_at < last_at <= revoked_at + HEARD_S + HOLD_S
            await make("*")
            await changes.revoke(narrow.id)
            revoked_at = loop.time()
            first_at, _ = await served_until(60.0)
            assert first_at <= revoked_at + 2 * HEARD_S

    run(scene())
