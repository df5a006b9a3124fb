"""A service over a store in memory, served on a port of its own in this process."""

import asyncio
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import time
from typing import Any

import pytest
import uvloop
from aiohttp import web

from idservice.access.changes import KeyChanges
from idservice.access.gate import Gate
from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.catalogue.catalogue import Catalogue
from idservice.catalogue.counters import new_counter
from idservice.core.access_key import Role
from idservice.server.certificate import Certificate
from idservice.server.listener import Listener
from idservice.server.startup import build_instance, build_key_changes, build_keys
from idservice.server.workers.accept_balance import AcceptSlot
from idservice.server.workers.link import PoolView
from idservice.stores.protocol import IdStore
from idservice.stores.records import Counter
from idservice.tallies.service import Tallies
from idservice.web import connection, problems
from idservice.web.app import build_app
from idservice.web.connection import ConnectionLimit
from idservice.web.fast_lane.connections import FastConnections
from idservice.web.fast_lane.responses import Responder
from idservice.web.request import WebLimits
from tests.certificates import Files
from tests.simulation.store import SimStore, Table

from . import browser
from .rows import Rows
from .wire import Answer, ask

OLD = "/old"  # a path of --route


@dataclass
class Serving:
    """A service and where it answers."""

    service: Service
    catalogue: Catalogue
    tallies: Tallies
    store: IdStore
    app: web.Application
    gate: ConnectionLimit
    port: int
    lanes: FastConnections | None = None
    keys: KeyChanges | None = None
    asking: Gate | None = None
    draining: bool = False
    listener: Listener | None = None
    trust: ssl.SSLContext | None = None  # of its clients

    def drain(self) -> None:
        """As the server does at the beginning of its end."""
        self.draining = True
        if self.lanes is not None:
            self.lanes.responder.drain()

    async def ask(self, target: str = "/next", method: str = "GET", **more: Any) -> Answer:
        return await ask(self.port, target, method, trust=self.trust, **more)

    async def one(self) -> int:
        """The next id of the default counter."""
        answer = await self.ask()
        assert answer.status == 200, answer
        return int(answer.body)

    async def create(self, name: str, **wish: Any) -> Counter:
        """A further counter, straight into the store."""
        return await self.store.create(new_counter(name, random.Random(name), **wish))

    async def make(self, role: str, *scopes: str, **more: Any) -> tuple[str, dict[str, str]]:
        """An access key of the store: its id, and the header that shows it."""
        assert self.keys is not None
        key, text = await self.keys.create(Role(role), scopes, **more)
        return key.id, {"Authorization": f"Bearer {text}"}

    @asynccontextmanager
    async def using_no_id(self) -> AsyncIterator[None]:
        """Fails where what is done inside moves the default counter."""
        before = await self.one()
        yield
        assert await self.one() == before + 1, "an id was used up"


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The lane writes to sockets beside the loop's transports, which uvloop has of its own."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.parent.name == "fast_lane":
        loops["uvloop"] = uvloop.new_event_loop
    return loops


Serve = Callable[..., Awaitable[Serving]]


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change, a commit, a look at the keys and a refill in the background have time on a machine
    that stands still for a while. A test of these limits sets its own."""
    for limit in (
        "web.counters.ANSWER_AFTER_S",
        "web.keys.ANSWER_S",
        "catalogue.catalogue.CREATE_MAX_S",
        "tallies.service.CHANGE_MAX_S",
        "tallies.committer.CALL_MAX_S",
        "core.timeouts.REFILL_MIN_S",
        "core.timeouts.REFILL_MAX_S",
    ):
        monkeypatch.setattr(f"idservice.{limit}", 60.0)


def patient() -> Limits:
    """Return limits with which a machine that stands still for a while fails no test. They are a
    service's own: a test shortens its wait once all is set up."""
    return Limits(wait=60.0)


@pytest.fixture(params=[True, False], ids=["lane", "aiohttp"])
def lane(request: pytest.FixtureRequest) -> bool:
    """Whether connections begin in the fast lane."""
    return bool(request.param)


@pytest.fixture
async def serve(lane: bool) -> AsyncIterator[Serve]:
    """Starts a service; keywords are those of `build_app`, and more.

    Its store is in memory, which costs half as much as a file; tests/stores holds both to one
    contract. The tests of what changes counters and tallies have a file.
    """
    ours = (problems._crashes, connection._malformed, connection._failed)
    for sampled in ours:
        sampled._next = 0.0  # what an earlier test logged keeps nothing back
    table = Table()
    async with AsyncExitStack() as stack:

        async def start(
            *,
            store: IdStore | None = None,
            limits: Limits | None = None,
            web_limits: WebLimits | None = None,
            connections_max: int = 10_000,
            routes: dict[str, str] | None = None,
            control: bool = True,
            writable: bool = True,
            data: bool = True,
            lane: bool = lane,
            clock: Callable[[], float] = time,
            certificate: Files | None = None,
            asks: bool = False,
            unix: bool = False,
            loopback: bool = True,
        ) -> Serving:
            store = store or SimStore(random.Random(1), table)
            await stack.enter_async_context(store)
            await store.init(new_counter("default", random.Random(1)))
            service, catalogue, tallies = build_instance(
                store,
                limits or patient(),
                random=random.Random(2),
                declared=["default"],
                clock=clock,
            )
            kept = build_keys(service, store, None, clock)
            await stack.enter_async_context(service)
            asking = Gate(kept, asks=asks)
            keys = build_key_changes(kept, store, random.Random(3), clock)
            gate = ConnectionLimit(connections_max)
            serving: Serving
            paths = {"/next": "default", **(routes or {})}
            app = build_app(
                service,
                catalogue,
                tallies,
                PoolView(service, tallies),
                paths=paths if data else {},
                limits=web_limits or WebLimits(),
                draining=lambda: serving.draining,
                control=control,
                writable=writable,
                unix=unix,
                loopback=loopback,
                gate=asking,
                keys=keys,
            )
            runner = web.AppRunner(app, shutdown_timeout=2)
            desk = None
            if lane and data:
                view = PoolView(service, tallies)
                desk = Responder(service, view, paths, web_limits or WebLimits(), asking)
            shown = (
                None
                if certificate is None
                else Certificate(str(certificate.cert), str(certificate.key), clock)
            )
            bound = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener = await stack.enter_async_context(
                Listener(runner, bound, gate, desk, AcceptSlot(), shown)
            )
            lanes, port = listener._lanes, bound.getsockname()[1]
            serving = Serving(
                service, catalogue, tallies, store, app, gate, port, lanes, keys, asking
            )
            serving.listener = listener
            serving.trust = certificate.trust() if certificate is not None else None
            return serving

        yield start


@pytest.fixture
async def serving(serve: Serve) -> Serving:
    """A service with nothing but the default counter."""
    return await serve()


@pytest.fixture
def rows(serve: Serve, subtests: pytest.Subtests) -> Rows[Serving]:
    """A service for row after row."""
    return Rows(subtests, lambda: alone(serve))


async def alone(serve: Serve) -> Serving:
    """A service that shares its store with none; it has the default counter at an old path, too."""
    return await serve(store=SimStore(random.Random(1), Table()), routes={OLD: "default"})


@pytest.fixture(scope="session")
def chromium_url(_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One browser for the whole run; every tab has storage of its own. Where there is none the test
    is skipped, but not in CI."""
    if browser.program() is None:
        missing = "no Chromium on the PATH; on Debian: apt install chromium-headless-shell"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{missing} (CI must not skip it)")
        pytest.skip(missing)
    with browser.started(tmp_path_factory.mktemp("browser")) as url:
        yield url


@pytest.fixture
async def chromium(chromium_url: str) -> AsyncIterator[browser.Browser]:
    """The browser, without a tab."""
    async with browser.joined(chromium_url) as joined:
        yield joined
