"""What the fast lane's connections on one listener share: known targets, and the heads of answers.

Answers are aiohttp's to the byte, but for the date.
"""

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from time import time

from idservice import errors
from idservice.allocation.local_counter import LocalCounter
from idservice.allocation.service import Service
from idservice.observability.readings import count as count_one
from idservice.web.problems import problem
from idservice.web.request import Ask, prefers_json, read_ask
from idservice.web.response import TEXT, one, several

TARGETS_MAX = 4096  # distinct request lines remembered
ACCEPTS_MAX = 256  # and distinct Accept headers
COUNTERS, NEXT = "/v1/counters/", "/next"
VERSION = " HTTP/1.1"


class Target:
    """What a request line asks for: ids of a supply, in some form."""

    __slots__ = ("ask", "count", "epoch_state", "plain", "single", "supply")

    def __init__(self, supply: LocalCounter, ask: Ask) -> None:
        self.supply = supply
        self.epoch_state = supply.epoch_state
        self.ask = ask
        self.count = ask.count or 1
        self.single = ask.count is None and ask.form != "ranges"
        self.plain = self.single and ask.form == "text"


class Responder:
    """`paths` maps paths to counters; `clock` tells the time of day."""

    def __init__(
        self,
        service: Service,
        *,
        paths: dict[str, str],
        batch_max: int,
        range_max: int,
        clock: Callable[[], float] = time,
    ) -> None:
        self.service = service
        self.draining = False
        self._paths = paths
        self._batch_max = batch_max
        self._range_max = range_max
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._as_text: dict[bytes, Target] = {}
        self._as_json: dict[bytes, Target] = {}
        self._by_accept: dict[bytes, dict[bytes, Target]] = {}
        self._date = ""  # empty: of a second that is over
        self.plain_heads: dict[int, bytes] = {}  # by the length of the id; of this second

    def drain(self) -> None:
        """From now on every answer says that the connection will be closed."""
        self.draining = True
        self.plain_heads.clear()

    def forget(self) -> None:
        """Look every request line up anew."""
        self._as_text.clear()
        self._as_json.clear()

    # --- requests --------------------------------------------------------------------------------

    def target(self, line: bytes, accept: bytes) -> Target | None:
        """What a request line and an Accept header ask for; None where aiohttp is to answer."""
        known = self._by_accept.get(accept)
        if known is None:
            known = self._as_json if prefers_json(accept.decode("latin-1")) else self._as_text
            if len(self._by_accept) >= ACCEPTS_MAX:
                self._by_accept.clear()
            self._by_accept[accept] = known
        target = known.get(line)
        if target is None:
            target = self._look_up(line, accept)
            if target is not None:
                if len(known) >= TARGETS_MAX:
                    known.clear()
                known[line] = target
        return target

    def _look_up(self, line: bytes, accept: bytes) -> Target | None:
        try:
            method, _, rest = line.decode("ascii").partition(" ")
            target = rest.removesuffix(VERSION)
            if method not in ("GET", "POST") or target == rest or " " in target:
                return None
            ask = read_ask(
                target,
                accept.decode("latin-1"),
                batch_max=self._batch_max,
                range_max=self._range_max,
            )
        except (errors.RequestRefused, UnicodeDecodeError):
            return None
        path = target.partition("?")[0]
        name = self._paths.get(path)
        if name is None and path.startswith(COUNTERS) and path.endswith(NEXT):
            name = path[len(COUNTERS) : -len(NEXT)]
        supply = self.service.local_counters.get(name) if name else None
        return Target(supply, ask) if supply is not None else None

    # --- answers ---------------------------------------------------------------------------------

    def plain_head(self, body: bytes) -> bytes:
        """What comes before one id as text."""
        head = self.plain_heads.get(len(body))
        if head is None:
            head = self._head(HTTPStatus.OK, {"Content-Type": TEXT}, len(body))
            self.plain_heads[len(body)] = head
        return head

    def single(self, target: Target, id: int) -> bytes:
        """A whole answer: one id, in the form asked for."""
        if target.plain:
            body = b"%d" % id
            return self.plain_head(body) + body
        return self._answer(*one(target.epoch_state.counter, target.ask, id))

    def batch(self, target: Target, blocks: list[range]) -> bytes:
        """A whole answer: as many ids as were asked for."""
        return self._answer(*several(target.epoch_state.counter, target.ask, blocks))

    def refused(self, target: Target, error: errors.IdserviceError) -> bytes:
        """A whole answer that refuses, and is counted."""
        count_one(target.supply.tally.refusals, error.code)
        return self.refusal(error)

    def _answer(self, content_type: str, body: bytes) -> bytes:
        return self._head(HTTPStatus.OK, {"Content-Type": content_type}, len(body)) + body

    def refusal(self, error: errors.IdserviceError) -> bytes:
        """A whole answer that refuses."""
        response = problem(error)
        assert isinstance(response.body, bytes)
        headers = dict(response.headers)
        for name in ("Cache-Control", "Server", "Connection"):
            headers.pop(name, None)
        return self._head(HTTPStatus(response.status), headers, len(response.body)) + response.body

    def _head(self, status: HTTPStatus, headers: dict[str, str], length: int) -> bytes:
        """In the order in which aiohttp writes them."""
        if not self._date:
            self._new_second()
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", "Cache-Control: no-store"]
        lines += ["Server: idservice", *(f"{name}: {value}" for name, value in headers.items())]
        lines += [f"Content-Length: {length}", f"Date: {self._date}"]
        if self.draining:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _new_second(self) -> None:
        """The date, until a timer ends it: no request asks for the time, and no timer runs while
        nobody asks for anything."""
        now = self._clock()
        self._date = formatdate(int(now), usegmt=True)
        self._loop.call_later(1 - now % 1, self._end_second)

    def _end_second(self) -> None:
        self._date = ""
        self.plain_heads.clear()
