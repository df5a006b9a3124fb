"""Lists, shows, creates and changes counters on behalf of one instance."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random

from idservice import errors
from idservice.catalogue.changes import Change
from idservice.catalogue.counters import ensure, positions_of, shown
from idservice.catalogue.runner import ChangeRunner
from idservice.observability.store_health import StoreHealth
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.records import DELETED, Counter, Position, check_name

CREATE_MAX_S = 5.0


class Catalogue:
    """The control plane of one instance.

    `runway_s` is the runway of a counter that names none, `read_s` the deadline of a read.
    `spawn` starts a task that the instance ends. `check_open` raises Stopped or StoreReplaced when
    nothing may be changed. `on_change` takes each entry that this instance has written.
    """

    def __init__(
        self,
        store: IdStore,
        *,
        runway_s: float,
        read_s: float,
        random: Random,
        health: StoreHealth,
        spawn: Callable[[Coroutine[object, object, None]], object],
        check_open: Callable[[], None],
        on_change: Callable[[Counter], None],
    ) -> None:
        self.store = store
        self.runway_s = runway_s
        self.random = random
        self._read_s = read_s
        self._health = health
        self._check_open = check_open
        self._on_change = on_change
        self._runner: ChangeRunner | None = None
        if has_catalogue(store):
            self._runner = ChangeRunner(
                store, runway_s=runway_s, random=random, spawn=spawn, on_change=on_change
            )

    async def counters(self) -> list[Counter]:
        """Return every counter in the store, by name. Raises StoreError."""
        read = self._health.read(
            self.store.counters(), "reading the counters", self.store.address, self._read_s
        )
        return [counter for counter in await read if counter.state != DELETED]

    async def counter(self, name: str) -> tuple[Counter, list[Position]]:
        """Return a counter and the positions of its shards, as the store has them.

        Raises BadName, UnknownCounter, StoreError.
        """
        check_name(name)
        address, action = self.store.address, f"reading counter {name}"
        counter = await self._health.read(shown(self.store, name), action, address, self._read_s)
        if counter is None or counter.state == DELETED:
            raise errors.UnknownCounter(name=name)
        positions = positions_of(self.store, counter)
        return counter, await self._health.read(positions, action, address, self._read_s)

    async def create(self, wanted: Counter, *, by: str = "") -> tuple[Counter, bool]:
        """Return the counter as the store has it, and True if this call created it.

        Raises as `counters.ensure`; OutcomeUnknown where the store is too slow.
        """
        try:
            async with asyncio.timeout(CREATE_MAX_S):
                counter, created = await ensure(
                    self.store, wanted, runway=self.runway_s, random=self.random, by=by
                )
        except TimeoutError:
            raise errors.OutcomeUnknown(
                store=self.store.address,
                action=f"creating counter {wanted.name}",
                why="it took too long; the same request may be sent again",
            ) from None
        self._on_change(counter)  # it may be in use, and have been deleted
        return counter, created

    async def change(self, name: str, wanted: Change) -> tuple[Counter, Counter]:
        """Return the entry of a counter before and after a change.

        Raises as `EpochChanger.change`; BadName, StoreReplaced, Stopped, ChangedElsewhere.
        """
        check_name(name)
        self._check_open()
        if self._runner is None:
            raise errors.ChangedElsewhere(store=self.store.address)
        return await self._runner.change(name, wanted)

    def finish(self, name: str) -> None:
        """Finish a change that stands still, as `ChangeRunner.finish`."""
        assert self._runner is not None, "changes are seen in a catalogue only"
        self._runner.finish(name)
