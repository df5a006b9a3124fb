"""Recognises a request that differs from the last one only in values that are not read.

Most requests of a client repeat the bytes of the one before, except the values of a few headers
such as a trace id or a token. A parser has judged the request before. So the next one need only
differ in those values, in bytes that have no meaning in a value. Such a pair parses alike: the
grammar of HTTP/1.1 depends on the value of a header only for those in `READ` and `parser.TELLING`.
"""

import re

from idservice.web.fast_lane.parser import UPGRADE_OFFER

# Headers whose values decide how a plain request is answered. Values of others may vary.
READ = (b"accept", *(name.encode() for name in UPGRADE_OFFER))
VALUES_MAX = 4  # values that vary
_is_visible = re.compile(rb"[ -~]*").fullmatch  # no control bytes, only ASCII


class RequestTemplate:
    """The bytes of a plain request, with gaps of fixed length in values that are not read."""

    __slots__ = ("_first", "_gaps", "_size")

    def __init__(self, head: bytes, gaps: list[tuple[int, int]]) -> None:
        self._size = len(head)
        self._first = head[: gaps[0][0]]
        ends = [start for start, _ in gaps[1:]] + [self._size]
        self._gaps = [
            (start, stop, head[stop:end]) for (start, stop), end in zip(gaps, ends, strict=True)
        ]

    def fits(self, data: bytes) -> bool:
        """Return True if `data` is one whole request that fits."""
        if len(data) != self._size or not data.startswith(self._first):
            return False
        for start, stop, fixed in self._gaps:
            if not (_is_visible(data, start, stop) and data.startswith(fixed, stop)):
                return False
        return True


def template_of(one: bytes, other: bytes) -> RequestTemplate | None:
    """Return the template that fits two plain heads; None if they differ in more than values.

    Requests that fit one template ask for the same: they share the request line and the value of
    each header that is read.
    """
    lines, others = one.split(b"\r\n"), other.split(b"\r\n")
    if len(one) != len(other) or len(lines) != len(others) or lines[0] != others[0]:
        return None
    gaps = []
    at = 0
    for line, another in zip(lines, others, strict=True):
        if line != another:
            name = line.partition(b":")[0]
            value = len(name) + 1
            if another[:value] != line[:value] or len(another) != len(line):
                return None
            if name.lower() in READ:
                return None
            gaps.append((at + value, at + len(line)))
        at += len(line) + 2
    return RequestTemplate(one, gaps) if 0 < len(gaps) <= VALUES_MAX else None
