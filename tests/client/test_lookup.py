"""Names are looked up within the deadline of the call that needs them, however long that takes."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.cli import http_get
from idservice.cli.bench.request import BenchTarget
from idservice.client import AsyncClient, Client, WaitedTooLong, lookup
from idservice.client.http_async import Resolver
from idservice.server import sockets, startup
from idservice.server.listen_address import Address
from idservice.stores import open_store
from idservice.stores.dynamodb import credentials
from idservice.stores.remote_counter import assumed

NAME = "central.test"


class Silent:
    """A resolver that answers for numbers alone, until the end of the test."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self.asked = 0
        self.over = threading.Event()
        self._ask = ask

    def __call__(self, host: str, *arguments: Any, **options: Any) -> Any:
        if host == NAME and options.get("flags") != socket.AI_NUMERICHOST:
            self.asked += 1
            self.over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return self._ask(host, *arguments, **options)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silent]:
    resolver = Silent(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.over.set()


def test_the_client_gives_up_in_time_and_sent_nothing(silent: Silent) -> None:
    with (
        Client(f"http://{NAME}:8080", timeout=0.1) as client,
        pytest.raises(WaitedTooLong, match="Nothing was sent") as raised,
    ):
        client.next_id()
    assert raised.value.outcome == errors.NOT_APPLIED


async def test_the_client_for_asyncio_gives_up_in_time_and_sent_nothing(silent: Silent) -> None:
    async with AsyncClient(f"http://{NAME}:8080", timeout=0.1) as client:
        with pytest.raises(WaitedTooLong, match="Nothing was sent") as raised:
            await client.next_id()
    assert raised.value.outcome == errors.NOT_APPLIED


def test_one_look_up_for_a_name_runs_at_a_time(silent: Silent) -> None:
    for _ in range(5):
        with pytest.raises(TimeoutError):
            lookup.connect(NAME, 80, 0.01)
    assert silent.asked == 1


def test_a_look_up_that_ends_at_once_is_not_believed_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [[(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, 1))] for host in ("a", "b")]
    answers = iter(found)
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.run)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: next(answers))
    monkeypatch.setattr(lookup, "as_numbers", lambda *_: None)
    assert [lookup.addresses(NAME, 1, 1.0) for _ in found] == found


def test_a_look_up_for_which_there_is_no_thread_fails_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(lookup, "as_numbers", lambda *_: None)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="new thread"):
            lookup.addresses("localhost", 1, 5.0)
    assert lookup.addresses("localhost", 1, 5.0)


def test_a_command_that_asks_a_service_gives_up_in_time(silent: Silent) -> None:
    with pytest.raises(http_get.NoAnswer, match="look-up of its name took too long"):
        http_get.ask(f"http://{NAME}:8080", "/livez", timeout=0.05)


async def test_a_look_up_that_is_given_up_is_no_thread_that_the_loop_waits_for(
    silent: Silent,
) -> None:
    before = set(threading.enumerate())  # some of earlier tests may be about to end
    looking = asyncio.create_task(Resolver().resolve(NAME, 80))
    await asyncio.sleep(0)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    begun = [thread for thread in threading.enumerate() if thread not in before]
    assert [(thread.name, thread.daemon) for thread in begun] == [("look-up", True)]


async def test_the_load_of_bench_gives_a_look_up_up_in_time(silent: Silent) -> None:
    before = set(threading.enumerate())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await BenchTarget.parse(f"http://{NAME}:8080", None).connect(asyncio.Protocol)
    begun = [thread for thread in threading.enumerate() if thread not in before]
    assert [thread.daemon for thread in begun] == [True]  # none that an exit would wait for


async def test_a_look_up_over_its_limit_means_that_nothing_was_sent(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(credentials.CONNECTOR, "resolver", Resolver(0.05))
    store = open_store(f"dynamodb:ids?region=eu-west-1&endpoint=http://{NAME}:8000")
    async with store:
        with pytest.raises(errors.StoreUnready, match="the name does not resolve"):
            await store.verify()


async def test_a_sidecar_whose_look_up_takes_too_long_sent_nothing(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids that were never asked for are no gap, and the next request asks for as many."""
    monkeypatch.setattr("idservice.stores.chained.CONNECT_MAX_S", 0.05)
    async with open_store(f"http://{NAME}:8080") as store:
        with pytest.raises(errors.NotReached, match="no connection in time") as raised:
            await store.reserve(assumed("orders"), count=5, seen=0, room=100)
    assert raised.value.outcome == errors.NOT_APPLIED


async def test_a_start_waits_for_the_store_no_longer_than_it_was_told(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "LOOK_MAX_S", 0.05)
    async with open_store(f"http://{NAME}:8080") as store:
        with pytest.raises(errors.StoreUnready, match="did not answer in time") as raised:
            await startup.reach(store, Random(), create=False, deadline=0.0)
    assert raised.value.waiting_helps


def test_an_address_to_listen_on_is_looked_up_within_a_limit(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "LOOK_UP_MAX_S", 0.05)
    with pytest.raises(errors.CannotListen, match="look-up of its name"):
        sockets.bind(Address(NAME, 8080))


async def test_names_and_numbers_are_found_with_their_port() -> None:
    assert ("127.0.0.1", 80) in {found[4] for found in lookup.addresses("localhost", 80, 5.0)}
    assert lookup.addresses("::1", 80, 5.0)[0][4][:2] == ("::1", 80)
    found = await Resolver().resolve("localhost", 80)
    assert ("127.0.0.1", 80) in {(one["host"], one["port"]) for one in found}


def test_a_name_with_a_dead_address_leads_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as alive, socket.socket() as dead:
        dead.bind(("127.0.0.2", 0))  # and does not listen
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        both = [(*kind, dead.getsockname()), (*kind, alive.getsockname())]
        monkeypatch.setattr(lookup, "addresses", lambda *_: both)
        with lookup.connect(NAME, 80, 5.0) as connection:
            assert connection.getpeername() == alive.getsockname()


def test_an_answer_that_trickles_does_not_outlast_the_deadline() -> None:
    over = threading.Event()

    def trickle(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):  # it may be given up between two of these
            connection.sendall(b"HTTP/1.1 200 OK\r\nA: ")
            while not over.wait(0.01):
                connection.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=trickle, args=(listener,))
        server.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with Client(url, timeout=0.2) as client, pytest.raises(WaitedTooLong):
                client.next_id()
        finally:
            over.set()
            socket.create_connection(listener.getsockname()).close()  # if nobody came in time
            server.join()


def test_an_answer_is_read_to_its_end_though_the_connection_is_closed_with_it() -> None:
    """`http.client` closes the socket of such an answer before its body is read."""

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            nonce = re.search(rb"count=1&nonce=([0-9a-f]+)", connection.recv(65_536))
            assert nonce is not None
            parts = {"counter": "default", "count": 1, "epoch": 1, "mode": "strict"}
            ranges = [{"first": 7, "step": 1, "count": 1}]
            body = json.dumps({**parts, "ranges": ranges, "nonce": nonce[1].decode()}).encode()
            body += b" " * 100_000  # more than one read takes
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer, args=(listener,))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url) as client:
            assert client.next_id() == 7
        server.join()
