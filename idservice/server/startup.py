"""The start of a service: build it, reach the store, and reserve the first ids.

A step that asks the store is tried again until its deadline if waiting can help.
"""

import asyncio
import logging
import shlex
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from random import Random

from idservice import errors
from idservice.access.changes import KeyChanges
from idservice.access.keys import Keys
from idservice.access.usage import UsageMeter
from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.catalogue.catalogue import Catalogue
from idservice.catalogue.counters import new_counter
from idservice.client.own_key import OwnKey
from idservice.core.tally import AddFate
from idservice.core.timeouts import backoff
from idservice.core.usage import UsageKind, UsageReading
from idservice.server import asking
from idservice.server.settings import STORE_DEFAULT, ServeSettings
from idservice.stores import initialise, open_store
from idservice.stores.findings import Clock
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.records import DEFAULT_COUNTER
from idservice.tallies.service import Tallies

log = logging.getLogger("idservice.start")

LOOK_MAX_S = 5.0
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 2.0  # between looks at a store that does not answer


def opened(settings: ServeSettings, environment: Mapping[str, str]) -> IdStore:
    """Return the store of an instance, not yet entered. Raises Usage."""
    store = open_store(
        settings.store or STORE_DEFAULT,
        hold_s=settings.hold,
        wait_s=settings.wait,
        own_key=lambda: OwnKey.of_environment(environment, settings.store_key_file),
    )
    if settings.store_key_file is not None and has_catalogue(store):
        why = "--store-key-file is for a --store that is another idservice, http://HOST:PORT"
        raise errors.Usage(why=why)
    return store


def build_instance(
    store: IdStore,
    limits: Limits | None = None,
    *,
    random: Random,
    declared: Sequence[str] = (),
    clock: Callable[[], float] = time.time,
) -> tuple[Service, Catalogue, Tallies]:
    """Return the allocation service, the catalogue and the tallies of an instance; enter the first
    to start all. `clock` tells the seconds since 1970.

    The service has the catalogue finish changes that stand still. The catalogue has the service
    apply the entries that it writes.
    """
    service = Service(
        store, limits, random=random, declared=declared, finish=lambda name: catalogue.finish(name)
    )
    catalogue = Catalogue(
        store,
        runway_s=service.limits.runway,
        read_s=service.limits.wait,
        random=random,
        health=service.health,
        spawn=service.spawn,
        check_open=service.check_open,
        on_change=service.apply_entry,
        clock=clock,
    )
    tallies = Tallies(
        store,
        wait_s=service.limits.wait,
        waiting_max=service.limits.waiters_max,
        health=service.health,
        spawn=service.spawn,
        random=random,
        clock=clock,
        check_open=service.check_open,
    )
    return service, catalogue, tallies


def build_keys(
    service: Service, store: IdStore, asked: str | None, clock: Callable[[], float] = time.time
) -> Keys | None:
    """Return the access keys of an instance, which follow the catalogue once the service is
    entered; None if the store keeps none. `asked` is the setting `require_keys`. Raises Usage."""
    if has_catalogue(store):
        keys = Keys(store, health=service.health, read_s=service.limits.wait, clock=clock)
        service.followers.append(keys)
        return keys
    if asked is not None:
        why = (
            f"--require-keys has no effect beside {store.address}, which keeps the keys: this"
            " service takes ids there by its own key, for all that reach it. Leave the flag out,"
            " and listen on loopback"
        )
        raise errors.Usage(why=why)
    return None


def build_key_changes(
    keys: Keys | None, store: IdStore, random: Random, clock: Callable[[], float] = time.time
) -> KeyChanges | None:
    """Return what changes the access keys of a store; None if it keeps none. This instance knows at
    once what it changes itself."""
    if keys is None or not has_catalogue(store):
        return None
    return KeyChanges(store.keys, random=random, clock=clock, on_change=keys.put)


def build_meter(
    service: Service,
    tallies: Tallies,
    store: IdStore,
    *,
    random: Random,
    clock: Callable[[], float] = time.time,
) -> UsageMeter | None:
    """Return the meter of an instance's usage. None for a sidecar: the service that lends its ids
    counts them."""
    if not has_catalogue(store):
        return None
    return UsageMeter(
        store.usage, lambda: usage_readings(service, tallies), random=random, clock=clock
    )


def usage_readings(service: Service, tallies: Tallies) -> Iterator[UsageReading]:
    """Yield every counter and tally in use. One that handed out anything never leaves memory."""
    for name, local in tuple(service.local_counters.items()):
        ids = local.allocator
        brought = ids.granted_ids - ids.returned_ids
        yield UsageReading(UsageKind.IDS, name, ids.issued_ids, brought, ids.held)
    for sample in tallies.samples():
        counted = sample.stats.adds.get(AddFate.COUNTED.value, 0)  # no replays, no refusals
        yield UsageReading(UsageKind.ADDS, sample.tally, counted)


def may_create(store: str | None, *, init: bool) -> bool:
    """Return True if a missing store may be created: if asked for, or if no store was named."""
    if init or store is not None:
        return init
    try:
        return not Path(STORE_DEFAULT.partition(":")[2]).exists()
    except PermissionError:  # it may be there: opening it says what is not allowed
        return False


async def reach(store: IdStore, random: Random, *, create: bool, deadline: float) -> None:
    """Check that the store can be used. Raises StoreUnready after `deadline`, a loop time."""
    loop = asyncio.get_running_loop()

    async def attempt() -> None:
        if create and await initialise(store, new_counter(DEFAULT_COUNTER, random)):
            log.warning(
                "%s was created; ids start from 0", store.address, extra={"action": "store_created"}
            )
        try:
            async with asyncio.timeout_at(max(deadline, loop.time() + LOOK_MAX_S)):
                await store.verify()
        except TimeoutError:
            why = "it, or the source of its credentials, did not answer in time: check the network"
            raise errors.StoreUnready(store=store.address, why=why, waiting_helps=True) from None

    def may_pass(error: errors.StoreError) -> bool:
        return isinstance(error, errors.StoreUnready) and error.waiting_helps

    await _until(deadline, attempt, may_pass)


async def warm(service: Service, *, deadline: float) -> None:
    """Reserve the first ids, which shows that the store allows it. Raises StoreUnready."""
    try:
        await _until(deadline, service.warm, lambda error: error.retryable)
    except errors.StoreError as error:
        why = str(error).rstrip(".")
        raise errors.StoreUnready(store=service.store.address, why=why) from error


async def _until(
    deadline: float,
    attempt: Callable[[], Awaitable[None]],
    may_pass: Callable[[errors.StoreError], bool],
) -> None:
    """Try again until the deadline, as long as errors may pass."""
    loop = asyncio.get_running_loop()
    for failures in count(1):
        pause_s = backoff(failures, first_s=RETRY_FIRST_S, max_s=RETRY_MAX_S)
        try:
            await attempt()
            return
        except errors.StoreError as error:
            left_s = deadline - loop.time()
            if not may_pass(error) or pause_s > left_s:
                raise
            if failures == 1:
                why = str(error).rstrip(".")
                log.warning(
                    "%s; trying again for %.0f s", why, left_s, extra={"action": "store_wait"}
                )
        await asyncio.sleep(pause_s)


async def log_findings(store: IdStore, asked: str | None, clock: Clock) -> None:
    """Log the faults of the store that a quick look shows. If keys are `asked` for, also log that
    the store has none."""
    await asking.log_if_no_keys(store, asked, clock)
    try:
        async with asyncio.timeout(LOOK_MAX_S):
            found = await store.examine(clock, thorough=False)
    except Exception:  # a store can be served from without it
        log.info(
            "the store was not examined: it did not answer", extra={"action": "store_not_examined"}
        )
        return
    more = f"more: `idservice doctor --store {shlex.quote(store.address)}`"
    for finding in found:
        if finding.is_worse_than_advice and finding.about != "reach":
            log.warning(
                "%s: %s: %s (%s)",
                finding.about,
                finding.found,
                finding.why,
                more,
                extra={"action": "store_examined"},
            )
