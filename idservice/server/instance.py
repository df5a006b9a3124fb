"""Builds the two planes of an instance over one store, and connects them."""

from collections.abc import Sequence
from random import Random

from idservice.allocation.context import Limits
from idservice.allocation.service import Service
from idservice.catalogue.catalogue import Catalogue
from idservice.stores.protocol import IdStore


def build_instance(
    store: IdStore,
    limits: Limits | None = None,
    *,
    random: Random,
    declared: Sequence[str] = (),
) -> tuple[Service, Catalogue]:
    """Return the data plane and the control plane of an instance; enter the former to start both.

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
    )
    return service, catalogue
