"""A fast connection that speaks TLS: the loop's transport encrypts what it writes.

The transport cannot half-close. So a client that ends its side counts as gone, and its request that
waits is cancelled, as if it had closed the connection.
"""

import asyncio
from typing import cast

from idservice.web.connection import WRITTEN_MAX
from idservice.web.fast_lane.connection import FastConnection


class TlsConnection(FastConnection):
    """One connection of a client that speaks TLS."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).set_write_buffer_limits(WRITTEN_MAX)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        # The transport of asyncio also passes on what comes after a close.
        if self._transport is not None and not self._transport.is_closing():
            super().data_received(data)

    def eof_received(self) -> bool:
        super().eof_received()
        return False

    def _write(self, answer: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._silent = 0
        transport.write(self._responder.last(answer) if self._closes else answer)
        if self._responder.draining or self._closes:
            transport.close()
