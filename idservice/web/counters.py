"""The control plane: listing, showing and creating counters."""

import math
import re
from typing import TypeVar

import msgspec
from aiohttp import web

from idservice import errors
from idservice.catalogue.catalogue import Catalogue
from idservice.catalogue.counters import new_counter
from idservice.catalogue.describe import described, gaps_described
from idservice.observability.view import ServiceView
from idservice.stores.records import LIMIT_DEFAULT
from idservice.web.access import WriteAccess
from idservice.web.ids import read_body
from idservice.web.problems import NO_STORE

Body = TypeVar("Body")
DIGITS = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """What a counter is to be; numbers beyond what JavaScript keeps may be sent as strings, and
    JSON does not tell 5 from 5.0."""

    start: int | float | str = 0
    limit: int | float | str | None = None
    strict: bool = False
    shards: int | float = 1
    runway: float | None = None


class Admin:
    """Handlers over a catalogue, and the `view` service that it is part of."""

    def __init__(self, catalogue: Catalogue, view: ServiceView, writers: WriteAccess) -> None:
        self._catalogue = catalogue
        self._view = view
        self._writers = writers

    async def list(self, request: web.Request) -> web.Response:
        """Every counter and its configuration."""
        counters = await self._catalogue.counters()
        return json_answer({"counters": [described(counter, self._runway) for counter in counters]})

    async def show(self, request: web.Request) -> web.Response:
        """One counter: also where it stands in the store, and what is held in memory."""
        counter, positions = await self._catalogue.counter(request.match_info["name"])
        body = described(counter, self._runway, positions)
        reading = await self._view.reading(counter.name)
        seconds = reading.runway_s if reading is not None else 0.0
        body["ids_in_memory"] = reading.held if reading is not None else 0
        body["gaps"] = gaps_described(reading.gaps if reading is not None else {})
        body["runway_seconds"] = round(seconds, 3) if math.isfinite(seconds) else None
        return json_answer(body)

    async def put(self, request: web.Request) -> web.Response:
        """Create a counter, or find it as wished."""
        self._writers.check(request)
        wish = await read_wish(request, Wish)
        wanted = new_counter(
            request.match_info["name"],
            self._catalogue.random,
            start=whole("start", wish.start),
            limit=LIMIT_DEFAULT if wish.limit is None else whole("limit", wish.limit),
            strict=wish.strict,
            shards=whole("shards", wish.shards),
            runway=wish.runway,
        )
        counter, created = await self._catalogue.create(wanted, by=self._writers.name(request))
        status = 201 if created else 200
        return json_answer(described(counter, self._runway), status=status)

    @property
    def _runway(self) -> float:
        return self._catalogue.runway_s


def whole(field: str, value: float | str) -> int:
    """A whole number that JSON may have as a number or as a string. Raises BadConfiguration."""
    if isinstance(value, int) and value < 0:
        raise errors.BadConfiguration(why=f"{field} is {value}; it must be 0 or more")
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, float) or not DIGITS.fullmatch(value):
        shown = repr(value)[:80]
        raise errors.BadConfiguration(why=f"{field} is {shown}, which is no whole number")
    return int(value)


async def read_wish(request: web.Request, kind: type[Body]) -> Body:
    """The body of a request as one of our records; no body is an empty object.

    Raises BadConfiguration, and as `read_body`.
    """
    body = await read_body(request)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.BadConfiguration(why=str(error)) from None


def json_answer(body: dict[str, object], *, status: int = 200) -> web.Response:
    """An answer of the control plane."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers=NO_STORE,
    )
