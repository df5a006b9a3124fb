"""The route that reports usage, to operators and to the admin key of a scope."""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

from idservice import errors
from idservice.access.usage_report import UsagePeriod, UsageReport, csv_lines, period, report
from idservice.core.access_key import Role
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.web.passes import pass_of
from idservice.web.problems import NO_STORE, json_answer
from idservice.web.request import CSV, prefers_csv, read_query
from idservice.web.usage_schemas import usage_answer

CSV_HEADERS = {**NO_STORE, "Content-Type": f"{CSV}; charset=utf-8; header=present"}
KEYS = ("from", "to", "scope", "format")
REPORT_MAX_S = 30.0


class UsageRoutes:
    """Handlers over the usage in a store; `clock` tells the seconds since 1970."""

    def __init__(self, store: IdStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    async def report(self, request: web.Request) -> web.Response:
        """Report the usage of a period, as JSON or as CSV."""
        query = read_query(request.rel_url.raw_query_string)
        as_csv = _wants_csv(query, request.headers.get("Accept", ""))
        now_ms = int(self._clock() * 1000)
        asked = period(
            now_ms, first=query.get("from"), last=query.get("to"), scope=query.get("scope")
        )
        rights = pass_of(request)
        if "scope" in query:
            rights.check_scope(Role.ADMIN, asked.scope)
        found = await self._reported(asked, now_ms, rights.sees)
        if as_csv:
            return web.Response(body=csv_lines(found.usage).encode(), headers=CSV_HEADERS)
        scope = asked.scope if "scope" in query else ",".join(rights.scopes)
        return json_answer(usage_answer(found, scope))

    async def _reported(
        self, asked: UsagePeriod, now_ms: int, sees: Callable[[str], bool]
    ) -> UsageReport:
        if not has_catalogue(self._store):
            raise errors.UsageElsewhere(store=self._store.address)
        try:
            async with asyncio.timeout(REPORT_MAX_S):
                return await report(self._store.usage, asked, now_ms=now_ms, sees=sees)
        except TimeoutError:
            why = f"it took longer than {REPORT_MAX_S:g} s; ask for fewer days, or run"
            raise errors.NotAnswered(
                store=self._store.address,
                action="reading the usage",
                why=f"{why} `idservice usage`, which waits longer",
            ) from None


def _wants_csv(query: dict[str, str], accept: str) -> bool:
    """Return True for CSV, False for JSON. Raises BadUsageReport for what is not read: it would be
    another report than was asked for."""
    for key in query:
        if key not in KEYS:
            why = f"it does not read {key[:80]!r}; it reads {', '.join(KEYS)}"
            raise errors.BadUsageReport(why=why)
    named = query.get("format")
    if named is None:
        return prefers_csv(accept)
    if named not in ("json", "csv"):
        raise errors.BadUsageReport(why=f"format is {named[:80]!r}; it must be json or csv")
    return named == "csv"
