"""The control plane of one instance: counters are listed, shown and created."""

import logging
from collections.abc import Coroutine
from random import Random

import msgspec
import pytest

from idservice import errors
from idservice.catalogue.catalogue import Catalogue
from idservice.catalogue.changes import SetNext
from idservice.catalogue.counters import ensure, new_counter
from idservice.catalogue.rules import begun
from idservice.observability.store_health import StoreHealth
from idservice.stores.records import Adopted, Counter
from tests.simulation.loop import run
from tests.simulation.serving import controlled, table
from tests.simulation.store import Faults, SimStore, Table


def test_looking_at_counters_consumes_nothing() -> None:
    async def main() -> None:
        data = table("orders", "tickets", start=5)
        async with controlled(data) as (service, catalogue):
            assert [one.name for one in await catalogue.page("", 1000)] == ["orders", "tickets"]
            for _ in range(3):
                counter, positions = await catalogue.counter("tickets")
                assert (counter.start, [each.next for each in positions]) == (5, [5])
            assert data.ledger == []
            await service.snapshot()
            with pytest.raises(errors.UnknownCounter):
                await catalogue.counter("missing")
            assert set(data.entries) == {"orders", "tickets"}
            del data.positions["tickets", 0]
            with pytest.raises(errors.PositionMissing):
                await catalogue.counter("tickets")

    run(main())


def test_a_counter_is_created_once_though_the_answer_was_lost() -> None:
    async def main() -> None:
        data = table()
        faults = Faults(lost_after=1.0)
        wanted = new_counter("tickets", Random(5), start=9)
        async with controlled(data, faults) as (_, catalogue):
            with pytest.raises(errors.OutcomeUnknown):
                await catalogue.create(wanted)
            faults.heal()
            assert await catalogue.create(wanted) == (wanted, True)
            again = new_counter("tickets", Random(6), start=9)
            assert await catalogue.create(again) == (wanted, False)
            other = new_counter("tickets", Random(7), start=10)
            with pytest.raises(errors.CounterDiffers, match="start is 9, not 10"):
                await catalogue.create(other)

    run(main())


def test_which_adopted_item_differs_is_told_in_words() -> None:
    old = Adopted("gifts", (("context", "S", "c"), ("id", "N", "7")), "value", "old")
    one = new_counter("orders", Random(1), adopted=old)
    other = new_counter("orders", Random(1), adopted=msgspec.structs.replace(old, returns="new"))
    assert one.difference(other, runway=30.0) == (
        "adopted is value of context=c,id=7 in table gifts, answered old,"
        " not value of context=c,id=7 in table gifts, answered new"
    )
    assert (
        new_counter("orders", Random(1))
        .difference(one, runway=30.0)
        .startswith("adopted is no item, not value of ")
    )


async def test_a_repeated_create_that_is_refused_says_nothing_of_the_first() -> None:
    class LosesThenRefuses:
        calls = 0

        async def create(self, counter: Counter) -> Counter:
            self.calls += 1
            kind = errors.OutcomeUnknown if self.calls == 1 else errors.NotApplied
            raise kind(store="sim:", action="creating", why="fault")

    with pytest.raises(errors.OutcomeUnknown):
        await ensure(LosesThenRefuses(), new_counter("a", Random(1)), runway=30.0, random=Random(1))  # type: ignore[arg-type]


async def finish(data: Table, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return what an instance logs that finds a change which an operator began and left."""
    entry = data.entries["orders"]
    data.rewrite(entry, begun(entry, SetNext(next=500), [], Random(3)))
    tasks: list[Coroutine[object, object, None]] = []
    catalogue = Catalogue(
        SimStore(Random(1), data), runway_s=30.0, read_s=5.0, random=Random(2),
        health=StoreHealth(), spawn=tasks.append, check_open=lambda: None,
        on_change=lambda entry: None, clock=lambda: 0.0,
    )  # fmt: skip
    catalogue.finish("orders")
    catalogue.finish("orders")
    [task] = tasks
    await task
    said = [one for one in caplog.records if one.levelno >= logging.WARNING]
    return [(getattr(one, "action", ""), one.getMessage()) for one in said]


def test_a_change_that_cannot_be_finished_names_its_counter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        data = table()
        del data.positions["orders", 0]
        [(action, message)] = await finish(data, caplog)
        assert action == "change_stuck"
        assert message.startswith("a change of counter orders is not finished: ")

    run(main())


def test_a_change_is_called_finished_once_it_is(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        data = table()
        said = await finish(data, caplog)
        assert data.entries["orders"].intent is None
        why = "finished a change of counter orders that stood still: set by an operator"
        assert said == [("change_finished", why)]

    run(main())
