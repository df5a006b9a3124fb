"""One client connection: aiohttp's, with malformed requests answered and logged in our way."""

import asyncio
import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from idservice import errors
from idservice.web.guard import problem, problem_of
from idservice.web.sampled import Sampled

log = logging.getLogger("idservice.web")
access_log = logging.getLogger("idservice.access")
_malformed = Sampled(log)
_failed = Sampled(log)

KEEPALIVE_S = 75.0  # above a load balancer's 60 s; also bounds the time for the headers
LINGERING_S = 2.0  # for the rest of a body nobody reads
_TOO_MANY_BODY = (
    b'{"type":"urn:idservice:problem:too_many_connections","title":"Service Unavailable",'
    b'"status":503,"detail":"Too many connections are open.","code":"too_many_connections",'
    b'"retryable":true,"outcome":"not_applied"}'
)
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: idservice\r\nCache-Control: no-store\r\n"
    b"Content-Type: application/problem+json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_TOO_MANY_BODY), _TOO_MANY_BODY)
)
WHY_MAX = 120  # characters of a parser's complaint that are shown


class Connection(RequestHandler):
    """Serves requests of one client through an aiohttp server, and is counted by `gate`."""

    __slots__ = ("_gate",)

    def __init__(self, gate: "Gate", *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._gate = gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._gate.open += 1
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._gate.open -= 1
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, or to a failure outside of every handler."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer was sent already")
        if isinstance(exc, HttpProcessingError):
            why = _first_line(exc.message)
            _malformed.warning(
                "malformed request from %s: %s",
                request.remote,
                why,
                extra={"action": "malformed_request"},
            )
            response = problem(errors.MalformedRequest(why=why))
        else:
            _failed.error("a request failed", exc_info=exc, extra={"action": "request_bug"})
            response = problem(errors.IdserviceError())
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """As aiohttp, but with its own refusals (which bypass every handler) in our form."""
        if isinstance(resp, web.HTTPException):
            resp = problem_of(resp, request)
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """What goes wrong on a connection, sampled."""
        _failed.error(*args, **kw, extra={"action": "connection_bug"})


class Gate:
    """How many connections are open, of how many that may be, over all listeners."""

    def __init__(self, most: int) -> None:
        self.open = 0
        self.most = most

    def protocol(self, server: web.Server) -> asyncio.Protocol:
        """What serves the next connection of a listener."""
        if self.open >= self.most:
            return Refused()
        return Connection(
            self,
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGERING_S,
            access_log=access_log if access_log.isEnabledFor(logging.INFO) else None,
        )


class Refused(asyncio.Protocol):
    """Stands in for a connection beyond the most that are served: told so and closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(TOO_MANY)
        transport.close()


def _first_line(message: str) -> str:
    line = message.partition("\n")[0].rstrip(": ")
    return line.encode("ascii", "backslashreplace").decode()[:WHY_MAX] or "bad request"
