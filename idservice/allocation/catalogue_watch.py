"""Keeps the counters in use current with the store. It notices entries that changed, names without
a counter, changes that stand still, positions or a store that went back, and a catalogue that could
not be read for too long."""

import asyncio
import logging
import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Protocol

from idservice import errors
from idservice.allocation.context import Context
from idservice.allocation.local_counter import LocalCounter
from idservice.allocation.unknown_names import UnknownNames
from idservice.core.timeouts import stale_after
from idservice.observability.readings import CatalogueAge
from idservice.stores.at_once import AT_ONCE, for_each
from idservice.stores.findings import BEHIND, FAULT, IDENTITY, Finding
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import Counter

log = logging.getLogger("idservice.catalogue")

POLL_S = 2.0  # at most, from one look to the next
LOOK_MAX_S = 5.0
POSITIONS_MAX = 20  # that are read with one look
STANDS_STILL_S = 5.0  # after which an instance finishes a change that another began


class Follower(Protocol):
    """Other data that is kept current by the catalogue's revision, which writes of this data move
    too."""

    async def run(self) -> None:
        """Do the follower's other work, until the service ends."""

    async def read_again(self) -> None:
        """Read what may have changed, since the revision moved. Raises StoreError."""

    def heard(self, at: float) -> None:
        """Note that all that was read was true at this loop time."""


class CatalogueWatcher:
    """Reads the revision of the catalogue, and when it moved, the entries of counters in use. It
    also compares the positions of these counters, in turns. `finish` is called with the name of a
    counter whose change stands still, `replaced` if the store is another one, or an older copy.
    `followers` read again when the revision moved.
    """

    def __init__(
        self,
        store: CatalogueStore,
        context: Context,
        local_counters: Mapping[str, LocalCounter],
        unknown: UnknownNames,
        *,
        finish: Callable[[str], None],
        replaced: Callable[[errors.StoreReplaced], None],
        followers: Sequence[Follower] = (),
    ) -> None:
        self._store = store
        self._context = context
        self._local_counters = local_counters
        self._unknown = unknown
        self._finish = finish
        self._replaced = replaced
        self._followers = followers
        self._loop = asyncio.get_running_loop()
        self._revision: int | None = None
        self._heard_at = self._loop.time()  # when the last look that succeeded was begun
        self._stale_s = 0.0  # counters that turn stale within this time are stale now
        self._timer: asyncio.TimerHandle | None = None
        self._surveyed = 0  # counters in use when `_limits_s` was last made
        # Each time after which some counters are stale, ascending.
        self._limits_s = [stale_after(context.limits.runway)]
        self._changing: list[str] = []  # names of counters under change
        self._standing: dict[str, tuple[int, float]] = {}  # by name: revision of the entry, since
        self._to_compare: deque[str] = deque()  # names of counters whose turn is yet to come
        self._next_turn_at = 0.0
        self._comparing = False

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
                if revision < (self._revision or 0):
                    self._replaced(self._went_back_to(revision))
                else:
                    moved = revision != self._revision
                    self._unknown.looked(began=began, now=self._loop.time(), moved=moved)
                    if moved:
                        for follower in self._followers:  # first: they read little, and soon (K3)
                            await follower.read_again()
                        await self._read_entries()
        except errors.StoreReplaced as error:
            health.failed(error, read=True)
            self._replaced(error)
        except errors.StoreError as error:
            health.failed(error, read=True)
        except TimeoutError:
            action, why = "reading the catalogue", "it took too long"
            slow = errors.NotAnswered(store=self._store.address, action=action, why=why)
            health.failed(slow, read=True)
        except Exception:  # a bug of ours or of a library
            log.exception("reading the catalogue failed", extra={"action": "catalogue_bug"})
        else:
            # Now that all is read, the revision that was read first is remembered. A write in
            # between has moved the revision on, and is seen at the next look.
            if revision != self._revision or len(self._local_counters) != self._surveyed:
                self._survey()
            self._revision = revision
            self._heard_at = began
            for follower in self._followers:
                follower.heard(began)
            self._compare_positions()
            if self._stale_s:
                self._stale_s = 0.0
                log.warning("the catalogue is read again", extra={"action": "catalogue_read"})
                for local in tuple(self._local_counters.values()):
                    local.go_on()
        self._set_timer()
        self._find_standing()

    def _went_back_to(self, revision: int) -> errors.StoreReplaced:
        """Return the error of a revision, which only rises, that is lower than at the last look."""
        store = self._store.address
        found = f"its catalogue went back from revision {self._revision} to {revision}"
        run = f"idservice fence --all --past N --store {shlex.quote(store)}"
        back = Finding(FAULT, IDENTITY, found, BEHIND, run)
        return errors.StoreReplaced(store=store, why=back.sentence)

    async def _read_entries(self) -> None:
        names = tuple(self._local_counters)
        rest = iter(names)

        async def read_some() -> None:
            for name in rest:
                entry, local = await self._store.entry(name), self._local_counters.get(name)
                if entry is not None and local is not None:
                    local.apply_entry(entry)

        await asyncio.gather(*(read_some() for _ in range(min(len(names), AT_ONCE))))

    def _survey(self) -> None:
        """Collect the limits and the changes of all entries in use, when one of them may be new."""
        entries = [local.counter for local in self._local_counters.values()]
        self._surveyed = len(entries)
        if entries:
            self._limits_s = sorted({self._limit_of(entry) for entry in entries})
        self._changing = [entry.name for entry in entries if entry.intent is not None]

    # --- without the catalogue -------------------------------------------------------------------

    @property
    def age(self) -> CatalogueAge:
        """The time since the catalogue was last read, and the one after which the first counters
        stop."""
        return CatalogueAge(self._loop.time() - self._heard_at, self._limits_s[0])

    def _limit_of(self, entry: Counter) -> float:
        """Return the seconds for which a counter is served without the catalogue. Its own runway
        decides, because a change that repeats ids waits that long."""
        return stale_after(entry.runway or self._context.limits.runway)

    def _next_limit(self) -> float | None:
        return next((limit for limit in self._limits_s if limit > self._stale_s), None)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if len(self._local_counters) != self._surveyed:
            self._survey()
        limit = self._next_limit()
        if limit is not None:
            self._timer = self._loop.call_at(self._heard_at + limit, self._go_stale)

    def _go_stale(self) -> None:
        limit = self._next_limit()
        assert limit is not None
        self._stale_s = limit
        error = errors.CatalogueStale(seconds=limit)
        log.error("%s", error, extra={"action": "catalogue_stale"})
        for local in tuple(self._local_counters.values()):
            if self._limit_of(local.counter) <= limit:
                local.go_stale(error)
        self._set_timer()

    # --- positions -------------------------------------------------------------------------------

    def _compare_positions(self) -> None:
        """Begin to compare the positions whose turn it is with what this instance has reserved."""
        due = [] if self._comparing else self._due()
        if due:
            self._comparing = True
            self._context.spawn(self._compare(due))

    def _due(self) -> list[LocalCounter]:
        """Return the counters to compare at this look, POSITIONS_MAX at most. A round through all
        counters takes about one runway, and longer if there are many."""
        now, runway = self._loop.time(), self._context.limits.runway
        if not self._to_compare and now >= self._next_turn_at:
            self._to_compare.extend(self._local_counters)
            self._next_turn_at = now + runway
        due: list[LocalCounter] = []
        for _ in range(ceil(len(self._local_counters) * POLL_S / runway)):
            if not self._to_compare or len(due) == POSITIONS_MAX:
                break
            local = self._local_counters.get(self._to_compare.popleft())
            if local is not None and local.has_reserved():
                due.append(local)
        return due

    async def _compare(self, due: list[LocalCounter]) -> None:
        try:
            await for_each(due, LocalCounter.compare_position)
        finally:
            self._comparing = False

    # --- changes ---------------------------------------------------------------------------------

    def _find_standing(self) -> None:
        now = self._loop.time()
        before, self._standing = self._standing, {}
        for name in self._changing:
            local = self._local_counters.get(name)
            if local is None or local.counter.intent is None:
                continue
            entry = local.counter
            rev, since = before.get(name, (entry.rev, now))
            if rev != entry.rev:
                since = now
            self._standing[name] = entry.rev, since
            if now - since >= STANDS_STILL_S:
                self._finish(name)
