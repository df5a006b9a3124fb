"""Recognises a request that differs from the last one only in values that are not read.

Most requests of a client repeat the bytes of the one before, except the values of a few headers
such as a trace id or a token, or of a query parameter that is there to get past caches. The parser
has judged the request before. The next one parses alike if only those values differ, in bytes that
have no meaning there: the grammar of HTTP/1.1 depends on the value of a header only for the headers
in `READ` and `parser.TELLING`.

Where no access key is asked for, a token that is not a key is not read either, and may vary. A key
never takes its place: it would be served with the rights of the request before (K2).
"""

import re

from idservice.core.access_key import MARK
from idservice.web.fast_lane.parser import HEAD_MAX, UPGRADE_OFFER
from idservice.web.request import CACHE_BUSTER

# Headers whose values decide how a plain request is answered. Values of others may vary.
AUTHORIZATION = b"authorization"
READ = (b"accept", AUTHORIZATION, *(name.encode() for name in UPGRADE_OFFER))
VALUES_MAX = 4  # values that vary
# The bytes that a value of a header, and one in the query, may have: no control bytes, only ASCII.
_in_header = re.compile(rb"[ -~]*")
_no_key = re.compile(rb"(?! *(?i:bearer) +%s)[ -~]*" % MARK.encode())  # see `Gate.judge`
_in_query = re.compile(rb"[A-Za-z0-9._~-]*")  # no byte that ends it, or escapes
_pair = re.compile(rb"[?&]([A-Za-z_-]+)=([A-Za-z0-9._~-]*)(?=[& ])")

Gap = tuple[int, int, re.Pattern[bytes]]  # a value's start and end, and its allowed bytes


class RequestTemplate:
    """The bytes of a plain request, with gaps in the place of values that are not read."""

    __slots__ = ("_first", "_rest")

    def __init__(self, head: bytes, gaps: list[Gap]) -> None:
        self._first = head[: gaps[0][0]]
        ends = [start for start, _, _ in gaps[1:]] + [len(head)]
        self._rest = [
            (allowed.match, head[stop:end])
            for (_, stop, allowed), end in zip(gaps, ends, strict=True)
        ]

    def fits(self, data: bytes) -> bool:
        """Return True if `data` is one whole request that fits."""
        if not data.startswith(self._first):
            return False
        at = len(self._first)
        for match, fixed in self._rest:
            found = match(data, at)
            if found is None or not data.startswith(fixed, at := found.end()):
                return False
            at += len(fixed)
        return at == len(data) <= HEAD_MAX


def template_of(one: bytes, other: bytes, *, tokens: bool = False) -> RequestTemplate | None:
    """Return the template that fits two plain heads; None if they differ in more than values. With
    `tokens` they are of a listener that does not ask for keys, and a token may vary.

    Requests that fit one template ask for the same thing. They have the same request line, except
    values that are not read, and the same value of each header that is read.
    """
    lines, others = one.split(b"\r\n"), other.split(b"\r\n")
    if len(lines) != len(others):
        return None
    gaps: list[Gap] = []
    at = 0
    for line, another in zip(lines, others, strict=True):
        if line != another:
            found = _gap(line, another, tokens) if at else _gaps_in_query(line, another)
            if found is None:
                return None
            gaps += [(at + start, at + stop, allowed) for start, stop, allowed in found]
        at += len(line) + 2
    return RequestTemplate(one, gaps) if 0 < len(gaps) <= VALUES_MAX else None


def _gap(line: bytes, another: bytes, tokens: bool) -> list[Gap] | None:
    """Return the gap in a line of a header that has another value in another request."""
    name = line.partition(b":")[0]
    value = len(name) + 1
    if another[:value] != line[:value]:
        return None
    allowed = _in_header
    if (read := name.lower()) in READ:
        allowed = _no_key
        both = (line, another)
        if (
            not tokens
            or read != AUTHORIZATION
            or not all(allowed.fullmatch(o, value) for o in both)
        ):
            return None
    return [(value, len(line), allowed)]


def _gaps_in_query(line: bytes, another: bytes) -> list[Gap] | None:
    """Return the gaps in a request line; None if another line also differs elsewhere."""
    fixed, gaps = _cache_busters(line)
    return gaps if _cache_busters(another)[0] == fixed else None


def _cache_busters(line: bytes) -> tuple[bytes, list[Gap]]:
    """Return a request line without the values that get past caches, and where they are."""
    path = line.partition(b"?")[0]
    gaps: list[Gap] = []
    fixed, at = b"", 0
    for pair in _pair.finditer(line, len(path)):
        if CACHE_BUSTER.fullmatch(pair[1].decode()):
            start, stop = pair.span(2)
            gaps.append((start, stop, _in_query))
            fixed, at = fixed + line[at:start] + b"\0", stop
    return fixed + line[at:], gaps
