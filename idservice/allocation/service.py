"""The counters in use on this instance, and the tasks that keep ids of them in memory."""

import asyncio
import logging
import math
import os
import shlex
import weakref
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, Self

from idservice import __version__, errors
from idservice.allocation.catalogue_watch import POLL_S, CatalogueWatcher, Follower
from idservice.allocation.context import Context, Limits
from idservice.allocation.local_counter import LocalCounter
from idservice.allocation.local_state import LocalState
from idservice.allocation.shutdown import GIVE_BACK_MAX_S, close_all
from idservice.allocation.unknown_names import UnknownNames
from idservice.core.gap_causes import GapCause
from idservice.core.timeouts import BACKOFF_MAX_S, REFILL_MAX_S
from idservice.observability import logs
from idservice.observability.latency import Latency
from idservice.observability.readings import PIECE, CounterSample, Snapshot
from idservice.observability.store_health import StoreHealth
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.records import DELETED, Counter, check_name

log = logging.getLogger("idservice.allocation")

LOADING_MAX = 256  # counters being read from the store at once


class Service:
    """Serves ids of many counters over one store, from its entry to its exit.

    `declared` counters are filled at the start and decide whether the service is ready. `finish`
    is called with the name of a counter in use whose change has stood still for too long.
    """

    def __init__(
        self,
        store: IdStore,
        limits: Limits | None = None,
        *,
        random: Random,
        declared: Sequence[str] = (),
        finish: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.store = store
        self.limits = limits or Limits()
        self.random = random
        self.declared = tuple(dict.fromkeys(declared))
        self.stopping = False
        self.stop_by = float("inf")  # loop time by which a stop is to be over
        self.local_counters: dict[str, LocalCounter] = {}
        self.health = StoreHealth(self._ids_left)
        self._context = Context(store, self.limits, self.health, self.spawn, random)
        self.lag = Latency()  # of the event loop
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._loading: dict[str, asyncio.Future[LocalCounter]] = {}
        self._tasks: dict[asyncio.Task[object], None] = {}  # in the order of their beginning
        self._group = asyncio.TaskGroup()
        self._replaced: errors.StoreReplaced | None = None
        self._finish = finish
        self.followers: list[Follower] = []  # of the catalogue; all known before the entry
        self._catalogue: CatalogueWatcher | None = None  # once entered
        self._unknown: UnknownNames | None = None  # once entered, if the store has a catalogue

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self.spawn(self._watch())
        if has_catalogue(self.store):
            self._unknown = UnknownNames(self._now(), believed_s=POLL_S)
            self._catalogue = CatalogueWatcher(
                self.store,
                self._context,
                self.local_counters,
                self._unknown,
                finish=self._finish,
                replaced=self._refuse_all,
                followers=self.followers,
            )
            self.spawn(self._catalogue.run())
            for follower in self.followers:
                self.spawn(follower.run())
        _entered.add(self)
        return self

    async def __aexit__(self, *failure: Any) -> None:
        _entered.discard(self)
        self.stopping = True
        left = self.stop_by - self._now()
        within_s = max(0.0, min(left, GIVE_BACK_MAX_S))
        try:
            await close_all(self.local_counters.values(), self.store, within_s=within_s)
        finally:
            for task in self._tasks:
                task.cancel()
            await self._group.__aexit__(*failure)

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start a task that ends with the service; an error that it raises ends the service."""
        task = self._group.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    def check_open(self) -> None:
        """Raise Stopped or StoreReplaced if the service has ended."""
        if self.stopping:
            raise errors.Stopped()
        if self._replaced is not None:
            raise self._replaced.with_traceback(None)

    # --- counters --------------------------------------------------------------------------------

    async def local_counter(self, name: str) -> LocalCounter:
        """Return a counter in use, which is read from the store at its first use. Raises BadName,
        UnknownCounter, StoreError."""
        known = self.local_counters.get(name)
        if known is not None:
            return known
        check_name(name)
        self.check_open()
        if self._unknown is not None and self._unknown.believes(name, self._now()):
            raise errors.UnknownCounter(name=name)
        loading = self._loading.get(name)
        if loading is None:
            if len(self._loading) >= LOADING_MAX:
                raise errors.TooManyWaiting(name=name, count=len(self._loading))
            loading = self._loading[name] = asyncio.get_running_loop().create_future()
            loading.add_done_callback(_retrieve)
            self.spawn(self._load(name, loading))
        # Several requests share one read; none of them may cancel it for the others.
        return await asyncio.shield(loading)

    async def _load(self, name: str, loading: asyncio.Future[LocalCounter]) -> None:
        began = self._now()
        try:
            counter = await self.health.read(
                self.store.counter(name),
                f"reading counter {name}",
                self.store.address,
                self.limits.wait,
            )
            if counter is None or counter.target_state == DELETED:
                if self._unknown is not None:
                    self._unknown.add(name, read_at=began)
                raise errors.UnknownCounter(name=name)
            self.check_open()  # it may have ended in the meantime
            loading.set_result(self._add(counter))
        except asyncio.CancelledError:
            loading.set_exception(errors.Stopped())
            raise
        except Exception as error:
            loading.set_exception(error)
        finally:
            del self._loading[name]

    def _add(self, counter: Counter) -> LocalCounter:
        name, declared = counter.name, counter.name in self.declared
        # A declared counter stays, so that readiness can say why.
        missing = None if declared else self._forget
        local = LocalCounter(counter, self._context, keep_filled=declared, missing=missing)
        self.local_counters[name] = local
        return local

    def apply_entry(self, entry: Counter) -> None:
        """Apply an entry that this instance wrote, if its counter is in use."""
        if self._unknown is not None:
            self._unknown.discard(entry.name, now=self._now())
        local = self.local_counters.get(entry.name)
        if local is not None:
            local.apply_entry(entry)

    def _forget(self, local: LocalCounter) -> None:
        if self.local_counters.get(local.counter.name) is local:
            del self.local_counters[local.counter.name]

    # --- life ------------------------------------------------------------------------------------

    async def warm(self) -> None:
        """Bring first ids of the declared counters into memory, so that no request waits for them.

        Raises StoreError. A declared counter that is missing or suspect is only logged: it may be
        repaired while other counters are served.
        """
        for name in self.declared:
            try:
                local = await self.local_counter(name)
                if local.state is LocalState.SERVING:
                    await local.fill()
            except (errors.CounterSuspect, errors.StoreKeyNotEnough):
                pass  # logged where it was found
            except errors.UnknownCounter as error:
                log.warning("%s", self._in_words(error), extra={"action": "counter_missing"})

    def _in_words(self, missing: errors.UnknownCounter) -> str:
        """Return the error for an operator. Its command names the store, if counters can be created
        there."""
        if not has_catalogue(self.store):
            return str(missing)
        return str(missing).replace("`.", f" --store {shlex.quote(self.store.address)}`.")

    async def not_ready(self) -> errors.IdserviceError | None:
        """Return why no declared counter can be served now; None if one can.

        A counter that is suspended or used up is so on every instance. If each were taken out of
        its balancer, none would serve the other counters.
        """
        try:
            self.check_open()
        except errors.IdserviceError as error:
            return error
        reasons = await asyncio.gather(*(self._not_served(name) for name in self.declared))
        return None if None in reasons else next(iter(reasons), None)

    async def _not_served(self, name: str) -> errors.IdserviceError | None:
        """Return why the next id of a counter cannot be served now; None if it can."""
        try:
            local = await self.local_counter(name)
            local.recheck()  # without readiness no request comes that would do so
            return local.unavailable_reason
        except errors.IdserviceError as error:
            return error

    async def _watch(self) -> None:
        """Ask a store that is down now and then: strict counters ask it only if a request comes."""
        while True:
            await self.health.down.wait()
            await asyncio.sleep(BACKOFF_MAX_S * (0.5 + 0.5 * self.random.random()))
            if not self.health.down.is_set():
                continue
            try:
                async with asyncio.timeout(REFILL_MAX_S):
                    await self.store.verify()
                self.health.answered(read=True)
            except errors.StoreReplaced as error:
                self._refuse_all(error)
            except (errors.StoreError, TimeoutError):
                continue  # still down
            except Exception:  # a bug of ours or of a library
                log.exception("verifying the store failed", extra={"action": "verify_bug"})

    def _refuse_all(self, error: errors.StoreReplaced) -> None:
        if self._replaced is None:
            log.error("%s", error, extra={"action": "store_replaced"})
        self._replaced = error
        for local in self.local_counters.values():
            local.stop(error, cause=GapCause.WENT_BACK)

    def _ids_left(self) -> str:
        """Return how long the ids in memory last, as a sentence; empty if none are being used."""
        used = {
            name: seconds
            for name, local in self.local_counters.items()
            if math.isfinite(seconds := local.epoch_state.lasts_s)
        }
        if not used:
            return ""
        name = min(used, key=lambda name: used[name])
        others = f", and longer for {len(used) - 1} others" if len(used) > 1 else ""
        return f"Ids in memory last {used[name]:.0f} s more for `{name}`{others}."

    async def snapshot(self) -> Snapshot:
        """Return everything that is counted. Requests are served in between.

        A counter that may turn out not to exist is left out: a metrics page, from which nothing may
        vanish, would keep its name.
        """
        in_use = tuple(self.local_counters.values())
        readings: list[CounterSample] = []
        for at in range(0, len(in_use), PIECE):
            part = in_use[at : at + PIECE]
            readings += [local.reading() for local in part if local.counter.ordinal]
            await asyncio.sleep(0)
        return Snapshot(
            readings=readings,
            store_up=self.health.up,
            store_error="" if self.health.up else str(self.health.last_error),
            uptime_s=self._now() - self._began,
            latency=self.health.latency,
            lag=self.lag,
            version=__version__,
            catalogue_age=self._catalogue.age if self._catalogue is not None else None,
            draining=self.stop_by < float("inf"),
            log_dropped=logs.dropped(),
        )


_entered: "weakref.WeakSet[Service]" = weakref.WeakSet()


def _retrieve(future: asyncio.Future[LocalCounter]) -> None:
    if not future.cancelled():
        future.exception()  # all requests for it may have left


def _forget_in_child() -> None:
    for service in _entered:
        service.stopping = True
        for local in service.local_counters.values():
            local.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
