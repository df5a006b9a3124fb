"""The data plane: the next id and batches of ids, as text, as JSON or as ranges."""

import asyncio

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from idservice import errors
from idservice.allocation.service import Service
from idservice.observability.readings import count as count_one
from idservice.web.problems import NO_STORE, Handler, uses_no_id
from idservice.web.request import Ask, read_ask
from idservice.web.response import one, several

BODY_TIMEOUT_S = 10.0


def next_handler(service: Service, name: str | None, *, batch_max: int, range_max: int) -> Handler:
    """A handler for the ids of the counter `name`, or of the one the path names."""

    async def next_id(request: web.Request) -> web.StreamResponse:
        uses_no_id(request)
        ask = read_ask(
            request.raw_path,
            request.headers.get("Accept", ""),
            batch_max=batch_max,
            range_max=range_max,
        )
        await pass_over_body(request)
        content_type, body = await issue(service, name or request.match_info["name"], ask)
        return web.Response(body=body, headers={**NO_STORE, "Content-Type": content_type})

    return next_id


async def issue(service: Service, name: str, ask: Ask) -> tuple[str, bytes]:
    """Return the content type and the body for the ids that were asked for.

    A counter that is not in use yet is loaded. Raises as `Service.local_counter` and
    `LocalCounter.next_id`.
    """
    supply = service.local_counters.get(name) or await service.local_counter(name)
    try:
        if ask.count is not None or ask.form == "ranges":
            return several(supply.counter, ask, await supply.next_batch(ask.count or 1))
        id = supply.take()
        if id is None:
            id = (await supply.wait(1))[0].start
        return one(supply.counter, ask, id)
    except errors.IdserviceError as error:
        count_one(supply.tally.refusals, error.code)
        raise


async def pass_over_body(request: web.Request) -> None:
    """Read a body that means nothing here; raises as `read_body`."""
    if request.can_read_body:
        await read_body(request)


async def read_body(request: web.Request) -> bytes:
    """A request's body, within bounds. Raises RequestTimeout, MalformedRequest, and aiohttp's own
    error where it is too long."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise errors.RequestTimeout(seconds=BODY_TIMEOUT_S) from None
    except (HttpProcessingError, web.RequestPayloadError, ConnectionError):
        raise errors.MalformedRequest(why="its body is broken or broken off") from None
