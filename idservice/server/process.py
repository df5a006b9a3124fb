"""One serving process: opens the store, serves, and stops."""

import asyncio
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from random import SystemRandom

from aiohttp import web
from aiohttp.typedefs import Middleware

from idservice import __version__, errors
from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.catalogue.catalogue import Catalogue
from idservice.observability import loop_lag
from idservice.server import startup
from idservice.server.instance import build_instance
from idservice.server.listener import Listener
from idservice.server.settings import STORE_DEFAULT, ServeSettings
from idservice.server.shutdown import ABANDON_S, STOP_MAX_S, StopSwitch, drain
from idservice.server.sockets import Sockets
from idservice.server.workers.accept_balance import AcceptSlot
from idservice.server.workers.link import SupervisorLink
from idservice.server.workers.pool_view import PoolView
from idservice.stores import open_store
from idservice.stores.records import check_name
from idservice.web.app import WebLimits, build_app
from idservice.web.connection import ConnectionLimit
from idservice.web.fast_lane.responses import Responder

log = logging.getLogger("idservice.server")

FIRST_WORKER = 0  # it alone logs findings about the store
DESCRIPTORS_KEPT = 96  # for the store, the log, the listeners, and clients that are refused
DESCRIPTORS_WISHED = 65_536


def without_creation(settings: ServeSettings) -> ServeSettings:
    """Return the settings for a worker that begins after another has served.

    A store that is missing then was lost, and must not start again from 0 (I10).
    """
    return replace(settings, init=False, store=settings.store or STORE_DEFAULT)


async def serve(
    settings: ServeSettings, sockets: Sockets, link: SupervisorLink | None = None
) -> None:
    """Serve until a stop signal; a worker also stops when its supervisor says so over the `link`.

    Raises IdserviceError if it cannot begin.
    """
    main = asyncio.current_task()
    assert main is not None
    switch = StopSwitch(main)
    # Ctrl-C in a terminal reaches supervisor and workers alike: only the supervisor listens to it.
    numbers = (signal.SIGTERM,) if link is not None else (signal.SIGTERM, signal.SIGINT)
    with switch.signals(*numbers):
        try:
            async with AsyncExitStack() as stack:
                if link is not None:
                    await stack.enter_async_context(link.held(switch.stop))
                await _serve(settings, sockets, switch, link, stack)
        except asyncio.CancelledError:
            if not switch.asked.is_set():
                raise
            log.info("stopped before serving", extra={"action": "stopped"})
        except ExceptionGroup as group:  # an error at the start, wrapped by the service's tasks
            ours, other = group.split(errors.IdserviceError)
            if ours is None or other is not None:
                raise
            raise _first(ours) from None


def _first(group: ExceptionGroup[errors.IdserviceError]) -> errors.IdserviceError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


async def _serve(
    settings: ServeSettings,
    sockets: Sockets,
    switch: StopSwitch,
    link: SupervisorLink | None,
    stack: AsyncExitStack,
) -> None:
    loop = asyncio.get_running_loop()
    random = SystemRandom()
    check_name(settings.default_counter)
    routes = _routes(settings.route)
    most = _raise_descriptor_limit(max(1, settings.connections_max // settings.workers))
    create = startup.may_create(settings.store, init=settings.init)
    store = open_store(settings.store or STORE_DEFAULT, hold_s=settings.hold)
    await stack.enter_async_context(store)
    declared = [settings.default_counter, *routes.values()]
    service, catalogue = build_instance(store, _limits(settings), random=random, declared=declared)
    around = await _telemetry(settings, service, stack)
    deadline = loop.time() + settings.store_wait
    await startup.reach(store, random, create=create, deadline=deadline)
    if link is None or link.number == FIRST_WORKER:
        await startup.log_findings(store, time.time)
    await stack.enter_async_context(service)
    await startup.warm(service, deadline=deadline)
    service.spawn(loop_lag.watch(service.lag))

    pool = PoolView(service, link)
    slot = link.slot if link is not None else AcceptSlot()
    limit = ConnectionLimit(most, slot.set_count)
    slot.take()
    listeners = [
        await stack.enter_async_context(Listener(runner, bound, limit, responder, slot))
        for bound, runner, responder in _applications(
            settings, sockets, switch, pool, service, catalogue, routes, around
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
        sockets.log_addresses()
    else:
        link.serving(pool.report)
    switch.started = True
    await switch.asked.wait()
    service.stop_by = loop.time() + STOP_MAX_S
    slot.leave()
    await drain(switch, listeners, limit, settings.drain)


def _limits(settings: ServeSettings) -> Limits:
    return Limits(
        runway=settings.runway,
        wait=settings.wait,
        waiters_max=settings.waiters_max,
        block_max=max(settings.block_max, settings.range_max),
    )


async def _telemetry(
    settings: ServeSettings, service: Service, stack: AsyncExitStack
) -> list[Middleware]:
    """Return the middleware that traces each request, if traces are asked for. Raises Usage."""
    if not settings.otel or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    try:
        from idservice.observability import otel
    except ImportError as error:
        why = f"--otel needs a package that is missing ({error}): pip install 'idservice[otel]'"
        raise errors.Usage(why=why) from None
    most = settings.metrics_counters
    exported = otel.exported(service.snapshot, lambda: service.stop_by, counters_max=most)
    return [await stack.enter_async_context(exported)]


def _applications(
    settings: ServeSettings,
    sockets: Sockets,
    switch: StopSwitch,
    pool: PoolView,
    service: Service,
    catalogue: Catalogue,
    routes: dict[str, str],
    around: Sequence[Middleware],
) -> Iterator[tuple[socket.socket, web.AppRunner, Responder | None]]:
    """Yield the application of each socket, and a responder where ids take the fast lane."""
    limits = WebLimits(settings.batch_max, settings.range_max, settings.metrics_counters)
    for address, bound in sockets.data + sockets.admin:
        is_data = (address, bound) in sockets.data
        app = build_app(
            service,
            catalogue,
            pool,
            default_counter=settings.default_counter,
            routes=routes,
            limits=limits,
            draining=lambda: switch.draining,
            control=sockets.control_on_data if is_data else True,
            writable=address.is_local,
            unix=bool(address.path),
            data=is_data,
            around=around,
        )
        responder = None
        if is_data and not around:  # the fast lane has no place for middleware
            responder = Responder(
                service,
                pool,
                paths={"/next": settings.default_counter, **routes},
                batch_max=settings.batch_max,
                range_max=settings.range_max,
            )
        yield bound, web.AppRunner(app, shutdown_timeout=ABANDON_S), responder


def _routes(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the counter of each further path. Raises Usage, BadName."""
    routes: dict[str, str] = {}
    for path, name in pairs:
        if routes.setdefault(path, check_name(name)) != name:
            why = f"--route leads {path} to {routes[path]} and to {name}; name only one of them"
            raise errors.Usage(why=why)
    return routes


def _raise_descriptor_limit(connections_max: int) -> int:
    """Raise the limit as far as it may be; return the number of connections that it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wished = DESCRIPTORS_WISHED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WISHED)
    if soft != resource.RLIM_INFINITY and soft < wished:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wished, hard))
        soft = wished
    if soft == resource.RLIM_INFINITY:
        return connections_max
    return max(1, min(connections_max, soft - min(DESCRIPTORS_KEPT, soft // 2)))
