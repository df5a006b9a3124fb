"""The routes that show the whole service at a glance, from memory alone: the page and its JSON."""

import re
import time
from collections.abc import Callable

import msgspec
from aiohttp import web

from idservice.observability.status import Wanted, status
from idservice.observability.status_records import Status
from idservice.server.workers.pool_view import PoolView
from idservice.web.page import page
from idservice.web.problems import NO_STORE

AUTHORITY = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}", re.ASCII)


class Overview:
    """Handlers over the `whole` service, whose store is at an address; `clock` tells the time in
    seconds since 1970."""

    def __init__(self, whole: PoolView, store: str, clock: Callable[[], float] = time.time) -> None:
        self._whole = whole
        self._store = store
        self._clock = clock

    async def page(self, request: web.Request) -> web.Response:
        """The status as a page."""
        values = msgspec.to_builtins(await self._status(request))
        headers = {**NO_STORE, **page().headers}
        return web.Response(body=page().filled(values), headers=headers)

    async def json(self, request: web.Request) -> web.Response:
        """The status as JSON."""
        return web.Response(
            body=msgspec.json.encode(await self._status(request)),
            content_type="application/json",
            headers=NO_STORE,
        )

    async def _status(self, request: web.Request) -> Status:
        """Raises BadPage, RepeatedKey, MalformedRequest, ParentSilent."""
        wanted = Wanted.read(request.rel_url.raw_query_string)
        host = request.headers.get("Host", "")
        return status(
            await self._whole.snapshot(),
            wanted,
            store=self._store,
            time=self._clock(),
            authority=host if AUTHORITY.fullmatch(host) else "127.0.0.1:8080",
        )
