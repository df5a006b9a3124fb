"""The fast lane: a connection that answers requests for ids itself, and has aiohttp answer others.

A connection stays here all its life. A request for ids, `/livez` or `/readyz` without a body and
without anything unusual is answered for little more than the price of the system calls. Any other
request is handed to aiohttp, alone (see `handover`); then the connection goes on here. What is
malformed is not judged here either, so that there is one set of answers.

    state     entered by                           left by
    reading   the connection, or an answer         a request that cannot be answered at once
    waiting   no ids in memory, a counter that     the ids, the answer or the refusal
              is not loaded, `/readyz`
    handover  a request for aiohttp                the end of its answer
    paused    a client that does not read          the client reads

A request without a body ends with the blank line behind its headers, so where each ends is known.
What a client repeats is recognised by its bytes and not parsed again (see `template`). What arrives
while a request waits is kept, and is answered in order.

An answer is written to the socket at once, without a turn through the loop's transport; that gets
only what the socket does not take.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from functools import partial
from typing import cast

from aiohttp import web

from idservice import errors
from idservice.allocation.wait_queue import Served
from idservice.web.connection import KEEPALIVE_S, Connection, ConnectionLimit, access_log
from idservice.web.fast_lane.handover import Handover
from idservice.web.fast_lane.parser import END, HEAD_MAX, RequestParser, may_go_on
from idservice.web.fast_lane.responses import Responder, Target
from idservice.web.fast_lane.template import RequestTemplate, form_of

BUFFER_MAX = 65_536  # bytes kept while a request waits for ids or a client does not read
SWEEP_S = 5.0
SILENT_MAX = round(KEEPALIVE_S / SWEEP_S)  # sweeps without an answer
FORMS_MAX = 16  # forms tried on a connection without one that fits a later request


class FastConnections:
    """The fast connections of one listener; `server` returns its aiohttp server."""

    def __init__(
        self, responder: Responder, limit: ConnectionLimit, server: Callable[[], web.Server]
    ) -> None:
        self.responder = responder
        self.limit = limit
        self.parser = RequestParser()
        self.server = server
        self.is_closed = False
        self._open: set[FastConnection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def protocol(self) -> asyncio.Protocol:
        """Return the protocol of the next connection: aiohttp's if requests are to be logged."""
        if self.limit.full or access_log.isEnabledFor(logging.INFO):
            return self.limit.protocol(self.server())
        return FastConnection(self)

    def opened(self, lane: "FastConnection") -> None:
        """A connection began."""
        self.limit.opened(lane, lane.is_busy)
        self._open.add(lane)
        if self._timer is None:
            self._sweep_later()

    def closed(self, lane: "FastConnection") -> None:
        """A connection ended."""
        self.limit.closed(lane)
        self._open.discard(lane)

    def close(self) -> None:
        """Close every connection; one that aiohttp answers on, as soon as it is done."""
        self.is_closed = True
        for lane in tuple(self._open):
            if not lane.is_handed_over:
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
    """One connection of a client."""

    __slots__ = (
        "_buffer", "_descriptor", "_form", "_forms_left", "_handover", "_head", "_known", "_lanes",
        "_parser", "_paused", "_queued", "_responder", "_silent", "_stopped", "_target",
        "_transport", "_waiting",
    )  # fmt: skip

    def __init__(self, lanes: FastConnections) -> None:
        self._lanes = lanes
        self._responder = lanes.responder
        self._parser = lanes.parser
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1
        # The last request, what it asked for, and what the next may differ in. None where nothing
        # is known, and wherever the next bytes are not the beginning of a request to be answered.
        self._head: bytes | None = None
        self._form: RequestTemplate | None = None
        self._target: Target
        self._known: tuple[bytes | None, RequestTemplate | None] = None, None  # while stopped
        self._forms_left = FORMS_MAX
        self._queued = False  # whether the transport got something that may not be sent yet
        self._buffer = b""  # an unfinished request, or what came while one waits
        self._waiting: Callable[[], object] | None = None  # gives up what a request waits for
        self._handover: Handover | None = None  # the request that aiohttp answers
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
        """The end; a request that waits gives up."""
        self._transport = None
        self._lanes.closed(self)
        if self._waiting is not None:
            self._waiting()
        if self._handover is not None:
            self._handover.lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: take no id for it."""
        self._paused = True
        self._stop()
        if self._handover is not None:
            self._handover.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused = False
        if self._handover is not None:
            self._handover.resume_writing()
        else:
            self._go_on()

    @property
    def is_handed_over(self) -> bool:
        """True while aiohttp answers a request."""
        return self._handover is not None

    def is_busy(self) -> bool:
        """Return True while a request waits or is served, or an answer is still being sent."""
        if self._waiting is not None:
            return True
        if self._handover is not None:
            return self._handover.is_busy()
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def grow_older(self) -> None:
        """Close a connection on which no request was answered for long: none came, one never
        ends, or its answer is not read. While aiohttp answers, its own timers count."""
        self._silent += 1
        if self._silent > SILENT_MAX and self._waiting is None and self._handover is None:
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
                    responder = self._responder
                    self._write(
                        (responder.plain_heads.get(len(body)) or responder.plain_head(body)) + body
                    )
                    return
            self._answer(target)
        else:
            self._receive(data)

    def _fits(self, data: bytes) -> bool:
        fits = self._form is not None and self._form.fits(data)
        self._forms_left = FORMS_MAX if fits else self._forms_left
        return fits

    def _receive(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if self._handover is not None:
            data = self._handover.feed(data)
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
        if transport is None or self._paused or self._waiting or self._handover:
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
            if size < 4:
                if may_go_on(data):
                    self._buffer = data
                    self._forget()
                    return
                head, rest = data, b""
            accept = self._parser.plain(head) if 4 <= size <= HEAD_MAX else None
            found = None
            if accept is not None:
                found = self._responder.find(head[: head.find(b"\r")], accept)
            if isinstance(found, Target):
                self._remember(head, found)
                self._answer(found)
            elif isinstance(found, bytes):
                self._write(found)
            elif found is not None:
                self._wait_for(found)
            else:
                rest = self._hand_over(head, rest)
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

    def _hand_over(self, head: bytes, rest: bytes) -> bytes:
        """Have aiohttp answer a request; return the bytes after it."""
        transport = self._transport
        assert transport is not None
        assert not self._stopped
        self._stop()
        handler = Connection(self._lanes.server())
        self._handover = Handover(handler, transport, self._handed_back)
        self._handover.begin(head)
        return self._handover.feed(rest)

    def _handed_back(self, go_on: bool) -> None:
        """Aiohttp answered; `go_on` where the connection may serve further requests."""
        self._handover = None
        self._silent = 0
        self._queued = True
        if self._transport is None:
            return
        if go_on and not self._lanes.is_closed:
            self._go_on()
        else:
            self._transport.close()

    # --- answers ---------------------------------------------------------------------------------

    def _answer(self, target: Target) -> None:
        """Write the answer, or let it wait for ids."""
        try:
            answer = self._at_once(target)
            if answer is None:
                self._stop()
                waiter = target.supply.enqueue(target.count, self._served)
                self._waiting = partial(target.supply.cancel, waiter)
                return
        except errors.IdserviceError as error:
            answer = self._refused(target, error)
        except Exception:
            answer = self._responder.crash()
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
                answer = self._responder.single(target, served[0].start)
            else:
                answer = self._responder.batch(target, served)
        except Exception:
            answer = self._responder.crash()
        self._write(answer)
        self._go_on()

    def _wait_for(self, work: Coroutine[object, object, bytes]) -> None:
        """Answer with what `work` returns."""
        self._stop()
        task = asyncio.get_running_loop().create_task(work)
        self._waiting = task.cancel
        task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[bytes]) -> None:
        self._waiting = None
        if self._transport is not None and not task.cancelled():
            self._write(task.result())
            self._go_on()

    def _at_once(self, target: Target) -> bytes | None:
        """The answer, where there are ids in memory."""
        supply = target.supply
        if not target.single:
            blocks = supply.take_many(target.count)
            return None if blocks is None else self._responder.batch(target, blocks)
        id = supply.take()
        return None if id is None else self._responder.single(target, id)

    def _refused(self, target: Target, error: errors.IdserviceError) -> bytes:
        if isinstance(error, errors.UnknownCounter):  # it is gone, and may come again as another
            self._known = (None, None)
            self._forget()
            self._responder.forget()
        return self._responder.refused(target, error)

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
        if self._responder.draining:
            transport.close()
