"""The access keys that an instance knows, kept up with the store.

The instance reads a bucket when a request first shows a key of it, and again whenever the revision
of the catalogue has moved. It believes them while it hears of the store (K3).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from idservice import errors
from idservice.access.passes import Pass
from idservice.access.refusals import TYPO, UNKNOWN
from idservice.core.access_key import BUCKETS, AccessKey, bucket_of, id_in
from idservice.core.timeouts import STALE_MIN_S
from idservice.observability.store_health import StoreHealth
from idservice.stores.key_store import KeyBucket
from idservice.stores.protocol import CatalogueStore

log = logging.getLogger("idservice.access")

TICK_S = 1.0  # between looks at the clock: for keys that expire, and a store that is silent
# Keys are believed for this time without the store. A tick later all passes have ended (K3).
SILENT_S = STALE_MIN_S - 2 * TICK_S
HEADERS_MAX = 16_384  # Authorization headers whose pass is remembered
HEADER_MAX = 80  # bytes of such a header: with its scheme a key has up to 66, and maybe more spaces
AGAIN_S = 1.0  # before a bucket that could not be read is read again


class Keys:
    """The keys of one store. `run` is a task of the service; `clock` tells the seconds since 1970.

    It follows the catalogue: see `Follower` of `allocation.catalogue_watch`.
    """

    def __init__(
        self,
        store: CatalogueStore,
        *,
        health: StoreHealth,
        read_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._health = health
        self._read_s = read_s
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self.on_news: list[Callable[[], None]] = []  # called when more may be let through
        self._buckets: dict[str, KeyBucket] = {}
        self._by_id: dict[str, AccessKey] = {}  # of all these buckets
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[float, errors.StoreError]] = {}  # until when, and why
        self._passes: dict[str, Pass] = {}  # by the id of the key
        self._by_header: dict[bytes, Pass] = {}
        self.refusals: dict[str, int] = {}  # of requests, by error code

    async def run(self) -> None:
        """End passes whose key has expired, and all while the store is silent for too long."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """End the passes that are over now."""
        stale, now = self._stale(), self._now()
        ended: dict[Pass, errors.IdserviceError] = {}
        for one in self._passes.values():
            assert one.key is not None
            if stale is not None:
                ended[one] = stale
            elif one.key.has_expired(now):
                ended[one] = _expired(one.key)
        self._end(ended)

    # --- a request -------------------------------------------------------------------------------

    def known(self, header: bytes) -> Pass | None:
        """Return the pass of a header that was judged before, if its key is still valid."""
        return self._by_header.get(header)

    def judge(self, header: bytes, text: str) -> Pass | errors.IdserviceError | None:
        """Return the pass of a key, or the error that refuses it; None if its bucket is to be read
        first. The `header` is remembered, unless it is long."""
        id = id_in(text)
        if id is None:
            return TYPO
        stale = self._stale()
        if stale is not None:
            return stale
        if len(self._buckets) < len(BUCKETS) and bucket_of(id) not in self._buckets:
            return None
        key = self._by_id.get(id)
        if key is None or not key.is_text(text):
            return UNKNOWN
        refusal = self._refusal(key)
        if refusal is not None:
            return refusal
        found = self._passes.get(id)
        if found is None:
            found = self._passes[id] = Pass(key)
        if len(header) <= HEADER_MAX:
            if len(self._by_header) >= HEADERS_MAX:
                del self._by_header[next(iter(self._by_header))]
            self._by_header[header] = found
        return found

    def find(self, text: str) -> AccessKey | None:
        """Return the key with the id in a text, also if the key is not valid, or if its own text is
        another."""
        id = id_in(text)
        return None if id is None else self._by_id.get(id)

    async def load(self, text: str) -> None:
        """Read the bucket of a key. Requests share one read. Raises StoreError."""
        id = id_in(text)
        assert id is not None
        number = bucket_of(id)
        until, error = self._failed.get(number, (0.0, None))
        if error is not None and self._loop.time() < until:
            raise error.with_traceback(None)
        loading = self._loading.get(number)
        if loading is None:
            loading = self._loading[number] = self._loop.create_task(self._load(number))
            loading.add_done_callback(lambda _: self._loading.pop(number))
        await asyncio.shield(loading)

    async def _load(self, number: str) -> None:
        try:
            self.put(await self._read(number))
        except errors.StoreError as error:
            self._failed[number] = self._loop.time() + AGAIN_S, error
            raise
        self._failed.pop(number, None)

    async def _read(self, number: str) -> KeyBucket:
        return await self._health.read(
            self._store.keys.bucket(number),
            "reading the access keys",
            self._store.address,
            self._read_s,
        )

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _refusal(self, key: AccessKey) -> errors.IdserviceError | None:
        if key.is_usable(now := self._now()):
            return None
        return _expired(key) if key.has_expired(now) else errors.KeyUnknown()

    # --- the store -------------------------------------------------------------------------------

    async def read_again(self) -> None:
        """Read the buckets in use again, because the revision moved. Raises StoreError.

        This includes buckets whose first read is under way: its answer may be older than this
        revision. The later of two answers is believed.
        """
        in_use = self._buckets.keys() | self._loading.keys()
        await asyncio.gather(*map(self._read_anew, sorted(in_use)))

    async def _read_anew(self, number: str) -> None:
        """Read a bucket again. One that is ill-formed is forgotten: its keys are refused, and all
        else goes on. It is read again when a request shows a key of it."""
        try:
            self.put(await self._read(number))
        except errors.KeysIllFormed as error:
            log.error("%s", error, extra={"action": "keys_ill_formed"})
            self._end(dict.fromkeys(self._passes_of(self._forget(number)), error))

    def _forget(self, number: str) -> tuple[AccessKey, ...]:
        """Forget a bucket; return the keys that were in it."""
        known = self._buckets.pop(number, KeyBucket(number))
        for key in known.keys:
            self._by_id.pop(key.id, None)
        return known.keys

    def heard(self, at: float) -> None:
        """Note that what is known was true at this loop time."""
        was_stale = self._stale() is not None
        self._heard_at = max(self._heard_at, at)
        if was_stale:
            self._tell()

    def put(self, bucket: KeyBucket) -> None:
        """Keep a bucket that was read or written, unless a later revision is known. If a key in it
        has changed, the passes of that key end."""
        known = self._buckets.get(bucket.number)
        if known is not None and bucket.rev < known.rev:
            log.warning(
                "the access keys in bucket %s went back from revision %d to %d; the later ones stay"
                " valid until this instance is started again",
                bucket.number, known.rev, bucket.rev,
                extra={"action": "keys_went_back"},
            )  # fmt: skip
            return
        if bucket == known:  # as mostly: after every change in the catalogue all are read
            return
        before = self._forget(bucket.number)
        self._buckets[bucket.number] = bucket
        self._by_id.update((key.id, key) for key in bucket.keys)
        changed = (key for key in before if self._by_id.get(key.id) != key)
        self._end({one: errors.KeyUnknown() for one in self._passes_of(changed)})
        self._tell()

    def _passes_of(self, keys: Iterable[AccessKey]) -> Iterator[Pass]:
        return filter(None, (self._passes.get(key.id) for key in keys))

    def _tell(self) -> None:
        for forget in self.on_news:
            forget()

    def _stale(self) -> errors.CatalogueStale | None:
        if self._loop.time() - self._heard_at < SILENT_S:
            return None
        return errors.CatalogueStale(seconds=SILENT_S)

    def _end(self, ended: dict[Pass, errors.IdserviceError]) -> None:
        """End passes, each with the error that says why."""
        if not ended:
            return
        for header, one in tuple(self._by_header.items()):
            if one in ended:
                del self._by_header[header]
        for one, refusal in ended.items():
            assert one.key is not None
            del self._passes[one.key.id]
            one.end(refusal)


def _expired(key: AccessKey) -> errors.KeyExpired:
    when = datetime.fromtimestamp((key.expires or 0) / 1000, UTC)
    return errors.KeyExpired(when=f"{when:%Y-%m-%d %H:%M} UTC")
