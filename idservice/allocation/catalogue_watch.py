"""How an instance keeps up with the catalogue: what was changed, which change stands still, and for
how long nothing was heard."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from random import Random

from idservice import errors
from idservice.allocation.local_counter import LocalCounter
from idservice.core.timeouts import stale_after
from idservice.observability.readings import CatalogueAge
from idservice.observability.store_health import StoreHealth
from idservice.stores.protocol import CatalogueStore

log = logging.getLogger("idservice.catalogue")

POLL_S = 2.0  # at most, from one look to the next
LOOK_MAX_S = 5.0
READS_AT_ONCE = 16
STANDS_STILL_S = 5.0  # after which a change that somebody began is finished by an instance


class CatalogueWatcher:
    """Looks at the revision of the catalogue, and at the entries of counters in use when it moved.

    `finish` is told the names of counters whose change stands still.
    """

    def __init__(
        self,
        store: CatalogueStore,
        supplies: Mapping[str, LocalCounter],
        *,
        runway_s: float,
        health: StoreHealth,
        random: Random,
        finish: Callable[[str], None],
    ) -> None:
        self._store = store
        self._supplies = supplies
        self._runway_s = runway_s
        self._health = health
        self._random = random
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
            while True:  # what is in use was read when its use began: first a pause
                await asyncio.sleep(POLL_S * (0.85 + 0.15 * self._random.random()))
                await self._look()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _look(self) -> None:
        began = self._loop.time()
        try:
            async with asyncio.timeout(LOOK_MAX_S):
                revision = await self._store.revision()
                if revision != self._revision:
                    await self._read_entries()
        except errors.StoreError as error:
            self._health.failed(error)
        except TimeoutError:
            action, why = "reading the catalogue", "it took too long"
            self._health.failed(
                errors.NotApplied(store=self._store.address, action=action, why=why)
            )
        except Exception:  # a bug of ours or of a library
            log.exception("reading the catalogue failed", extra={"action": "catalogue_bug"})
        else:
            # The revision is the one that was read before the entries, and is remembered only now
            # that all are read: what is written in between moves it on, and is seen the next time.
            self._revision = revision
            self._heard_at = began
            if self._stale:
                self._stale = False
                for supply in tuple(self._supplies.values()):
                    supply.go_on()
        self._set_timer()
        self._find_standing()

    async def _read_entries(self) -> None:
        names = iter(tuple(self._supplies))

        async def read_some() -> None:
            for name in names:
                entry, supply = await self._store.entry(name), self._supplies.get(name)
                if entry is not None and supply is not None:
                    supply.apply_entry(entry)

        await asyncio.gather(*(read_some() for _ in range(READS_AT_ONCE)))

    # --- silence ---------------------------------------------------------------------------------

    @property
    def silence(self) -> CatalogueAge:
        """How long nothing was heard of the catalogue."""
        return CatalogueAge(self._loop.time() - self._heard_at, self._stale_s)

    @property
    def _stale_s(self) -> float:
        runways = (supply.counter.runway or self._runway_s for supply in self._supplies.values())
        return stale_after(max(runways, default=self._runway_s))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._stale:
            self._timer = self._loop.call_at(self._heard_at + self._stale_s, self._go_stale)

    def _go_stale(self) -> None:
        self._stale = True
        error = errors.CatalogueStale(seconds=self._stale_s)
        log.error("%s", error, extra={"action": "catalogue_stale"})
        for supply in tuple(self._supplies.values()):
            supply.go_stale(error)

    # --- changes that stand still ----------------------------------------------------------------

    def _find_standing(self) -> None:
        now = self._loop.time()
        before, self._standing = self._standing, {}
        for name, supply in self._supplies.items():
            entry = supply.counter
            if entry.intent is None:
                continue
            rev, since = before.get(name, (entry.rev, now))
            if rev != entry.rev:
                since = now
            self._standing[name] = entry.rev, since
            if now - since >= STANDS_STILL_S:
                self._finish(name)
