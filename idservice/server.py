"""One serving process: open the store, serve, drain, close."""

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom

from aiohttp import web

from idservice import __version__, errors, listen
from idservice.config import STORE_DEFAULT
from idservice.counters import check_name, new_counter
from idservice.listener import Listener
from idservice.service import Service
from idservice.stores import open_store
from idservice.stores.protocol import DEFAULT_COUNTER, Store
from idservice.supply import Limits
from idservice.web.app import WebLimits, build_app
from idservice.web.connection import Gate
from idservice.web.desk import Desk

log = logging.getLogger("idservice.server")

ADMIN_LISTEN_DEFAULT = "127.0.0.1:9090"
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 2.0  # between looks at a store that does not answer at the start
FINISH_MAX_S = 6.0  # for requests in flight after the listeners are closed
LAST_CALL_S = 0.5  # for who connected just before that, to send a request
STOP_MAX_S = 9.0  # for the whole end: containers are killed 10 s after they were asked to stop
ABANDON_S = 0.5  # for handlers to end that are cancelled
DESCRIPTORS_KEPT = 96  # for the store, the log, the listeners, and who is told to go
DESCRIPTORS_WISHED = 65_536
EXIT_FAILURE = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What `serve` was told; see `config` for units and bounds."""

    store: str | None
    init: bool
    listen: list[str]
    admin_listen: str | None
    default_counter: str
    route: list[tuple[str, str]]
    store_wait: float
    hold: float
    connections_max: int
    drain: float
    limits: Limits
    web: WebLimits


@dataclass(slots=True)
class Life:
    """Where the process stands; the first stop signal begins the end, a second one is the end."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    started: bool = False
    draining: bool = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Listen to SIGTERM and SIGINT."""
        loop = asyncio.get_running_loop()
        main = asyncio.current_task()
        assert main is not None

        def on_signal() -> None:
            if self.stop.is_set():
                os._exit(EXIT_FAILURE)  # asked twice: at once
            self.stop.set()
            if not self.started:
                main.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


async def serve(settings: Settings) -> None:
    """Serve until a stop signal. Raises IdserviceError where it cannot begin."""
    life = Life()
    with life.signals():
        try:
            async with AsyncExitStack() as stack:
                await _serve(settings, life, stack)
        except asyncio.CancelledError:
            if not life.stop.is_set():
                raise
            log.info("stopped before serving", extra={"action": "stopped"})
        except ExceptionGroup as group:  # what ends a start comes wrapped by the service's tasks
            ours, other = group.split(errors.IdserviceError)
            if ours is None or other is not None:
                raise
            raise _first(ours) from None


def _first(group: ExceptionGroup[errors.IdserviceError]) -> errors.IdserviceError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


async def _serve(settings: Settings, life: Life, stack: AsyncExitStack) -> None:
    random = SystemRandom()
    check_name(settings.default_counter)
    routes = _routes(settings.route)
    most = _raise_descriptor_limit(settings.connections_max)
    data = [_bound(listen.Address.parse(text), stack) for text in settings.listen]
    control_on_data = all(address.is_local for address, _ in data)
    admin = []
    if settings.admin_listen is not None or not control_on_data:
        address = listen.Address.parse(settings.admin_listen or ADMIN_LISTEN_DEFAULT)
        admin = [_bound(address, stack)]

    store = open_store(settings.store or STORE_DEFAULT, hold_s=settings.hold)
    await stack.enter_async_context(store)
    service = Service(
        store,
        settings.limits,
        random=random,
        declared=[settings.default_counter, *routes.values()],
    )
    deadline = asyncio.get_running_loop().time() + settings.store_wait
    await _reach(store, settings, random, deadline)
    await stack.enter_async_context(service)
    await _warm(service, deadline)

    gate = Gate(most)
    listeners = []
    for address, bound in data + admin:
        is_data = (address, bound) in data
        app = build_app(
            service,
            default_counter=settings.default_counter,
            routes=routes,
            limits=settings.web,
            draining=lambda: life.draining,
            control=control_on_data if is_data else True,
            writable=address.is_local,
            unix=bool(address.path),
            data=is_data,
        )
        desk = None
        if is_data:
            desk = Desk(
                service,
                paths={"/next": settings.default_counter, **routes},
                batch_max=settings.web.batch_max,
                range_max=settings.web.range_max,
            )
        listener = Listener(web.AppRunner(app, shutdown_timeout=ABANDON_S), bound, gate, desk)
        listeners.append(await stack.enter_async_context(listener))
    _say_serving(store, settings, data, admin)
    life.started = True
    await life.stop.wait()
    await _drain(life, listeners, gate, settings.drain)


def _routes(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Further paths and their counters. Raises Usage, BadName."""
    routes: dict[str, str] = {}
    for path, name in pairs:
        if routes.setdefault(path, check_name(name)) != name:
            raise errors.Usage(
                why=f"--route leads {path} to {routes[path]} and to {name}; name one"
            )
    return routes


def _bound(address: listen.Address, stack: AsyncExitStack) -> tuple[listen.Address, socket.socket]:
    bound = address.bind()
    stack.callback(bound.close)
    if address.path:
        stack.callback(Path(address.path).unlink, missing_ok=True)
    return address, bound


def _raise_descriptor_limit(connections_max: int) -> int:
    """Raise the limit as far as it may be; how many connections it leaves room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wished = DESCRIPTORS_WISHED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WISHED)
    if soft != resource.RLIM_INFINITY and soft < wished:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wished, hard))
        soft = wished
    if soft == resource.RLIM_INFINITY:
        return connections_max
    return max(1, min(connections_max, soft - min(DESCRIPTORS_KEPT, soft // 2)))


# --- the start ------------------------------------------------------------------------------------


async def _reach(store: Store, settings: Settings, random: Random, deadline: float) -> None:
    """See that the store can be used, waiting where that can help. Raises StoreUnready."""
    # Nobody named a store: a newcomer, who is served from a new file.
    create = settings.init or (settings.store is None and not _embedded_exists())
    loop = asyncio.get_running_loop()
    pause = RETRY_FIRST_S
    while True:
        try:
            if create and await store.init(new_counter(DEFAULT_COUNTER, random)):
                log.warning(
                    "%s was created; ids start from 0",
                    store.address,
                    extra={"action": "store_created"},
                )
            return await store.verify()
        except errors.StoreUnready as error:
            if not error.waiting_helps or loop.time() + pause > deadline:
                raise
            _say_waiting(error, deadline - loop.time(), first=pause == RETRY_FIRST_S)
        await asyncio.sleep(pause)
        pause = min(2 * pause, RETRY_MAX_S)


def _embedded_exists() -> bool:
    return Path(STORE_DEFAULT.partition(":")[2]).exists()


async def _warm(service: Service, deadline: float) -> None:
    """Reserve the first ids, which shows that the store lets us. Raises StoreUnready."""
    loop = asyncio.get_running_loop()
    pause = RETRY_FIRST_S
    while True:
        try:
            return await service.warm()
        except errors.StoreError as error:
            if not error.retryable or loop.time() + pause > deadline:
                why = str(error).rstrip(".")
                raise errors.StoreUnready(store=service.store.address, why=why) from error
            _say_waiting(error, deadline - loop.time(), first=pause == RETRY_FIRST_S)
        await asyncio.sleep(pause)
        pause = min(2 * pause, RETRY_MAX_S)


def _say_waiting(error: errors.StoreError, seconds: float, *, first: bool) -> None:
    if first:
        log.warning("%s; trying again for %.0f s", error, seconds, extra={"action": "store_wait"})


def _say_serving(
    store: Store,
    settings: Settings,
    data: list[tuple[listen.Address, socket.socket]],
    admin: list[tuple[listen.Address, socket.socket]],
) -> None:
    log.info(
        "idservice %s serves counter %s of %s",
        __version__,
        settings.default_counter,
        store.address,
        extra={"action": "serving"},
    )
    for _, bound in data:
        log.info("ids: %s/next", listen.url(bound), extra={"action": "listening"})
    for _, bound in admin:
        log.info("metrics and counters: %s", listen.url(bound), extra={"action": "listening_admin"})


# --- the end --------------------------------------------------------------------------------------


async def _drain(life: Life, listeners: list[Listener], gate: Gate, seconds: float) -> None:
    """Let every client learn that it must go elsewhere, then finish what is in flight.

    Answers say `Connection: close` for a while before connections are closed: a client whose idle
    connection is closed as it sends a request sees it broken.
    """
    log.info("stopping", extra={"action": "stopping"})
    life.draining = True
    for listener in listeners:
        listener.drain()
    await asyncio.sleep(seconds)
    for listener in listeners:
        await listener.stop_accepting()
    # aiohttp's own shutdown reads no more of what is being sent: neither the rest of a body nor the
    # first request of a connection. So it comes when there is nothing left to read.
    most = min(FINISH_MAX_S, STOP_MAX_S - seconds)
    await gate.emptied(last_call=min(LAST_CALL_S, most), most=most)
    async with asyncio.TaskGroup() as group:
        for listener in listeners:
            group.create_task(listener.close())
    log.info("stopped", extra={"action": "stopped"})
