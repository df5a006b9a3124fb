"""One serving process: open the store, serve, drain, close."""

import asyncio
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from random import SystemRandom

from aiohttp import web
from aiohttp.typedefs import Middleware

from idservice import __version__, errors
from idservice.allocation.local_counter import Limits
from idservice.allocation.service import Service
from idservice.catalogue.catalogue import Catalogue
from idservice.observability import loop_lag
from idservice.server import address as listen
from idservice.server import startup
from idservice.server.exits import EXIT_FAILURE
from idservice.server.instance import build_instance
from idservice.server.listener import Listener
from idservice.server.newcomers import ON_THE_WAY_S
from idservice.server.settings import STORE_DEFAULT
from idservice.server.workers.accept_balance import AcceptSlot
from idservice.server.workers.link import SupervisorLink
from idservice.server.workers.pool_view import PoolView
from idservice.stores import open_store
from idservice.stores.records import check_name
from idservice.web.app import WebLimits, build_app
from idservice.web.connection import ConnectionLimit
from idservice.web.fast_lane.responses import Responder

log = logging.getLogger("idservice.server")

FINISH_MAX_S = 6.0  # for requests in flight after the listeners are closed
LAST_CALL_S = 0.5  # for who connected just before that, to send a request
STOP_MAX_S = 9.0  # for the whole end: containers are killed 10 s after they were asked to stop
GIVE_BACK_KEPT_S = 0.5  # of that, for giving unused ids back
FIRST_WORKER = 0  # which speaks for all
ABANDON_S = 0.5  # for handlers to end that are cancelled
DESCRIPTORS_KEPT = 96  # for the store, the log, the listeners, and who is told to go
DESCRIPTORS_WISHED = 65_536


@dataclass(frozen=True, slots=True)
class Settings:
    """What `serve` was told; see `config` for units and bounds."""

    store: str | None
    init: bool
    default_counter: str
    route: list[tuple[str, str]]
    store_wait: float
    hold: float
    connections_max: int
    drain: float
    limits: Limits
    web: WebLimits
    otel: bool = False


def without_creation(settings: Settings) -> Settings:
    """The same for a worker that begins when others have served: a store that is missing by then
    was lost, and must not start again from 0 (I10)."""
    return replace(settings, init=False, store=settings.store or STORE_DEFAULT)


@dataclass(slots=True)
class Life:
    """Where the process stands; the first stop signal begins the end, a second one is the end."""

    main: asyncio.Task[object]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    signalled: bool = False
    started: bool = False
    draining: bool = False

    def end(self) -> None:
        """Begin the end, unless it has begun."""
        if not self.stop.is_set():
            self.stop.set()
            if not self.started:
                self.main.cancel()

    @contextmanager
    def signals(self, *numbers: signal.Signals) -> Iterator[None]:
        """Listen to stop signals."""
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if self.signalled:
                os._exit(EXIT_FAILURE)  # asked twice: at once
            self.signalled = True
            self.end()

        for number in numbers:
            loop.add_signal_handler(number, on_signal)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def serve(
    settings: Settings, sockets: listen.Sockets, link: SupervisorLink | None = None
) -> None:
    """Serve until a stop signal; as a worker, also until the parent says so over the `link`.

    Raises IdserviceError where it cannot begin.
    """
    main = asyncio.current_task()
    assert main is not None
    life = Life(main)
    # Ctrl-C in a terminal reaches parent and workers alike: the parent alone listens to it.
    numbers = (signal.SIGTERM,) if link is not None else (signal.SIGTERM, signal.SIGINT)
    with life.signals(*numbers):
        try:
            async with AsyncExitStack() as stack:
                if link is not None:
                    await stack.enter_async_context(link.held(life.end))
                await _serve(settings, sockets, life, link, stack)
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


async def _serve(
    settings: Settings,
    sockets: listen.Sockets,
    life: Life,
    link: SupervisorLink | None,
    stack: AsyncExitStack,
) -> None:
    random = SystemRandom()
    check_name(settings.default_counter)
    routes = _routes(settings.route)
    most = _raise_descriptor_limit(settings.connections_max)
    create = startup.may_create(settings.store, init=settings.init)
    store = open_store(settings.store or STORE_DEFAULT, hold_s=settings.hold)
    await stack.enter_async_context(store)
    service, catalogue = build_instance(
        store,
        settings.limits,
        random=random,
        declared=[settings.default_counter, *routes.values()],
    )
    around = await _telemetry(settings, service, stack)
    deadline = asyncio.get_running_loop().time() + settings.store_wait
    await startup.reach(store, random, create=create, deadline=deadline)
    if link is None or link.number == FIRST_WORKER:
        await startup.look_over(store, time.time)
    await stack.enter_async_context(service)
    await startup.warm(service, deadline=deadline)
    service.spawn(loop_lag.watch(service.lag))

    whole = PoolView(service, link)
    seat = link.seat if link is not None else AcceptSlot()
    gate = ConnectionLimit(most, seat.tell)
    seat.take()
    listeners = [
        await stack.enter_async_context(Listener(runner, bound, gate, desk, seat))
        for bound, runner, desk in _applications(
            settings, sockets, life, whole, service, catalogue, routes, around
        )
    ]
    log.info(
        "idservice %s serves counter %s of %s",
        __version__,
        settings.default_counter,
        store.address,
        extra={"action": "serving"},
    )
    if link is None:
        say_listening(sockets)
    else:
        link.serving(whole.report)
    life.started = True
    await life.stop.wait()
    service.stop_by = asyncio.get_running_loop().time() + STOP_MAX_S
    seat.leave()
    await _drain(life, listeners, gate, settings.drain)


async def _telemetry(
    settings: Settings, service: Service, stack: AsyncExitStack
) -> list[Middleware]:
    """What sees each request where traces are asked for. Raises Usage."""
    if not settings.otel or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    try:
        from idservice.observability import otel as telemetry
    except ImportError as error:
        why = f"--otel needs what is not installed ({error}): pip install 'idservice[otel]'"
        raise errors.Usage(why=why) from None
    most = settings.web.metrics_counters
    return [
        await stack.enter_async_context(
            telemetry.exported(service.snapshot, lambda: service.stop_by, counters_max=most)
        )
    ]


def _applications(
    settings: Settings,
    sockets: listen.Sockets,
    life: Life,
    whole: PoolView,
    service: Service,
    catalogue: Catalogue,
    routes: dict[str, str],
    around: Sequence[Middleware],
) -> Iterator[tuple[socket.socket, web.AppRunner, Responder | None]]:
    """What is served on each socket; ids also through the fast lane."""
    for address, bound in sockets.data + sockets.admin:
        is_data = (address, bound) in sockets.data
        app = build_app(
            service,
            catalogue,
            whole,
            default_counter=settings.default_counter,
            routes=routes,
            limits=settings.web,
            draining=lambda: life.draining,
            control=sockets.control_on_data if is_data else True,
            writable=address.is_local,
            unix=bool(address.path),
            data=is_data,
            around=around,
        )
        desk = None
        if is_data and not around:  # the fast lane has no place for anything in between
            desk = Responder(
                service,
                paths={"/next": settings.default_counter, **routes},
                batch_max=settings.web.batch_max,
                range_max=settings.web.range_max,
            )
        yield bound, web.AppRunner(app, shutdown_timeout=ABANDON_S), desk


def _routes(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Further paths and their counters. Raises Usage, BadName."""
    routes: dict[str, str] = {}
    for path, name in pairs:
        if routes.setdefault(path, check_name(name)) != name:
            raise errors.Usage(
                why=f"--route leads {path} to {routes[path]} and to {name}; name one"
            )
    return routes


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


def say_listening(sockets: listen.Sockets) -> None:
    """Log where requests are answered."""
    for _, bound in sockets.data:
        log.info("ids: %s/next", listen.url(bound), extra={"action": "listening"})
    for _, bound in sockets.admin:
        log.info("metrics and counters: %s", listen.url(bound), extra={"action": "listening_admin"})


# --- the end --------------------------------------------------------------------------------------


async def _drain(
    life: Life, listeners: list[Listener], gate: ConnectionLimit, seconds: float
) -> None:
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
        listener.turn_away()
    await asyncio.sleep(ON_THE_WAY_S)
    for listener in listeners:
        await listener.stop_accepting()
    # aiohttp's own shutdown reads no more of what is being sent: neither the rest of a body nor the
    # first request of a connection. So it comes when there is nothing left to read.
    most = min(FINISH_MAX_S, STOP_MAX_S - GIVE_BACK_KEPT_S - ON_THE_WAY_S - seconds)
    await gate.emptied(last_call=min(LAST_CALL_S, most), most=most)
    async with asyncio.TaskGroup() as group:
        for listener in listeners:
            group.create_task(listener.close())
    log.info("stopped", extra={"action": "stopped"})
