"""A start says which listeners ask for access keys; doctor advises where one that others reach
does not."""

import logging
import os
from random import Random

import pytest

from idservice.access.changes import KeyChanges
from idservice.access.keys import Keys
from idservice.core.access_key import Role
from idservice.observability.store_health import StoreHealth
from idservice.server import asking
from idservice.server.listen_address import Address
from idservice.server.sockets import Sockets
from tests.simulation import loop
from tests.simulation.store import SimStore

NOW = 1_800_000_000.0
REMOTE, LOCAL, UNIX, SECURE = map(
    Address.parse, ("0.0.0.0:8080", "127.0.0.1:8080", "unix:/run/ids", "https://0.0.0.0:8443")
)


@pytest.mark.parametrize(
    ("asked", "asking_ones"),
    [(None, []), ("remote", [REMOTE, SECURE]), ("all", [REMOTE, LOCAL, UNIX, SECURE])],
)
def test_listeners_ask_as_the_setting_says(asked: str | None, asking_ones: list[Address]) -> None:
    listeners = (REMOTE, LOCAL, UNIX, SECURE)
    assert [one for one in listeners if asking.asks(one, asked)] == asking_ones


def test_a_start_says_of_each_listener_if_it_asks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for address, asked in ((REMOTE, "remote"), (LOCAL, "remote"), (REMOTE, None)):
        asking.log_asked(address, address.url, asked)
    assert [record.getMessage() for record in caplog.records] == [
        "access keys: each request at http://0.0.0.0:8080 needs one, except for /livez and /readyz",
        "access keys: none is needed at http://127.0.0.1:8080, which only this machine reaches",
        (
            "access keys: none is needed at http://0.0.0.0:8080, so every client that reaches it"
            " may take ids (see --require-keys)"
        ),
    ]
    assert {record.action for record in caplog.records} == {"keys_asked"}  # type: ignore[attr-defined]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.action for record in caplog.records]  # type: ignore[attr-defined]


async def looked() -> None:
    store = SimStore(Random(1))
    changes = KeyChanges(store.keys, random=Random(2), clock=lambda: NOW)
    await asking.log_if_no_keys(store, "remote", lambda: NOW)
    ended, _ = await changes.create(Role.ADMIN, ["*"])
    await changes.revoke(ended.id)
    await changes.create(Role.ADMIN, ["*"], expires=int(NOW * 1000) + 1)
    await asking.log_if_no_keys(store, "remote", lambda: NOW + 1)
    await changes.create(Role.READ, ["a"])
    await asking.log_if_no_keys(store, "remote", lambda: NOW + 1)


def test_a_start_without_a_valid_key_says_how_to_make_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop.run(looked())
    warned = [record for record in caplog.records if record.name == "idservice.server"]
    assert [record.action for record in warned] == ["no_keys"] * 2  # type: ignore[attr-defined]
    assert "`idservice key create --role admin --store sim: --scope '*'`" in warned[0].getMessage()


async def unreadable() -> None:
    store = SimStore(Random(1))
    del store.keys
    await asking.log_if_no_keys(store, "remote", lambda: NOW)


def test_a_start_goes_on_if_the_keys_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    loop.run(unreadable())
    assert said(caplog) == ["keys_not_examined"]


async def overheard(address: Address) -> None:
    store = SimStore(Random(1))
    keys = Keys(store, health=StoreHealth(), read_s=1.0, clock=lambda: NOW)
    changes = KeyChanges(store.keys, random=Random(2), clock=lambda: NOW)
    _, text = await changes.create(Role.USE, ["a"])
    flags = memoryview(bytearray(2))  # of two listeners, each with a gate in two workers
    gates = [
        asking.build_gate(keys, address, address.url, None, flags[number : number + 1])
        for number in (0, 0, 1, 1)
    ]
    for gate in (*gates, *gates):
        await gate.admit([])
        await gate.admit([b"Basic abc"])
        await gate.admit([b"Bearer " + text.encode()])


@pytest.mark.parametrize(("address", "times"), [(REMOTE, 2), (SECURE, 0), (LOCAL, 0), (UNIX, 0)])
def test_a_key_over_plain_http_is_warned_of_once_per_listener(
    address: Address, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    loop.run(overheard(address))
    warned = [one for one in caplog.records if one.getMessage().startswith("access keys come")]
    assert len(warned) == times
    assert "idk_" not in caplog.text


@pytest.mark.process
# Where other tests have left threads behind; the child does nothing that could need them.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_the_workers_of_a_listener_share_what_was_warned_of() -> None:
    bound = Sockets([], [])
    if not (child := os.fork()):
        bound.warned[0] = 1
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(bound.warned[:2]) == b"\1\0"


def test_doctor_advises_where_others_may_take_ids_without_a_key() -> None:
    def found(*listens: Address, asked: str | None = None) -> list[tuple[str, str]]:
        return [(one.level, one.found) for one in asking.examine(listens, asked)]

    advice = ("advice", "no access key is asked for at 0.0.0.0:8080")
    assert found(LOCAL, REMOTE) == [advice]
    fine = ("ok", "the listeners that others reach ask for access keys")
    assert found(LOCAL, REMOTE, asked="remote") == [fine]
    assert found(LOCAL, UNIX) == []
