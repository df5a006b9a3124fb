"""An audit believes the records, and is not misled by adds that go on meanwhile."""

from collections.abc import AsyncIterator
from dataclasses import replace

from idservice.core.tally import AddRecord, Tally, TallyState, Wanted, planned
from idservice.tallies.audit import audited
from tests.simulation.loop import run
from tests.simulation.tally_store import SimTallies

NAME = "gifts"


async def _added(store: SimTallies, *amounts: int) -> None:
    for amount in amounts:
        tally = store.items[NAME]
        key = f"k{tally.rev}"
        assert await store.commit(planned(tally, [Wanted(key, amount)], now=tally.rev)) is None


def _store(**fields: int | None) -> SimTallies:
    store = SimTallies()
    store.items[NAME] = Tally(NAME, start=5, sum=5, **fields)  # type: ignore[arg-type]
    return store


def test_a_tally_agrees_with_its_records_refusals_and_start_included() -> None:
    async def main() -> None:
        store = _store(ceiling=20)
        await _added(store, 5, 9, 20, -4)
        found = await audited(store, store.items[NAME])
        assert found.agrees
        assert (found.sum, found.records, found.rev, found.at) == (15, 4, 4, 3)

    run(main())


def test_a_sum_a_number_or_a_revision_that_is_not_the_records_is_found() -> None:
    async def main() -> None:
        store = _store()
        await _added(store, 1, 2)
        whole = store.items[NAME]
        for torn in (replace(whole, sum=7), replace(whole, adds=1), replace(whole, rev=1)):
            store.items[NAME] = torn
            assert not (await audited(store, torn)).agrees

    run(main())


def test_a_torn_restore_is_repaired_above_every_record() -> None:
    async def main() -> None:
        store = _store(ceiling=10)
        await _added(store, 1, 2)
        torn = replace(store.items[NAME], floor=7, state=TallyState.SUSPENDED)
        await _added(store, 1, 1)
        store.items[NAME] = torn
        repaired = (await audited(store, torn)).repaired
        assert (repaired.sum, repaired.adds, repaired.rev) == (10, 4, 5)
        assert (repaired.floor, repaired.ceiling, repaired.state) == (7, 10, TallyState.SUSPENDED)
        assert repaired.at == 3
        store.items[NAME] = repaired
        assert (await audited(store, repaired)).agrees

    run(main())


def test_records_of_another_incarnation_are_not_counted() -> None:
    async def main() -> None:
        store = _store()
        await _added(store, 1)
        store.items[NAME] = Tally(NAME, rev=3, inc=2)
        await _added(store, 2)
        found = await audited(store, store.items[NAME])
        assert found.agrees
        assert (found.sum, found.records) == (2, 1)

    run(main())


def test_adds_that_are_made_during_an_audit_do_not_make_it_disagree() -> None:
    class Busy(SimTallies):
        async def every_record(self, name: str, inc: int) -> AsyncIterator[AddRecord]:
            await _added(self, 8)
            async for record in super().every_record(name, inc):
                yield record
            await _added(self, 16)

    async def main() -> None:
        store = Busy()
        store.items[NAME] = Tally(NAME)
        await _added(store, 1, 2)
        found = await audited(store, store.items[NAME])
        assert found.agrees
        assert (found.sum, found.records) == (3, 2)
        assert store.items[NAME].sum == 27

    run(main())
