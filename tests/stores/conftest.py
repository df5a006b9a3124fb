"""Handles on each store that grants for good; a contract of more or of fewer has its own."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from idservice.catalogue.counters import new_counter
from idservice.stores.protocol import CatalogueStore
from tests.stores import backends
from tests.stores.backends import ENGINE, ENGINES, Backend

KINDS = ["simulated", "sqlite", *ENGINES]
one_engine = pytest.mark.parametrize("backend", ["simulated", "sqlite", ENGINE], indirect=True)


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Empty data of one kind."""
    return made_backend(request, tmp_path)


def made_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    match request.param:
        case "simulated":
            return backends.Simulated()
        case "sqlite":
            return backends.SQLite(tmp_path)
        case "chained":
            return backends.Chained()
        case _:
            return backends.of_engine(request)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[CatalogueStore]:
    """A handle on initialised data."""
    async with backend.open() as store:
        assert await store.init(new_counter("default", Random()))
        yield store


@pytest.fixture
async def other(backend: Backend, store: CatalogueStore) -> AsyncIterator[CatalogueStore]:
    """A second handle on the same data."""
    async with backend.open() as other:
        yield other
