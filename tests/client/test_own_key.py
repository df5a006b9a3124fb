"""The access key of a client: where it comes from, that a refusal is final, and that it is shown to
the service alone."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.access.changes import KeyChanges
from idservice.client import Client, Refused, own_key
from idservice.client.address import KEY_VARIABLE, ServiceAddress
from idservice.client.http_async import AsyncTransport
from idservice.client.http_sync import ConnectionPool
from idservice.client.own_key import OwnKey
from idservice.core.access_key import RANDOM_NUMBERS, Role, key_text
from idservice.tallies.changes import new_tally
from tests.client.conftest import saying
from tests.served import Served, served
from tests.simulation.serving import table
from tests.simulation.store import SimStore

KEY = key_text(Role.USE, range(RANDOM_NUMBERS))
OTHER = key_text(Role.USE, range(1, RANDOM_NUMBERS + 1))
SECRET = KEY.rpartition("_")[2]
TYPO = KEY[:-1] + ("a" if KEY[-1] != "a" else "b")


class Keyed:
    """A service that asks for keys, and its keys."""

    def __init__(self, store: SimStore, service: Served) -> None:
        self.service = service
        self.url = service.url
        self._changes = KeyChanges(store.keys, random=Random(5), clock=time.time)

    async def make(self, *scopes: str) -> str:
        _, text = await self._changes.create(Role.USE, scopes or ("*",))
        await self._hear()
        return text

    async def revoke(self, text: str) -> None:
        await self._changes.revoke(text.split("_")[2])
        await self._hear()

    async def _hear(self) -> None:
        assert self.service.keys is not None
        await self.service.keys.read_again()


@pytest.fixture
async def keyed() -> AsyncIterator[Keyed]:
    store = SimStore(Random(1), table("default", "orders", "acme.orders"))
    store.tallies.items["gifts"] = new_tally("gifts")
    async with served(store, control=False, asks=True) as service:
        yield Keyed(store, service)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is held for longer than any test takes."""
    monkeypatch.setattr(own_key, "HELD_S", 3600.0)


# --- where it comes from --------------------------------------------------------------------------


def test_a_key_comes_from_an_argument_a_variable_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = {"Authorization": f"Bearer {KEY}"}
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert OwnKey.given(f" {KEY}\n").headers == header
    assert OwnKey(file=str(file)).headers == header
    assert OwnKey.given(None).headers == {}
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert OwnKey.given(None).headers == header
    assert OwnKey.given("").headers == {}, "none is shown"
    file.write_text(OTHER)
    of_file = OwnKey.of_environment({KEY_VARIABLE: KEY}, str(file))
    assert of_file.headers == {"Authorization": f"Bearer {OTHER}"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TYPO, "has a typo, or is cut off"),
        (KEY[:40], "has a typo, or is cut off"),
        (f"{KEY}\r\nX: y", "has a typo"),
        (f"{KEY} {KEY}", "has a typo"),
        ("hunter2", "does not begin with idk_"),
        (f"Bearer {KEY}", "does not begin with idk_"),
    ],
)
def test_what_is_no_key_is_refused_and_not_shown(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    makes = (
        lambda: Client("http://h:1", key=text),
        lambda: OwnKey.of_environment({KEY_VARIABLE: text}),
        lambda: OwnKey(file=str(file)),
    )
    for make, where in zip(
        makes, ("the argument key", KEY_VARIABLE, f"the file {file}"), strict=True
    ):
        with pytest.raises(errors.Usage, match=why) as refused:
            make()
        assert str(refused.value).startswith(f"{where} has no access key")
        assert not any(part in str(refused.value) for part in (SECRET[:8], "hunter2"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(errors.Usage, match=r"the file .*/empty has no access key: it is empty"):
        OwnKey(file=str(tmp_path / "empty"))
    with pytest.raises(errors.Usage, match=r"/none with the access key cannot be read: No such"):
        OwnKey(file=str(tmp_path / "none"))
    with pytest.raises(errors.Usage, match=r"the file idk_use_\.\.\. with the access key") as one:
        OwnKey(file=KEY)  # the key in place of its file
    assert SECRET not in str(one.value)
    with pytest.raises(TypeError, match="key is of the type bytes; it must be a str"):
        Client("http://h:1", key=KEY.encode())  # type: ignore[arg-type]


def test_no_representation_has_the_key(kind: Any) -> None:
    client = kind("http://127.0.0.1:1", "orders", key=KEY)
    inner = getattr(client, "client", client)
    holders = [client, inner, *(getattr(inner, name, "") for name in type(inner).__slots__)]
    assert not any(SECRET in repr(one) + str(one) for one in holders)


# --- the clients ----------------------------------------------------------------------------------


async def test_both_clients_show_their_key(kind: Any, keyed: Keyed) -> None:
    key = await keyed.make()
    async with kind(keyed.url, "orders", key=key) as client:
        ids = [await client.next_id() for _ in range(20)]
    assert len(set(ids)) == 20
    assert set(keyed.service.shown) == {f"Bearer {key}"}


async def test_the_variable_is_the_default_also_of_tallies(
    kind: Any, keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key := await keyed.make())
    async with kind(keyed.url, "orders") as client:
        tally = getattr(client, "client", client).tally("gifts")
        if kind.__name__ == "AsyncClient":
            added = await tally.add(5, key="k")
        else:
            added = await asyncio.to_thread(tally.add, 5, key="k")
    assert added.sum == 5
    assert keyed.service.shown == [f"Bearer {key}"]


@pytest.mark.parametrize(
    ("given", "code"), [("", "key_missing"), (OTHER, "key_unknown")], ids=["none", "unknown"]
)
async def test_a_refused_key_is_final_and_asked_once(
    kind: Any, keyed: Keyed, given: str, code: str
) -> None:
    async with kind(keyed.url, "orders", key=given) as client:
        for _ in range(50):
            with pytest.raises(Refused, match="access key") as refused:
                await client.next_id()
            assert (refused.value.code, refused.value.status) == (code, 401)
            assert refused.value.outcome == errors.NOT_APPLIED
            assert OTHER not in str(refused.value)
        with pytest.raises(Refused):
            await client.batch(10)
    assert len(keyed.service.asked) == 1, "it does not hammer"


async def test_a_scope_that_is_missing_is_asked_for_once_and_others_are_served(
    kind: Any, keyed: Keyed
) -> None:
    key = await keyed.make("acme.*")
    async with kind(keyed.url, "orders", key=key) as client:
        for _ in range(10):
            with pytest.raises(Refused, match=r"a scope that covers 'orders', and has acme\.\*"):
                await client.next_id()
    assert len(keyed.service.asked) == 1
    async with kind(keyed.url, "acme.orders", key=key) as client:
        assert await client.next_id() == 0


async def test_a_refused_key_is_tried_again_after_a_while(
    kind: Any, keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_key, "HELD_S", 0.0)
    key = await keyed.make()
    async with kind(keyed.url, "orders", key=key) as client:
        await keyed.revoke(key)
        for asked in (1, 2):
            with pytest.raises(Refused, match="revoked"):
                await client.next_id()
            assert len(keyed.service.asked) == asked


async def test_another_host_never_gets_the_key(kind: Any, tries: Callable[[int], None]) -> None:
    tries(1)
    heads: list[str] = []

    async def elsewhere(target: str) -> bytes:
        heads.append(target)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    async with saying(elsewhere) as other:

        async def moved(target: str) -> bytes:
            return (
                f"HTTP/1.1 307 X\r\nLocation: {other}{target}\r\nContent-Length: 0\r\n\r\n"
            ).encode()

        async with saying(moved) as url, kind(url, "orders", key=KEY) as client:
            with pytest.raises(errors.WaitedTooLong, match="it answered 307"):
                await client.next_id()
    assert heads == []


# --- a file that is read again --------------------------------------------------------------------


def transport(url: str, key: OwnKey, kind: str) -> Any:
    address = ServiceAddress.parse(url)
    return ConnectionPool(address, key) if kind == "sync" else AsyncTransport(address, key)


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_key_that_was_renewed_in_its_file_is_shown_at_once(
    keyed: Keyed, tmp_path: Path, way: str
) -> None:
    target = "/v1/counters/orders/next?format=ranges&count=1"
    first, second = await keyed.make(), await keyed.make()
    file = tmp_path / "key"
    file.write_text(first)
    sent = transport(keyed.url, OwnKey(file=str(file)), way)

    async def ask() -> int:
        if way == "sync":
            reply = await asyncio.to_thread(sent.send, "POST", target, timeout=60.0)
        else:
            reply = await sent.send("POST", target)
        return int(reply.status)

    if way == "async":
        await sent.__aenter__()
    try:
        assert await ask() == 200
        await keyed.revoke(first)
        assert await ask() == 401
        assert await ask() == 401
        assert len(keyed.service.asked) == 2, "a refusal is held"
        sent_key = sent.own_key if way == "async" else sent._own_key
        sent_key._refusals.clear()  # a second later
        file.write_text(f"{second}\n")
        assert await ask() == 200
        assert keyed.service.shown[-2:] == [f"Bearer {first}", f"Bearer {second}"]
        file.write_text("half of a k")
        await keyed.revoke(second)
        assert await ask() == 401, "a file that is no key yet changes nothing"
    finally:
        if way == "async":
            await sent.__aexit__()
        else:
            sent.close()


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """A second look at `--key-file <(…)` would wait for ever for somebody who writes."""
    read, write = os.pipe()
    os.write(write, KEY.encode())
    os.close(write)
    key = OwnKey(file=f"/dev/fd/{read}")
    assert not key._read_again()
    assert key.headers == {"Authorization": f"Bearer {KEY}"}
    os.close(read)
