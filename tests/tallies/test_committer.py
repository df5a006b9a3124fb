"""Adds to a tally: counted once, shared, refused, and planned again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from idservice import errors
from idservice.allocation.context import Limits
from idservice.catalogue.counters import new_counter
from idservice.core.tally import TallyState
from idservice.server.startup import build_instance
from idservice.stores import initialise, open_store
from idservice.tallies.changes import TallyPatch, new_tally
from idservice.tallies.service import Tallies


@asynccontextmanager
async def tallies(path: Path) -> AsyncIterator[Tallies]:
    """The tallies of an instance on a new file."""
    async with open_store(f"sqlite:{path}") as store:
        await initialise(store, new_counter("default", Random(1)))
        service, _, made = build_instance(store, Limits(), random=Random(1))
        async with service:
            yield made


async def test_adds_are_counted_once_and_answered_with_the_sum(tmp_path: Path) -> None:
    async with tallies(tmp_path / "t.db") as sums:
        await sums.create(new_tally("gifts", decimals=2, floor="0"))
        first = await sums.add("gifts", "a", "12.50")
        again = await sums.add("gifts", "a", "12.5")
        assert first.record == again.record
        assert (first.replayed, again.replayed) == (False, True)
        many = await asyncio.gather(*(sums.add("gifts", f"k{n}", "0.01") for n in range(300)))
        assert sorted(told.record.sum for told in many) == list(range(1251, 1551))
        assert (await sums.value("gifts")).sum == 1550
        with pytest.raises(errors.OutOfBounds):
            await sums.add("gifts", "less", "-100")
        with pytest.raises(errors.OutOfBounds):
            await sums.add("gifts", "less", "-100")
        with pytest.raises(errors.KeyReused):
            await sums.add("gifts", "less", "-1")
        with pytest.raises(errors.BadAmount):
            await sums.add("gifts", "x", "0.001")
        with pytest.raises(errors.UnknownTally):
            await sums.add("other", "x", "1")
        told = await sums.set("gifts", "zero", "0", by="me")
        assert (told.before, told.record.sum, told.record.amount) == (1550, 0, -1550)
        await sums.change("gifts", TallyPatch(state=TallyState.SUSPENDED), "suspend", by="me")
        with pytest.raises(errors.TallySuspended):
            await sums.add("gifts", "y", "1")
        assert (await sums.add("gifts", "a", "12.50")).replayed
        assert (await sums.audit("gifts")).agrees
