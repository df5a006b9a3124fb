"""Finds plain requests: heads that llhttp accepts, without a header that changes the answer.

One parser serves all connections of a listener, since it gets only whole heads. The header
callback is a method of a dictionary, so that a header costs no Python call.
"""

import httptools

from idservice.web.problems import CONDITIONAL_HEADERS, PREFETCH_HEADERS

END = b"\r\n\r\n"
HEAD_MAX = 4096  # bytes; aiohttp judges longer ones
HEADERS_MAX = 64
CLOSE = b"close"  # as Python and most programs write it
# A head with one of these headers is plain only if the header has one of these values.
PLAIN_VALUES = {
    "connection": frozenset({b"keep-alive", b"Keep-Alive", CLOSE}),
    "content-length": frozenset({b"0"}),
    "sec-fetch-site": frozenset({b"same-origin", b"same-site", b"none"}),
}
# An offer to go on with HTTP/2, as Java's client makes it, which a server may ignore.
UPGRADE_OFFER = {
    **PLAIN_VALUES,
    "connection": frozenset({b"Upgrade, HTTP2-Settings"}),
    "upgrade": frozenset({b"h2c"}),
}
SHAPES_MAX = 1024  # distinct lists of header names remembered
# A head with one of these headers is not plain.
TELLING = frozenset(
    map(
        str.lower,
        (
            *CONDITIONAL_HEADERS,
            *PREFETCH_HEADERS,
            "Range",
            "Expect",
            "Transfer-Encoding",
            "Trailer",
            "Proxy-Connection",  # llhttp reads it as Connection
            "Sec-WebSocket-Key1",  # aiohttp refuses it
        ),
    )
)

# A head's spellings of Accept, of Connection and of Authorization, each b"" if it has none, and the
# values that headers must have.
Shape = tuple[bytes, bytes, bytes, list[tuple[bytes, frozenset[bytes]]]]


class RequestParser:
    """Reads heads. `headers` are those of the last head. If it was plain, `authorization` is its
    header of that name, empty if it has none; `closes` is True if the client wants no further
    answer."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.authorization = b""
        self.closes = False
        self.on_header = self.headers.setdefault  # the first of a repeated header; see `plain`
        self._shapes: dict[tuple[bytes, ...], Shape | None] = {}
        self._complete = 0
        self._new_parser()

    def _new_parser(self) -> None:
        parser = httptools.HttpRequestParser(self)
        self._feed, self._goes_on = parser.feed_data, parser.should_keep_alive

    def on_message_complete(self) -> None:
        """Count a whole request; called by the parser."""
        self._complete += 1

    def plain(self, head: bytes) -> bytes | None:
        """Return the Accept header of a plain head, empty if it has none; None if it is not plain.

        `head` ends with its first blank line. An exception of a callback is raised here.
        """
        headers = self.headers
        headers.clear()
        self._complete = 0
        self.closes = False
        goes_on = self._goes_on
        try:
            self._feed(head)
        except httptools.HttpParserCallbackError as error:
            self._new_parser()
            raise error.__context__ or error from None  # a bug, not a reason to hand over
        except httptools.HttpParserUpgrade as upgrade:
            self._new_parser()
            if upgrade.args[0] != len(head):
                return None
        except httptools.HttpParserError:
            self._new_parser()
            return None
        accept = self._accept(head.count(b"\n") - 2)
        if accept is None or self.closes or not goes_on():
            self._new_parser()  # the old one may refuse every later head of any client
            return accept if self.closes else None
        return accept

    def _accept(self, lines: int) -> bytes | None:
        """Return the Accept header if the head, which has this number of headers, is plain."""
        headers = self.headers
        names = tuple(headers)
        shape = self._shapes.get(names) or self._shape(names)
        # Fewer headers than lines: one is repeated.
        if shape is None or self._complete != 1 or lines != len(names):
            return None
        accept, connection, key, others = shape
        for name, values in others:
            if headers[name] not in values:
                return None
        self.closes = headers.get(connection) == CLOSE
        self.authorization = headers[key].strip(b" \t") if key else b""
        return headers[accept] if accept else b""

    def _shape(self, names: tuple[bytes, ...]) -> Shape | None:
        if names in self._shapes:
            return None
        spelt = {name.decode("latin-1").lower(): name for name in names}
        shape = None
        if "host" in spelt and len(spelt) == len(names) <= HEADERS_MAX and not TELLING & set(spelt):
            plain = UPGRADE_OFFER if "upgrade" in spelt else PLAIN_VALUES
            others = [(spelt[name], plain[name]) for name in plain if name in spelt]
            accept, connection, key = (
                spelt.get(name, b"") for name in ("accept", "connection", "authorization")
            )
            shape = accept, connection, key, others
        if len(self._shapes) >= SHAPES_MAX:
            self._shapes.clear()
        self._shapes[names] = shape
        return shape


def may_go_on(data: bytes) -> bool:
    """Return True if the parser accepts an unfinished head so far."""
    if len(data) > HEAD_MAX:
        return False
    try:
        httptools.HttpRequestParser(object()).feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return False
    return True
