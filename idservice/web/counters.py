"""The routes that list, show, create and change counters. `access` decides if a request may."""

import asyncio
import math
import re
from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from aiohttp import web

from idservice import errors
from idservice.catalogue.catalogue import Catalogue
from idservice.catalogue.changes import Change, Configure, Delete, SetNext, check_reason
from idservice.catalogue.counters import (
    check_bounds,
    check_runway,
    described,
    gaps_described,
    new_counter,
)
from idservice.core.limits import NAME
from idservice.observability.readings import CounterSample, ServiceView
from idservice.observability.status import STATES
from idservice.stores.records import ACTIVE, LIMIT_DEFAULT, MOVED, SUSPENDED, Counter, Position
from idservice.web.access import ControlAccess
from idservice.web.ids import read_body
from idservice.web.json_body import Body, decoded
from idservice.web.passes import pass_of
from idservice.web.problems import BadPage, WriteRefused, json_answer
from idservice.web.request import COUNT, read_query
from idservice.web.schemas import (
    CounterAnswer,
    CounterConfiguration,
    CounterList,
    Deletion,
    Patch,
    SetTo,
)

ANSWER_AFTER_S = 4.0  # a change to lower ids takes a minute; its answer does not wait for it
LIST_MAX = 1000  # counters in one answer
DIGITS = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class CounterRoutes:
    """Handlers over a catalogue, of which `view` shows the service."""

    def __init__(self, catalogue: Catalogue, view: ServiceView, access: ControlAccess) -> None:
        self._catalogue = catalogue
        self._view = view
        self._access = access

    async def list(self, request: web.Request) -> web.Response:
        """List a page of the counters with their configuration."""
        most, after = read_list_query(request.rel_url.raw_query_string)
        counters = await self._catalogue.page(after, most + 1, pass_of(request).scopes)
        page = CounterList([self._describe(counter) for counter in counters[:most]])
        if len(counters) > most:
            page.next = counters[most - 1].name
        return json_answer(page)

    async def show(self, request: web.Request) -> web.Response:
        """Show one counter, its position in the store and its ids in memory. While the store does
        not answer, show what memory knows."""
        name = request.match_info["name"]
        try:
            counter, positions = await self._catalogue.counter(name)
        except errors.StoreError as error:
            sample = await self._view.reading(name)
            if error.answered or isinstance(error, errors.StoreUnready) or sample is None:
                raise
            known = _remembered(sample)
            if known is None:
                raise
        else:
            sample = await self._view.reading(name)
            known = described(counter, self._catalogue.runway_s, positions)
        return json_answer(msgspec.convert({**known, **_in_memory(sample)}, CounterAnswer))

    async def put(self, request: web.Request) -> web.Response:
        """Create a counter, or find it with the same configuration."""
        body = await self._read(request, CounterConfiguration)
        wanted = new_counter(
            request.match_info["name"],
            self._catalogue.random,
            start=read_number("start", body.start),
            limit=LIMIT_DEFAULT if body.limit is None else read_number("limit", body.limit),
            strict=body.strict,
            shards=read_number("shards", body.shards),
            runway=body.runway,
            request_max=_request_max(body),
            rate_max=body.rate_max,
        )
        counter, created = await self._catalogue.create(wanted, by=self._access.client(request))
        status = HTTPStatus.CREATED if created else HTTPStatus.OK
        return json_answer(self._describe(counter), status=status)

    async def patch(self, request: web.Request) -> web.Response:
        """Suspend or resume a counter, or change its limit, its runway or its bounds."""
        body = await self._read(request, Patch)
        limit = None if body.limit is None else read_number("limit", body.limit)
        check_runway(body.runway)
        check_bounds(request_max := _request_max(body), body.rate_max)
        change = Configure(
            state=body.state, limit=limit, runway=body.runway, request_max=request_max,
            rate_max=body.rate_max, forced=body.force,
        )  # fmt: skip
        if change == Configure(forced=body.force):
            raise errors.BadConfiguration(
                why="it names none of state, limit, runway, request_max and rate_max"
            )
        return await self._change(request, change, body.reason)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a counter. If it is created again, it goes on above its old ids."""
        body = await self._read(request, Deletion)
        return await self._change(request, Delete(), body.reason)

    async def set(self, request: web.Request) -> web.Response:
        """Make a counter go on from another id."""
        body = await self._read(request, SetTo)
        if body.allow_lower and pass_of(request).key is not None:
            why = (
                "an access key cannot repeat ids (allow_lower); `idservice set NAME --next N "
                "--allow-lower` can, with the credentials of the store"
            )
            raise WriteRefused(why=why)
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
            return decoded(body or b"{}", kind)
        except ValueError as why:
            raise errors.BadConfiguration(why=why) from None

    async def _change(self, request: web.Request, change: Change, reason: str) -> web.Response:
        name = request.match_info["name"]
        by, why = self._access.client(request), check_reason(reason)
        change = msgspec.structs.replace(change, by=by, why=why)
        asked, begun = False, list[Counter]()
        try:
            async with asyncio.timeout(ANSWER_AFTER_S):
                while True:
                    await self._catalogue.carry_out(name)  # what was begun before: mostly quick
                    asked = True
                    try:
                        _, entry = await self._catalogue.change(name, change, begun.append)
                    except errors.Changing:
                        asked = False  # another one was, in between
                    else:
                        return json_answer(self._describe(entry))
        except TimeoutError:
            if begun:
                return json_answer(self._describe(begun[0]), status=HTTPStatus.ACCEPTED)
            raise (self._unsure(name) if asked else await self._not_begun(name)) from None

    async def _not_begun(self, name: str) -> errors.IdserviceError:
        """Return the error of a change that was not begun, since it was not known in time if
        another one is under way."""
        entry, _ = await self._catalogue.counter(name)
        if entry.intent is not None:
            return entry.being_changed()
        return errors.NotApplied(
            store=self._catalogue.store.address,
            action=f"changing counter {name}",
            why="it took too long to say if another change is under way",
        )

    def _unsure(self, name: str) -> errors.OutcomeUnknown:
        """Return the error of a change of which it is not known in time if the store has it."""
        return errors.OutcomeUnknown(
            store=self._catalogue.store.address,
            action=f"changing counter {name}",
            why="the change took too long, and may still begin; show the counter to see its state",
        )

    def _describe(self, counter: Counter, positions: Sequence[Position] = ()) -> CounterAnswer:
        values = described(counter, self._catalogue.runway_s, positions)
        return msgspec.convert(values, CounterAnswer)


def _in_memory(sample: CounterSample | None) -> dict[str, object]:
    """Return what memory knows of a counter beside its configuration."""
    seconds = sample.runway_s if sample is not None else 0.0
    return {
        "ids_in_memory": sample.held if sample is not None else 0,
        "gaps": gaps_described(sample.gaps if sample is not None else {}),
        "runway_seconds": round(seconds, 3) if math.isfinite(seconds) else None,
    }


def _remembered(sample: CounterSample) -> dict[str, object] | None:
    """Return the configuration of a counter in use as JSON values, from memory. None for borrowed
    ids, whose limit only the lender knows."""
    known = sample.state
    if known is None or known.limit is None:
        return None
    state = STATES.get(known.code)
    body: dict[str, object] = {
        "counter": sample.counter,
        "state": state if state in ("suspect", SUSPENDED, MOVED) else ACTIVE,
        "epoch": known.epoch,
        "start": str(known.start) if known.limit > LIMIT_DEFAULT else known.start,
        "limit": str(known.limit) if known.limit > LIMIT_DEFAULT else known.limit,
        "strict": known.strict,
        "shards": known.shards,
        "runway": known.runway,
        "store": "down",
    }
    return {**body, "change": known.change} if known.change else body


def read_list_query(query: str) -> tuple[int, str]:
    """Read how many counters to list, and the name that they come after. Raises BadPage,
    RepeatedKey, MalformedRequest."""
    pairs = read_query(query)
    limit, after = pairs.get("limit", str(LIST_MAX)), pairs.get("after", "")
    if not COUNT.fullmatch(limit) or int(limit) > LIST_MAX:
        rule = f"a whole number from 1 to {LIST_MAX}"
        raise BadPage(key="limit", value=limit[:80], rule=rule)
    if "after" in pairs and not NAME.fullmatch(after):
        rule = "the `next` of the page before"
        raise BadPage(key="after", value=after[:80], rule=rule)
    return int(limit), after


def _request_max(body: CounterConfiguration | Patch) -> int | None:
    return None if body.request_max is None else read_number("request_max", body.request_max)


def read_number(field: str, value: float | str) -> int:
    """Return a whole number that JSON has as a number or as a string. Raises BadConfiguration.

    One with a fraction or an exponent is refused, even 5.0: it may have been rounded on its way.
    """
    if isinstance(value, int):
        if value < 0:
            raise errors.BadConfiguration(why=f"{field} is {value}; it must be 0 or more")
        return value
    if isinstance(value, float):
        why = f"{field} is {value!r}, with a fraction or an exponent; send it in plain digits"
        raise errors.BadConfiguration(why=why)
    if not DIGITS.fullmatch(value):
        shown = repr(value)[:80]
        raise errors.BadConfiguration(why=f"{field} is {shown}, which is not a whole number")
    return int(value)
