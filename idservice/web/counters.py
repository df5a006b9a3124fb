"""The routes that list, show, create and change counters. `access` decides if a request may."""

import asyncio
import json
import math
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from idservice import errors
from idservice.catalogue.catalogue import Catalogue
from idservice.catalogue.changes import Change, Configure, Delete, SetNext, check_reason
from idservice.catalogue.counters import check_runway, described, gaps_described, new_counter
from idservice.observability.readings import ServiceView
from idservice.stores.records import LIMIT_DEFAULT, Counter, Position
from idservice.web.access import ControlAccess
from idservice.web.ids import read_body
from idservice.web.problems import json_answer
from idservice.web.schemas import Configuration, CounterAnswer, CounterList, Deletion, Patch, SetTo

ANSWER_AFTER_S = 4.0  # a change to lower ids takes a minute; its answer does not wait for it
DIGITS = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)

Body = TypeVar("Body")


class CounterRoutes:
    """Handlers over a catalogue, of which `view` shows the service."""

    def __init__(self, catalogue: Catalogue, view: ServiceView, access: ControlAccess) -> None:
        self._catalogue = catalogue
        self._view = view
        self._access = access

    async def list(self, request: web.Request) -> web.Response:
        """List every counter with its configuration."""
        counters = await self._catalogue.counters()
        return json_answer(CounterList([self._describe(counter) for counter in counters]))

    async def show(self, request: web.Request) -> web.Response:
        """Show one counter, its position in the store and its ids in memory."""
        counter, positions = await self._catalogue.counter(request.match_info["name"])
        sample = await self._view.reading(counter.name)
        seconds = sample.runway_s if sample is not None else 0.0
        answer = self._describe(
            counter,
            positions,
            ids_in_memory=sample.held if sample is not None else 0,
            gaps=gaps_described(sample.gaps if sample is not None else {}),
            runway_seconds=round(seconds, 3) if math.isfinite(seconds) else None,
        )
        return json_answer(answer)

    async def put(self, request: web.Request) -> web.Response:
        """Create a counter, or find it with the same configuration."""
        body = await self._read(request, Configuration)
        wanted = new_counter(
            request.match_info["name"],
            self._catalogue.random,
            start=read_number("start", body.start),
            limit=LIMIT_DEFAULT if body.limit is None else read_number("limit", body.limit),
            strict=body.strict,
            shards=read_number("shards", body.shards),
            runway=body.runway,
        )
        counter, created = await self._catalogue.create(wanted, by=self._access.client(request))
        status = HTTPStatus.CREATED if created else HTTPStatus.OK
        return json_answer(self._describe(counter), status=status)

    async def patch(self, request: web.Request) -> web.Response:
        """Suspend or resume a counter, or change its limit or its runway."""
        body = await self._read(request, Patch)
        if body.state is None and body.limit is None and body.runway is None:
            raise errors.BadConfiguration(why="it names none of state, limit and runway")
        limit = None if body.limit is None else read_number("limit", body.limit)
        check_runway(body.runway)
        change = Configure(state=body.state, limit=limit, runway=body.runway, forced=True)
        return await self._change(request, change, body.reason)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a counter. If it is created again, it goes on above its old ids."""
        body = await self._read(request, Deletion)
        return await self._change(request, Delete(), body.reason)

    async def set(self, request: web.Request) -> web.Response:
        """Make a counter go on from another id."""
        body = await self._read(request, SetTo)
        change = SetNext(
            next=read_number("next", body.next), lower=body.allow_lower, forced=body.force
        )
        return await self._change(request, change, body.reason)

    async def _read(self, request: web.Request, kind: type[Body]) -> Body:
        """Return the body of a request; a request without one means an empty object. Raises
        WriteRefused, BadConfiguration, and as `read_body`."""
        self._access.check_change(request)
        body = await read_body(request)
        try:
            found = msgspec.json.decode(body or b"{}", type=kind)
            json.loads(body or b"{}", object_pairs_hook=_once)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise errors.BadConfiguration(why=str(error)) from None
        return found

    async def _change(self, request: web.Request, change: Change, reason: str) -> web.Response:
        name = request.match_info["name"]
        by, why = self._access.client(request), check_reason(reason)
        change = msgspec.structs.replace(change, by=by, why=why)
        try:
            async with asyncio.timeout(ANSWER_AFTER_S):
                _, entry = await self._catalogue.change(name, change)
        except TimeoutError:
            return await self._goes_on(name)
        return json_answer(self._describe(entry))

    async def _goes_on(self, name: str) -> web.Response:
        """Answer with the counter as it is while its change goes on.

        Raises OutcomeUnknown if the counter cannot be read: that says nothing of the change.
        """
        try:
            entry, positions = await self._catalogue.counter(name)
        except errors.IdserviceError as error:
            raise errors.OutcomeUnknown(
                store=self._catalogue.store.address,
                action=f"changing counter {name}",
                why=f"it took too long and goes on; show the counter to see its state ({error})",
            ) from error
        return json_answer(self._describe(entry, positions), status=HTTPStatus.ACCEPTED)

    def _describe(
        self, counter: Counter, positions: Sequence[Position] = (), **more: Any
    ) -> CounterAnswer:
        values = described(counter, self._catalogue.runway_s, positions)
        return msgspec.convert({**values, **more}, CounterAnswer)


def _once(pairs: list[tuple[str, object]]) -> None:
    """Refuse an object with the same key twice. Raises BadConfiguration."""
    for key in (keys := [key for key, _ in pairs]):
        if keys.count(key) > 1:
            raise errors.BadConfiguration(why=f"it has the key {key} twice")


def read_number(field: str, value: float | str) -> int:
    """Return a whole number that JSON has as a number or as a string. JSON does not tell 5 from
    5.0. Raises BadConfiguration."""
    if not isinstance(value, str) and str(value).startswith("-"):  # as -0.0 does
        raise errors.BadConfiguration(why=f"{field} is {value}; it must be 0 or more")
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, float) or not DIGITS.fullmatch(value):
        shown = repr(value)[:80]
        raise errors.BadConfiguration(why=f"{field} is {shown}, which is not a whole number")
    return int(value)
