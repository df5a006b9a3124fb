"""Tasks, time and forks of the asynchronous client."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from idservice.client import AsyncClient, NotOpen
from idservice.client.protocol import NoUsableAnswer, Reply
from tests.client.conftest import FORKS, Central, apart, saying
from tests.served import Served
from tests.simulation.loop import VirtualLoop, elapse, run


def over(client: AsyncClient, central: Central, *, delay: float = 0.01) -> None:
    """Let a client ask `central` without a socket, for the virtual loop."""

    async def ask(method: str, target: str, body: bytes = b"", *, limit_s: float | None) -> Reply:
        await elapse(delay)
        head, _, text = central.ids(target).partition(b"\r\n\r\n")
        return Reply(int(head.split()[1]), "application/json", text)

    client._transport.send = ask  # type: ignore[method-assign]


def test_unused_ids_expire_and_an_idle_client_does_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        central = Central()
        async with AsyncClient("http://c:1", "orders", hold=5.0) as client:
            over(client, central)
            for _ in range(200):
                await client.next_id()
                await elapse(0.001)
            assert client._buffer.allocator.held
            await elapse(5.1)
            assert not client._buffer.allocator.held
            exchanges = len(central.counts)
            await elapse(3600.0)
            assert len(central.counts) == exchanges
            assert client._refilling is None
            assert client._expiry is None
            assert await client.next_id() > 200

    run(main())


def test_a_steady_caller_never_waits_and_loses_no_id_to_expiry() -> None:
    async def main() -> None:
        central = Central()
        async with AsyncClient("http://c:1", "orders") as client:
            over(client, central, delay=0.5)
            loop = asyncio.get_running_loop()
            waits = 0
            for number in range(6000):  # 100 a second
                before = loop.time()
                await client.next_id()
                waits += number > 1000 and loop.time() > before
                await elapse(0.01)
            assert waits == 0
            assert not client._buffer.allocator.gaps
            assert len(central.counts) < 40

    run(main())


def test_one_of_many_who_wait_may_leave() -> None:
    async def main() -> None:
        central = Central()
        async with AsyncClient("http://c:1", "orders", timeout=20.0) as client:
            over(client, central, delay=1.0)
            await client.next_id()
            waiting = [asyncio.create_task(client.next_id()) for _ in range(20)]
            await elapse(0.5)
            for task in waiting[::3]:
                task.cancel()
            found = await asyncio.gather(*waiting, return_exceptions=True)
            ids = [id for id in found if isinstance(id, int)]
            left = [one for one in found if isinstance(one, asyncio.CancelledError)]
            assert len(left) == 7
            assert len(set(ids)) == len(ids) == 13
            assert not client._waiting

    run(main())


def test_who_comes_in_the_pause_after_a_refill_that_failed_is_served() -> None:
    """Nobody waited any more when it failed, and nothing is in memory."""

    async def main() -> None:
        async with AsyncClient("http://c:1", "orders") as client:
            over(client, Central())
            await client.next_id()
            ask = client._transport.send

            async def fails(
                method: str, target: str, body: bytes = b"", *, limit_s: float | None
            ) -> Reply:
                await elapse(0.01)
                raise NoUsableAnswer(url="http://c:1", why="connection reset")

            client._transport.send = fails  # type: ignore[method-assign]
            leaves = asyncio.create_task(client.next_id())
            await elapse(0.005)
            leaves.cancel()
            await elapse(0.006)
            assert client._refilling is None
            assert client._buffer.retry_in(1)
            client._transport.send = ask  # type: ignore[method-assign]
            assert await client.next_id() > 0

    run(main())


async def test_iteration_goes_on_without_end(service: Served) -> None:
    ids = []
    async with AsyncClient(service.url) as client:
        async for id in client:
            ids.append(id)
            if len(ids) == 500:
                break
    assert len(set(ids)) == 500


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
async def test_a_forked_child_is_told_to_enter_one_of_its_own(
    service: Served, fork: Callable[[], int]
) -> None:
    async def main() -> tuple[int, bool]:
        async with AsyncClient(service.url) as client:
            for _ in range(50):
                await client.next_id()
            assert client._buffer.allocator.held
            pid = fork()
            if pid == 0:  # pragma: no cover - another process
                code = 1
                try:
                    client.next_id().send(None)
                except NotOpen as refused:
                    code = 0 if "in the child" in str(refused) else 2
                finally:
                    os._exit(code)
            return os.waitpid(pid, 0)[1], await client.next_id() >= 0

    assert await asyncio.to_thread(apart, lambda: asyncio.run(main())) == [0, True]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
async def test_a_forked_child_may_enter_what_its_parent_entered(
    service: Served, fork: Callable[[], int]
) -> None:
    async def enters(client: AsyncClient) -> None:
        async with client:
            with pytest.raises(NotOpen, match="entered already"):
                await client.__aenter__()

    async def main() -> tuple[int, int]:
        async with AsyncClient(service.url) as client:
            await client.next_id()
            pid = fork()
            if pid == 0:  # pragma: no cover - another process
                code = 1
                try:
                    asyncio.run(enters(client))
                    code = 0
                finally:
                    os._exit(code)
            ended = os.waitpid(pid, 0)[1]
            return ended, len(await client.batch(5000))

    told = await asyncio.to_thread(apart, lambda: asyncio.run(main()))
    assert told == [0, 5000], "its connections are as they were"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")  # an error would keep what it names
@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
@pytest.mark.parametrize("ends", ["opens", "closes", "drops"])
async def test_a_forked_child_takes_no_answer_from_its_parent(
    service: Served, fork: Callable[[], int], ends: str
) -> None:
    """Closed in the child, a connection is off the list of events that both processes share."""

    async def uses(client: AsyncClient) -> None:
        if ends == "opens":
            await client.open()
        await client.close()

    async def main() -> tuple[int, int]:
        client = await AsyncClient(service.url, timeout=60.0).open()
        await client.next_id()
        while client._refilling is not None:
            await asyncio.sleep(0)
        pid = fork()
        if pid == 0:  # pragma: no cover - another process
            code = 1
            try:
                if ends == "drops":
                    client._transport._session = None
                else:
                    asyncio.run(uses(client))
                code = 0
            finally:
                os._exit(code)
        ended = os.waitpid(pid, 0)[1]
        sent = client._transport.send
        tries = 0

        async def counted(*arguments: Any, **options: Any) -> Reply:
            nonlocal tries
            tries += 1
            return await sent(*arguments, **options | {"limit_s": 15.0})

        client._transport.send = counted  # type: ignore[method-assign]
        assert len(await client.batch(5000)) == 5000
        return ended, tries

    assert await asyncio.to_thread(apart, lambda: asyncio.run(main())) == [0, 1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_client_of_a_closed_loop_opens_in_the_next_one(service: Served) -> None:
    client = AsyncClient(service.url)

    async def takes() -> list[int]:
        await client.open()
        return [await client.next_id() for _ in range(200)]

    async def elsewhere() -> None:
        with pytest.raises(NotOpen, match="another event loop"):
            await asyncio.to_thread(asyncio.run, takes())
        await client.close()

    def work() -> list[int]:
        ids = asyncio.run(takes()) + asyncio.run(takes())
        asyncio.run(opened_here())
        return ids

    async def opened_here() -> None:
        await client.open()
        await elsewhere()

    ids = await asyncio.to_thread(apart, work)  # its sockets are never closed
    assert len(set(ids)) == 400


def test_unused_ids_expire_in_a_client_that_was_entered_again() -> None:
    async def main() -> None:
        client = AsyncClient("http://c:1", "orders", hold=5.0)
        for _ in range(2):
            async with client:
                over(client, Central())
                for _ in range(200):
                    await client.next_id()
                    await elapse(0.001)
                assert client._buffer.allocator.held
                await elapse(5.1)
                assert not client._buffer.allocator.held

    run(main())


def test_a_child_that_was_forked_during_a_refill_makes_its_own() -> None:
    """It took the refill of its parent, which never ends there, for its own."""

    async def main() -> None:
        client = await AsyncClient("http://c:1", "orders", timeout=60.0).open()
        over(client, Central(), delay=0.01)
        await client.next_id()
        over(client, Central(first=1000), delay=3600.0)
        waiting = asyncio.create_task(client.next_id())
        await elapse(0.1)
        assert client._refilling is not None
        await client._transport.__aexit__()
        client.forget_in_child()  # as a fork calls it in the child, where no task goes on
        over(await client.open(), Central(first=5000))
        assert await client.next_id() == 5000
        waiting.cancel()
        await client.close()

    run(main())


async def test_cancelling_a_strict_call_costs_that_id_only() -> None:
    central = Central(mode="strict")
    reached, go = asyncio.Event(), asyncio.Event()

    async def say(target: str) -> bytes:
        sent = central.ids(target)
        reached.set()
        if len(central.counts) == 1:
            await go.wait()
        return sent

    async with saying(say) as url, AsyncClient(url, "orders") as client:
        call = asyncio.create_task(client.next_id())
        await reached.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go.set()
        assert [await client.next_id() for _ in range(3)] == [1, 2, 3]
