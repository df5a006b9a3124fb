"""Reads a request for ids, strictly: the query as it was sent, and the Accept header."""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl

from idservice import errors
from idservice.core.access_key import fits

KEYS = ("count", "format", "nonce")
ASKING = re.compile(r"[0-9]{1,9}|text|json|ranges", re.ASCII | re.IGNORECASE)
CACHE_BUSTER = re.compile(
    r"_+|r|t|ts|v|cb|rnd|rand(om)?|time(stamp)?|no-?_?cache|cache-?_?bust(er|ing)?",
    re.ASCII | re.IGNORECASE,
)
COUNT = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)  # int() also takes "1_0", " 1" and other digits
NONCE = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
QUERY_KEYS_MAX = 32
ESCAPES_MAX = 256  # of %XX in a query: to decode a thousand takes longer than anything else
JSON, PLAIN, CSV = "application/json", "text/plain", "text/csv"
IDLE_S = 75.0  # above a load balancer's 60 s; also bounds the time for the headers
KINDS_MAX = 32  # of an Accept header; what follows is not read
IDS_PER_COST = 128  # ids of a batch that take as long to write as an answer with one id takes


class NotRead(errors.RequestRefused):
    text = (
        "{part} is not read here, so it would have no effect. Use the query ?count=N for several "
        "ids, and ?format= with text, json or ranges."
    )
    code = "not_read"


class QueryNotRead(NotRead):
    text = (
        "A query is not read here, so it would have no effect. Send no query, and the fields as "
        "JSON in the body."
    )


@dataclass(frozen=True, slots=True)
class WebLimits:
    """Bounds of a request and of a page."""

    batch_max: int = 10_000  # ids written out one by one
    range_max: int = 1_000_000  # ids as ranges
    metrics_counters: int = 100  # counters with a label of their own on /metrics
    idle_s: float = IDLE_S  # for which a connection is kept

    @property
    def keep_alive(self) -> str:
        """The header by which clients let go of a connection before it is closed."""
        return f"Keep-Alive: timeout={self.idle_s - 1:.0f}"


@dataclass(frozen=True, slots=True)
class IdRequest:
    """A request for `count` ids; None if it names no count."""

    count: int | None
    format: str  # text, json or ranges
    nonce: str | None

    @property
    def cost(self) -> int:
        """The time that the answer takes, in answers with one id (see `turns`)."""
        return 1 + (self.count or 1) // IDS_PER_COST if self.format != "ranges" else 1


def read_id_request(target: str, accept: str, limits: WebLimits, *, old: bool = False) -> IdRequest:
    """Read a request's target and its Accept header.

    Other keys are ignored, but not one that seems to ask for a count or a format: its caller would
    get something else. On an `old` path all are, so that old callers need no change.
    Raises BadCount, BadFormat, BadNonce, NotRead, RepeatedKey, MalformedRequest.
    """
    query = read_query(target.partition("?")[2])
    if not old:
        for key, value in query.items():
            if key not in KEYS and ASKING.fullmatch(value) and not CACHE_BUSTER.fullmatch(key):
                raise NotRead(part=f"The key {key[:80]!r} of the query")
    format = query.get("format") or ("json" if prefers_json(accept) else "text")
    if format not in ("text", "json", "ranges") or query.get("format") == "":
        raise errors.BadFormat(value=query.get("format", "")[:80])
    nonce = query.get("nonce")
    if nonce is not None and not fits(NONCE, nonce):  # it is echoed
        raise errors.BadNonce(value=nonce[:80])
    most = limits.range_max if format == "ranges" else limits.batch_max
    return IdRequest(read_count(query.get("count"), most), format, nonce)


def read_query(query: str) -> dict[str, str]:
    """Return the pairs of a query string. Raises RepeatedKey, MalformedRequest."""
    if not query:
        return {}
    try:
        if query.count("%") > ESCAPES_MAX:
            raise ValueError
        pairs = parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=QUERY_KEYS_MAX
        )
    except ValueError:  # not UTF-8, or too many
        raise errors.MalformedRequest(
            why=f"the query must be UTF-8 of at most {QUERY_KEYS_MAX} keys and {ESCAPES_MAX} bytes"
            " that are escaped"
        ) from None
    found: dict[str, str] = {}
    for key, value in pairs:
        if key in found:
            raise errors.RepeatedKey(value=key[:80])
        found[key] = value
    return found


def read_count(value: str | None, most: int) -> int | None:
    """Return a count from 1 to `most`. Raises BadCount."""
    if value is None:
        return None
    if not COUNT.fullmatch(value) or int(value) > most:
        raise errors.BadCount(value=value[:80], most=most)
    return int(value)


@lru_cache(maxsize=256)
def prefers_json(accept: str) -> bool:
    """Return True if an Accept header prefers JSON to text.

    Of two kinds with the same weight the first is preferred. A header that names neither, as some
    HTTP clients send by default, gets text: the endpoint that this service replaces sent text.
    """
    return _preferred(accept) == JSON


@lru_cache(maxsize=256)
def prefers_text(accept: str) -> bool:
    """Return True if an Accept header prefers text to JSON; not if it names neither."""
    return _preferred(accept) == PLAIN


@lru_cache(maxsize=256)
def prefers_csv(accept: str) -> bool:
    """Return True if an Accept header prefers CSV to JSON; not if it names neither."""
    return _preferred(accept, CSV) == CSV


def _preferred(accept: str, text: str = PLAIN) -> str:
    """Return which an Accept header prefers of JSON and a kind of text; empty if it names neither.
    What names all kinds of text names that one."""
    quality: dict[str, float] = {}
    for part in accept.lower().split(",", KINDS_MAX)[:KINDS_MAX]:
        kind, *parameters = (piece.strip() for piece in part.split(";", KINDS_MAX)[:KINDS_MAX])
        quality[kind] = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality[kind] = float(parameter[2:])
                except ValueError:
                    quality[kind] = 0.0
    of_json = quality.get(JSON, 0.0)
    of_text = max(quality.get(text, 0.0), quality.get("text/*", 0.0))
    if of_json == of_text:
        first = [kind for kind in quality if kind in (JSON, text, "text/*")][:1]
        of_json, of_text = (of_json, 0.0) if first == [JSON] else (0.0, of_text)
    weight, kind = (of_json, JSON) if of_json > of_text else (of_text, text)
    return kind if weight > 0 and weight >= quality.get("*/*", 0.0) else ""
