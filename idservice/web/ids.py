"""The routes for ids: the next id or a batch, as text, as JSON or as ranges."""

import asyncio

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from idservice import errors
from idservice.allocation.service import Service
from idservice.observability.readings import count as count_one
from idservice.web.problems import NO_STORE, Handler, check_headers
from idservice.web.request import IdRequest, WebLimits, read_id_request
from idservice.web.response import one, several

BODY_TIMEOUT_S = 10.0


def next_handler(service: Service, name: str | None, limits: WebLimits) -> Handler:
    """Return a handler for ids of the counter `name`, or of the counter that the path names."""

    async def next_id(request: web.Request) -> web.StreamResponse:
        check_headers(request)
        asked = read_id_request(request.raw_path, request.headers.get("Accept", ""), limits)
        if request.can_read_body:  # it has no meaning here
            await read_body(request)
        content_type, body = await issue(service, name or request.match_info["name"], asked)
        return web.Response(body=body, headers={**NO_STORE, "Content-Type": content_type})

    return next_id


async def issue(service: Service, name: str, asked: IdRequest) -> tuple[str, bytes]:
    """Return the content type and the body for the ids that were asked for.

    A counter that is not in use yet is loaded. Raises as `Service.local_counter` and
    `LocalCounter.next_id`.
    """
    supply = service.local_counters.get(name) or await service.local_counter(name)
    try:
        if asked.count is not None or asked.format == "ranges":
            return several(supply.counter, asked, await supply.next_batch(asked.count or 1))
        id = supply.take()
        if id is None:
            id = (await supply.wait(1))[0].start
        return one(supply.counter, asked, id)
    except errors.IdserviceError as error:
        count_one(supply.stats.refusals, error.code)
        raise


async def read_body(request: web.Request) -> bytes:
    """Return the body of a request.

    Raises RequestTimeout, MalformedRequest, and HTTPRequestEntityTooLarge.
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise errors.RequestTimeout(seconds=BODY_TIMEOUT_S) from None
    except (HttpProcessingError, web.RequestPayloadError, ConnectionError):
        raise errors.MalformedRequest(why="its body is broken or incomplete") from None
