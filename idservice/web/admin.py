"""The control plane: listing, showing and creating counters."""

import math
import re
from ipaddress import ip_address

import msgspec
from aiohttp import web

from idservice import errors
from idservice.counters import new_counter
from idservice.service import Service
from idservice.stores.protocol import LIMIT_DEFAULT
from idservice.web.describe import described
from idservice.web.guard import NO_STORE
from idservice.web.ids import read_body
from idservice.workers.whole import Whole

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?", re.ASCII)
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
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
    """Handlers over a service and the `whole` it is part of; `writable` where the listener may
    change counters, `unix` where it is a Unix socket."""

    def __init__(self, service: Service, whole: Whole, *, writable: bool, unix: bool) -> None:
        self._service = service
        self._whole = whole
        self._writable = writable
        self._unix = unix

    async def list(self, request: web.Request) -> web.Response:
        """Every counter and its configuration."""
        counters = await self._service.counters()
        return _json({"counters": [described(counter, self._runway) for counter in counters]})

    async def show(self, request: web.Request) -> web.Response:
        """One counter: also where it stands in the store, and what is held in memory."""
        counter, position = await self._service.counter(request.match_info["name"])
        body = described(counter, self._runway, position)
        reading = await self._whole.reading(counter.name)
        seconds = reading.runway_s if reading is not None else 0.0
        body["ids_in_memory"] = reading.held if reading is not None else 0
        body["runway_seconds"] = round(seconds, 3) if math.isfinite(seconds) else None
        return _json(body)

    async def put(self, request: web.Request) -> web.Response:
        """Create a counter, or find it as wished."""
        self._check_writer(request)
        wish = await _read_wish(request)
        wanted = new_counter(
            request.match_info["name"],
            self._service.random,
            start=_whole("start", wish.start),
            limit=LIMIT_DEFAULT if wish.limit is None else _whole("limit", wish.limit),
            strict=wish.strict,
            shards=_whole("shards", wish.shards),
            runway=wish.runway,
        )
        counter, created = await self._service.create(wanted)
        status = 201 if created else 200
        return _json(described(counter, self._runway), status=status)

    @property
    def _runway(self) -> float:
        return self._service.limits.runway

    def _check_writer(self, request: web.Request) -> None:
        """Keep web pages in a browser on this machine from changing counters."""
        if not self._writable:
            raise errors.WriteRefused(
                why="this listener is not on the loopback interface; use one that is, or the"
                " command line"
            )
        headers = request.headers
        if not self._unix and not _is_loopback(headers.get("Host", "")):
            raise errors.WriteRefused(why="the Host header names no loopback address")
        for name in FORWARDED:
            if name in headers:
                raise errors.WriteRefused(why=f"{name} says that a proxy passed it on")
        sites = [site.lower() for site in headers.getall("Sec-Fetch-Site", ())]
        origins = headers.getall("Origin", ())
        if "cross-site" in sites or not all(
            _is_loopback(origin.partition("://")[2]) for origin in origins
        ):
            raise errors.WriteRefused(why="the request comes from another site")


def _whole(field: str, value: float | str) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, float) or not DIGITS.fullmatch(value):
        shown = repr(value)[:80]
        raise errors.BadConfiguration(why=f"{field} is {shown}, which is no whole number")
    return int(value)


async def _read_wish(request: web.Request) -> Wish:
    body = await read_body(request)
    if not body:
        return Wish()
    try:
        return msgspec.json.decode(body, type=Wish)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.BadConfiguration(why=str(error)) from None


def _is_loopback(authority: str) -> bool:
    match = AUTHORITY.fullmatch(authority)
    if match is None:
        return False
    host = match[1].strip("[]").lower()
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _json(body: dict[str, object], *, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers=NO_STORE,
    )
