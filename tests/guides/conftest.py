"""The command `idservice` of the pages, which starts at once."""

import os
from collections.abc import Iterator

import pytest

from tests.programs import forked


@pytest.fixture(scope="session")
def commands(_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the folder of `idservice`, forked. Nothing where a fork may not enter a network."""
    if os.geteuid() != 0:
        yield ""
        return
    with forked("idservice", tmp_path_factory.mktemp("idservice")) as idservice:
        yield str(idservice.parent)
