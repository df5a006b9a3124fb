"""The routes that show the whole service at a glance, from memory alone: the page and its JSON."""

import re
import time
from collections.abc import Callable

import msgspec
from aiohttp import web

from idservice import errors
from idservice.observability.status import StatusQuery, status
from idservice.observability.status_records import Status
from idservice.observability.view import ServiceView
from idservice.web.page import page
from idservice.web.problems import NO_STORE
from idservice.web.request import COUNT, read_query

FIND = re.compile(r"[A-Za-z0-9._-]{0,64}", re.ASCII)
PER_MAX = 1000
PAGE_MAX = 1_000_000
AUTHORITY = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}", re.ASCII)


class Overview:
    """Handlers over the `view` service, whose store is at an address; `clock` tells the time in
    seconds since 1970."""

    def __init__(
        self, view: ServiceView, store: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._view = view
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
        wanted = read_status_query(request.rel_url.raw_query_string)
        host = request.headers.get("Host", "")
        return status(
            await self._view.snapshot(),
            wanted,
            store=self._store,
            time=self._clock(),
            authority=host if AUTHORITY.fullmatch(host) else "127.0.0.1:8080",
        )


def read_status_query(query: str) -> StatusQuery:
    """Read the query of a status. Raises BadPage, RepeatedKey, MalformedRequest."""
    pairs = read_query(query)
    find = pairs.get("find", "")
    if not FIND.fullmatch(find):
        rule = "up to 64 letters, digits, '.', '_' or '-'"
        raise errors.BadPage(key="find", value=find[:80], rule=rule)
    numbers = {}
    for key, most in (("page", PAGE_MAX), ("per", PER_MAX)):
        value = pairs.get(key)
        if value is None:
            continue
        if not COUNT.fullmatch(value) or int(value) > most:
            rule = f"a whole number from 1 to {most}"
            raise errors.BadPage(key=key, value=value[:80], rule=rule)
        numbers[key] = int(value)
    return StatusQuery(find=find, **numbers)
