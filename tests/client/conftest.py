"""Both clients behind one face, and services that answer as a test wants."""

import asyncio
import ctypes
import faulthandler
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Self

import pytest

from idservice.client import AsyncClient, Client, buffer, tally_calls
from idservice.client.buffer import ClientBuffer
from tests.listening import listening
from tests.served import Served, served
from tests.simulation.serving import table
from tests.simulation.store import SimStore, Table

PATIENCE_S = 60.0


class Threaded:
    """The synchronous client, each call in a thread."""

    def __init__(self, *arguments: Any, **rest: Any) -> None:
        self.client = Client(*arguments, **rest)

    async def __aenter__(self) -> Self:
        self.client.__enter__()
        return self

    async def __aexit__(self, *what: Any) -> None:
        await asyncio.to_thread(self.client.close)

    async def open(self) -> Self:
        await asyncio.to_thread(self.client.open)
        return self

    async def next_id(self) -> int:
        return await asyncio.to_thread(self.client.next_id)

    async def batch(self, n: Any) -> list[int]:
        return await asyncio.to_thread(self.client.batch, n)

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)

    @property
    def _buffer(self) -> ClientBuffer:
        return self.client._buffer


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client has a deadline that no machine is too slow for, unless a test gives it another."""
    for made in (Client, AsyncClient):
        monkeypatch.setitem(made.__init__.__kwdefaults__, "timeout", PATIENCE_S)  # type: ignore[misc]


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets each call that fails end with its n-th request, as if its deadline came before the next:
    a short deadline may be over on a busy machine before anything is sent."""

    def set_tries(most: int) -> None:
        def pause(failures: int, **_: float) -> float:
            return 0.0 if failures < most else 2 * PATIENCE_S

        for module in (buffer, tally_calls):
            monkeypatch.setattr(module, "backoff", pause)

    return set_tries


@pytest.fixture(params=[Threaded, AsyncClient], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Either client; both are asked as the asynchronous one is."""
    return request.param


@pytest.fixture
def data() -> Table:
    return table("default", "orders")


@pytest.fixture
async def service(data: Table) -> AsyncIterator[Served]:
    async with served(SimStore(Random(1), data), control=False) as service:
        yield service


Says = Callable[[str], Awaitable[bytes | None]]


@asynccontextmanager
async def saying(says: Says) -> AsyncIterator[str]:
    """The address of something that answers each target with bytes, or hangs up where None."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            answer = await says(head.split(b" ")[1].decode())
            if answer is None:
                break
            writer.write(answer)
            await writer.drain()

    async with listening(serve) as port:
        yield f"http://127.0.0.1:{port}"


def answer(body: Any, status: int = 200, kind: str = "application/json") -> bytes:
    """An HTTP answer."""
    text = json.dumps(body)
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    ).encode()


def asked(target: str) -> tuple[int, str]:
    """The count and the nonce of a target."""
    query = dict(pair.split("=") for pair in target.partition("?")[2].split("&"))
    return int(query["count"]), query["nonce"]


class Central:
    """Hands out ids of `orders` from `first` on, in one epoch, without end."""

    def __init__(self, *, mode: str = "block", epoch: int = 1, first: int = 0) -> None:
        self.mode, self.epoch, self.next = mode, epoch, first
        self.nonces: list[str] = []
        self.counts: list[int] = []
        self.firsts: list[int] = []

    def ids(self, target: str, **other: Any) -> bytes:
        count, nonce = asked(target)
        self.nonces.append(nonce)
        self.counts.append(count)
        first, self.next = self.next, self.next + count
        self.firsts.append(first)
        return answer(
            {
                "counter": "orders", "count": count, "epoch": self.epoch, "mode": self.mode,
                "ranges": [{"first": first, "step": 1, "count": count}], "nonce": nonce, **other,
            }
        )  # fmt: skip

    async def __call__(self, target: str) -> bytes | None:
        return self.ids(target)


C_FORK = ctypes.PyDLL(None).fork
NETWORK = ("socket.py", "client.py", "http_sync.py")  # where a refill waits for it
CHILD_S = 60  # a child that hangs is ended, and its test fails


def forked(fork: Callable[[], int]) -> int:
    """Fork; the child does not outlive a hang, and says where it is."""
    pid = fork()
    if pid == 0:  # pragma: no cover - another process
        faulthandler.register(signal.SIGALRM, file=2, chain=True)
        signal.alarm(CHILD_S)
    return pid


def fork_in_c() -> int:
    """Fork without Python's knowledge, as uWSGI does, while every other thread rests. In the child
    Python would wait for ever for a thread that wants its lock at that moment."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60.0)
    try:
        seen = None
        while seen != (seen := other_threads()):
            select.select([], [], [], 0.001)  # a thread that waits for Python's lock has it now
        pid: int = C_FORK()
        return pid
    finally:
        sys.setswitchinterval(before)


def other_threads() -> list[tuple[str, str, str]] | object:
    """How often each has been switched to, if all of them sleep, and none for the network, which
    may wake it at any moment; else what equals nothing."""
    mine, told = threading.get_ident(), []
    frames = [frame for ident, frame in sys._current_frames().items() if ident != mine]
    if any(Path(frame.f_code.co_filename).name in NETWORK for frame in frames):
        return object()
    for thread in Path("/proc/self/task").iterdir():
        if int(thread.name) == threading.get_native_id():
            continue
        status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines())
        if not status["State"].startswith("S"):
            return object()
        switches = status["voluntary_ctxt_switches"], status["nonvoluntary_ctxt_switches"]
        told.append((thread.name, *switches))
    return told


FORKS = {"by Python": partial(forked, os.fork), "in C": partial(forked, fork_in_c)}


def apart(work: Callable[[], Any]) -> Any:
    """What `work` returns, as JSON, in a process that has no thread of the other tests."""
    ours, childs = os.pipe()
    pid = FORKS["by Python"]()
    if pid == 0:  # pragma: no cover - another process
        try:
            os.write(childs, json.dumps(work()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(childs)
    with open(ours) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert said, "it failed there, see its traceback, or hung"
    return json.loads(said)
