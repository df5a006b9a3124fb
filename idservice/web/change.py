"""The control plane's changes: suspend, resume, limit, runway, delete, set."""

import asyncio
from dataclasses import replace
from http import HTTPStatus
from typing import Literal, TypeVar

import msgspec
from aiohttp import web

from idservice import errors
from idservice.catalogue.catalogue import Catalogue
from idservice.catalogue.changes import Change, Configure, Delete, SetNext
from idservice.catalogue.counters import check_reason, check_runway
from idservice.catalogue.describe import described
from idservice.web.access import WriteAccess
from idservice.web.counters import json_answer, read_wish, whole

ANSWER_AFTER_S = 4.0  # who changes ids downwards waits a minute; the answer does not

Number = int | float | str
Body = TypeVar("Body")


class Patch(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be otherwise; null is as it was."""

    state: Literal["active", "suspended"] | None = None
    limit: Number | None = None
    runway: float | None = None
    reason: str = ""


class Deletion(msgspec.Struct, forbid_unknown_fields=True):
    """Why."""

    reason: str = ""


class SetTo(msgspec.Struct, forbid_unknown_fields=True):
    """The id to go on from."""

    next: Number
    allow_lower: bool = False
    force: bool = False
    reason: str = ""


class Changes:
    """Handlers over a catalogue."""

    def __init__(self, catalogue: Catalogue, writers: WriteAccess) -> None:
        self._catalogue = catalogue
        self._writers = writers

    async def patch(self, request: web.Request) -> web.Response:
        """Suspend or resume a counter, change its limit or its runway."""
        patch = await self._read(request, Patch)
        if patch.state is None and patch.limit is None and patch.runway is None:
            raise errors.BadConfiguration(why="it names none of state, limit and runway")
        limit = None if patch.limit is None else whole("limit", patch.limit)
        check_runway(patch.runway)
        change = Configure(state=patch.state, limit=limit, runway=patch.runway)
        return await self._change(request, change, patch.reason)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a counter; its name goes on above its ids, should it be created again."""
        deletion = await self._read(request, Deletion)
        return await self._change(request, Delete(), deletion.reason)

    async def set(self, request: web.Request) -> web.Response:
        """Go on from another id."""
        body = await self._read(request, SetTo)
        to = whole("next", body.next)
        change = SetNext(next=to, lower=body.allow_lower, forced=body.force)
        return await self._change(request, change, body.reason)

    async def _read(self, request: web.Request, kind: type[Body]) -> Body:
        self._writers.check(request)
        return await read_wish(request, kind)

    async def _change(self, request: web.Request, change: Change, reason: str) -> web.Response:
        name, catalogue = request.match_info["name"], self._catalogue
        change = replace(change, by=self._writers.name(request), why=check_reason(reason))
        try:
            async with asyncio.timeout(ANSWER_AFTER_S):
                _, entry = await catalogue.change(name, change)
        except TimeoutError:
            return await self._goes_on(name)
        return json_answer(described(entry, catalogue.runway_s))

    async def _goes_on(self, name: str) -> web.Response:
        """How a counter stands while its change is carried out. Raises OutcomeUnknown: what is
        wrong with this look says nothing of the change."""
        try:
            entry, positions = await self._catalogue.counter(name)
        except errors.IdserviceError as error:
            raise errors.OutcomeUnknown(
                store=self._catalogue.store.address,
                action=f"changing counter {name}",
                why=f"it took too long and goes on; see what the counter is now ({error})",
            ) from error
        body = described(entry, self._catalogue.runway_s, positions)
        return json_answer(body, status=HTTPStatus.ACCEPTED)
