"""The fast lane: answers plain requests for ids itself, and hands every other one to aiohttp.

A connection begins here. As long as each request on it is one for ids of a counter in use, without
a body and without anything unusual, it is answered for little more than the price of the system
calls. The first other request takes the connection along: aiohttp gets exactly the bytes from that
request on, and keeps the connection. What is malformed is not judged here: it goes to aiohttp too,
so that there is one set of answers.

A request without a body ends with the blank line behind its headers, so where each ends is known.
What a client repeats is recognised by its bytes and not parsed again (see `form`).

An answer is written to the socket at once, without a turn through the loop's transport; that gets
only what the socket does not take.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import cast

from idservice import errors
from idservice.allocation.wait_queue import Served, Waiter
from idservice.observability.sampled_log import RateLimitedLog
from idservice.web.connection import KEEPALIVE_S, ConnectionLimit, Refused, access_log
from idservice.web.fast_lane.parser import END, HEAD_MAX, RequestParser, may_go_on
from idservice.web.fast_lane.responses import Responder, Target
from idservice.web.fast_lane.template import RequestTemplate, form_of

log = logging.getLogger("idservice.web")

BUFFER_MAX = 65_536  # bytes kept while a request waits for ids or a client does not read
SWEEP_S = 5.0
SILENT_MAX = round(KEEPALIVE_S / SWEEP_S)  # sweeps without an answer
FORMS_MAX = 16  # forms tried on a connection without one that fits a later request
_failed = RateLimitedLog(log)


class FastConnections:
    """The lanes of one listener; `hand_over` makes the protocol that takes a connection on."""

    def __init__(
        self, desk: Responder, gate: ConnectionLimit, hand_over: Callable[[], asyncio.Protocol]
    ) -> None:
        self.desk = desk
        self.gate = gate
        self.heads = RequestParser()
        self.hand_over = hand_over
        self._open: set[FastConnection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def protocol(self) -> asyncio.Protocol:
        """What serves the next connection: no lane where requests are to be logged."""
        if self.gate.full:
            return Refused(self.gate)
        return self.hand_over() if access_log.isEnabledFor(logging.INFO) else FastConnection(self)

    def opened(self, lane: "FastConnection") -> None:
        """A connection began."""
        self.gate.opened(lane, lane.is_busy)
        self._open.add(lane)
        if self._timer is None:
            self._sweep_later()

    def closed(self, lane: "FastConnection") -> None:
        """A connection ended, or was handed over."""
        self.gate.closed(lane)
        self._open.discard(lane)

    def close(self) -> None:
        """Close every connection."""
        for lane in tuple(self._open):
            lane.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """One timer for all, and none while nobody is connected."""
        self._timer = None
        for lane in tuple(self._open):
            lane.grow_older()
        if self._open:
            self._sweep_later()


class FastConnection(asyncio.Protocol):
    """One connection, until it is handed over."""

    __slots__ = (
        "_buffer", "_descriptor", "_desk", "_form", "_forms_left", "_head", "_heads", "_known",
        "_lanes", "_paused", "_queued", "_silent", "_stopped", "_target", "_transport", "_waiting",
    )  # fmt: skip

    def __init__(self, lanes: FastConnections) -> None:
        self._lanes = lanes
        self._desk = lanes.desk
        self._heads = lanes.heads
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1
        # The last request, what it asked for, and what the next may differ in. None where nothing
        # is known, and wherever the next bytes are not the beginning of a request to be answered.
        self._head: bytes | None = None
        self._form: RequestTemplate | None = None
        self._target: Target
        self._known: tuple[bytes | None, RequestTemplate | None] = (
            None,
            None,
        )  # the same, while stopped
        self._forms_left = FORMS_MAX
        self._queued = False  # whether the transport got something that may not be sent yet
        self._buffer = b""  # an unfinished request, or what came while one waits
        self._waiting: Waiter | None = None  # for ids; what came after it stays behind
        self._paused = False  # the client does not read
        self._stopped = False  # no request may be looked at: one waits, or the client does not read
        self._silent = 0  # sweeps since the last answer

    # --- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._lanes.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The end; ids that a request waits for go to nobody, and are counted as such."""
        self._transport = None
        self._lanes.closed(self)
        if self._waiting is not None:
            self._target.supply.cancel(self._waiting)

    def pause_writing(self) -> None:
        """The client does not read: take no id for it."""
        self._paused = True
        self._stop()

    def resume_writing(self) -> None:
        """It reads again."""
        self._paused = False
        self._go_on()

    def is_busy(self) -> bool:
        """Whether a request waits for ids, or an answer is still being sent."""
        if self._waiting is not None:
            return True
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def grow_older(self) -> None:
        """Close a connection on which no request was answered for long, be it that none came, that
        one never ends, or that its answer is not read."""
        self._silent += 1
        if self._silent > SILENT_MAX and self._waiting is None:
            self.close()

    def close(self) -> None:
        """Close at once, or as soon as what is being sent is sent; who does not read is cut off."""
        if self._transport is not None:
            if self._paused:
                self._transport.abort()
            else:
                self._transport.close()

    def data_received(self, data: bytes) -> None:
        """More bytes; nearly always one whole request like the one before, for one id as text: that
        goes without a further call, but for those that cannot be left out."""
        if data == self._head or (self._form is not None and self._fits(data)):
            target = self._target
            if target.plain:
                for id in target.epoch_state.buffer.cursor:  # the cheapest `next` there is
                    body = b"%d" % id
                    desk = self._desk
                    self._write((desk.plain_heads.get(len(body)) or desk.plain_head(body)) + body)
                    return
            self._answer(target)
        else:
            self._receive(data)

    def _fits(self, data: bytes) -> bool:
        assert self._form is not None
        if self._form.fits(data):
            self._forms_left = FORMS_MAX
            return True
        return False

    def _receive(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if self._stopped:
            self._keep(data)
        else:
            self._work(data)

    def _stop(self) -> None:
        """Look at no further request for now."""
        if not self._stopped:
            self._stopped = True
            self._known = (self._head, self._form)
            self._forget()

    def _keep(self, data: bytes) -> None:
        self._buffer = data
        if len(data) > BUFFER_MAX and self._transport is not None:
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Look at what came while a request waited, or the client did not read."""
        transport = self._transport
        if transport is None or self._waiting is not None or self._paused:
            return
        if transport.is_closing():
            return
        self._stopped = False
        if not self._buffer:
            self._head, self._form = self._known
            return
        transport.resume_reading()
        data, self._buffer = self._buffer, b""
        self._work(data)

    # --- requests --------------------------------------------------------------------------------

    def _work(self, data: bytes) -> None:
        """Answer the requests in `data`, one after the other."""
        while True:
            size = data.find(END) + 4
            if size == len(data):
                head, rest = data, b""
            else:
                head, rest = data[:size], data[size:]
            if size < 4 and may_go_on(data):
                self._buffer = data
                self._forget()
                return
            accept = self._heads.plain(head) if 4 <= size <= HEAD_MAX else None
            if accept is not None:
                target = self._desk.target(head[: head.find(b"\r")], accept)
            else:
                target = None
            if target is None:
                self._hand_over(data)
                return
            self._remember(head, target)
            self._answer(target)
            if self._stopped:
                self._keep(rest)
                return
            if not rest or self._transport is None or self._transport.is_closing():
                return
            data = rest

    def _remember(self, head: bytes, target: Target) -> None:
        """Know the same request again, and one that differs from it as it does from the last."""
        form = None  # not that of an earlier request: it asked for something else
        if self._head is not None and self._forms_left:
            self._forms_left -= 1
            form = form_of(self._head, head)
        self._head, self._form, self._target = head, form, target

    def _forget(self) -> None:
        self._head = self._form = None

    def _hand_over(self, data: bytes) -> None:
        """Give the connection to aiohttp, with the bytes from the first unanswered request on."""
        transport = self._transport
        assert transport is not None
        assert not self._stopped
        self._transport = None
        self._lanes.closed(self)
        protocol = self._lanes.hand_over()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    # --- answers ---------------------------------------------------------------------------------

    def _answer(self, target: Target) -> None:
        """Write the answer, or let it wait for ids."""
        try:
            answer = self._at_once(target)
            if answer is None:
                self._stop()
                self._waiting = target.supply.enqueue(target.count, self._served)
                return
        except errors.IdserviceError as error:
            answer = self._refused(target, error)
        except Exception:
            answer = self._crash()
        self._write(answer)
        if self._stopped:
            self._go_on()

    def _served(self, served: Served) -> None:
        """Answer the request that waited."""
        target = self._target
        self._waiting = None
        if self._transport is None:
            return
        try:
            if isinstance(served, errors.IdserviceError):
                answer = self._refused(target, served)
            elif target.single:
                answer = self._desk.single(target, served[0].start)
            else:
                answer = self._desk.batch(target, served)
        except Exception:
            answer = self._crash()
        self._write(answer)
        self._go_on()

    def _at_once(self, target: Target) -> bytes | None:
        """The answer, where there are ids in memory."""
        supply = target.supply
        if not target.single:
            blocks = supply.take_many(target.count)
            return None if blocks is None else self._desk.batch(target, blocks)
        id = supply.take()
        return None if id is None else self._desk.single(target, id)

    def _refused(self, target: Target, error: errors.IdserviceError) -> bytes:
        if isinstance(error, errors.UnknownCounter):  # it is gone, and may come again as another
            self._known = (None, None)
            self._forget()
            self._desk.forget()
        return self._desk.refused(target, error)

    def _crash(self) -> bytes:
        _failed.error("a request failed", exc_info=True, extra={"action": "request_bug"})
        return self._desk.refusal(errors.IdserviceError())

    def _write(self, answer: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._silent = 0
        sent = 0
        if not (self._queued and transport.get_write_buffer_size()):
            try:  # noqa: SIM105  suppress() costs as much as the rest of this
                sent = os.write(self._descriptor, answer)
            except OSError:
                pass  # it takes nothing now; what is wrong with it, the transport finds out
        self._queued = sent < len(answer)
        if self._queued:
            transport.write(answer[sent:])
        if self._desk.draining:
            transport.close()
