"""One request of a fast-lane connection, answered by aiohttp.

Aiohttp gets a new connection with a `Handover` as its transport. It is fed the bytes of one
request, writes its answer to the real transport, and is told to close afterwards. That close ends
the handover, and the connection is back in the fast lane.

Where a request ends is for aiohttp's own parser to say, so that the two cannot differ:

    head     fed alone; a request without a body ends with it
    length   no more than Content-Length bytes are fed
    chunked  fed line by line, since the last chunk ends with a line
    whole    the parser has read the body to its end: later bytes stay in the fast lane
    kept     anything else, such as a malformed request, an upgrade or a long body: aiohttp keeps
             the connection and gets every later byte
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import StreamReader

from idservice.web.connection import CHUNKED_MAX, Connection
from idservice.web.problems import BODY_MAX


class Handover(asyncio.Transport):
    """The transport that aiohttp's `handler` writes to. `over` is called once, at the end, with
    True if the connection may serve further requests."""

    __slots__ = ("_body", "_chunked", "_ended", "_left", "_over", "_to", "handler")

    def __init__(
        self, handler: Connection, to: asyncio.Transport, over: Callable[[bool], None]
    ) -> None:
        super().__init__()
        self.handler = handler
        self._to = to
        self._over = over
        self._body: StreamReader | None = None  # None if aiohttp keeps the connection
        self._chunked = False
        self._left = 0  # bytes of the body that may still be fed
        self._ended = False
        handler.connection_made(self)

    def begin(self, head: bytes) -> None:
        """Feed the head of a request, to its blank line."""
        self.handler.data_received(head)
        request = self.handler.only_request()
        if request is None:
            return
        message, self._body = request
        self._chunked = message.chunked
        length = int(message.headers.get("Content-Length", 0))
        self._left = CHUNKED_MAX if self._chunked else length
        if self._body.is_eof():
            self._finish()
        elif not self._chunked and not 0 < length <= BODY_MAX:
            self._body = None

    def feed(self, data: bytes) -> bytes:
        """Feed what belongs to the request; return the bytes after it."""
        at = 0  # the lines of a chunked body are short: do not copy what follows for each
        while at < len(data) and self._body is not None:
            if self._body.is_eof():
                return data[at:]
            end = min(len(data), at + self._left)
            if self._chunked:
                end = data.find(b"\n", at, end) + 1 or end
            self._left -= end - at
            self.handler.data_received(data[at:end])
            at = end
            if self._body.is_eof():
                self._finish()
            elif not self._left:
                self._body = None
        if at < len(data):
            self.handler.data_received(data[at:])
        return b""

    def _finish(self) -> None:
        """The request is whole: let aiohttp end the connection once it has answered."""
        assert self._body is not None
        if self.handler.ends_with(self._body):
            self.handler.close()
        else:
            self._body = None

    def lost(self, exc: BaseException | None) -> None:
        """Tell aiohttp that the client is gone."""
        self._ended = True
        self.handler.connection_lost(exc)

    def ended(self) -> bool:
        """The client sends no more: return True to keep the connection for the answer."""
        return self._is_whole or self.handler.eof_received()

    @property
    def _is_whole(self) -> bool:
        return self._body is not None and self._body.is_eof()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the real transport, but without its socket, whose options are set already."""
        return default if name == "socket" else self._to.get_extra_info(name, default)

    def write(self, data: Any) -> None:
        self._to.write(data)

    def get_write_buffer_size(self) -> int:
        return self._to.get_write_buffer_size()

    def is_closing(self) -> bool:
        return self._ended or self._to.is_closing()

    def pause_reading(self) -> None:
        if not self._is_whole:
            self._to.pause_reading()

    def resume_reading(self) -> None:
        if not self._is_whole:  # later requests are kept in the fast lane, within bounds
            self._to.resume_reading()

    def close(self) -> None:
        """End the handover in the next turn of the loop: aiohttp may do more in this one."""
        if not self._ended:
            self._ended = True
            asyncio.get_running_loop().call_soon(self._end)

    abort = close

    def _end(self) -> None:
        handler = self.handler
        comes_back = self._is_whole and handler.kept_alive and not handler.is_forced
        handler.connection_lost(None)
        self._over(comes_back)
