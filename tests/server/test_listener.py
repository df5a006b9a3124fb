"""Connections are accepted by hand: how many at a time, and by whom."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from aiohttp import web

from idservice import errors
from idservice.server import listener as module
from idservice.server.listener import Listener
from idservice.server.workers.accept_balance import AcceptSlot, shared_counts
from idservice.web.connection import ConnectionLimit
from tests.web.wire import ask


@asynccontextmanager
async def listening(
    slot: AcceptSlot | None = None, bound: socket.socket | None = None
) -> AsyncIterator[tuple[Listener, int]]:
    """A listener that tells whether its side of a connection sends without delay, and its port."""

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        theirs = request.transport.get_extra_info("socket")
        return web.Response(text=str(theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))

    app = web.Application()
    app.router.add_get("/next", handler)
    if bound is None:
        bound = socket.create_server(("127.0.0.1", 0))
    with bound:
        port = bound.getsockname()[1]
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        async with Listener(
            runner, bound, ConnectionLimit(100), None, slot or AcceptSlot()
        ) as listener:
            yield listener, port


def courteous_slot() -> AcceptSlot:
    """Of one who has more connections than another."""
    counts = shared_counts(2)
    slots = [AcceptSlot(counts, number) for number in range(2)]
    for slot in slots:
        slot.take()
    slots[0].set_count(1)
    return slots[0]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_small_answers_are_sent_without_delay(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work() -> None:
        async with listening() as (_, port):
            assert (await ask(port)).text == "1"

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work())


async def test_an_address_that_another_was_quicker_to_listen_on_is_named() -> None:
    """Until one listens, several may be bound to it."""
    with socket.socket() as late, socket.socket() as quick:
        for bound in (late, quick):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(late.getsockname() if bound is quick else ("127.0.0.1", 0))
        quick.listen()
        port = late.getsockname()[1]
        with pytest.raises(errors.CannotListen, match=f"127.0.0.1:{port}: Address already in use"):
            async with listening(bound=late):
                pass


async def test_a_listener_that_lets_others_first_serves_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = []
    pause = Listener._pause

    def spy(self: Listener, seconds: float = 0.0, then: Callable[[], None] | None = None) -> None:
        waited.append(seconds)
        pause(self, seconds, then)

    monkeypatch.setattr(Listener, "_pause", spy)
    monkeypatch.setattr(module, "COURTESIES_MAX", 3)
    monkeypatch.setattr(module, "COURTESY_AGAIN_S", 3600.0)  # however long five requests take
    async with listening(courteous_slot()) as (_, port):
        for _ in range(5):
            assert (await ask(port)).status == 200
        assert waited == [module.COURTESY_S] * 3, "nobody came: it waits for nobody for a while"


async def test_of_two_the_courteous_one_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "COURTESY_S", 60.0)  # however slow the other one is
    with socket.create_server(("127.0.0.1", 0)) as bound:
        async with (
            listening(courteous_slot(), bound.dup()) as (courteous, port),
            listening(bound=bound.dup()) as (other, _),
        ):
            for _ in range(20):
                assert (await ask(port)).status == 200
            served = [len(one._http.connections) + one._http.requests_count
                      for one in (courteous, other)]  # fmt: skip
            assert served[0] == 0
            assert served[1] >= 20


@pytest.mark.parametrize(
    ("others", "most", "at_once"),
    [(False, 100, module.BURST), (True, 100, 1), (False, module.BURST, 1)],
)
async def test_a_burst_is_accepted_if_all_may_be_open_and_no_other_worker_wants_some(
    others: bool, most: int, at_once: int
) -> None:
    slot = AcceptSlot(shared_counts(2), 0) if others else AcceptSlot()
    with ExitStack() as stack:
        async with listening(slot) as (listener, port):
            for _ in range(module.BURST + 1):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            listener.limit.most = most
            listener._readable()
            assert len(listener._opening) == at_once


class Failing:
    """A socket on which nobody can be accepted."""

    def __init__(self, bound: socket.socket, number: int) -> None:
        self._bound = bound
        self._number = number
        self.calls = 0

    def _accept(self) -> tuple[int, object]:
        self.calls += 1
        raise OSError(self._number, "no")

    def fileno(self) -> int:
        return self._bound.fileno()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EPERM])
async def test_a_system_short_of_descriptors_is_not_asked_again_at_once(
    number: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHORT_S", 3600.0)
    with ExitStack() as stack:
        async with listening() as (listener, port):
            bound = listener._bound
            failing = Failing(bound, number)
            listener._bound = failing  # type: ignore[assignment]
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            async with asyncio.timeout(60):
                while not failing.calls:
                    await asyncio.sleep(0)
            for _ in range(200):
                await asyncio.sleep(0)
            assert failing.calls == 1
            assert [record.action for record in caplog.records] == ["accept_failed"]
            listener._bound = bound
            assert listener._timer is not None
            listener._timer.cancel()
            listener._resume()
            client.setblocking(False)
            assert (await ask(port)).status == 200, "and goes on later"


async def test_a_client_that_connected_before_the_end_is_served() -> None:
    async with listening() as (listener, port):
        waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        await listener.stop_accepting()
        assert len(listener._http.connections) == 10
        for client in waiting:
            client.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


class ShortFor(Failing):
    """A socket on which nobody can be accepted, for some calls."""

    def __init__(self, bound: socket.socket, *numbers: int) -> None:
        super().__init__(bound, 0)
        self._numbers = list(numbers)

    def _accept(self) -> tuple[int, object]:
        if self._numbers:
            self._number = self._numbers.pop(0)
            return super()._accept()
        accepted: tuple[int, object] = self._bound._accept()  # type: ignore[attr-defined]
        return accepted

    def shutdown(self, how: int) -> None:
        self._bound.shutdown(how)

    def close(self) -> None:
        self._bound.close()

    @property
    def family(self) -> int:
        return self._bound.family


async def test_the_log_says_once_that_none_is_accepted_and_once_that_all_are_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHORT_S", 0.0)
    async with listening() as (listener, port):
        listener._bound = ShortFor(listener._bound, *[errno.EMFILE] * 3)  # type: ignore[assignment]
        assert (await ask(port)).status == 200
        assert [record.action for record in caplog.records] == ["accept_failed"]
        monkeypatch.setattr(module, "OVER_S", 0.0)
        for _ in range(2):
            assert (await ask(port)).status == 200
        actions = [record.action for record in caplog.records]
        assert actions == ["accept_failed", "accept_resumed"]


async def test_a_second_shortage_long_after_the_first_is_told_as_one_of_its_own(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few connect, nobody may have come in between. The first was said to last on."""
    monkeypatch.setattr(module, "SHORT_S", 0.0)
    async with listening() as (listener, port):
        bound, failed_at = listener._bound, list[float]()
        for over_s in (3600.0, 0.0):
            monkeypatch.setattr(module, "OVER_S", over_s)
            listener._bound = ShortFor(bound, errno.EMFILE)  # type: ignore[assignment]
            assert (await ask(port)).status == 200
            failed_at.append(listener._failed_at)
        assert [record.action for record in caplog.records] == [
            "accept_failed", "accept_failed", "accept_resumed"
        ]  # fmt: skip
        assert failed_at[0] < failed_at[1]
        assert caplog.records[-1].args == (0.0,)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ECONNABORTED])
async def test_at_the_end_who_waits_is_served_though_one_could_not_be_accepted(number: int) -> None:
    async with listening() as (listener, port):
        listener._pause()  # nobody is accepted before the end
        waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        listener._bound = ShortFor(listener._bound, number)  # type: ignore[assignment]
        await listener.stop_accepting()
        assert len(listener._http.connections) == 3
        for client in waiting:
            client.close()


async def test_a_stop_without_descriptors_comes_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LAST_TRIES_S", 0.0)
    async with listening() as (listener, port):
        listener._pause()
        with socket.create_connection(("127.0.0.1", port)):
            short = ShortFor(listener._bound, *[errno.EMFILE] * 1_000_000)
            listener._bound = short  # type: ignore[assignment]
            await listener.stop_accepting()
        assert short.calls == 1


class Slow:
    """A socket that is closed some time after nobody was left to be accepted."""

    def __init__(self, bound: socket.socket, between: Callable[[], None]) -> None:
        self._bound = bound
        self._between = between

    def __getattr__(self, name: str) -> object:
        return getattr(self._bound, name)

    def close(self) -> None:
        self._between()
        self._bound.close()


@pytest.mark.parametrize("others", [False, True], ids=["all end", "others start"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_at_the_end_no_client_joins_a_queue_that_is_dropped(
    folder: Path, kind: str, others: bool
) -> None:
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    early, *late = [socket.socket(family) for _ in range(9)]
    joined = 0

    def connect() -> None:
        nonlocal joined
        for client in late:
            client.settimeout(60.0 if others else 0.05)  # a packet that is dropped gets no answer
            try:
                client.connect(address)
                joined += 1
            except (TimeoutError, ConnectionRefusedError):
                pass

    slot = AcceptSlot(shared_counts(2), 0)
    slot.pool_ends = not others  # it may be the only one that serves, all the same
    bound = socket.socket(family)
    bound.bind(("127.0.0.1", 0) if kind == "tcp" else str(folder / "socket"))
    address = bound.getsockname()
    async with listening(slot, bound) as (listener, _):
        early.connect(address)
        listener.turn_away()
        listener._bound = Slow(listener._bound, connect)  # type: ignore[assignment]
        await listener.stop_accepting()
        assert len(listener._http.connections) == 1, "who was there before is served"
    for client in [early, *late]:
        client.close()
    assert joined == (8 if others else 0)


async def test_a_connection_goes_on_though_new_clients_are_turned_away() -> None:
    async with listening() as (listener, port):
        served, writer = await asyncio.open_connection("127.0.0.1", port)
        listener.turn_away()
        writer.write(b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await served.readline()).startswith(b"HTTP/1.1 200"), "its packets pass"
        writer.close()
