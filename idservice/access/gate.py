"""The gate of one listener: it decides what the key of a request lets through."""

import logging
from collections.abc import Callable, Sequence

from idservice import errors
from idservice.access.keys import Keys
from idservice.access.passes import OPEN, Pass
from idservice.access.refusal_log import Peer, RefusalLog
from idservice.access.refusals import MISSING, OTHER, SEVERAL
from idservice.core.access_key import MARK, Role, bearer
from idservice.observability.readings import count

log = logging.getLogger("idservice.access")


class Gate:
    """Judges requests of one listener by their `Authorization` headers.

    Without a key it lets everything through unless it `asks`. Without `keys`, as in a sidecar, no
    key is judged: the service behind it judges the sidecar's key. `plain` is the URL of a listener
    that others can overhear: the first key that comes there causes a warning. `warned` is a byte
    that the workers of a listener share, 1 after the warning.
    """

    def __init__(
        self,
        keys: Keys | None = None,
        *,
        asks: bool = False,
        plain: str = "",
        warned: memoryview | bytearray | None = None,
    ) -> None:
        assert keys is not None or not asks
        self.asks = asks
        self._keys = keys
        self._log = RefusalLog(keys) if keys is not None else None
        self._plain = plain  # empty after the warning
        self._warned = bytearray(1) if warned is None else warned

    def judge(self, headers: Sequence[bytes]) -> Pass | errors.IdserviceError | None:
        """Return the pass of a request with these Authorization headers, or the error that refuses
        it; None if keys are to be read first, which `admit` does.

        A token that is not an access key is ignored on a listener that does not ask.
        """
        keys = self._keys
        if keys is None:
            return OPEN
        if len(headers) == 1:
            known = keys.known(headers[0])
            if known is not None:
                if self._plain:
                    self._warn_if_overheard()
                return known
            text = bearer(headers[0])
            if text is not None and text.startswith(MARK):
                if self._plain:
                    self._warn_if_overheard()
                return keys.judge(headers[0], text)
        texts = [text for text in map(bearer, headers) if text is not None]
        if not self.asks and not any(text.startswith(MARK) for text in texts):
            return OPEN
        if not texts:
            return MISSING
        return SEVERAL if len(headers) > 1 else OTHER

    def on_news(self, forget: Callable[[], None]) -> None:
        """Have `forget` called whenever a key that was refused may be valid now."""
        if self._keys is not None:
            self._keys.on_news.append(forget)

    async def admit(self, headers: Sequence[bytes], peer: Peer | None = None) -> Pass:
        """Return the pass of a request, after keys are read if needed. A refusal is logged with the
        `peer`.

        Raises KeyRefused, CatalogueStale; StoreError: its key is not known here, and the store does
        not answer.
        """
        found = self.judge(headers)
        if found is None:
            assert self._keys is not None
            await self._keys.load(bearer(headers[0]) or "")
            found = self.judge(headers)
            assert found is not None
        if isinstance(found, errors.IdserviceError):
            self.refused(found, headers, peer)
            raise found.with_traceback(None)
        return found

    def check(
        self,
        rights: Pass,
        role: Role,
        name: str | None,
        headers: Sequence[bytes],
        peer: Peer | None,
    ) -> None:
        """Refuse what the rights of a request do not permit, as `Pass.check`, and log it."""
        try:
            rights.check(role, name)
        except errors.IdserviceError as error:
            self.refused(error, headers, peer)
            raise

    def count(self, code: str) -> None:
        """Count a refusal by the code of its error."""
        if self._keys is not None:
            count(self._keys.refusals, code)

    def refused(
        self, error: errors.IdserviceError, headers: Sequence[bytes], peer: Peer | None
    ) -> None:
        """Count a refusal, and log it."""
        if self._keys is not None and self._log is not None:
            count(self._keys.refusals, error.code)
            self._log.add(error, headers, peer)

    def _warn_if_overheard(self) -> None:
        if not self._warned[0]:
            self._warned[0] = 1
            log.warning(
                "access keys come over plain HTTP to %s: others on the network can read and use "
                "them. Listen on https (--tls-cert), or on loopback behind a proxy with TLS",
                self._plain,
                extra={"action": "key_overheard"},
            )
        self._plain = ""
