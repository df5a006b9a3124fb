"""Finds what a plain request asks for, and words its answer, for all connections of a listener.

Answers are the same as aiohttp's, byte by byte, except the date.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from time import time
from weakref import WeakKeyDictionary

from aiohttp import web

from idservice import errors
from idservice.access.gate import Gate
from idservice.access.passes import OPEN, Pass
from idservice.access.refusal_log import Peer
from idservice.allocation.service import Service
from idservice.core.access_key import Role
from idservice.observability.readings import ServiceView
from idservice.observability.readings import count as count_one
from idservice.web.fast_lane.question import Question
from idservice.web.fast_lane.target import Target
from idservice.web.health import LIVE, ready
from idservice.web.ids import TEXT, issue, listed, several
from idservice.web.problems import crash, problem
from idservice.web.request import JSON, IdRequest, WebLimits, prefers_json, read_id_request
from idservice.web.turns import Turns

TARGETS_MAX = 4096  # request lines remembered of requests without a key
KEYED_TARGETS_MAX = 256  # request lines remembered of one key
KEYS_MAX = 256  # keys of which request lines are remembered
LINE_MAX = 512  # bytes of a line that is remembered
REFUSALS_MAX = 256  # refusals of keys that are worded once in a second
ANSWERS_MAX = 256  # requests whose whole answers are known for a second
ACCEPTS_MAX = 256  # Accept headers that were read
COUNTERS, NEXT = "/v1/counters/", "/next"
BODY_KNOWN_MAX = 1024  # bytes: only for bodies up to this length is a head kept, for a second
VERSION = " HTTP/1.1"
_is_literal = re.compile(r"(?!\.\.?$)[A-Za-z0-9._~-]+", re.ASCII).fullmatch  # in a path


Found = Target | bytes | Coroutine[object, object, bytes] | None
Judged = Pass | errors.IdserviceError | None  # see `Gate.judge`
Lines = tuple[dict[bytes, Target], dict[bytes, Target]]  # targets of text and of JSON, by line


class Responder:
    """Finds targets and words answers. `paths` maps paths to counters, the `gate` judges keys,
    `clock` tells the time of day."""

    def __init__(
        self,
        service: Service,
        view: ServiceView,
        paths: dict[str, str],
        limits: WebLimits,
        gate: Gate | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self.service = service
        self._view = view
        self.draining = False
        self._paths = paths
        self._limits = limits
        self._gate = gate or Gate()
        self.tokens = not self._gate.asks  # a token that is not a key is not read
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._open: Lines = {}, {}
        self._keyed: WeakKeyDictionary[Pass, Lines] = WeakKeyDictionary()
        self._by_accept: dict[bytes, bool] = {}  # True if it prefers JSON
        self._judged: set[bytes] = set()  # lines for ids, of requests whose key was refused
        self._goes_on = f"\r\n{limits.keep_alive}\r\n".encode()
        self._date = ""  # empty if its second is over
        # Heads of this second by the length of the body: of text, and of both content types.
        self.plain_heads: dict[int, bytes] = {}
        self._heads: dict[str, dict[int, bytes]] = {TEXT: self.plain_heads, JSON: {}}
        # Whole answers of this second by the head of the request, and what each asked for. A client
        # with a wrong key asks again and again.
        self.answers: dict[bytes, tuple[bytes, Question]] = {}
        self._gate.on_news(self.answers.clear)
        self._codes: dict[bytes, str] = {}  # of the answers that refuse a key
        self._refusals: dict[tuple[type[Exception], str], bytes] = {}  # of keys, in this second

    def drain(self) -> None:
        """Say in each answer from now on that the connection will be closed."""
        self.draining = True
        self._forget_heads()

    def forget(self) -> None:
        for lines in self._open:
            lines.clear()
        self._keyed.clear()

    # --- requests --------------------------------------------------------------------------------

    def find(
        self, line: bytes, accept: bytes, authorization: bytes, peer: Peer | None = None
    ) -> Found:
        """Return what a request line asks for, with its Accept and Authorization headers.

        That is a target, a whole answer, or work that returns one. None means that aiohttp answers.
        """
        judged = self._gate.judge((authorization,))
        if not isinstance(judged, Pass):
            if judged is not None and line in self._judged:
                return self._refused_key(judged, authorization, peer)
            return self._look_up(line, accept, authorization, judged, peer)
        lines = self._lines_of(judged)[self._prefers_json(accept)]
        found: Found = lines.get(line)
        if found is None:
            found = self._look_up(line, accept, authorization, judged, peer)
            if isinstance(found, Target):
                if judged is not OPEN:
                    judged.arm(found)
                if len(line) > LINE_MAX:
                    return found
                if len(lines) >= (TARGETS_MAX if judged is OPEN else KEYED_TARGETS_MAX):
                    del lines[next(iter(lines))]  # one: freeing all delays others
                lines[line] = found
        return found

    def _lines_of(self, rights: Pass) -> Lines:
        if rights is OPEN:
            return self._open
        found = self._keyed.get(rights)
        if found is None:
            if len(self._keyed) >= KEYS_MAX:
                del self._keyed[next(iter(self._keyed))]
            found = self._keyed[rights] = {}, {}
        return found

    def _prefers_json(self, accept: bytes) -> bool:
        found = self._by_accept.get(accept)
        if found is None:
            if len(self._by_accept) >= ACCEPTS_MAX:
                self._by_accept.clear()
            found = self._by_accept[accept] = prefers_json(_text(accept))
        return found

    def _look_up(
        self, line: bytes, accept: bytes, authorization: bytes, judged: Judged, peer: Peer | None
    ) -> Found:
        try:
            method, _, rest = line.decode("ascii").partition(" ")
        except UnicodeDecodeError:
            return None
        target = rest.removesuffix(VERSION)
        if method not in ("GET", "POST") or target == rest or " " in target:
            return None
        if not target.isprintable():  # to a lenient parser a line feed ends a line of HTTP/0.9
            return None
        path = target.partition("?")[0]
        name = self._paths.get(path)
        if name is None and path.startswith(COUNTERS) and path.endswith(NEXT):
            name = path[len(COUNTERS) : -len(NEXT)]
            if not _is_literal(name):
                return None
        if name is not None:
            if isinstance(judged, errors.IdserviceError):
                if len(self._judged) >= TARGETS_MAX:
                    self._judged.clear()
                if len(line) <= LINE_MAX:
                    self._judged.add(line)
                return self._refused_key(judged, authorization, peer)
            old = path in self._paths and path != NEXT
            return self._find_ids(name, target, accept, authorization, judged, old=old, peer=peer)
        if path == "/readyz" and method == "GET":
            return self._later(self._ready)
        if path == "/livez" and method == "GET":
            return self._answer(TEXT, LIVE.encode())
        return None

    def _find_ids(
        self,
        name: str,
        target: str,
        accept: bytes,
        authorization: bytes,
        rights: Pass | None,
        *,
        old: bool,
        peer: Peer | None,
    ) -> Found:
        """As `find`. Nothing of the counter is looked at before the rights are checked (K5)."""
        try:
            if rights is not None:
                self._gate.check(rights, Role.USE, name, (authorization,), peer)
        except errors.IdserviceError as error:
            return self._worded(error)
        asked: IdRequest | errors.RequestRefused
        try:
            asked = read_id_request(target, _text(accept), self._limits, old=old)
        except errors.MalformedRequest:
            return None  # aiohttp also closes the connection
        except errors.RequestRefused as error:
            asked = error
        if rights is None:
            return self._later(partial(self._admitted, name, asked, authorization, peer))
        if isinstance(asked, errors.RequestRefused):
            return self.refusal(asked)
        counter = self.service.local_counters.get(name)
        if counter is None:
            return self._later(partial(issue, self.service, name, asked, rights))
        return Target(counter, asked)

    async def _admitted(
        self,
        name: str,
        asked: IdRequest | errors.RequestRefused,
        authorization: bytes,
        peer: Peer | None,
    ) -> tuple[str, bytes]:
        """Answer a request whose key is to be read first."""
        rights = await self._gate.admit((authorization,), peer)
        self._gate.check(rights, Role.USE, name, (authorization,), peer)
        if isinstance(asked, errors.RequestRefused):
            raise asked
        return await issue(self.service, name, asked, rights)

    async def _ready(self) -> tuple[str, bytes]:
        return TEXT, (await ready(self._view, draining=self.draining)).encode()

    async def _later(self, work: Callable[[], Awaitable[tuple[str, bytes]]]) -> bytes:
        """Return the whole answer to a request that has to wait for some `work`."""
        try:
            return self._answer(*await work())
        except errors.IdserviceError as error:
            return self.refusal(error)
        except Exception:
            return self.crash()

    def known(self, head: bytes) -> tuple[bytes, Question] | None:
        """Return the whole answer that a head got in this second, and what it asked for. If it
        refuses a key, the refusal is counted again."""
        known = self.answers.get(head)
        if known is not None and (code := self._codes.get(known[0])) is not None:
            self._gate.count(code)
        return known

    def remember(self, head: bytes, answer: bytes, question: Question) -> None:
        """Remember the whole answer to a head for the rest of this second."""
        if len(self.answers) >= ANSWERS_MAX:
            self.answers.clear()  # one by one costs more: the first is found past all deleted ones
        self.answers[head] = answer, question

    # --- answers ---------------------------------------------------------------------------------

    def plain_head(self, body: bytes) -> bytes:
        """Return the head before one id as text."""
        return self._new_head(TEXT, len(body))

    def single(self, target: Target, id: int) -> bytes:
        if target.entry is not target.epoch_state.counter:
            target.renew()
        return self._answer(target.content_type, target.body % id)

    def few(self, target: Target, ids: tuple[int, ...]) -> bytes:
        return self._answer(*listed(target.epoch_state.counter, target.asked, ids))

    def at_once(self, target: Target, turns: Turns) -> bytes | None:
        """Return the answer; None if memory has too few ids. A long answer is counted as work of
        this turn. Raises the refusal of a target whose key ended while the request waited, and
        what `take` raises."""
        counter = target.counter
        if target.single:
            id = counter.take()
            return None if id is None else self.single(target, id)
        if target.refusal is not None:
            raise target.refusal.with_traceback(None)
        ids = target.epoch_state.buffer.take_few(target.count) if target.listed else None
        if ids is not None:  # they come before the low-water mark, so no refill is due
            return self.few(target, ids)
        blocks = counter.take_many(target.count)
        if blocks is None:
            return None
        turns.spend(target.cost)
        return self.batch(target, blocks)

    def batch(self, target: Target, blocks: list[range]) -> bytes:
        return self._answer(*several(target.epoch_state.counter, target.asked, blocks))

    def _answer(self, content_type: str, body: bytes) -> bytes:
        head = self._heads[content_type].get(len(body))
        return (head or self._new_head(content_type, len(body))) + body

    def _new_head(self, content_type: str, length: int) -> bytes:
        head = self._head(HTTPStatus.OK, {"Content-Type": content_type}, length)
        if length <= BODY_KNOWN_MAX:
            self._heads[content_type][length] = head
        return head

    def last(self, answer: bytes) -> bytes:
        """Return an answer after which the connection is closed."""
        return answer.replace(self._goes_on, b"\r\nConnection: close\r\n", 1)

    def refused(self, target: Target, error: errors.IdserviceError) -> bytes:
        """Return the refusal of a target, counted unless a key is the cause."""
        if error is not target.refusal:
            count_one(target.counter.stats.refusals, error.code)
        return self.refusal(error)

    def refusal(self, error: errors.IdserviceError) -> bytes:
        """Return a whole answer that refuses."""
        return self._whole(problem(error))

    def _refused_key(
        self, error: errors.IdserviceError, authorization: bytes, peer: Peer | None
    ) -> bytes:
        self._gate.refused(error, (authorization,), peer)
        return self._worded(error)

    def _worded(self, error: errors.IdserviceError) -> bytes:
        """Return the refusal of a key, which is worded once in a second: a client that guesses keys
        causes little work."""
        said = type(error), str(error)
        found = self._refusals.get(said)
        if found is None:
            if len(self._refusals) >= REFUSALS_MAX:
                self._refusals.clear()
                self._codes.clear()
            found = self._refusals[said] = self.refusal(error)
            self._codes[found] = error.code
        return found

    def crash(self) -> bytes:
        """Log the exception that is being handled, a bug; return the answer that says so."""
        return self._whole(crash())

    def _whole(self, response: web.Response) -> bytes:
        assert isinstance(response.body, bytes)
        headers = dict(response.headers)
        for name in ("Cache-Control", "Server", "Connection"):
            headers.pop(name, None)
        return self._head(HTTPStatus(response.status), headers, len(response.body)) + response.body

    def _head(self, status: HTTPStatus, headers: dict[str, str], length: int) -> bytes:
        """Return the lines of a head in the order of aiohttp."""
        if not self._date:
            self._new_second()
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", "Cache-Control: no-store"]
        lines += ["Server: idservice", *(f"{name}: {value}" for name, value in headers.items())]
        lines += [f"Content-Length: {length}", f"Date: {self._date}"]
        lines.append("Connection: close" if self.draining else self._limits.keep_alive)
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _new_second(self) -> None:
        """Set the date until a timer ends it. No request reads the clock, and no timer runs without
        requests."""
        now = self._clock()
        self._date = formatdate(int(now), usegmt=True)
        self._loop.call_later(1 - now % 1, self._end_second)

    def _end_second(self) -> None:
        self._date = ""
        self._forget_heads()

    def _forget_heads(self) -> None:
        for heads in self._heads.values():
            heads.clear()
        self._refusals.clear()
        self.answers.clear()
        self._codes.clear()


def _text(accept: bytes) -> str:
    """Return a header's value as aiohttp reads it."""
    return accept.decode("utf-8", "surrogateescape")
