"""Keeps the counters in use up with the catalogue: entries that changed, changes that stand still,
and a catalogue that was not heard of for too long."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from idservice import errors
from idservice.allocation.context import Context
from idservice.allocation.local_counter import LocalCounter
from idservice.core.timeouts import stale_after
from idservice.observability.readings import CatalogueAge
from idservice.stores.at_once import AT_ONCE
from idservice.stores.protocol import CatalogueStore

log = logging.getLogger("idservice.catalogue")

POLL_S = 2.0  # at most, from one look to the next
LOOK_MAX_S = 5.0
STANDS_STILL_S = 5.0  # after which an instance finishes a change that another began


class CatalogueWatcher:
    """Reads the revision of the catalogue, and the entries of counters in use when it moved.
    `finish` is called with the name of a counter whose change stands still."""

    def __init__(
        self,
        store: CatalogueStore,
        context: Context,
        local_counters: Mapping[str, LocalCounter],
        *,
        finish: Callable[[str], None],
    ) -> None:
        self._store = store
        self._context = context
        self._local_counters = local_counters
        self._finish = finish
        self._loop = asyncio.get_running_loop()
        self._revision: int | None = None
        self._heard_at = self._loop.time()  # when the last look that succeeded was begun
        self._stale = False
        self._timer: asyncio.TimerHandle | None = None
        self._standing: dict[str, tuple[int, float]] = {}  # by name: revision of the entry, since

    async def run(self) -> None:
        """Look again and again."""
        try:
            self._set_timer()
            while True:  # a counter in use was read at its first use: begin with a pause
                await asyncio.sleep(POLL_S * (0.85 + 0.15 * self._context.random.random()))
                await self._look()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _look(self) -> None:
        began, health = self._loop.time(), self._context.health
        try:
            async with asyncio.timeout(LOOK_MAX_S):
                revision = await self._store.revision()
                if revision != self._revision:
                    await self._read_entries()
        except errors.StoreError as error:
            health.failed(error)
        except TimeoutError:
            action, why = "reading the catalogue", "it took too long"
            health.failed(errors.NotApplied(store=self._store.address, action=action, why=why))
        except Exception:  # a bug of ours or of a library
            log.exception("reading the catalogue failed", extra={"action": "catalogue_bug"})
        else:
            # The revision read before the entries is remembered, and only now that all are read:
            # a write in between moves it on, and is seen at the next look.
            self._revision = revision
            self._heard_at = began
            if self._stale:
                self._stale = False
                for local in tuple(self._local_counters.values()):
                    local.go_on()
        self._set_timer()
        self._find_standing()

    async def _read_entries(self) -> None:
        names = iter(tuple(self._local_counters))

        async def read_some() -> None:
            for name in names:
                entry, local = await self._store.entry(name), self._local_counters.get(name)
                if entry is not None and local is not None:
                    local.apply_entry(entry)

        await asyncio.gather(*(read_some() for _ in range(AT_ONCE)))

    @property
    def age(self) -> CatalogueAge:
        """The time since the catalogue was last read."""
        return CatalogueAge(self._loop.time() - self._heard_at, self._stale_s)

    @property
    def _stale_s(self) -> float:
        default = self._context.limits.runway
        runways = (local.counter.runway or default for local in self._local_counters.values())
        return stale_after(max(runways, default=default))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._stale:
            self._timer = self._loop.call_at(self._heard_at + self._stale_s, self._go_stale)

    def _go_stale(self) -> None:
        self._stale = True
        error = errors.CatalogueStale(seconds=self._stale_s)
        log.error("%s", error, extra={"action": "catalogue_stale"})
        for local in tuple(self._local_counters.values()):
            local.go_stale(error)

    def _find_standing(self) -> None:
        now = self._loop.time()
        before, self._standing = self._standing, {}
        for name, local in self._local_counters.items():
            entry = local.counter
            if entry.intent is None:
                continue
            rev, since = before.get(name, (entry.rev, now))
            if rev != entry.rev:
                since = now
            self._standing[name] = entry.rev, since
            if now - since >= STANDS_STILL_S:
                self._finish(name)
