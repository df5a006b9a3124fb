"""Services with the fast lane."""

from random import Random
from typing import Any

import pytest

from tests.certificates import Files
from tests.simulation.store import SimStore, Table
from tests.web.conftest import Serve, Serving
from tests.web.fast_lane.hand import Hand
from tests.web.fast_lane.pair import Pair
from tests.web.rows import Rows


@pytest.fixture
def lane() -> bool:
    return True


@pytest.fixture
async def pair(serve: Serve) -> Pair:
    return await made_pair(serve)


@pytest.fixture
def pairs(serve: Serve, subtests: pytest.Subtests) -> Rows[Pair]:
    """A pair for row after row; none may use up `c`."""
    return Rows(subtests, lambda: made_pair(serve))


@pytest.fixture
def tls_pairs(serve: Serve, subtests: pytest.Subtests, certificate: Files) -> Rows[Pair]:
    return Rows(subtests, lambda: made_pair(serve, certificate))


async def made_pair(serve: Serve, certificate: Files | None = None) -> Pair:
    fast, slow = [
        await serve(
            store=SimStore(Random(1), Table()), routes={"/old": "c"}, lane=lane,
            clock=lambda: 1.8e9, certificate=certificate,
        )
        for lane in (True, False)
    ]  # fmt: skip
    for one in (fast, slow):
        await one.create("c", start=990, limit=1020)
        await one.create("wide", start=2**53, limit=2**63 - 2)
        await one.create("strict", strict=True)
        for name in ("c", "wide", "strict"):
            await one.service.local_counter(name)
        await one.service.warm()
        for name in ("c", "wide"):
            await one.service.local_counters[name].fill()
    return Pair(fast, slow)


@pytest.fixture
async def hand(serving: Serving) -> Any:
    await serving.service.warm()
    hand = Hand(serving)
    yield hand
    await hand.close()
