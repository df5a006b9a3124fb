"""Lists, shows, creates and changes counters on behalf of one instance."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import Random

from idservice import errors
from idservice.catalogue import change_log
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Change
from idservice.catalogue.counters import ensure, positions_of, shown
from idservice.catalogue.listing import listed
from idservice.core.access_key import EVERYTHING
from idservice.core.timeouts import stale_after
from idservice.observability.store_health import StoreHealth
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.records import DELETED, Counter, Position, check_name

log = logging.getLogger("idservice.change")

CREATE_MAX_S = 5.0

Done = tuple[Counter, Counter]


class Catalogue:
    """The control plane of one instance.

    `runway_s` is the runway of a counter that names none, `read_s` the deadline of a read.
    `spawn` starts a task that the instance ends. `check_open` raises Stopped or StoreReplaced when
    nothing may be changed. `on_change` takes each entry that this instance has written. `clock`
    tells the time of day.
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
        clock: Callable[[], float],
    ) -> None:
        self.store = store
        self.runway_s = runway_s
        self.random = random
        self._read_s = read_s
        self._health = health
        self._check_open = check_open
        self._on_change = on_change
        self._spawn = spawn
        self._clock = clock
        self._finishing: set[str] = set()
        self._changer: EpochChanger | None = None
        if has_catalogue(store):
            self._changer = EpochChanger(
                store, random=random, stale_s=stale_after(runway_s), clock=clock
            )

    async def page(
        self, after: str, most: int, scopes: Sequence[str] = (EVERYTHING,)
    ) -> list[Counter]:
        """Return the first `most` counters after a name that the scopes cover, by name. Raises
        StoreError."""
        return await self._health.read(
            listed(self.store, after, most, scopes),
            "reading the counters",
            self.store.address,
            self._read_s,
        )

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
                    self.store, wanted,
                    runway=self.runway_s, random=self.random, by=by, clock=self._clock,
                )  # fmt: skip
        except TimeoutError:
            raise errors.OutcomeUnknown(
                store=self.store.address,
                action=f"creating counter {wanted.name}",
                why="it took too long; the same request may be sent again",
            ) from None
        self._on_change(counter)  # it may be in use, and have been deleted
        return counter, created

    async def carry_out(self, name: str) -> None:
        """Carry out the change of a counter that is under way, if any. The change goes on even if
        the caller stops waiting. Raises as `change`, except Changing."""
        await self._changes(name).carry_out(name)

    async def change(
        self, name: str, wanted: Change, on_begin: Callable[[Counter], None] = lambda _: None
    ) -> Done:
        """Return the entry of a counter before and after a change.

        `on_begin` takes the entry as soon as the store has the change. The change goes on if the
        caller stops waiting; an error is then logged. So the change does not follow another one:
        sent again, it would follow itself, and repeat ids twice (allow_lower). Raises Changing, and
        as `EpochChanger.change`; BadName, StoreReplaced, Stopped, ChangedElsewhere.
        """
        changer = self._changes(name)
        changing: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._spawn(self._change(changer, name, wanted, on_begin, changing))
        try:
            await asyncio.wait({changing})
        except asyncio.CancelledError:
            changing.add_done_callback(partial(_unheard, name, wanted))
            raise
        return changing.result()

    def _changes(self, name: str) -> EpochChanger:
        """Return the changer of counters, if counter `name` may be changed here now."""
        check_name(name)
        self._check_open()
        if self._changer is None:
            raise errors.ChangedElsewhere(store=self.store.address)
        return self._changer

    async def _change(
        self,
        changer: EpochChanger,
        name: str,
        wanted: Change,
        on_begin: Callable[[Counter], None],
        changing: asyncio.Future[Done],
    ) -> None:
        try:
            before, begun = await changer.begin(name, wanted)
            on_begin(begun)
            after = await changer.finish(begun, wanted)
            self._on_change(after)
            changing.set_result((before, after))
        except asyncio.CancelledError:
            changing.set_exception(errors.Stopped())
            raise
        except Exception as error:
            changing.set_exception(error)

    def finish(self, name: str) -> None:
        """Finish a change that stands still, unless this instance does so already."""
        assert self._changer is not None, "changes are seen in a catalogue only"
        if name not in self._finishing:
            self._finishing.add(name)
            self._spawn(self._finish(self._changer, name))

    async def _finish(self, changer: EpochChanger, name: str) -> None:
        try:
            self._on_change(await changer.carry_out(name, left=True))
        except errors.IdserviceError as error:
            log.error(
                "a change of counter %s is not finished: %s", name, error,
                extra={"action": "change_stuck"},
            )  # fmt: skip
        except Exception:  # a bug of ours or of a library
            log.exception("finishing a change failed", extra={"action": "change_bug"})
        finally:
            self._finishing.discard(name)


def _unheard(name: str, wanted: Change, changing: asyncio.Future[Done]) -> None:
    """Take the end of a change whose caller has left."""
    if (error := changing.exception()) is not None:
        change_log.tell_of_failure(name, wanted, error)
