"""Names without a counter cost no read each, and a counter that is created is found in time."""

import asyncio
from random import Random

import pytest

from idservice import errors
from idservice.allocation.catalogue_watch import POLL_S
from idservice.allocation.service import Service
from idservice.allocation.unknown_names import READS_PER_S, UNKNOWN_MAX, UnknownNames
from idservice.catalogue.counters import new_counter
from idservice.stores.records import Counter
from tests.simulation.loop import elapse, run
from tests.simulation.serving import answers_after, serving, table
from tests.simulation.store import SimStore


class Reading(SimStore):
    """Counts the reads of entries by name."""

    reads = 0

    async def counter(self, name: str) -> Counter | None:
        Reading.reads += 1
        return await super().counter(name)


async def ask(service: Service, name: str) -> int | None:
    try:
        return await (await service.local_counter(name)).next_id()
    except errors.UnknownCounter:
        return None


def test_a_loop_over_unknown_names_reads_as_many_as_time_allows() -> None:
    async def main() -> None:
        Reading.reads = 0
        async with serving(table(), store=Reading) as service:
            await elapse(POLL_S)
            for _ in range(50):
                assert [await ask(service, f"no{at}") for at in range(20)] == [None] * 20
                await elapse(1.0)
            assert 20 < Reading.reads <= 20 + 51 * READS_PER_S

    run(main())


def test_a_counter_created_elsewhere_is_found_within_a_look() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            await elapse(5.3)
            for _ in range(5):
                assert await ask(service, "late") is None
            data.create(new_counter("late", Random(1), start=7))
            assert await ask(service, "late") is None
            await elapse(POLL_S)
            assert await ask(service, "late") == 7

    run(main())


def test_a_counter_created_elsewhere_is_found_at_once_if_few_ask() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            await elapse(5.3)
            assert await ask(service, "late") is None
            data.create(new_counter("late", Random(1), start=7))
            assert await ask(service, "late") == 7

    run(main())


@pytest.mark.parametrize("after", [0.0, 0.5])
def test_a_counter_created_here_is_found_at_once(after: float) -> None:
    """Also by a request that comes while a read that did not see it is still under way."""

    async def main() -> None:
        data = table()
        async with serving(data, answers_after(0.5)) as service:
            early = asyncio.create_task(ask(service, "own"))
            await elapse(after + 0.2)
            data.create(entry := new_counter("own", Random(1)))
            service.apply_entry(entry)
            await early
            assert await ask(service, "own") is not None

    run(main())


class Deaf(SimStore):
    """Hears nothing of the catalogue's revision."""

    deaf = False

    async def revision(self) -> int:
        if self.deaf:
            raise errors.NotApplied(store=self.address, action="reading", why="it is deaf")
        return await super().revision()


def test_without_a_look_nothing_is_believed() -> None:
    """A look that fails does not tell what was created."""

    async def main() -> None:
        data = table()
        async with serving(data, store=Deaf) as service:
            assert await ask(service, "late") is None
            Deaf.deaf = True
            data.create(new_counter("late", Random(1), start=7))
            await elapse(POLL_S + 0.1)
            assert await ask(service, "late") == 7

    run(main())


def used_up() -> UnknownNames:
    """Names of which none are read again: enough were."""
    names = UnknownNames(0.0, believed_s=POLL_S)
    assert names._reads.take(int(READS_PER_S), 0.0)
    names._reads.rate_max = 0.001
    return names


def test_names_are_bounded_in_number() -> None:
    names = used_up()
    for at in range(3 * UNKNOWN_MAX):
        names.add(f"no{at}", read_at=1.0)
    believed = [names.believes(f"no{at}", 1.0) for at in range(3 * UNKNOWN_MAX)]
    assert sum(believed) == UNKNOWN_MAX
    assert all(believed[-UNKNOWN_MAX:])


def test_a_read_begun_before_the_catalogue_moved_says_nothing() -> None:
    names = used_up()
    names.looked(began=1.0, now=1.5, moved=True)
    names.add("early", read_at=1.2)
    names.add("late", read_at=1.6)
    assert not names.believes("early", 1.7)
    assert names.believes("late", 1.7)
    names.looked(began=3.0, now=3.1, moved=False)
    assert names.believes("late", 3.0 + POLL_S)
    assert not names.believes("late", 3.1 + POLL_S)
