"""Builds the aiohttp application of a listener: its paths and their handlers."""

import asyncio
from collections.abc import Callable, Sequence
from functools import cache

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CONTENT_TYPE_LATEST

from idservice.access.changes import KeyChanges
from idservice.access.gate import Gate
from idservice.allocation.service import Service
from idservice.catalogue.catalogue import Catalogue
from idservice.observability import prometheus
from idservice.observability.readings import ServiceView
from idservice.tallies.service import Tallies
from idservice.web import docs_page, openapi
from idservice.web.access import ControlAccess, for_operators
from idservice.web.counters import CounterRoutes
from idservice.web.health import LIVE, ready
from idservice.web.ids import next_handler
from idservice.web.keys import KeyRoutes
from idservice.web.passes import JudgedRoutes
from idservice.web.problems import BODY_MAX, NO_STORE, SERVER, Handler, guard
from idservice.web.request import WebLimits
from idservice.web.status_page import StatusRoutes
from idservice.web.tallies import TallyRoutes
from idservice.web.usage import UsageRoutes

JSON_HEADERS = {"Content-Type": "application/json"}


def build_app(
    service: Service,
    catalogue: Catalogue,
    tallies: Tallies,
    view: ServiceView,
    *,
    paths: dict[str, str],
    limits: WebLimits,
    draining: Callable[[], bool],
    control: bool,
    writable: bool,
    unix: bool = False,
    loopback: bool = False,
    around: Sequence[Middleware] = (),
    gate: Gate | None = None,
    keys: KeyChanges | None = None,
) -> web.Application:
    """Return the application of one listener.

    `paths` leads paths to counters; without any, no ids are served. `control` adds the routes on
    counters. With `writable` they may change counters. `unix` and `loopback` say what its socket
    is, see `ControlAccess`. `view` shows the service with all its workers; the middlewares `around`
    see each request first. The `gate` judges the key of each request but those for the two health
    checks. `keys` changes the keys of the store, if it keeps any.
    """
    app = web.Application(middlewares=[*around, guard], client_max_size=BODY_MAX)

    async def finish(request: web.Request, response: web.StreamResponse) -> None:
        _add_headers(response, limits, closing=draining())

    app.on_response_prepare.append(finish)

    routes = JudgedRoutes(app.router, gate or Gate())
    for path, name in paths.items():
        handler = next_handler(service, name, limits, old=path != "/next")
        routes.serve(path, {"GET": handler, "POST": handler}, name)
    if paths:
        handler = next_handler(service, None, limits)
        routes.serve("/v1/counters/{name}/next", {"GET": handler, "POST": handler})
    access = ControlAccess(writable, loopback=loopback, unix=unix, ids=bool(paths))
    sums = TallyRoutes(tallies, access)
    for path, handlers in sums.by_path(data=bool(paths), control=control).items():
        routes.show(path, handlers)
    if control:
        for path, handlers in _control(catalogue, view, access, limits, keys).items():
            if path not in paths:  # a path of --route comes first
                if "GET" in handlers:
                    handlers["GET"] = access.reading(handlers["GET"])
                routes.show(path, {way: for_operators(one) for way, one in handlers.items()})
    routes.show("/livez", {"GET": _livez})
    routes.show("/readyz", {"GET": _readyz(view, draining)})
    document, page = _documents(limits)
    routes.show("/openapi.json", {"GET": _fixed(document, JSON_HEADERS)})
    routes.show("/docs", {"GET": _fixed(page, docs_page.HEADERS)})
    return app


@cache
def _documents(limits: WebLimits) -> tuple[bytes, bytes]:
    """Return the OpenAPI document and its page, made once for all listeners."""
    described = openapi.described(limits)
    return msgspec.json.encode(described), docs_page.docs_page(described)


def _control(
    catalogue: Catalogue,
    view: ServiceView,
    access: ControlAccess,
    limits: WebLimits,
    keys: KeyChanges | None,
) -> dict[str, dict[str, Handler]]:
    """Return the handlers of the control plane by path and method."""
    counters = CounterRoutes(catalogue, view, access)
    status = StatusRoutes(view, catalogue.store.address)
    access_keys = KeyRoutes(keys, access, catalogue.store.address)
    return {
        "/": {"GET": status.page},
        "/v1/status": {"GET": status.json},
        "/v1/counters": {"GET": counters.list},
        "/v1/counters/{name}": {
            "GET": counters.show,
            "PUT": counters.put,
            "PATCH": counters.patch,
            "DELETE": counters.delete,
        },
        "/v1/counters/{name}/set": {"POST": counters.set},
        "/v1/keys": {"GET": access_keys.list, "POST": access_keys.create},
        "/v1/keys/{id}": {"DELETE": access_keys.revoke},
        "/v1/usage": {"GET": UsageRoutes(catalogue.store).report},
        "/metrics": {"GET": _metrics(view, limits.metrics_counters)},
    }


async def _livez(request: web.Request) -> web.Response:
    return web.Response(text=LIVE, headers=NO_STORE)


def _readyz(view: ServiceView, draining: Callable[[], bool]) -> Handler:
    async def readyz(request: web.Request) -> web.Response:
        return web.Response(text=await ready(view, draining=draining()), headers=NO_STORE)

    return readyz


def _metrics(view: ServiceView, counters_max: int) -> Handler:
    async def page(request: web.Request) -> web.Response:
        headers = {**NO_STORE, "Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=await metrics_page(view, counters_max), headers=headers)

    return page


async def metrics_page(view: ServiceView, counters_max: int) -> bytes:
    """Return the page for Prometheus. Requests are served while it is made."""
    snapshot = await view.snapshot()
    parts = []
    for part in prometheus.pieces(snapshot, counters_max=counters_max):
        parts.append(part)
        await asyncio.sleep(0)  # requests for ids go first
    return b"".join(parts)


def _fixed(body: bytes, headers: dict[str, str]) -> Handler:
    async def fixed(request: web.Request) -> web.Response:
        return web.Response(body=body, headers={**NO_STORE, **headers})

    return fixed


def _add_headers(response: web.StreamResponse, limits: WebLimits, *, closing: bool) -> None:
    """Add the headers that every answer has."""
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = SERVER
    if closing:
        response.force_close()
        response.headers["Connection"] = "close"
    elif response.keep_alive:
        response.headers["Keep-Alive"] = limits.keep_alive.partition(": ")[2]
