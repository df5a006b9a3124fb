"""A service in this process that answers on a port or a Unix socket, for tests of who asks it."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from idservice.access.gate import Gate
from idservice.access.keys import Keys
from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.catalogue.catalogue import Catalogue
from idservice.server.startup import build_instance, build_keys
from idservice.server.workers.link import PoolView
from idservice.stores.protocol import IdStore
from idservice.web.app import build_app
from idservice.web.request import WebLimits

PATIENT = Limits(wait=60.0)  # a machine that stands still for a while fails no test


@dataclass
class Served:
    """A service, where it answers, and the targets it was asked for."""

    service: Service
    catalogue: Catalogue
    url: str
    keys: Keys | None  # the access keys that it knows
    asked: list[str] = field(default_factory=list)
    shown: list[str | None] = field(default_factory=list)  # the Authorization of each request


@asynccontextmanager
async def served(
    store: IdStore,
    *,
    path: str = "",
    control: bool = True,
    declared: Sequence[str] = (),
    limits: Limits | None = None,
    web_limits: WebLimits | None = None,
    asks: bool = False,
) -> AsyncIterator[Served]:
    """A service over an entered store, with `path` on a Unix socket; it `asks` for access keys."""
    service, catalogue, tallies = build_instance(
        store, limits or PATIENT, random=random.Random(1), declared=declared
    )
    keys = build_keys(service, store, None)
    async with service:
        app = build_app(
            service,
            catalogue,
            tallies,
            PoolView(service, tallies),
            paths={"/next": "default"},
            limits=web_limits or WebLimits(),
            draining=lambda: False,
            control=control,
            writable=True,
            unix=bool(path),
            gate=Gate(keys, asks=asks),
        )
        made = Served(service, catalogue, "", keys)

        @web.middleware
        async def listen(request: web.Request, handler: object) -> web.StreamResponse:
            made.asked.append(request.path_qs)
            made.shown.append(request.headers.get("Authorization"))
            return await handler(request)  # type: ignore[operator, no-any-return]

        app.middlewares.append(listen)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            if path:
                await web.UnixSite(runner, path).start()
                made.url = f"unix:{path}"
            else:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield made
        finally:
            await runner.cleanup()
