"""The tallies of one instance, on a store of our own or passed on to another service."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import TypeVar, cast

from idservice import errors
from idservice.core.tally import Tally, TallyState
from idservice.observability.store_health import StoreHealth
from idservice.observability.tally_readings import TallySample
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.tally_source import TallyReading, TallySource, Told
from idservice.tallies.audit import TallyAudit, audited
from idservice.tallies.changes import TallyChanger, TallyPatch
from idservice.tallies.context import TallyContext
from idservice.tallies.own import ListedTally, OwnTallies

T = TypeVar("T")

CHANGE_MAX_S = 5.0


class Tallies:
    """Adds to, reads and changes tallies; a `TallySource`.

    Parameters as in `TallyContext`. `check_open` raises Stopped or StoreReplaced if nothing may be
    added any more.
    """

    def __init__(
        self,
        store: IdStore,
        *,
        wait_s: float,
        waiting_max: int,
        health: StoreHealth,
        spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
        random: Random,
        clock: Callable[[], float],
        check_open: Callable[[], None],
    ) -> None:
        self._address = store.address
        self._health = health
        self._check_open = check_open
        self._own: OwnTallies | None = None
        self._source: TallySource
        if has_catalogue(store):
            context = TallyContext(
                store.tallies, store.address, health, spawn, random, clock, wait_s, waiting_max
            )
            self._context = context
            self._own = own = OwnTallies(context)
            self._source = own
            self._changer = TallyChanger(store.tallies, context.now_ms, own.check_from_now)
        else:
            self._source = cast(TallySource, store.tallies)  # of another service

    def samples(self) -> list[TallySample]:
        """Return the tallies in use on this instance, in the order in which they came into use.

        A name that may turn out to be no tally is left out: a metrics page would keep it.
        """
        committers = self._own.committers.values() if self._own is not None else ()
        return [one.sample() for one in committers if one.tally is not None]

    @property
    def reads(self) -> int:
        """Number of reads of the store for sums; requests that wait together share one."""
        return self._own.reads if self._own is not None else 0

    async def add(self, name: str, key: str, amount: str) -> Told:
        """Count an amount, as `TallySource.add`."""
        self._open_for(name, key)
        return await self._noted(self._source.add(name, key, amount))

    async def value(self, name: str) -> TallyReading:
        """Return the sum, as `TallySource.value`. Raises also Stopped, StoreReplaced."""
        self._check_open()
        return await self._noted(self._source.value(name))

    async def recorded(self, name: str, key: str) -> Told:
        """Return the record of a key, as `TallySource.recorded`. Raises also Stopped,
        StoreReplaced."""
        self._check_open()
        return await self._noted(self._source.recorded(name, key))

    async def _noted(self, call: Coroutine[object, object, T]) -> T:
        """Return the result of a call, and note if another service answered it."""
        if self._own is not None:  # notes it itself
            return await call
        try:
            result = await call
        except (errors.BadName, errors.BadKey):  # nothing was sent
            raise
        except errors.RequestRefused:
            self._health.answered()
            raise
        except errors.Unavailable as error:
            self._health.failed(error)
            raise
        self._health.answered()
        return result

    def _open_for(self, name: str, key: str) -> None:
        """Raise AddUnsettled if the service has ended: an earlier try of the key may count."""
        try:
            self._check_open()
        except errors.IdserviceError as error:
            unsettled = errors.AddUnsettled(name=name, key=key, why=str(error).rstrip("."))
            unsettled.retryable = error.retryable
            raise unsettled from error

    # --- changes, on a store of our own; each also raises ChangedElsewhere -----------------------

    async def set(self, name: str, key: str, sum: str, *, by: str, why: str = "") -> Told:
        """Set the sum, as an add under a key. Raises as `add`, and TallyNotChanged."""
        own = self._changeable()
        self._open_for(name, key)
        return await own.set(name, key, sum, by=by, why=why)

    async def tallies(self) -> list[ListedTally]:
        """Return every tally, by name; those that went back are marked. Raises StoreError."""
        own = self._changeable()
        within_s = self._context.wait_s
        try:
            async with asyncio.timeout(within_s):
                listed = await own.listed()
        except TimeoutError:
            # It says nothing of the store's health: DynamoDB reads the whole table.
            raise errors.NotAnswered(
                store=self._address,
                action="reading the tallies",
                why=f"it took longer than {within_s:g} s; `idservice tally list` waits longer",
            ) from None
        return [one for one in listed if one.went_back or one.tally.state is not TallyState.DELETED]

    async def tally(self, name: str) -> Tally:
        """Return a tally with its configuration. Raises BadName, UnknownTally, StoreError."""
        return await self._changeable().tally(name)

    async def create(self, wanted: Tally, *, by: str = "") -> tuple[Tally, bool]:
        """Create a tally, as `TallyChanger.create`."""
        self._changeable()
        self._check_open()
        return await self._limited(self._changer.create(wanted, by=by), wanted.name)

    async def change(
        self, name: str, patch: TallyPatch, what: str, *, by: str = "", why: str = ""
    ) -> Tally:
        """Change a tally, as `TallyChanger.change`."""
        self._changeable()
        self._check_open()
        return await self._limited(self._changer.change(name, patch, what, by=by, why=why), name)

    async def audit(self, name: str) -> TallyAudit:
        """Compare a tally with its records, which are all read. Raises as `tally`."""
        tally = await self.tally(name)
        return await audited(self._context.store, tally)

    def _changeable(self) -> OwnTallies:
        if self._own is None:
            raise errors.ChangedElsewhere(store=self._address)
        return self._own

    async def _limited(self, change: Coroutine[object, object, T], name: str) -> T:
        """Return the result of a change. Raises OutcomeUnknown if it takes too long."""
        try:
            async with asyncio.timeout(CHANGE_MAX_S):
                return await change
        except TimeoutError:
            raise errors.OutcomeUnknown(
                store=self._address,
                action=f"changing tally {name}",
                why="it took too long; the same request may be sent again",
            ) from None
