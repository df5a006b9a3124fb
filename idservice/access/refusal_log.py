"""Logs what was refused because of access keys, so that the log alone says which key it was."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from idservice import errors
from idservice.access.keys import HEADER_MAX, Keys
from idservice.access.refusals import OF_NO_KEY
from idservice.core.access_key import AccessKey, bearer, id_in
from idservice.observability.logs import RateLimitedLog
from idservice.stores.instants import instant

log = logging.getLogger("idservice.access")

LOGS_MAX = 1024  # rate-limited logs in each of two tables: one by header, one by key

T = TypeVar("T")

_others = RateLimitedLog(log)  # for all requests without a key of the store


class Peer(Protocol):
    """The connection of a client: a transport, or a request of aiohttp."""

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


class RefusalLog:
    """Logs the refusals of one gate. No line has a secret (K4).

    A key of the store has at most one line a second. So have all other requests together: they
    never hide what became of a key.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._by_header: dict[bytes, RateLimitedLog] = {}
        self._by_id: dict[str, RateLimitedLog] = {}  # of keys that the store has or had lately

    def add(
        self, error: errors.IdserviceError, headers: Sequence[bytes], peer: Peer | None
    ) -> None:
        """Log that a request with these Authorization headers was refused."""
        header = headers[0] if headers else b""
        limited = _others if error in OF_NO_KEY else self._by_header.get(header)
        if limited is None:
            limited = self._remember(header)
        if limited.holds_back():
            return
        text = bearer(header) or ""
        limited.warning(
            "a request from %s was refused: %s%s", _place(peer), error, self._whose(text),
            extra={"action": "key_refused"},
        )  # fmt: skip

    def _remember(self, header: bytes) -> RateLimitedLog:
        text = bearer(header) or ""
        key = self._keys.find(text)
        if key is None or not key.is_text(text):
            return _others
        limited = self._by_id.get(key.id)
        if limited is None:
            limited = RateLimitedLog(log)
            _put(self._by_id, key.id, limited)
        if len(header) <= HEADER_MAX:  # its bearer may have added any number of spaces
            _put(self._by_header, header, limited)
        return limited

    def _whose(self, text: str) -> str:
        """Return which key it was, and since when and why it is of no use."""
        id = id_in(text)
        if id is None:
            return ""
        key = self._keys.find(text)
        if key is None:
            return f" (key {id}, which this store does not have)"
        if not key.is_text(text):
            return f" (it names key {id}, and is not that key)"
        note = f", {key.note}" if key.note else ""
        return f" (key {id}{note}{_ended(key)})"


def _put(logs: dict[T, RateLimitedLog], of: T, limited: RateLimitedLog) -> None:
    """Remember a log, maybe instead of the oldest one."""
    if len(logs) >= LOGS_MAX:
        del logs[next(iter(logs))]
    logs[of] = limited


def _place(peer: Peer | None) -> str:
    """Return where a request came from. No header of it is believed: anybody can send one."""
    name = peer.get_extra_info("peername") if peer is not None else None
    if name is None:
        return "a client that is gone"
    return str(name[0]) if isinstance(name, tuple) else "a Unix socket"


def _ended(key: AccessKey) -> str:
    if not key.ended:
        return ""
    by = f" by {key.ended_by}" if key.ended_by else ""
    return f", revoked at {instant(key.ended)}{by}" + (f": {key.reason}" if key.reason else "")
