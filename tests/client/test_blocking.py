"""Threads and forks of the synchronous client."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from idservice.client import Client, NotOpen, WaitedTooLong
from idservice.client.http_sync import ConnectionPool
from idservice.client.process_mark import _PidMark, process_mark
from idservice.errors import NOT_APPLIED, UNKNOWN, Usage
from tests.client.conftest import FORKS, Central, apart, saying
from tests.listening import listening
from tests.served import Served
from tests.simulation.store import Table


@pytest.fixture(autouse=True)
def _restless() -> Iterator[None]:
    """Threads take turns as often as can be, in the middle of anything."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def hammered(client: Client, threads: int, each: int) -> list[int]:
    """Ids taken by several threads at once."""
    found: list[list[int]] = [[] for _ in range(threads)]
    begin = threading.Barrier(threads)

    def work(mine: list[int], number: int) -> None:
        begin.wait()
        while len(mine) < each:
            if number % 2 and len(mine) % 50 == 0:
                mine += client.batch(20)
            mine.append(client.next_id())

    workers = [threading.Thread(target=work, args=(mine, n)) for n, mine in enumerate(found)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [id for mine in found for id in mine]


async def test_threads_never_share_an_id(service: Served) -> None:
    def work() -> tuple[list[int], list[int]]:
        with Client(service.url, timeout=30.0) as one, Client(service.url, timeout=30.0) as two:
            return hammered(one, 8, 4000), hammered(two, 3, 1000)

    one, two = await asyncio.to_thread(work)
    ids = one + two
    assert len(set(ids)) == len(ids)


async def test_threads_and_expiry_never_share_an_id(
    service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor is taken away again and again under the threads' hands."""

    def work() -> list[int]:
        with Client(service.url, timeout=30.0) as client:
            buffer = client._buffer
            over = threading.Event()

            def expires() -> None:
                while not over.wait(0.0005):
                    with client._lock:
                        buffer.allocator.expire(float("inf"))

            expiring = threading.Thread(target=expires)
            expiring.start()
            try:
                ids = hammered(client, 6, 2000)
            finally:
                over.set()
                expiring.join()
            assert buffer.allocator.gaps["expired"]
            return ids

    ids = await asyncio.to_thread(work)
    assert len(set(ids)) == len(ids)


def test_a_batch_that_fails_after_its_ids_from_memory_used_these_up(
    tries: Callable[[int], None],
) -> None:
    """Another thread took some between the look at how many there are and their taking."""
    tries(1)
    with Client("http://127.0.0.1:1") as client:
        for held, outcome in (([], NOT_APPLIED), ([7], UNKNOWN)):
            client._buffer.take_many = lambda _, held=held: list(held)  # type: ignore[misc]
            with pytest.raises(WaitedTooLong, match="Nothing was sent") as failed:
                client.batch(3)
            assert failed.value.outcome == outcome


async def test_iteration_goes_on_without_end(service: Served) -> None:
    def work() -> list[int]:
        with Client(service.url) as client:
            ids = []
            for id in client:
                ids.append(id)
                if len(ids) == 500:
                    return ids
        raise AssertionError

    ids = await asyncio.to_thread(work)
    assert len(set(ids)) == 500


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
async def test_a_forked_child_has_ids_of_its_own(service: Served, fork: Callable[[], int]) -> None:
    def work() -> tuple[list[int], list[int]]:
        with Client(service.url, timeout=30.0) as client:
            parent = [client.next_id() for _ in range(500)]
            assert client._buffer.allocator.held
            read, write = os.pipe()
            pid = fork()
            if pid == 0:  # pragma: no cover - another process
                code = 1
                try:
                    ids = [client.next_id() for _ in range(500)] + client.batch(100)
                    os.write(write, ",".join(map(str, ids)).encode())
                    client.close()
                    code = 0
                finally:
                    os._exit(code)
            os.close(write)
            parent += [client.next_id() for _ in range(500)]
            with open(read) as pipe:
                child = [int(id) for id in pipe.read().split(",")]
            assert os.waitpid(pid, 0)[1] == 0
            parent += [client.next_id() for _ in range(500)]
            return parent, child

    parent, child = await asyncio.to_thread(apart, work)
    assert len(child) == 600
    assert len({*parent, *child}) == len(parent) + len(child)


def in_child(work: Callable[[], bool], fork: Callable[[], int] = FORKS["by Python"]) -> bool:
    """What `work` says in a forked child."""
    pid = fork()
    if pid == 0:  # pragma: no cover - another process
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_forked_child_may_enter_what_its_parent_entered_and_once(service: Served) -> None:
    def child(client: Client) -> bool:
        first = client.next_id()
        (thread,) = [t for t in threading.enumerate() if t.name == "idservice"]
        with client:
            distinct = client.next_id() != first
            with pytest.raises(NotOpen, match="entered already"):
                client.__enter__()
        return distinct and not thread.is_alive()

    def work() -> None:
        with Client(service.url, timeout=30.0) as client:
            for _ in range(50):
                client.next_id()
            assert in_child(lambda: child(client))
            assert client.next_id() >= 0

    await asyncio.to_thread(work)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_while_another_thread_enters_or_leaves_may_enter() -> None:
    client = Client("http://127.0.0.1:1")
    with client._lock:
        assert in_child(lambda: client.__enter__() is client)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("use", ["next_id", "batch", "close", "enter"])
async def test_a_child_forked_in_c_waits_for_no_lock_of_its_parent(
    service: Served, use: str
) -> None:
    """unbit/uwsgi#1978: another thread held it at that moment, and is not there in the child."""

    def child(client: Client) -> bool:
        match use:
            case "next_id":
                return client.next_id() >= 0
            case "batch":
                return len(client.batch(5)) == 5
            case "close":
                client.close()
            case "enter":
                client.__enter__()
        return True

    def work() -> tuple[bool, bool]:
        with Client(service.url, timeout=30.0) as client:
            while client._buffer.allocator.held < 2:
                client.next_id()
            with client._lock:
                waits_for_none = in_child(lambda: child(client), FORKS["in C"])
            return waits_for_none, client.next_id() >= 0

    assert await asyncio.to_thread(apart, work) == [True, True]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
def test_a_mark_is_true_in_the_process_that_made_it_alone(fork: Callable[[], int]) -> None:
    def work() -> list[bool]:
        told = []
        for mark in (process_mark(), _PidMark()):
            told += [
                bool(mark),
                in_child(lambda mark=mark: not mark and bool(process_mark()), fork),
            ]
            told.append(bool(mark))
        return told

    assert apart(work) == [True] * 6


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_forked_child_keeps_none_of_its_parents_connections_open() -> None:
    """Neither one that is kept nor one on which a thread of the parent waits for an answer."""
    central = Central(mode="strict")
    stuck, go = asyncio.Event(), asyncio.Event()

    async def say(target: str) -> bytes:
        sent = central.ids(target)
        if len(central.counts) == 1:
            stuck.set()
            await go.wait()
        return sent

    def is_open(descriptor: int) -> bool:
        try:
            os.fstat(descriptor)
        except OSError:
            return False
        return True

    def forks(client: Client) -> bool:
        connections = [
            *client._connections._in_use,
            *(kept for _, kept in client._connections._idle),
        ]
        descriptors = [connection.sock.fileno() for connection in connections]
        assert len(descriptors) == 2
        return in_child(lambda: not any(map(is_open, descriptors)))

    async with saying(say) as url:
        with Client(url, "orders", timeout=30.0) as client:
            waiting = asyncio.create_task(asyncio.to_thread(client.next_id))
            await stuck.wait()
            assert await asyncio.to_thread(client.next_id) == 1
            assert await asyncio.to_thread(forks, client)
            go.set()
            assert await waiting == 0
            assert await asyncio.to_thread(client.next_id) == 2, "the parent's are as they were"
            assert await asyncio.to_thread(lambda: len(client._connections._idle)) == 2


@pytest.mark.parametrize(("idle_s", "connections"), [(0.0, 3), (60.0, 1)])
async def test_a_connection_idle_for_too_long_is_closed_and_not_reused(
    monkeypatch: pytest.MonkeyPatch, idle_s: float, connections: int
) -> None:
    monkeypatch.setattr("idservice.client.http_sync.IDLE_MAX_S", idle_s)
    central = Central(mode="strict")
    used: list[Any] = []
    keep = ConnectionPool._give_back

    def gives_back(self: ConnectionPool, connection: Any, whole: bool) -> None:
        used.append((connection, connection.sock))
        keep(self, connection, whole)

    monkeypatch.setattr(ConnectionPool, "_give_back", gives_back)
    async with saying(central) as url:
        with Client(url, "orders") as client:
            ids = [await asyncio.to_thread(client.next_id) for _ in range(3)]
            assert ids == [0, 1, 2]
            assert len({id(connection) for connection, _ in used}) == connections
            assert [sock.fileno() >= 0 for _, sock in used[-1:]] == [True]
            assert all(sock.fileno() < 0 for one, sock in used if one is not used[-1][0])


async def test_of_many_threads_that_enter_at_once_one_is_in(service: Served) -> None:
    def work() -> None:
        client = Client(service.url)
        begin = threading.Barrier(8)
        refused: list[NotOpen] = []

        def enters() -> None:
            begin.wait()
            try:
                client.__enter__()
            except NotOpen as error:
                refused.append(error)

        for _ in range(20):
            threads = [threading.Thread(target=enters) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(refused) == 7
            refused.clear()
            client.close()

    await asyncio.to_thread(work)


async def test_of_many_threads_that_open_at_once_all_have_one_client(service: Served) -> None:
    def work() -> set[int]:
        client = Client(service.url, timeout=30.0)
        begin, ids = threading.Barrier(8), set[int]()

        def takes() -> None:
            begin.wait()
            for _ in range(50):
                ids.add(client.open().next_id())

        threads = [threading.Thread(target=takes) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([t for t in threading.enumerate() if t.name == "idservice"]) == 1
        client.close()
        return ids

    assert len(await asyncio.to_thread(work)) == 400


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
async def test_a_child_may_open_what_its_parent_opened(
    service: Served, fork: Callable[[], int]
) -> None:
    def work() -> tuple[bool, int]:
        client = Client(service.url, timeout=30.0).open()
        client.batch(50)
        return in_child(lambda: len(client.open().batch(50)) == 50, fork), client.next_id()

    right, _ = await asyncio.to_thread(apart, work)
    assert right


def test_a_migration_cannot_be_made_of_the_method_of_a_client() -> None:
    """Django asks `deconstruct` of each default that it writes."""
    ids = Client("http://127.0.0.1:1")
    with pytest.raises(Usage, match="default=order_id"):
        ids.next_id.deconstruct()  # type: ignore[attr-defined]


async def test_a_slow_refill_does_not_hold_up_who_has_ids_in_memory(data: Table) -> None:
    central = Central()
    slow = asyncio.Event()
    go = asyncio.Event()

    async def say(target: str) -> bytes:
        if slow.is_set():
            await go.wait()
        return central.ids(target)

    async with saying(say) as url:
        with Client(url, "orders", timeout=30.0) as client:
            await asyncio.to_thread(lambda: [client.next_id() for _ in range(200)])
            held = client._buffer.allocator.held
            assert held > 1
            slow.set()
            await asyncio.to_thread(lambda: [client.next_id() for _ in range(held)])
            go.set()
            await asyncio.to_thread(client.next_id)


async def test_a_thread_begins_with_the_first_need_and_ends_with_the_client(
    service: Served,
) -> None:
    before = set(threading.enumerate())

    def ours() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t not in before and t.name == "idservice"]

    def work() -> None:
        with Client(service.url) as client:
            assert not ours()
            for _ in range(20):
                client.next_id()
            (thread,) = ours()
            assert thread.daemon
        assert not ours()
        with pytest.raises(NotOpen):
            client.next_id()

    await asyncio.to_thread(work)


async def test_a_connection_that_was_closed_meanwhile_is_not_the_end(data: Table) -> None:
    central = Central(mode="strict")
    turn = iter(range(10**6))

    async def say(target: str) -> bytes | None:
        return None if next(turn) % 2 else central.ids(target)

    def work(url: str) -> list[int]:
        with Client(url, "orders") as client:
            return [client.next_id() for _ in range(5)]

    async with saying(say) as url:
        assert await asyncio.to_thread(work, url) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "said",
    [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
     b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b" " * 2_000_000],
    ids=["nothing", "no HTTP", "cut off", "too long"],
)  # fmt: skip
async def test_what_is_no_whole_answer_is_unknown(
    said: bytes, tries: Callable[[int], None]
) -> None:
    tries(1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()

    def work(url: str) -> Any:
        with Client(url) as client, pytest.raises(WaitedTooLong) as refused:
            client.next_id()
        return refused.value.outcome

    async with listening(serve) as port:
        assert await asyncio.to_thread(work, f"http://127.0.0.1:{port}") == "unknown"
