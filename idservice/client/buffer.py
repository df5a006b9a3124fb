"""The ids of one counter in a client's memory, and the decisions about requests; no I/O.

Both clients carry out the decisions made here, the synchronous one under its lock.
"""

import os
import secrets
import weakref
from collections.abc import Callable, Generator
from itertools import islice
from math import inf
from random import SystemRandom
from typing import Any

from idservice import errors
from idservice.client import protocol
from idservice.client.address import ServiceAddress
from idservice.client.own_ids import own_ids
from idservice.client.process_mark import process_mark, renewal_lock
from idservice.client.protocol import RANGES_MAX, ClientAnswer, NoUsableAnswer, Refused, Reply
from idservice.client.tally_calls import TallyCalls
from idservice.core import limits
from idservice.core.access_key import fits
from idservice.core.allocator import Allocator, Request
from idservice.core.epoch import Layout, Shards
from idservice.core.timeouts import backoff

TIMEOUT_S = 2.0
BATCH_MAX = 10_000_000  # ids in one list
PAUSE_FIRST_S = 0.02  # after a failed request, doubled with each further one
PAUSE_MAX_S = 1.0
PAUSE_SAID_MAX_S = 10.0
SIZE_BELIEVED_S = 60.0
ATTEMPT_MIN_S = 0.001
HOLD_MIN_S, HOLD_MAX_S = 1.0, 60.0
TIMEOUT_MIN_S, TIMEOUT_MAX_S = 0.01, 3600.0


class BadBatch(errors.RequestRefused):
    text = "The size of the batch is {value!r}; it must be a whole number from 1 to {most}."
    code = "bad_count"


class NotOpen(errors.IdserviceError):
    text = "This client {why}."
    code = "not_open"
    outcome = errors.NOT_APPLIED


Failure = Refused | NoUsableAnswer
Step = str | float  # the next step: a target to send, or seconds to wait


def check_batch(count: object) -> None:
    """Check the size of a batch. Raises BadBatch."""
    if type(count) is not int or not 1 <= count <= BATCH_MAX:
        raise BadBatch(value=count, most=BATCH_MAX)


class ClientBuffer:
    """Holds ids of `counter` from the service at `url`. `timeout` is for one call, `hold` is how
    long ids are kept; `clock` returns seconds. Raises TypeError, Usage, BadName."""

    def __init__(
        self, url: str, counter: str, *, timeout: float, hold: float, clock: Callable[[], float]
    ) -> None:
        for what, given in (("url", url), ("counter", counter)):
            if not isinstance(given, str):  # mostly None, of a variable that is not set
                raise TypeError(f"{what} is of the type {type(given).__name__}; it must be a str")
        self.address = ServiceAddress.parse(url)
        if not fits(limits.NAME, counter):
            raise errors.BadName(value=counter[:80])
        for what, value, least, most in (
            ("timeout", timeout, TIMEOUT_MIN_S, TIMEOUT_MAX_S),
            ("hold", hold, HOLD_MIN_S, HOLD_MAX_S),
        ):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and least <= value <= most):
                raise errors.Usage(
                    why=f"{what} is {value!r}; it must be a number of seconds"
                    f" from {least:g} to {most:g}"
                )
        self.counter = counter
        self.timeout_s, self.hold_s = timeout, hold
        self.clock = clock
        self.entered = False
        self.not_open = "is not open; call its open(), or use it in a with statement"
        self.error: Failure | None = None  # of the last refill, if it failed
        self.refusals = 0  # refills whose refusal is final
        self._failures = 0  # refills in a row
        self._retry_at = 0.0
        self._shrunk_at = inf  # when requests were last made smaller
        self._ordinal, self._strict = 0, True  # until an answer says otherwise
        self._random = SystemRandom()
        self.mark = process_mark()  # set last by a client that begins anew: then it is whole
        self.forget()

    def forget(self) -> None:
        """Begin anew without ids: those in memory belong to another process, or are outdated."""
        self.allocator = Allocator(
            _one_shard(),
            now=self.clock(),
            runway_s=self.hold_s,
            block_max=RANGES_MAX,
            strict=self._strict,
            hold_s=self.hold_s,
            guarded=own_ids(process_mark()),
        )

    def enter(self) -> None:
        """Take note that the client is entered. Raises NotOpen if it is entered already."""
        if self.entered:
            raise NotOpen(
                why="is entered already; enter it once for all its users, or make another"
            )
        self.entered = True

    @property
    def takes_ahead(self) -> bool:
        """Return True if ids may be taken ahead of need: the counter is known not to be strict."""
        return not self._strict

    # --- out of memory ---------------------------------------------------------------------------

    def take(self) -> int | None:
        """Return the next id in memory; None: there is none."""
        self.allocator.buffer.advance()
        return self.allocator.buffer.take()

    def take_many(self, count: int) -> list[int]:
        """Return `count` ids if memory holds them, else none; fewer if a thread takes some."""
        ids: list[int] = []
        if self.allocator.held >= count:
            while len(ids) < count:
                self.allocator.buffer.advance()
                before = len(ids)
                ids += islice(self.allocator.buffer.cursor, count - before)
                if len(ids) == before:
                    break
        return ids

    # --- requests of one call ------------------------------------------------------------------

    def borrow(
        self, count: int, deadline: float, outcome: str = errors.NOT_APPLIED
    ) -> Generator[Step, Reply | Failure | None, list[int]]:
        """Yield the steps that bring `count` ids for one call, and return the ids.

        Each target that was yielded is to be answered with its reply. A failed request is followed
        by another, with a new nonce, until the deadline. `outcome` is unknown if the call has ids
        from memory, too: they are lost if it fails. Raises Refused, WaitedTooLong, NotOpen.
        """
        ids: list[int] = []
        epoch = failures = 0
        self._forget_old_size()
        while len(ids) < count:
            self.check_open(outcome)
            part = min(count - len(ids), self.allocator.block_max)
            nonce = secrets.token_hex(16)
            try:
                reply = yield protocol.target(self.counter, part, nonce)
                assert reply is not None
                self.check_open(errors.UNKNOWN)
                answer = self._read_ids(reply, part, nonce)
                if answer.ordinal != epoch:  # earlier parts belong to an epoch that has ended
                    epoch, ids = answer.ordinal, []
                for block in answer.blocks:
                    ids += block
                failures, outcome = 0, errors.UNKNOWN  # should the call fail, its ids are lost
            except (Refused, NoUsableAnswer) as error:
                if error.outcome == errors.UNKNOWN:
                    outcome = errors.UNKNOWN
                if self._shrink_requests(error, part):
                    continue
                if is_final(error):
                    error.outcome = outcome
                    raise
                failures += 1
                pause = self.pause(failures, error)
                if self.clock() + pause >= deadline:
                    raise self.timeout_error(error, outcome) from None
                yield pause
        return ids

    # --- refills ---------------------------------------------------------------------------------

    def due(self, waiting: int) -> tuple[Request, str, str] | None:
        """Return the refill that is due: the request, its nonce, and the target; None: none is."""
        now = self.clock()
        self.allocator.expire(now)
        self._forget_old_size()
        if self._strict or now < self._retry_at:
            return None
        request = self.allocator.due(now, waiting=waiting, first=min(waiting, 1))
        if request is None:
            return None
        nonce = secrets.token_hex(16)
        return request, nonce, protocol.target(self.counter, request.count, nonce)

    def attempt_s(self, deadline: float) -> float:
        """Return the seconds that one request may take: later its ids would be too old."""
        return min(max(ATTEMPT_MIN_S, deadline - self.clock()), self.hold_s)

    def retry_in(self, waiting: int) -> float | None:
        """Return the seconds until a failed refill is tried again; None: it is not needed."""
        left = self._retry_at - self.clock()
        return left if left > 0 and (waiting or self.allocator.held) else None

    def expires_in(self) -> float | None:
        """Return the seconds until the first ids in memory expire; None: there are none."""
        at = self.allocator.expires_at
        return None if at is None else max(0.0, at - self.clock())

    def apply_refill(
        self, allocator: Allocator, request: Request, nonce: str, reply: Reply | Failure,
        since: float,
    ) -> None:  # fmt: skip
        """Take in the ids of a refill sent at `since`; after a failure, note it and pause."""
        try:
            answer = self._read_ids(reply, request.count, nonce)
            allocator.borrowed(request.token, answer.blocks, self.clock(), since=since)
            allocator.settle()  # it may have turned out to be strict
            self._failures, self._retry_at, self.error = 0, 0.0, None
        except (Refused, NoUsableAnswer) as error:
            self._failures += 1
            self._retry_at = self.clock() + self.pause(self._failures, error)
            self.error = error
            self._refused(allocator, request, error)

    def _refused(self, allocator: Allocator, request: Request, error: Failure) -> None:
        if error.code == "exhausted" and request.count > 1:
            fewer = request.room + 1  # one more than the end less the count of the request
            allocator.no_room(request.token, fewer, self.clock())
        else:
            allocator.refused(request.token, unknown=error.outcome == errors.UNKNOWN)
            if is_final(error) and not self._shrink_requests(error, request.count):
                self.refusals += 1

    def _shrink_requests(self, error: Failure, count: int) -> bool:
        """Halve the size of requests if the service's --range-max, or a bound of the counter, is
        lower; return True if so."""
        if error.code != "bad_count" or count == 1:
            return False
        self.allocator.block_max, self._shrunk_at = count // 2, self.clock()
        return True

    def _forget_old_size(self) -> None:
        """Ask for as much as ever again after a while: an operator may have raised a bound."""
        if self.clock() - self._shrunk_at >= SIZE_BELIEVED_S:
            self.allocator.block_max, self._shrunk_at = RANGES_MAX, inf

    def _read_ids(self, reply: Reply | Failure, count: int, nonce: str) -> ClientAnswer:
        """Return the ids in a reply. Raises Refused, NoUsableAnswer."""
        if isinstance(reply, Refused | NoUsableAnswer):
            raise reply
        url = self.address.url
        answer = protocol.read_answer(reply, url=url, name=self.counter, count=count, nonce=nonce)
        if protocol.is_newer(answer, url=url, ordinal=self._ordinal, strict=self._strict):
            self._ordinal, self._strict = answer.ordinal, answer.strict
            self.allocator.renew(_one_shard(), strict=answer.strict)
        return answer

    # --- failures --------------------------------------------------------------------------------

    def pause(self, failures: int, error: Failure) -> float:
        """Return the seconds to wait after this many failures in a row; `error` is the last one.

        A refusal may name a longer time. Of that at most PAUSE_SAID_MAX_S is waited, because an
        operator may have raised the rate.
        """
        spread = self._random.random()
        pause = backoff(failures, first_s=PAUSE_FIRST_S, max_s=PAUSE_MAX_S, spread=spread)
        return max(pause, min(error.pause_s, PAUSE_SAID_MAX_S) if isinstance(error, Refused) else 0)

    def timeout_error(self, error: Failure | None, outcome: str = "") -> errors.WaitedTooLong:
        """Return the error of a call that got no id in time, by default with `error`'s outcome."""
        why = str(error).rstrip(".") if error is not None else "no answer came"
        late = errors.WaitedTooLong(name=self.counter, seconds=self.timeout_s, why=why)
        late.outcome = outcome or (error.outcome if error is not None else errors.UNKNOWN)
        return late

    def check_open(self, outcome: str = errors.NOT_APPLIED) -> None:
        """Raise NotOpen, with this `outcome`, if the client is not open."""
        if self.not_open:
            closed = NotOpen(why=self.not_open)
            closed.outcome = outcome
            raise closed


def tally_calls(buffer: ClientBuffer, name: str) -> TallyCalls:
    """Return the calls about a tally of a client's service. Raises TypeError, BadName."""
    return TallyCalls(
        name,
        buffer.address.url,
        limit_s=buffer.timeout_s,
        clock=lambda: buffer.clock(),  # the asynchronous client has another one later
        check_open=buffer.check_open,
    )


def _one_shard() -> Shards:
    """Return one shard: a client sees one row of ids, however many the service has."""
    return Shards(Layout(base=0, limit=limits.ID_MAX))


clients: "weakref.WeakSet[Any]" = weakref.WeakSet()  # clients; each has a `forget_in_child`


def _forget_in_child() -> None:
    for client in list(clients):
        client.forget_in_child()


def forget_if_forked(client: Any, buffer: ClientBuffer) -> None:
    """Let a client begin anew in a process that was forked without Python's knowledge."""
    if not buffer.mark:
        with renewal_lock():
            if not buffer.mark:
                client.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)


def is_final(error: Failure) -> bool:
    """Return True if a repetition cannot help; after an unknown outcome it can."""
    return not error.retryable and error.outcome != errors.UNKNOWN
