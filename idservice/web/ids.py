"""The routes for ids, and their answers: the next id or a batch, as text, as JSON or as ranges."""

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from idservice import errors
from idservice.access.passes import OPEN, Pass
from idservice.allocation.local_counter import LocalCounter
from idservice.allocation.service import Service
from idservice.catalogue.counters import as_strings, number
from idservice.observability.readings import count as count_one
from idservice.stores.records import Counter
from idservice.web.passes import pass_of
from idservice.web.problems import NO_STORE, Handler, RequestTimeout, check_headers
from idservice.web.request import JSON, IdRequest, NotRead, WebLimits, read_id_request
from idservice.web.schemas import IdBatch, IdRange, IdRanges, OneId
from idservice.web.turns import loop_turns

BODY_TIMEOUT_S = 10.0
TEXT = "text/plain; charset=utf-8"
_json = msgspec.json.Encoder()


def next_handler(
    service: Service, name: str | None, limits: WebLimits, *, old: bool = False
) -> Handler:
    """Return a handler for ids of the counter `name`, or of the counter that the path names. On an
    `old` path a caller may send what is not read."""

    async def next_id(request: web.Request) -> web.StreamResponse:
        check_headers(request)
        asked = read_id_request(
            request.raw_path, request.headers.get("Accept", ""), limits, old=old
        )
        if request.can_read_body or request.content.exception() is not None:
            body = await read_body(request)
            if not old and body.strip() not in (b"", b"{}"):
                raise NotRead(part="The body of the request")
        counter, rights = name or request.match_info["name"], pass_of(request)
        content_type, answer = await issue(service, counter, asked, rights)
        return web.Response(body=answer, headers={**NO_STORE, "Content-Type": content_type})

    return next_id


async def issue(
    service: Service, name: str, asked: IdRequest, rights: Pass = OPEN
) -> tuple[str, bytes]:
    """Return the content type and the body for the ids that were asked for.

    A counter that is not in use yet is loaded. Raises as `Service.local_counter` and
    `LocalCounter.next_id`; the error that ended the `rights` while the request waited (K3).
    """
    supply = service.local_counters.get(name) or await service.local_counter(name)
    content_type, body = await _issue(supply, asked)
    if rights.refusal is not None:
        supply.allocator.record_wasted(asked.count or 1)
        raise rights.refusal.with_traceback(None)
    return content_type, body


async def _issue(supply: LocalCounter, asked: IdRequest) -> tuple[str, bytes]:
    try:
        if asked.count is not None or asked.format == "ranges":
            blocks = await supply.next_batch(asked.count or 1)
            if asked.cost > 1:
                try:
                    await loop_turns().take(asked.cost)
                except asyncio.CancelledError:
                    supply.allocator.record_wasted(asked.count or 1)
                    raise
            return several(supply.counter, asked, blocks)
        id = supply.take()
        if id is None:
            id = (await supply.wait(1))[0].start
        content_type, body = form(supply.counter, asked)
        return content_type, body % id
    except errors.IdserviceError as error:
        count_one(supply.stats.refusals, error.code)
        raise


def form(counter: Counter, asked: IdRequest) -> tuple[str, bytes]:
    """Return content type and body for a single id, whose place in the body is a `%d`."""
    if asked.format == "text":
        return TEXT, b"%d" if asked.count is None else b"%d\n"
    place: Any = msgspec.Raw(b'"%d"' if as_strings(counter) else b"%d")
    if asked.count is None:
        return JSON, msgspec.json.encode(OneId(counter.name, place))
    return JSON, msgspec.json.encode(IdBatch(counter.name, 1, [place]))


def several(counter: Counter, asked: IdRequest, blocks: Sequence[range]) -> tuple[str, bytes]:
    """Return content type and body for a batch, in the order of `blocks`."""
    if asked.format == "ranges":  # its cost does not depend on the number of ids
        answer = IdRanges(
            counter=counter.name,
            count=asked.count or 1,
            epoch=counter.ordinal,
            mode="strict" if counter.strict else "block",
            ranges=[IdRange(number(counter, one.start), one.step, len(one)) for one in blocks],
            nonce=msgspec.UNSET if asked.nonce is None else asked.nonce,
        )
        return JSON, msgspec.json.encode(answer)
    return listed(counter, asked, tuple(chain.from_iterable(blocks)))


def listed(counter: Counter, asked: IdRequest, ids: Sequence[int]) -> tuple[str, bytes]:
    """Return content type and body of an answer that lists each id of a batch."""
    if asked.format == "text":  # as JSON writes a number, which takes a fifth of the time
        return TEXT, _json.encode_lines(ids)
    shown: list[int | str] = [str(id) for id in ids] if as_strings(counter) else list(ids)
    return JSON, msgspec.json.encode(IdBatch(counter.name, len(ids), shown))


async def read_body(request: web.Request) -> bytes:
    """Return the body of a request. Raises RequestTimeout, MalformedRequest, and aiohttp's
    HTTPRequestEntityTooLarge; the error that ended the pass while the body came: whoever was
    revoked meanwhile changes nothing (K3)."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise RequestTimeout(seconds=BODY_TIMEOUT_S) from None
    except (HttpProcessingError, web.RequestPayloadError, ConnectionError):
        raise errors.MalformedRequest(why="its body is broken or incomplete") from None
    pass_of(request).check_open()
    return body
