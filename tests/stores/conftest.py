"""Handles on each store that grants for good; a contract of more or of fewer has its own."""

from collections.abc import AsyncIterator

import pytest

from idservice.stores.protocol import CatalogueStore
from tests.stores import backends
from tests.stores.backends import ENGINE, ENGINES, Backend

KINDS = ["simulated", "sqlite", *ENGINES]
# For a row whose requests other rows send to both engines too, and have the same answers of.
one_engine = pytest.mark.parametrize("backend", ["simulated", "sqlite", ENGINE], indirect=True)


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Empty data of one kind."""
    return made_backend(request)


def made_backend(request: pytest.FixtureRequest) -> Backend:
    match request.param:
        case "simulated":
            return backends.Simulated()
        case "sqlite":
            return backends.SQLite(request.getfixturevalue("tmp_path"))
        case "chained":
            return backends.Chained()
        case _:
            return backends.of_engine(request)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[CatalogueStore]:
    """A handle on initialised data."""
    async with backend.open() as store:
        await backend.init(store)
        yield store


@pytest.fixture
async def other(backend: Backend, store: CatalogueStore) -> AsyncIterator[CatalogueStore]:
    """A second handle on the same data."""
    async with backend.open() as other:
        yield other
