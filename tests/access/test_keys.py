"""Keys as an instance knows them: read once, read again when the revision moves, and believed no
longer than the store is heard of."""

import asyncio
import logging
from contextlib import suppress
from random import Random
from unittest import mock

import pytest

from idservice import errors
from idservice.access.changes import KeyChanges
from idservice.access.gate import Gate
from idservice.access.keys import AGAIN_S, Keys
from idservice.access.refusal_log import LOGS_MAX, RefusalLog
from idservice.core.access_key import (
    RANDOM_NUMBERS,
    AccessKey,
    Role,
    bucket_of,
    hashed,
    id_in,
    key_text,
)
from idservice.observability import logs
from idservice.observability.store_health import StoreHealth
from idservice.stores.instants import instant
from idservice.stores.key_store import KeyBucket
from tests.simulation import loop
from tests.simulation.key_store import SimKeys
from tests.simulation.store import SimStore


class Scene:
    """A store, its keys, an instance that knows them, and a gate that asks."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.store = SimStore(Random(1))
        self.keys = Keys(self.store, health=StoreHealth(), read_s=1.0, clock=lambda: self.now)
        self.gate = Gate(self.keys, asks=True)
        self.changes = KeyChanges(self.store.keys, random=Random(2), clock=lambda: self.now)

    async def make(self, role: Role = Role.USE, *scopes: str) -> tuple[AccessKey, list[bytes]]:
        key, text = await self.changes.create(role, scopes or ("acme.*",), note="checkout")
        return key, [b"Bearer " + text.encode()]


async def admitted() -> None:
    scene = Scene()
    _, header = await scene.make()
    found = await scene.gate.admit(header)
    found.check(Role.USE, "acme.orders")
    with pytest.raises(errors.KeyNotEnough, match=r"a scope that covers 'acme2\.orders'"):
        found.check(Role.READ, "acme2.orders")
    with pytest.raises(errors.KeyNotEnough, match="the role 'admin'"):
        found.check(Role.ADMIN, "acme.orders")
    asked = scene.store.calls
    assert await scene.gate.admit(header) is found
    assert scene.store.calls == asked


def test_a_key_opens_what_its_role_and_scopes_cover() -> None:
    loop.run(admitted())


async def revoked() -> None:
    scene = Scene()
    key, header = await scene.make()
    found = await scene.gate.admit(header)
    await scene.changes.revoke(key.id)
    found.check(Role.USE)  # not heard of yet
    await scene.keys.read_again()
    with pytest.raises(errors.KeyUnknown):
        found.check(Role.USE)
    with pytest.raises(errors.KeyUnknown):
        await scene.gate.admit(header)


def test_a_revoked_key_ends_its_pass() -> None:
    loop.run(revoked())


async def logged(caplog: pytest.LogCaptureFixture) -> None:
    """Many wrong keys come first, and do not hide what became of the one that was valid."""
    scene = Scene()
    key, header = await scene.make()
    await scene.gate.admit(header)
    await scene.changes.revoke(key.id, by="root@vm", reason="stolen")
    await scene.keys.read_again()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "idservice.access"):
        for number in range(2 * LOGS_MAX):
            with pytest.raises(errors.KeyMalformed):
                await scene.gate.admit([b"Bearer idk_%d" % number])
        for _ in range(2):
            with pytest.raises(errors.KeyUnknown):
                await scene.gate.admit(header)
    said = [one.getMessage() for one in caplog.records if key.id in one.getMessage()]
    when = instant(int(scene.now * 1000))
    assert len(said) == 1, "once in a second"
    assert said[0].endswith(f"(key {key.id}, checkout, revoked at {when} by root@vm: stolen)")
    assert len(caplog.records) == 2


def test_the_log_says_which_key_was_refused_and_since_when(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "INTERVAL_S", 3600.0)  # however long the wrong ones take
    monkeypatch.setattr("idservice.access.refusal_log._others._next", 0.0)
    loop.run(logged(caplog))


class Held(SimKeys):
    """Holds its first answer back until it is let go."""

    def __init__(self, store: SimStore) -> None:
        super().__init__(store.data, store._call)
        self.go = asyncio.Event()
        self.asked = asyncio.Event()

    async def bucket(self, number: str) -> KeyBucket:
        found = await super().bucket(number)
        if not self.asked.is_set():
            self.asked.set()
            await self.go.wait()
        return found


async def revoked_meanwhile() -> None:
    scene = Scene()
    key, header = await scene.make()
    held = Held(scene.store)
    with mock.patch.object(scene.store, "keys", held):
        asking = asyncio.create_task(scene.gate.admit(header))
        await held.asked.wait()
        await scene.changes.revoke(key.id)
        await scene.keys.read_again()
        held.go.set()
        with pytest.raises(errors.KeyUnknown):
            await asking


def test_a_key_that_is_revoked_while_it_is_first_read_opens_nothing() -> None:
    loop.run(revoked_meanwhile())


async def gone_back() -> None:
    scene = Scene()
    key, header = await scene.make()
    await scene.gate.admit(header)
    before = await scene.store.keys.bucket(bucket_of(key.id))
    scene.keys.put(KeyBucket(before.number, before.rev + 1))
    scene.keys.put(before)
    with pytest.raises(errors.KeyUnknown):
        await scene.gate.admit(header)


def test_an_older_bucket_than_the_known_one_is_not_believed() -> None:
    loop.run(gone_back())


async def silent() -> None:
    scene = Scene()
    _, header = await scene.make()
    found = await scene.gate.admit(header)
    with suppress(TimeoutError):  # virtual time goes by
        await asyncio.wait_for(asyncio.Event().wait(), 58)
    scene.keys.tick()
    with pytest.raises(errors.CatalogueStale):
        found.check(Role.USE)
    scene.keys.heard(asyncio.get_running_loop().time())
    (await scene.gate.admit(header)).check(Role.USE)


def test_no_key_is_believed_without_the_store_for_60_s() -> None:
    loop.run(silent())


class Damaged(SimKeys):
    """Cannot read some buckets."""

    def __init__(self, store: SimStore) -> None:
        super().__init__(store.data, store._call)
        self.wrong: set[str] = set()

    async def bucket(self, number: str) -> KeyBucket:
        if number in self.wrong:
            raise errors.KeysIllFormed(store="sim", action="reading", item=number, why="no JSON")
        return await super().bucket(number)


async def damaged() -> None:
    scene = Scene()
    made = [await scene.make() for _ in range(8)]
    numbers = [bucket_of(key.id) for key, _ in made]
    shown = dict(zip(numbers, (header for _, header in made), strict=True))
    held = {number: await scene.gate.admit(header) for number, header in shown.items()}
    first, *others = held
    store = Damaged(scene.store)
    with mock.patch.object(scene.store, "keys", store):
        store.wrong = {first}
        await scene.keys.read_again()  # which is no reason to believe nothing any more
        for number in others:
            assert await scene.gate.admit(shown[number]) is held[number]
        with pytest.raises(errors.KeysIllFormed):
            held[first].check(Role.USE)
        with pytest.raises(errors.KeysIllFormed):
            await scene.gate.admit(shown[first])
        store.wrong.clear()
        await loop.elapse(AGAIN_S)
        (await scene.gate.admit(shown[first])).check(Role.USE)


def test_a_bucket_that_is_ill_formed_closes_its_own_keys_alone() -> None:
    loop.run(damaged())


async def room_beside_a_damaged_bucket() -> None:
    scene = Scene()
    made = [await scene.make() for _ in range(8)]
    store = Damaged(scene.store)
    changes = KeyChanges(store, random=Random(3), clock=lambda: scene.now)
    store.wrong = {bucket_of(made[0][0].id)}
    readable = sum(bucket_of(key.id) not in store.wrong for key, _ in made)
    assert readable > 1
    with mock.patch("idservice.access.changes.TENANT_MAX", readable + 1):
        await changes.check_room(["acme.*"])
    with (
        mock.patch("idservice.access.changes.TENANT_MAX", readable),
        pytest.raises(errors.BadAccessKey, match=f"'acme' has {readable} valid keys"),
    ):
        await changes.check_room(["acme.*"])
    with pytest.raises(errors.KeysIllFormed):  # a list without them would be a false one
        await changes.list()


def test_a_bucket_that_is_ill_formed_stops_no_key_of_the_others() -> None:
    loop.run(room_beside_a_damaged_bucket())


@pytest.mark.parametrize("scope", ["{}", "{}.*", "a.{}"])
def test_a_scope_with_an_access_key_in_it_is_refused(scope: str) -> None:
    async def main() -> None:
        scene = Scene()
        secret = key_text(Role.USE, range(RANDOM_NUMBERS))
        with pytest.raises(errors.BadAccessKey, match="leave it out") as refused:
            await scene.make(Role.USE, scope.format(secret))
        assert secret not in str(refused.value)
        assert not await scene.changes.list()

    loop.run(main())


async def unchanged() -> None:
    scene = Scene()
    _, header = await scene.make()
    found = await scene.gate.admit(header)
    told: list[str] = []
    scene.gate.on_news(lambda: told.append("news"))
    await scene.keys.read_again()
    assert await scene.gate.admit(header) is found
    assert not told


def test_keys_that_are_read_again_as_they_were_are_no_news() -> None:
    loop.run(unchanged())


async def spaced() -> None:
    scene = Scene()
    _, [header] = await scene.make()
    scheme, _, text = header.partition(b" ")
    for spaces in range(1, 300):
        header = [scheme + b" " * spaces + text]
        found = await scene.gate.admit(header)
        with pytest.raises(errors.KeyNotEnough):  # which is logged
            scene.gate.check(found, Role.ADMIN, None, header, None)
    assert len(scene.keys._by_header) < 20
    assert scene.gate._log is not None
    assert len(scene.gate._log._by_header) < 20


def test_spellings_of_one_key_take_little_memory() -> None:
    loop.run(spaced())


async def made_for_years() -> None:
    scene, random = Scene(), Random(4)
    log = RefusalLog(scene.keys)
    for rev in range(1, LOGS_MAX + 100):
        text = key_text(Role.USE, [random.getrandbits(32) for _ in range(RANDOM_NUMBERS)])
        id = id_in(text)
        assert id is not None
        key = AccessKey(id, Role.USE, ("acme.*",), hashed(text), 0)
        scene.keys.put(KeyBucket("0", rev, (key,)))
        log.add(errors.KeyNotEnough(needed="more", has="less"), [b"Bearer " + text.encode()], None)
    assert len(log._by_id) == len(log._by_header) == LOGS_MAX


def test_keys_that_are_made_and_refused_for_years_take_little_memory() -> None:
    loop.run(made_for_years())
