"""A client connection that aiohttp serves, and the limit on the number of connections."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from idservice import errors
from idservice.observability.logs import RateLimitedLog
from idservice.web.above_limit import answer_above_limit
from idservice.web.problems import BODY_MAX, HeadersTooLong, UriTooLong, problem, problem_of
from idservice.web.request import IDLE_S

log = logging.getLogger("idservice.web")
access_log = logging.getLogger("idservice.access")
_malformed = RateLimitedLog(log)
_failed = RateLimitedLog(log)

WRITTEN_MAX = 65_536  # bytes that wait for a client to read, before no more are written
UNREAD_S = 75.0  # for a client to read something of its answer
LINGERING_S = 2.0  # for the rest of a body that is not read
POLL_S = 0.02  # between two looks for the end of the last connection
REFUSED_S = 1.0  # for a connection above the limit to send its request
REFUSED_MAX = 32  # connections above the limit that are given this time at once
CHUNKED_MAX = 2 * BODY_MAX  # bytes of a chunked body, with the sizes of its chunks
PIECE = CHUNKED_MAX // 2  # bytes that the parser gets at once of what may be many small chunks
END = b"\r\n\r\n"  # of a head
OFFERS_MAX = 16  # of another protocol, in one piece
BYTES = re.compile(r" (?:bytearray\()?b['\"]")  # as Python shows them
WHY_MAX = 120  # characters shown of a parser's complaint
PREFACE = "Pause on PRI"  # the parser's complaint about a client that begins with HTTP/2
HTTP_2 = "it is HTTP/2, and only HTTP/1.1 is spoken here"


class Connection(RequestHandler):
    """Serves requests of one client through an aiohttp server.

    `limit` counts it; None for a request on a connection that is counted already.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_ended",
        "_limit",
        "_rest_dropped",
        "_tls",
        "_unread",
        "_unread_timer",
        "_wire",
        "kept_alive",
    )

    def __init__(self, server: web.Server, limit: "ConnectionLimit | None" = None) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_S if limit is None else limit.idle_s,
            lingering_time=LINGERING_S,
            auto_decompress=False,  # nothing is read that may be compressed
            access_log=access_log if access_log.isEnabledFor(logging.INFO) else None,  # type: ignore[arg-type]
        )
        self._limit = limit
        self._ended = False  # the client sends no more
        self._body: StreamReader | None = None  # of the last request that is not answered
        self._chunked = 0  # bytes that came of an unfinished chunked body, at most
        self._rest_dropped = False  # True if what else the client sends is not read
        self._tls = False  # the connection is lost with the end of what the client sends
        self._wire: asyncio.Transport | None = None  # aiohttp lets go of it before it is closed
        self._unread = 0, 0  # bytes that are not sent yet, of how many requests
        self._unread_timer: asyncio.TimerHandle | None = None
        self.kept_alive = False  # True once a whole answer is written that allows more requests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._limit is not None:
            self._limit.opened(self, self.is_busy)
            self._wire = cast(asyncio.Transport, transport)  # by duck typing on uvloop
            self._tls = transport.get_extra_info("sslcontext") is not None
            if self._tls:  # its own limit is eight times that
                self._wire.set_write_buffer_limits(WRITTEN_MAX)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._limit is not None:
            self._limit.closed(self)
        self._wire = None
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def _expect_reading(self) -> None:
        """Give a client `UNREAD_S` to read something of an answer that is not sent yet."""
        unsent = 0 if self._wire is None else self._wire.get_write_buffer_size()
        if unsent and self._unread_timer is None:
            self._unread = unsent, self._request_count
            self._unread_timer = self._loop.call_later(UNREAD_S, self._expect_progress)

    def _expect_progress(self) -> None:
        self._unread_timer = None
        if self._wire is not None:
            if self._unread == (self._wire.get_write_buffer_size(), self._request_count):
                self._wire.abort()
            else:
                self._expect_reading()

    def abandon(self) -> None:
        """Give up an answer that the client does not read."""
        if self._wire is not None and self._wire.get_write_buffer_size() > 0:
            self._wire.abort()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection until all that the client has asked for is answered."""
        is_idle = self._waiter is not None and not self._messages
        if is_idle or not self._request_count:
            return False
        self._ended = True
        if self._body is not None:
            self._break_off(self._body)
        if not self._messages:
            self.close()
        return not self._tls

    def _break_off(self, body: StreamReader, why: BaseException | None = None) -> None:
        """Let nobody wait for the rest of a body that does not come."""
        if not body.is_eof():
            body.set_exception(why or web.RequestPayloadError("the body ends early"))
            body.feed_eof()

    def _chunked_body(self) -> StreamReader | None:
        """Return the chunked body that is being received, if one is."""
        if self._messages:
            message, body = self._messages[-1]
        elif self._current_request is not None:
            message, body = self._current_request._message, self._current_request.content
        else:
            return None
        is_chunked = not isinstance(message, _ErrInfo) and message.chunked
        return body if is_chunked and not body.is_eof() else None

    def _cut_off(self, body: StreamReader) -> None:
        """Refuse a chunked body that is too long: many small chunks take long to read."""
        self._break_off(body, web.HTTPRequestEntityTooLarge(BODY_MAX, CHUNKED_MAX))
        self._rest_dropped = True
        self.close()

    def only_request(self) -> tuple[RawRequestMessage, StreamReader] | None:
        """Return the head and the body of the request received just now. None if that is not
        exactly one, if it is malformed, and if what follows is another protocol."""
        if self._upgraded or self._request_count != 1 or len(self._messages) != 1:
            return None
        message, body = self._messages[0]
        return None if isinstance(message, _ErrInfo) else (message, body)

    def ends_with(self, body: StreamReader) -> bool:
        """Return True if the parser has read all of `body` and has begun no further request."""
        return body.is_eof() and self._request_count == 1 and not self._rest_dropped

    @property
    def is_forced(self) -> bool:
        """True if the connection must be closed whatever was answered."""
        return self._force_close

    def is_busy(self) -> bool:
        """Return True while a request is served or its answer is being sent."""
        if self._request_in_progress or self._messages:
            return True
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    def data_received(self, data: bytes) -> None:
        words = data.lower()
        if b"upgrade" in words:  # behind an offer that it ignores, aiohttp drops the same piece
            *heads, data = data.split(END, OFFERS_MAX)
            for head in heads:
                self._feed(head + END)
        if len(data) > PIECE and (self._chunked or b"chunked" in words):
            for at in range(0, len(data), PIECE):
                self._feed(data[at : at + PIECE])
        else:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        if self._rest_dropped:
            return
        try:
            super().data_received(data)
        except Exception:  # a target may make the parser raise what aiohttp does not expect
            super().data_received(b"\0")  # after that, the parser refuses whatever comes
        if self._messages:
            self._body = self._messages[-1][1]
        body = self._chunked_body()
        self._chunked = 0 if body is None else self._chunked + len(data)
        if body is not None and self._chunked > CHUNKED_MAX:
            self._cut_off(body)
        if not self._messages or not isinstance(self._messages[-1][0], _ErrInfo):
            return
        # A body may turn out to be malformed after its head was read. Aiohttp queues the complaint
        # behind that request, whose handler would wait for the rest of the body in vain.
        if len(self._messages) > 1:
            if not self._messages[-2][1].is_eof():
                del self._messages[-2]  # not begun yet: the complaint is the answer
        elif self._current_request is not None:
            self._break_off(self._current_request.content, self._messages[-1][0].exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a malformed request, or to a failure outside of every handler."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer was sent already")
        if isinstance(exc, HttpProcessingError):
            why = _first_line(exc.message)
            why = HTTP_2 if why.startswith(PREFACE) else why
            _malformed.warning(
                "malformed request from %s: %s",
                request.remote,
                why,
                extra={"action": "malformed_request"},
            )
            response = problem(_refusal(exc, why))
        elif isinstance(exc, UnicodeEncodeError) and "Expect" in request.headers:
            # On an unknown path aiohttp refuses it itself, and stumbles over its bytes.
            response = problem_of(web.HTTPExpectationFailed(), request)
        else:
            _failed.error("a request failed", exc_info=exc, extra={"action": "request_bug"})
            response = problem(errors.IdserviceError())
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response. A refusal by aiohttp itself bypasses handlers; make it a problem."""
        if isinstance(resp, web.HTTPException):
            resp = problem_of(resp, request)
        resp, broken = await super().finish_response(request, resp, start_time)
        self.kept_alive = bool(resp.keep_alive) and not broken
        self._expect_reading()
        if self._messages:
            await asyncio.sleep(0)  # a turn of the loop for all other clients
        else:
            self._body = None
            if self._ended:
                self.close()
        return resp, broken

    def log_exception(self, *args: Any, **kw: Any) -> None:
        _failed.error(*args, **kw, extra={"action": "connection_bug"})


class ConnectionLimit:
    """Counts the open connections of all listeners, of aiohttp and of the fast lane, up to `most`.

    `tell` is called with their number at each change. `idle_s` is the time after which an idle one
    is closed. `refused_most` further ones are given time to send a request, which is refused.
    """

    def __init__(
        self,
        most: int,
        tell: Callable[[int], object] = lambda count: None,
        *,
        idle_s: float = IDLE_S,
        refused_most: int = REFUSED_MAX,
    ) -> None:
        self.connections: dict[asyncio.Protocol, Callable[[], bool]] = {}  # and their `is_busy`
        self.handshakes = 0  # connections that will be open, or refused, once they speak TLS
        self.refused = 0  # connections that are being refused
        self.refused_most = refused_most
        self.most = most
        self.idle_s = idle_s
        self._tell = tell

    @property
    def room(self) -> int:
        """The number of further connections that are served; negative if some are refused."""
        return self.most - len(self.connections) - self.handshakes

    @property
    def full(self) -> bool:
        """True if no further connection is served."""
        return self.room <= 0

    @property
    def takes_no_handshake(self) -> bool:
        """True if there are as many as may be open, and be refused."""
        return self.room <= -self.refused_most

    @contextmanager
    def handshake(self) -> Iterator[None]:
        """Count a connection that is not open yet, while entered."""
        self.handshakes += 1
        self._changed()
        try:
            yield
        finally:
            self.handshakes -= 1
            self._changed()

    def opened(self, connection: asyncio.Protocol, is_busy: Callable[[], bool]) -> None:
        self.connections[connection] = is_busy
        self._changed()

    def closed(self, connection: asyncio.Protocol) -> None:
        self.connections.pop(connection, None)
        self._changed()

    def _changed(self) -> None:
        self._tell(len(self.connections) + self.handshakes)

    def protocol(self, server: web.Server) -> asyncio.Protocol:
        """Return the protocol for the next connection of a listener."""
        return RefusedConnection(self) if self.full else Connection(server, self)

    async def emptied(self, *, last_call: float, most: float) -> None:
        """Wait until all connections are closed: at most `last_call` seconds for silent ones, and
        `most` seconds for busy ones."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self.connections and loop.time() < began + most:
            is_one_busy = any(is_busy() for is_busy in self.connections.values())
            if loop.time() > began + last_call and not is_one_busy:
                return
            await asyncio.sleep(POLL_S)
        for connection in tuple(self.connections):
            if isinstance(connection, Connection):
                connection.abandon()  # aiohttp would wait for its handler


class RefusedConnection(asyncio.Protocol):
    """A connection above the limit: it is refused and closed.

    `/livez` is answered all the same: too many connections are not a reason for a restart.
    """

    def __init__(self, limit: ConnectionLimit) -> None:
        self._limit = limit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # by duck typing on uvloop
        # Wait for the request: closing with a request unread resets the connection.
        patience_s = REFUSED_S if self._limit.refused < self._limit.refused_most else 0.0
        self._timer = asyncio.get_running_loop().call_later(patience_s, self.data_received, b"")
        self._limit.refused += 1

    def data_received(self, data: bytes) -> None:
        self._transport.write(answer_above_limit(data))
        self._transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limit.refused -= 1
        self._timer.cancel()


def _refusal(complaint: HttpProcessingError, why: str) -> errors.MalformedRequest:
    """Return the error of a parser's complaint."""
    if isinstance(complaint, LineTooLong):
        line = complaint.args[0]  # it begins like the target, or like the header
        return UriTooLong() if line[:1] in (b"/", "/") else HeadersTooLong()
    return (
        HeadersTooLong() if why.startswith("Too many headers") else errors.MalformedRequest(why=why)
    )


def _first_line(message: str) -> str:
    line = BYTES.split(message.partition("\n")[0], 1)[0].rstrip(": .\r")
    return line.encode("unicode_escape").decode()[:WHY_MAX] or "bad request"  # no control bytes
