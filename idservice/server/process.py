"""The command `serve`. A serving process opens the store, serves, and stops."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from random import SystemRandom

from aiohttp import web
from aiohttp.typedefs import Middleware

from idservice import __version__, errors
from idservice.access.keys import Keys
from idservice.access.usage import UsageMeter
from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.allocation.shutdown import GIVE_BACK_MAX_S
from idservice.catalogue.catalogue import Catalogue
from idservice.observability import logs, loop_lag
from idservice.server import asking, certificate, left_address, loop, sockets, startup, stop_signals
from idservice.server.certificate import Certificate
from idservice.server.listener import Listener
from idservice.server.settings import STORE_DEFAULT, ServeSettings, taken
from idservice.server.shutdown import ABANDON_S, STOP_MAX_S, StopSwitch, drain, stop_meter
from idservice.server.sockets import Sockets, bound_address
from idservice.server.startup import build_instance
from idservice.server.workers.accept_balance import AcceptSlot
from idservice.server.workers.link import PoolView, SupervisorLink
from idservice.server.workers.supervisor import Supervisor
from idservice.stores import preload
from idservice.stores.address import parse
from idservice.stores.protocol import IdStore
from idservice.stores.records import check_name
from idservice.tallies.service import Tallies
from idservice.web.app import build_app
from idservice.web.connection import REFUSED_MAX, ConnectionLimit
from idservice.web.fast_lane.responses import Responder
from idservice.web.request import WebLimits

log = logging.getLogger("idservice.server")

FIRST_WORKER = 0  # it alone logs findings about the store
DESCRIPTORS_WISHED = 65_536
DESCRIPTORS_KEPT = 64  # for the store, the log and the listeners
DESCRIPTORS_MIN = 40  # for the same where there are few: SQLite needs 22, DynamoDB more


def run(arguments: argparse.Namespace) -> int:
    """Run the command `serve` until a stop signal: one process, or a supervisor with workers."""
    settings = taken(ServeSettings, arguments)

    def set_up_logs(worker: int | None = None) -> None:
        logs.set_up(settings.log, access=settings.access_log, worker=worker)

    set_up_logs()
    # First: wrong settings exit with 2, and a port that is in use would exit with 1.
    check_name(settings.default_counter)
    _routes(settings.route)
    parse(settings.store or STORE_DEFAULT)
    with (
        sockets.bound(
            settings.listen,
            settings.admin_listen,
            allow_changes=settings.allow_changes,
            certificate=certificate.named(settings),
            asked=settings.require_keys,
        ) as bound,
        left_address.left(bound.addresses(), os.environ),
    ):
        if settings.workers == 1:
            return loop.run(serve(settings, bound))

        def work(link: SupervisorLink, first: bool) -> int:
            set_up_logs(link.number)
            # Once a worker has served, a store that is missing was lost. It must not start again
            # from 0 (I10).
            lasting = replace(settings, init=False, store=settings.store or STORE_DEFAULT)
            return loop.run(serve(settings if first else lasting, bound, link))

        preload(settings.store or STORE_DEFAULT)
        loop.factory()  # imports uvloop, so that the workers share its memory
        return Supervisor(bound, settings.workers, work).run()


async def serve(
    settings: ServeSettings, bound: Sockets, link: SupervisorLink | None = None
) -> None:
    """Serve until a stop signal; a worker also stops when its supervisor says so over the `link`.
    Raises IdserviceError if it cannot begin."""
    main = asyncio.current_task()
    assert main is not None
    switch = StopSwitch(main)
    # Ctrl-C in a terminal reaches supervisor and workers alike: only the supervisor listens to it.
    numbers = set(stop_signals.numbers()) | ({signal.SIGINT} if link is None else set())
    hangup = numbers & {signal.SIGHUP}
    # The supervisor has read and logged a new certificate before its workers read it.
    renew: Callable[[], object] = switch.stop
    if bound.certificate is not None:
        renew = partial(bound.certificate.renew, is_news=link is None)
    with (
        loop.on_signals(switch.on_signal, *numbers - hangup),
        # A terminal that closes sends SIGHUP twice, and systemd sends it after SIGTERM. So it never
        # counts as a second stop signal.
        loop.on_signals(renew, *hangup),
    ):
        try:
            async with AsyncExitStack() as stack:
                if link is not None:
                    await stack.enter_async_context(link.held(switch.stop, renew))
                await _serve(settings, bound, switch, link, stack)
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
    bound: Sockets,
    switch: StopSwitch,
    link: SupervisorLink | None,
    stack: AsyncExitStack,
) -> None:
    clock = asyncio.get_running_loop().time
    random = SystemRandom()
    routes = _routes(settings.route)
    most, more = connections_max(settings, sockets.may_open(DESCRIPTORS_WISHED))
    create = startup.may_create(settings.store, init=settings.init)
    store = startup.opened(settings, os.environ)
    await stack.enter_async_context(store)
    declared = [settings.default_counter, *routes.values()]
    service, catalogue, tallies = build_instance(
        store, _limits(settings), random=random, declared=declared
    )
    keys = startup.build_keys(service, store, settings.require_keys)
    meter = startup.build_meter(service, tallies, store, random=random)
    view = PoolView(service, tallies, link, keys, meter)
    around = await _telemetry(settings, service, view, stack)
    deadline = clock() + settings.store_wait
    await startup.reach(store, random, create=create, deadline=deadline)
    if link is None or link.number == FIRST_WORKER:
        await startup.log_findings(store, settings.require_keys, time.time)
    await _enter(service, meter, link, stack)
    await startup.warm(service, deadline=deadline)
    service.spawn(loop_lag.watch(service.lag))
    if bound.certificate is not None and link is None:
        service.spawn(bound.certificate.watch())

    slot = link.slot if link is not None else AcceptSlot()
    limit = ConnectionLimit(most, slot.set_count, idle_s=settings.idle_timeout, refused_most=more)
    slot.take()
    paths = {"/next": settings.default_counter, **routes}
    listeners = [
        await stack.enter_async_context(Listener(runner, one, limit, responder, slot, shown))
        for one, shown, runner, responder in _applications(
            settings, bound, switch, view, service, catalogue, tallies, keys, paths, around
        )
    ]
    _say_served(settings, store, bound if link is None else None)
    if link is not None:
        link.serving(view.report)
    gc.freeze()  # a collection of what the start has made would delay requests by 27 ms
    switch.started = True
    await switch.asked.wait()
    service.stop_by = clock() + STOP_MAX_S
    slot.leave()
    await drain(switch, listeners, limit, settings.drain)


def _say_served(settings: ServeSettings, store: IdStore, bound: Sockets | None) -> None:
    """Log what is served; and at which addresses, unless a supervisor does."""
    log.info(
        "idservice %s serves counter %s of %s",
        __version__,
        settings.default_counter,
        store.address,
        extra={"action": "serving"},
    )
    if bound is not None:
        bound.log_addresses()


async def _enter(
    service: Service,
    meter: UsageMeter | None,
    link: SupervisorLink | None,
    stack: AsyncExitStack,
) -> None:
    """Enter the service; at its exit, a worker waits for its turn to give ids back. The meter
    stops last, after the last id was handed out."""
    if meter is not None:
        stack.push_async_callback(stop_meter, meter, lambda: service.stop_by)
    if link is not None:
        stack.callback(link.turn.leave)
    await stack.enter_async_context(service)
    if meter is not None:
        service.spawn(meter.run())
    if link is not None:
        stack.push_async_callback(link.turn.take, GIVE_BACK_MAX_S)


async def _telemetry(
    settings: ServeSettings, service: Service, view: PoolView, stack: AsyncExitStack
) -> list[Middleware]:
    """Return the middleware that traces each request, if traces are asked for. Raises Usage."""
    if not settings.otel or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    try:
        from idservice.observability import otel
    except ImportError as error:
        why = (
            f"--otel needs a package that is missing ({error}); install the extra `otel` of"
            " idservice-blocks, in a checkout by `pip install '.[otel]'`"
        )
        raise errors.Usage(why=why) from None
    most = settings.metrics_counters
    exported = otel.exported(view.own_snapshot, lambda: service.stop_by, counters_max=most)
    return [await stack.enter_async_context(exported)]


def _applications(
    settings: ServeSettings,
    bound: Sockets,
    switch: StopSwitch,
    view: PoolView,
    service: Service,
    catalogue: Catalogue,
    tallies: Tallies,
    keys: Keys | None,
    paths: dict[str, str],
    around: Sequence[Middleware],
) -> Iterator[tuple[socket.socket, Certificate | None, web.AppRunner, Responder | None]]:
    """Yield each socket with its certificate, its application, and a responder if ids take the fast
    lane."""
    limits = WebLimits(
        settings.batch_max, settings.range_max, settings.metrics_counters, settings.idle_timeout
    )
    changes = startup.build_key_changes(keys, service.store, SystemRandom())
    for number, (address, one) in enumerate(bound.data + bound.admin):
        is_data = (address, one) in bound.data
        url = bound_address(one, tls=address.tls).url
        warned = bound.warned[number : number + 1]
        gate = asking.build_gate(keys, address, url, settings.require_keys, warned)
        app = build_app(
            service,
            catalogue,
            tallies,
            view,
            paths=paths if is_data else {},
            limits=limits,
            draining=lambda: switch.draining,
            control=bound.control_on_data or not is_data,
            writable=bound.may_change(address, is_data=is_data),
            unix=bool(address.path),
            loopback=address.is_local and not address.path,
            around=around,
            gate=gate,
            keys=changes,
        )
        responder = None
        if is_data and not around:  # the fast lane has no place for middleware
            responder = Responder(service, view, paths, limits, gate)
        shown = bound.certificate if address.tls else None
        yield one, shown, web.AppRunner(app, shutdown_timeout=ABANDON_S), responder


def _limits(settings: ServeSettings) -> Limits:
    return Limits(
        runway=settings.runway,
        wait=settings.wait,
        waiters_max=settings.waiters_max,
        block_max=max(settings.block_max, settings.range_max),
    )


def _routes(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the counter of each further path. Raises Usage, BadName."""
    routes: dict[str, str] = {}
    for path, name in pairs:
        if routes.setdefault(path, check_name(name)) != name:
            why = f"--route leads {path} to {routes[path]} and to {name}; name only one of them"
            raise errors.Usage(why=why)
    return routes


def connections_max(settings: ServeSettings, files: int) -> tuple[int, int]:
    """Return how many connections may be open in this process, and how many more may wait to be
    refused. Enough of its `files` are left for the store."""
    spare = files - min(DESCRIPTORS_KEPT, max(DESCRIPTORS_MIN, files // 2))
    refused = max(1, min(REFUSED_MAX, spare // 4))
    return max(1, min(settings.connections_max // settings.workers, spare - refused)), refused
