"""Turns errors into problem+json around every handler, and refuses requests that waste an id.

Errors that only HTTP has are here or beside what raises them; all others are in `errors`.
"""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from time import time
from typing import Annotated, Any

import msgspec
from aiohttp import HttpVersion10, HttpVersion11, web
from msgspec import UNSET, Meta, UnsetType

from idservice import errors
from idservice.observability.logs import RateLimitedLog
from idservice.stores.instants import instant
from idservice.web.caller_words import caller_words

SERVER = "idservice"  # no versions: they help nobody but an attacker
BODY_MAX = 4096  # bytes
NO_STORE = {"Cache-Control": "no-store", "Server": SERVER}
JSON_HEADERS = {**NO_STORE, "Content-Type": "application/json"}
VERSIONS = (HttpVersion10, HttpVersion11)  # the parser also lets 0.9 and 2.0 pass
PREFETCH_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
PREFETCH_WORDS = ("prefetch", "prerender", "preview")
CONDITIONAL_HEADERS = (
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "If-Range",
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_crashes = RateLimitedLog(logging.getLogger("idservice.web"))


class BadPage(errors.RequestRefused):
    text = "{key} is {value!r}; it must be {rule}."
    code = "bad_page"


class BadBody(errors.RequestRefused):
    text = (
        "The body of the request cannot be read: {why}. It is a JSON object such as "
        '{{"{field}": "12.50"}}.'
    )
    code = "bad_body"


class WriteRefused(errors.RequestRefused):
    text = "This request may not change counters, tallies or keys: {why}."
    code = "write_refused"
    status = 403


class PageNeedsKey(errors.AccessKeyMissing):
    text = (
        "The status page needs an access key here, and a browser sends none. Run `idservice top` "
        "with IDSERVICE_KEY, ask for /v1/status with `Authorization: Bearer idk_…`, or open the "
        "page at a listener on loopback or a Unix socket that asks for no key."
    )


class HostRefused(errors.RequestRefused):
    text = (
        "The Host header {host!r} does not name a loopback address, but this listener is on "
        "loopback: a web page may have sent the request. Ask by localhost or 127.0.0.1; from "
        "elsewhere, ask an --admin-listen address."
    )
    code = "host_refused"
    status = 403


class MethodRefused(errors.RequestRefused):
    text = "{method} is not served here; use {allow}."
    code = "method_not_allowed"
    status = 405


class RequestTimeout(errors.RequestRefused):
    text = "The body of the request did not arrive within {seconds:g} s. Send it at once."
    code = "request_timeout"
    status = 408


class ConditionalRefused(errors.RequestRefused):
    text = (
        "{header} has no meaning for an id or an add, which is new each time. Leave the header out."
    )
    code = "conditional_refused"
    status = 412


class BodyTooLarge(errors.RequestRefused):
    text = "The body of the request is longer than {most} bytes. Send a shorter one."
    code = "body_too_large"
    status = 413


class MediaTypeRefused(errors.RequestRefused):
    text = "The body of the request is JSON, and needs the header `Content-Type: application/json`."
    code = "media_type_refused"
    status = 415


class RangeRefused(errors.RequestRefused):
    text = "An id or an add cannot be answered in parts. Leave the Range header out."
    code = "range_refused"
    status = 416


class UriTooLong(errors.MalformedRequest):
    text = "The path and the query of the request are too long. Send at most 8,000 bytes."
    code = "uri_too_long"
    status = 414


class HeadersTooLong(errors.MalformedRequest):
    text = "The request has too many headers, or one that is too long. Send fewer, shorter ones."
    code = "headers_too_long"
    status = 431


class CrossSiteRefused(errors.RequestRefused):
    text = (
        "The request comes from a web page of another site, which may use up ids or count amounts "
        "unseen. Ask from a page of this site, or without a browser."
    )
    code = "cross_site_refused"
    status = 403


TIME = Meta(extra_json_schema={"format": "date-time"})
TIMES = ("at", "as_of")  # which errors have in milliseconds since 1970


class Problem(msgspec.Struct):
    """Problem details as in RFC 9457. `outcome` says if the request may have had an effect. Errors
    of tallies have more fields."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    outcome: Annotated[str, Meta(extra_json_schema={"enum": [errors.NOT_APPLIED, errors.UNKNOWN]})]
    key: Annotated[str, Meta(description="The key of the add.")] | UnsetType = UNSET
    amount: Annotated[str, Meta(description="The first amount of this key.")] | UnsetType = UNSET
    sum: Annotated[str, Meta(description="The sum, which does not change.")] | UnsetType = UNSET
    at: Annotated[str, TIME] | UnsetType = UNSET
    as_of: Annotated[str, TIME] | UnsetType = UNSET
    rev: int | UnsetType = UNSET
    replayed: bool | UnsetType = UNSET


def problem_record(
    error: errors.IdserviceError, *, operator: bool = False, of_add: bool = False
) -> Problem:
    """Return an error as RFC 9457 problem details, in words for callers or for an `operator`.
    `of_add`: what it refuses is known by a key, under which it may have been done before."""
    more: dict[str, Any] = {name: error.fields[name] for name in error.members}
    more |= {name: instant(more[name]) for name in TIMES if name in more}
    return Problem(
        type=f"urn:idservice:problem:{error.code}",
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=(str(error) if operator else caller_words(error)) + errors.EARLIER * of_add,
        code=error.code,
        retryable=error.retryable,
        outcome=errors.UNKNOWN if of_add else error.outcome,
        **more,
    )


def problem(
    error: errors.IdserviceError,
    *,
    allow: str = "",
    operator: bool = False,
    of_add: bool = False,
    clock: Callable[[], float] = time,
) -> web.Response:
    """Return the answer for an error, see `problem_record`; `clock` tells the time of day."""
    headers = dict(NO_STORE)
    if error.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        seconds = errors.RETRY_AFTER_S
        if isinstance(error, errors.Changing | errors.RateExceeded):
            seconds = error.retry_after_s(clock())
        headers["Retry-After"] = str(seconds)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if allow:
        headers["Allow"] = allow
    response = web.Response(
        status=error.status,
        body=msgspec.json.encode(problem_record(error, operator=operator, of_add=of_add)),
        content_type="application/problem+json",
        headers=headers,
    )
    if isinstance(error, errors.MalformedRequest | RequestTimeout):
        response.force_close()  # the beginning of the next request is not known
        response.headers["Connection"] = "close"
    return response


def problem_of(exception: web.HTTPException, request: web.BaseRequest) -> web.Response:
    """Return a refusal of aiohttp's router or server as a problem."""
    if isinstance(exception, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(exception.allowed_methods))
        return problem(MethodRefused(method=request.method[:32], allow=allow), allow=allow)
    if isinstance(exception, web.HTTPNotFound):
        return problem(errors.UnknownPath(path=request.path[:80]))
    if isinstance(exception, web.HTTPRequestEntityTooLarge):
        return problem(BodyTooLarge(most=BODY_MAX))
    refused = errors.MalformedRequest(why=exception.reason)
    refused.status = exception.status
    return problem(refused)


def json_answer(body: msgspec.Struct, *, status: int = HTTPStatus.OK) -> web.Response:
    """Return a record as an answer."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        headers=JSON_HEADERS,
    )


def crash() -> web.Response:
    """Log the exception that is being handled, a bug; return the problem that says so."""
    _crashes.error("a request failed", exc_info=True, extra={"action": "request_bug"})
    return problem(errors.IdserviceError())


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem. Any other exception is a bug, and is logged."""
    if request.version not in VERSIONS or request.method == "CONNECT":
        return problem(errors.MalformedRequest(why="it must be HTTP/1.1 or 1.0, and not CONNECT"))
    try:
        return await handler(request)
    except errors.IdserviceError as error:
        return problem(error)
    except web.HTTPException as exception:
        return problem_of(exception, request)
    except Exception:
        return crash()


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Answer `Expect: 100-continue`, and refuse any other expectation with a problem."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
        return None
    return problem_of(web.HTTPExpectationFailed(), request)


def check_headers(request: web.Request) -> None:
    """Refuse requests that would use up an id, or count an amount, and are never read. Raises
    RequestRefused."""
    headers = request.headers
    for name in PREFETCH_HEADERS:
        for value in headers.getall(name, ()):
            if any(word in value.lower() for word in PREFETCH_WORDS):
                raise errors.PrefetchRefused()
    for value in headers.getall("Sec-Fetch-Site", ()):
        if value.lower() == "cross-site" and not _is_navigation(request):
            raise CrossSiteRefused()
    for name in CONDITIONAL_HEADERS:
        if name in headers:
            raise ConditionalRefused(header=name)
    if "Range" in headers:
        raise RangeRefused()


def _is_navigation(request: web.Request) -> bool:
    """Return True if a user sees the answer: a page's frames are loaded by navigations, too."""
    headers = request.headers
    dest = headers.get("Sec-Fetch-Dest", "document").lower()
    return headers.get("Sec-Fetch-Mode", "").lower() == "navigate" and dest == "document"
