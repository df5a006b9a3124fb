"""A plain request apart from its access key: another key may stand in its place.

Requests that differ only in their key ask for the same thing. So a client that guesses keys has its
request parsed once, and each key judged. The bytes of a key have no meaning in a head, so such
requests parse alike (see `template`).
"""

import re

from idservice.web.fast_lane.parser import HEAD_MAX

HEADER = b"\r\nauthorization: "  # in any case
_value = re.compile(rb"[!-~](?:[ -~]*[!-~])?").fullmatch  # as the parser gives it: no space around


class Question:
    """The parts of a plain `head` apart from its `authorization`, which is empty if it has none.
    `closes` is True if the client wants no further answer."""

    __slots__ = ("_after", "_before", "_end", "_head", "_start", "accept", "closes", "line")

    def __init__(self, head: bytes, accept: bytes, authorization: bytes, closes: bool) -> None:
        self.line = head[: head.find(b"\r")]
        self.accept = accept
        self.closes = closes
        self._head = head
        self._before = self._after = b""  # the head around its key; empty if no key is found
        if authorization:
            before, _, after = head.partition(authorization)
            if before[-len(HEADER) :].lower() == HEADER:  # else another header has the same value
                self._before, self._after = before, after
        self._start, self._end = len(self._before), -len(self._after)

    def other_key(self, data: bytes) -> bytes | None:
        """Return the Authorization header of `data` if that is one whole request which differs in
        this header alone; else None."""
        if data == self._head or not (data.startswith(self._before) and data.endswith(self._after)):
            return None
        value = data[self._start : self._end]
        return value if _value(value) and len(data) <= HEAD_MAX else None
