"""What two plain requests of one client may differ in and still ask for the same thing.

Clients repeat themselves: a request mostly has the bytes of the one before it on the connection,
but for the values of a few headers (a trace id, a token). A parser has judged the request before;
of the next one it is enough to see that it differs in nothing but those values, in bytes that mean
nothing in a value. Such a pair parses alike, since the grammar of HTTP/1.1 looks at a header's
value only for the headers that `READ` and `heads.TELLING` name.
"""

import re

READ = (b"accept", b"connection")  # headers of a plain request whose values are read
VALUES_MAX = 4  # values that vary
_is_visible = re.compile(rb"[ -~]*").fullmatch  # no control bytes, and nothing beyond ASCII


class RequestTemplate:
    """The bytes of a plain request, but for stretches of fixed length in values nobody reads."""

    __slots__ = ("_first", "_size", "_stretches")

    def __init__(self, head: bytes, stretches: list[tuple[int, int]]) -> None:
        self._size = len(head)
        self._first = head[: stretches[0][0]]
        ends = [start for start, _ in stretches[1:]] + [self._size]
        self._stretches = [
            (start, stop, head[stop:end])
            for (start, stop), end in zip(stretches, ends, strict=True)
        ]

    def fits(self, data: bytes) -> bool:
        """Whether `data` is one whole request of this form."""
        if len(data) != self._size or not data.startswith(self._first):
            return False
        for start, stop, fixed in self._stretches:
            if not (_is_visible(data, start, stop) and data.startswith(fixed, stop)):
                return False
        return True


def form_of(one: bytes, other: bytes) -> RequestTemplate | None:
    """The form that two plain heads have in common; None where they differ in more than that.

    Two of one form ask for the same: they have one request line, and one value of each header that
    is read.
    """
    lines, others = one.split(b"\r\n"), other.split(b"\r\n")
    if len(one) != len(other) or len(lines) != len(others) or lines[0] != others[0]:
        return None
    stretches = []
    at = 0
    for line, another in zip(lines, others, strict=True):
        if line != another:
            name = line.partition(b":")[0]
            value = len(name) + 1
            if another[:value] != line[:value] or len(another) != len(line):
                return None
            if name.lower() in READ:
                return None
            stretches.append((at + value, at + len(line)))
        at += len(line) + 2
    return RequestTemplate(one, stretches) if 0 < len(stretches) <= VALUES_MAX else None
