"""A service over a simulated store, for tests of one thing at a time."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.catalogue.catalogue import Catalogue
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Change
from idservice.catalogue.counters import new_counter
from idservice.server.startup import build_instance
from idservice.stores.records import Counter
from tests.simulation.store import Faults, SimStore, Table


def table(*names: str, **configuration: Any) -> Table:
    """A table that holds counters of these names, or one called `orders`."""
    made = Table()
    first, *others = names or ("orders",)
    made.init(new_counter(first, Random(1), **configuration))
    for name in others:
        made.create(new_counter(name, Random(name), **configuration))
    return made


def answers_after(seconds: float) -> Faults:
    """A network that loses nothing and is as slow as this."""
    return Faults(latency_s=(seconds, seconds))


@asynccontextmanager
async def controlled(
    data: Table,
    faults: Faults | None = None,
    *,
    limits: Limits | None = None,
    declared: Sequence[str] = (),
    seed: int = 1,
    store: type[SimStore] = SimStore,
) -> AsyncIterator[tuple[Service, Catalogue]]:
    """An entered service and its catalogue. `service.store` is their own handle."""
    handle = store(Random(seed), data, faults)
    service, catalogue, _ = build_instance(handle, limits, random=Random(seed), declared=declared)
    async with service:
        yield service, catalogue


@asynccontextmanager
async def serving(data: Table, faults: Faults | None = None, **how: Any) -> AsyncIterator[Service]:
    """The service of `controlled` alone."""
    async with controlled(data, faults, **how) as (service, _):
        yield service


async def elsewhere(data: Table, wish: Change, name: str = "orders") -> Counter:
    """Changed by somebody else, through a store without faults."""
    changer = EpochChanger(SimStore(Random(2), data), random=Random(3), stale_s=0.0)
    _, after = await changer.change(name, wish)
    return after
