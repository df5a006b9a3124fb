"""The fast lane: a connection that answers requests for ids itself, and has aiohttp answer others.

A connection stays in the fast lane all its life. A request for ids, `/livez` or `/readyz` without a
body and without anything unusual costs little more than the system calls. Any other request is
answered by aiohttp (see `handover`), and then the connection goes on here. Aiohttp also judges
malformed requests, so that there is one set of answers.

    state     entered by                           left by
    reading   the connection, or an answer         a request that cannot be answered at once
    waiting   no ids in memory, a counter that     the ids, the answer or the refusal
              is not loaded, `/readyz`; many         a later turn of the loop (see `web.turns`)
              requests at once, a long answer
    handover  a request for aiohttp                the end of its answer
    paused    a client that does not read          the client reads

A request without a body ends with the blank line behind its headers, so where each ends is known.
A repeated request is recognised by its bytes and not parsed again (see `template`). Bytes that
arrive while a request waits are kept, and answered in order.

An answer is written to the socket directly. The loop's transport gets only the bytes that the
socket does not take.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import partial
from typing import cast

from idservice import errors
from idservice.allocation.wait_queue import Served
from idservice.web.connection import Connection
from idservice.web.fast_lane.connections import FastConnections
from idservice.web.fast_lane.handover import Handover
from idservice.web.fast_lane.parser import END, may_go_on
from idservice.web.fast_lane.question import Question
from idservice.web.fast_lane.responses import Found
from idservice.web.fast_lane.target import Target
from idservice.web.fast_lane.template import RequestTemplate, template_of

BUFFER_MAX = 65_536  # bytes kept while a request waits or a client does not read
HEAD_COST = 512  # bytes of a head that take as long to read as an answer with one id takes
TEMPLATES_MAX = 16  # templates made in a row on a connection, if none fits a later request
Known = tuple[bytes | None, RequestTemplate | None, Question | None]


class FastConnection(asyncio.Protocol):
    """One connection of a client; `data` was read from it before it had a transport."""

    __slots__ = (
        "_buffer", "_closes", "_connections", "_descriptor", "_ended", "_head", "_known",
        "_paused", "_question", "_queued", "_responder", "_silent", "_stopped", "_target",
        "_template", "_templates_left", "_transport", "_turns", "_waiting", "handover",
    )  # fmt: skip

    def __init__(self, connections: FastConnections, data: bytes = b"") -> None:
        self._connections = connections
        self._responder, self._turns = connections.responder, connections.turns
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1
        # The last request with a target, the template of requests like it, and their target; and
        # the last request that was looked up. None if there is none, or if the next bytes do not
        # begin a request that can be answered now.
        self._head: bytes | None = None
        self._template: RequestTemplate | None = None
        self._target: Target
        self._question: Question | None = None
        self._known: Known = None, None, None  # while stopped
        self._templates_left = TEMPLATES_MAX
        self._queued = False  # True if the transport may hold bytes that are not sent yet
        self._buffer = data  # an unfinished request, or bytes behind one that waits
        self._waiting: Callable[[], object] | None = None  # cancels what a request waits for
        self.handover: Handover | None = None  # the request that aiohttp answers
        self._paused = False  # the client does not read
        self._stopped = False  # a request waits, or the client does not read
        self._ended = False  # the client sends no more
        self._closes = False  # the client wants no further answer
        self._silent = 0  # sweeps since the last answer

    # --- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # by duck typing on uvloop
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._connections.limit.opened(self, self.is_busy)
        self._connections.opened(self)
        if self._buffer:
            self._go_on()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End. A request that waits gives up."""
        self._transport = None
        self._connections.limit.closed(self)
        self._connections.closed(self)
        if self._waiting is not None:
            self._waiting()
        if self.handover is not None:
            self.handover.lost(exc)

    def eof_received(self) -> bool:
        """Keep the connection until all that the client has asked for is answered."""
        self._ended = True
        return self._stopped if self.handover is None else self.handover.ended()

    def pause_writing(self) -> None:
        """Take no ids for a client that does not read."""
        self._paused = True
        self._silent = 0
        self._stop()
        if self.handover is not None:
            self.handover.handler.pause_writing()

    def resume_writing(self) -> None:
        """Go on, as the client reads again."""
        self._paused = False
        if self.handover is not None:
            self.handover.handler.resume_writing()
        else:
            self._go_on()

    @property
    def is_handed_over(self) -> bool:
        """True while aiohttp answers a request."""
        return self.handover is not None

    def is_busy(self) -> bool:
        """Return True while a request waits or is served, or an answer is still being sent."""
        if self._waiting is not None:
            return True
        if self.handover is not None:
            return self.handover.handler.is_busy()
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def grow_older(self) -> None:
        """Close a connection that is idle for too long, or on which an answer is not read."""
        self._silent += 1
        is_served = self._waiting is not None or self.handover is not None
        if self._connections.ends(self._silent, unread=self._paused, served=is_served):
            if self._transport is not None and self._transport.is_closing():
                self._transport.abort()  # the last answer is not read
            self.close()

    def close(self) -> None:
        """Close once all answers are sent; at once if the client does not read."""
        if self._transport is not None:
            if self._paused:
                self._transport.abort()
            else:
                self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes. Nearly always they are one whole request for one id as text, like the last
        one. It is answered with as few calls as possible."""
        if data == self._head or (self._template is not None and self._fits(data)):
            target = self._target
            if target.single:
                for id in target.epoch_state.buffer.cursor:  # the cheapest `next` there is
                    if target.plain:
                        body, heads = b"%d" % id, self._responder.plain_heads
                        head = heads.get(len(body)) or self._responder.plain_head(body)
                        self._write(head + body)
                    else:
                        self._write(self._responder.single(target, id))
                    return
            if target.refusal is None:
                self._answer(target)
                return
            self._forget()  # its key is judged again
        if self._head is not None or not self._shows_other_key(data):
            self._receive(data)

    def _fits(self, data: bytes) -> bool:
        if fits := self._template is not None and self._template.fits(data):
            self._templates_left = TEMPLATES_MAX
        return fits

    def _shows_other_key(self, data: bytes) -> bool:
        """As `_begin` if the last request had no target and only the key differs; else False."""
        question = self._question
        if question is None or (key := question.other_key(data)) is None:
            return False
        found = self._responder.find(question.line, question.accept, key, self._transport)
        if isinstance(found, Target):
            self._head, self._template, self._target = data, None, found
        return self._act_on(found)

    def _receive(self, data: bytes) -> None:
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        if self.handover is not None:
            data = self.handover.feed(data)
        if self._stopped:
            self._keep(data)
        else:
            self._work(data)

    def _stop(self) -> None:
        """Begin no further request."""
        if not self._stopped:
            self._stopped = True
            self._known = self._head, self._template, self._question
            self._forget()

    def _keep(self, data: bytes) -> None:
        self._buffer = data
        if len(data) > BUFFER_MAX and self._transport is not None:
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Handle the bytes that came while a request waited or the client did not read."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._paused or self._waiting or self.handover:
            return
        self._stopped = False
        if self._buffer:
            data, self._buffer = self._buffer, b""
            try:
                self._work(data)
            except Exception:  # a bug; the caller answers other clients too, and must go on
                self._responder.crash()
                transport.abort()
                return
        else:
            self._head, self._template, self._question = self._known
        if len(self._buffer) <= BUFFER_MAX:
            transport.resume_reading()
        if self._ended and not self._stopped:
            transport.close()

    def _wait_for_turn(self, then: Callable[[], object]) -> None:
        """Call `then` in a later turn of the loop."""
        self._stop()

        def begin() -> None:
            self._waiting = None
            then()

        self._waiting = self._turns.join(begin)

    # --- requests --------------------------------------------------------------------------------

    def _work(self, data: bytes) -> None:
        """Answer the requests in `data` in order. Those that this turn of the loop has no time for
        wait for a later one."""
        at = 0
        while True:
            end = data.find(END, at) + 4
            head = data[at:end] if end >= 4 else data[at:]
            if end < 4:
                if may_go_on(head):
                    self._buffer = head
                    self._forget()
                    return
                end = len(data)
            if head == self._head and self._target.refusal is None:
                self._answer(self._target)
            elif not self._begin(head):
                data, end = self._hand_over(head, data[end:]), 0
            if self._stopped:
                self._keep(data[end:])
                return
            if end == len(data) or self._transport is None or self._transport.is_closing():
                return
            self._turns.spend(1 + (end - at) // HEAD_COST)
            if self._turns.is_over:
                self._keep(data[end:])
                self._wait_for_turn(self._go_on)
                return
            at = end

    def _begin(self, head: bytes) -> bool:
        """Answer a request, or begin to; return False if aiohttp has to."""
        found, self._question = self._connections.understand(head, self._transport)
        self._closes = self._question is not None and self._question.closes
        if isinstance(found, Target):
            self._remember(head, found)
        return self._act_on(found)

    def _act_on(self, found: Found) -> bool:
        if isinstance(found, bytes):
            self._write(found)
        elif isinstance(found, Target):
            self._answer(found)
        elif found is not None:
            self._wait_for(found)
        return found is not None

    def _remember(self, head: bytes, target: Target) -> None:
        """Remember a request and its target, with a template of it and the last request."""
        template = None  # never that of an earlier request, which asked for something else
        if self._head is not None and self._templates_left:
            self._templates_left -= 1
            template = template_of(self._head, head, tokens=self._responder.tokens)
        self._head, self._template, self._target = head, template, target
        if self._closes:  # nothing is read after it
            self._forget()

    def _forget(self) -> None:
        self._head = self._template = self._question = None

    def _hand_over(self, head: bytes, rest: bytes) -> bytes:
        """Have aiohttp answer a request; return the bytes after it."""
        assert self._transport is not None
        self._stop()
        handler = Connection(self._connections.server())
        self.handover = Handover(handler, self._transport, self._handed_back)
        self.handover.begin(head)
        return self.handover.feed(rest)

    def _handed_back(self, go_on: bool) -> None:
        """Take the connection back; `go_on` if it may serve further requests."""
        self.handover, self._silent, self._queued = None, 0, True
        if go_on and not self._connections.is_closed:
            self._go_on()
        elif self._transport is not None:
            self._transport.close()

    # --- answers ---------------------------------------------------------------------------------

    def _answer(self, target: Target) -> None:
        """Write the answer, or let the request wait for ids. A long answer waits for its turn."""
        if target.cost > 1 and self._turns.is_over:
            self._wait_for_turn(partial(self._answer, target))
            return
        try:
            answer = self._responder.at_once(target, self._turns)
            if answer is None:
                self._stop()
                waiter = target.counter.enqueue(target.count, self._served)
                self._waiting = partial(target.counter.cancel, waiter)
                return
        except errors.IdserviceError as error:
            answer = self._refused(target, error)
        except Exception:
            answer = self._responder.crash()
        self._write(answer)
        if self._stopped:
            self._go_on()

    def _served(self, served: Served) -> None:
        target = self._target
        if self._turns.is_over and target.cost > 1 and isinstance(served, list):
            self._waiting = self._turns.join(partial(self._served, served), target.waste)
            return
        self._waiting = None
        if self._transport is None:
            return
        served = target.received(served)
        try:
            if isinstance(served, errors.IdserviceError):
                answer = self._refused(target, served)
            elif target.single:
                answer = self._responder.single(target, served[0].start)
            else:
                self._turns.spend(target.cost)
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

    def _refused(self, target: Target, error: errors.IdserviceError) -> bytes:
        if isinstance(error, errors.UnknownCounter):  # it may be created again, as another
            self._known = None, None, None
            self._forget()
            self._connections.forget()
        return self._responder.refused(target, error)

    def _write(self, answer: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._silent = 0
        sent = 0
        if self._closes:
            answer = self._responder.last(answer)
        if not (self._queued and transport.get_write_buffer_size()):
            try:  # noqa: SIM105  suppress() costs as much as the rest of this
                sent = os.write(self._descriptor, answer)
            except OSError:
                pass  # the socket takes nothing now; the transport finds the cause
        self._queued = sent < len(answer)
        if self._queued:
            transport.write(answer[sent:])
        if self._responder.draining or self._closes:
            transport.close()
