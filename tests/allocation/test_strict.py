"""A strict counter's batches: sent again until answered; counted where nobody waits any more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.allocation.catalogue_watch import POLL_S
from idservice.allocation.context import Limits
from idservice.allocation.local_counter import LocalCounter
from idservice.allocation.service import Service
from idservice.allocation.strict import STANDS_STILL_S, WRITERS_FEW, WRITERS_MAX, StrictReserver
from idservice.catalogue.changes import Change, Configure, Delete, Fence, SetNext
from idservice.catalogue.counters import new_counter
from idservice.catalogue.renewals import CreateAgain
from idservice.core.writer import Batch
from idservice.server import settings
from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.client import CallRefusedForGood
from idservice.stores.records import LIMIT_MAX, Counter
from tests import engines
from tests.simulation.loop import elapse, run
from tests.simulation.serving import elsewhere, serving, table
from tests.simulation.store import Faults, SimStore, Table
from tests.stores.backends import Dynamo

STORE_S = 0.02  # what one call takes


class Scripted(SimStore):
    """What becomes of the next requests of one kind, one after another; all others arrive."""

    kind = "reserve"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.fates: list[str] = []

    async def _call(self, action: str, apply: Callable[[bool], Any]) -> Any:
        self.faults = Faults(latency_s=(STORE_S, STORE_S))
        if action == self.kind and self.fates and (fate := self.fates.pop(0)) != "fine":
            if fate == "denied":
                raise CallRefusedForGood(
                    said="AccessDeniedException", item=None, parts=(), store=self.address,
                    action=action, why="AccessDenied",
                )  # fmt: skip
            setattr(self.faults, fate, 1.0)
        return await super()._call(action, apply)


@asynccontextmanager
async def strict(
    data: Table | None = None, *, limits: Limits | None = None, seed: int = 1
) -> AsyncIterator[tuple[LocalCounter, Scripted, Service]]:
    """A strict counter that a service has registered on, with ids 0 and on to give."""
    data = data or table(strict=True)
    async with serving(data, limits=limits, seed=seed, store=Scripted) as service:
        supply, handle = await service.local_counter("orders"), service.store
        assert isinstance(handle, Scripted)
        supply.refiller.batches._begin(supply.counter)
        assert await supply.refiller.batches._register(supply.counter, lambda: True)
        yield supply, handle, service


async def said(supply: LocalCounter, count: int = 1) -> list[int] | str:
    try:
        return [id for block in await supply.next_batch(count) for id in block]
    except errors.IdserviceError as error:
        return error.code


def gaps(supply: LocalCounter) -> dict[str, int]:
    return supply.reading().gaps


# --- lost answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))  # by silence and by a broken connection
@pytest.mark.parametrize(
    "fates",
    [
        ["lost_after"],
        ["lost_before"],
        ["late_answer"],
        ["late_request"],
        ["lost_after", "throttled", "lost_after", "lost_before"],
        ["lost_before", "lost_after", "lost_after"],
        ["lost_after", *["lost_before"] * 11],  # for longer than a call takes at most
    ],
)
def test_a_lost_answer_loses_no_id(fates: list[str], seed: int) -> None:
    async def main() -> None:
        async with strict(limits=Limits(wait=20.0), seed=seed) as (supply, handle, _):
            handle.fates = list(fates)
            assert await said(supply, 3) == [0, 1, 2]
            assert len(handle.sent) == len(fates) + 1
            assert len({sent.nonce for sent in handle.sent}) == 1
            assert await said(supply, 2) == [3, 4]
            await elapse(15.0)  # late requests arrive
            assert await said(supply, 1) == [5]
            assert gaps(supply) == {}

    run(main(), seed=seed)


@pytest.mark.parametrize("refused", [1, 3])
@pytest.mark.parametrize("before", ["lost_after", "lost_before", "late_answer"])
def test_a_refusal_between_copies_loses_no_id(before: str, refused: int) -> None:
    """One that an operator must act on, such as AccessDenied, says nothing of the copy before."""

    async def main() -> None:
        async with strict(limits=Limits(wait=20.0)) as (supply, handle, _):
            handle.fates = [before, *["denied"] * refused]
            assert await said(supply, 3) == [0, 1, 2]
            assert await said(supply, 1) == [3]
            assert gaps(supply) == {}

    run(main())


def test_a_batch_that_is_refused_to_the_end_but_unsure_is_unknown() -> None:
    async def main() -> None:
        async with strict(limits=Limits(wait=2.0)) as (supply, handle, _):
            handle.fates = ["lost_after", *["denied"] * 100]
            with pytest.raises(errors.IdserviceError) as refused:
                await supply.next_id()
            assert refused.value.outcome == errors.UNKNOWN
            handle.fates = []
            assert await said(supply) == [1], "0 was used up"

    run(main())


def test_a_batch_that_was_never_sent_unanswered_is_refused_at_once() -> None:
    async def main() -> None:
        async with strict(limits=Limits(wait=2.0)) as (supply, handle, _):
            handle.fates = ["denied"] * 100
            with pytest.raises(errors.IdserviceError) as refused:
                await supply.next_id()
            assert refused.value.outcome == errors.NOT_APPLIED
            handle.fates = []
            assert await said(supply) == [0]
            assert gaps(supply) == {}

    run(main())


def test_whoever_came_after_a_batch_was_first_sent_is_given_nothing_of_it() -> None:
    async def main() -> None:
        async with strict() as (supply, handle, _):
            handle.fates = ["fine", "late_answer"]
            first = asyncio.create_task(said(supply))
            await elapse(STORE_S / 2)
            waiting = [asyncio.create_task(said(supply)) for _ in range(3)]
            await elapse(STORE_S * 2)  # their batch is sent, and not answered
            waiting[1].cancel()
            later = asyncio.create_task(said(supply))
            assert await first == [0]
            assert (await waiting[0], await waiting[2]) == ([1], [2])
            assert await later == [4]
            assert gaps(supply) == {"abandoned": 1}

    run(main())


def test_a_store_that_refuses_is_asked_anew_for_all_who_wait_by_then() -> None:
    async def main() -> None:
        async with strict() as (supply, handle, _):
            handle.fates = ["throttled"]
            first = asyncio.create_task(said(supply))
            await elapse(0.03)
            second = asyncio.create_task(said(supply))
            assert (await first, await second) == ([0], [1])
            assert [sent.count for sent in handle.sent] == [1, 2]
            assert gaps(supply) == {}

    run(main())


# --- nobody waits any more ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fate", "next_id", "gap"), [("lost_after", 3, {"abandoned": 3}), ("lost_before", 0, {})]
)
def test_an_abandoned_batch_is_counted_when_the_next_one_is_answered(
    fate: str, next_id: int, gap: dict[str, int]
) -> None:
    async def main() -> None:
        async with strict() as (supply, handle, _):
            handle.fates = [fate] * 50
            assert await said(supply, 3) == "waited_too_long"
            sent = len(handle.sent)
            assert 3 <= sent <= 9
            assert handle.sent[-1].at <= handle.sent[0].at + supply._context.limits.wait
            await elapse(60.0)
            assert len(handle.sent) == sent, "nobody waits"
            assert gaps(supply) == {}
            handle.fates = []
            assert await said(supply) == [next_id]
            assert gaps(supply) == gap

    run(main())


def test_who_hangs_up_is_not_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with strict() as (supply, handle, _):
            handle.fates = ["lost_after"] * 50
            asked = asyncio.create_task(said(supply))
            await elapse(STORE_S / 2)
            asked.cancel()
            await elapse(1.9)
            assert len(handle.sent) == 1
            assert not caplog.records, "that says nothing of the store"

    run(main())


def test_a_batch_of_which_nothing_is_known_by_the_end_is_counted_as_unknown() -> None:
    async def main() -> None:
        for waits_s in (0.5, 5.0):  # under way at the stop, and left open before
            async with strict() as (supply, handle, _):
                handle.fates = ["lost_after"] * 50
                asked = asyncio.create_task(said(supply, 3))
                await elapse(waits_s)
            assert await asked in ("stopping", "waited_too_long")
            assert gaps(supply) == {"unknown": 3}

    run(main())


def test_a_process_that_was_forked_sends_no_batch_of_its_parent_again() -> None:
    async def main() -> None:
        async with strict() as (supply, handle, _):
            handle.fates = ["lost_after"] * 50
            asked = asyncio.create_task(said(supply))
            await elapse(STORE_S / 2)
            supply.forget_in_child()
            await elapse(5.0)
            assert len(handle.sent) == 1
            assert not supply.refiller.batches._writer.name
            asked.cancel()

    run(main())


# --- writers --------------------------------------------------------------------------------------


def test_a_writer_registers_once_and_under_one_name_whatever_is_lost() -> None:
    async def main() -> None:
        for kind, fates in (
            ("register", ["lost_after", "lost_before", "lost_after"]),
            ("register", ["late_request"]),
            ("read", ["lost_before", "fine", "lost_after"]),
        ):
            data = table(strict=True)
            async with serving(data, limits=Limits(wait=9.0), store=Scripted) as service:
                handle, supply = service.store, await service.local_counter("orders")
                assert isinstance(handle, Scripted)
                handle.kind, handle.fates = kind, list(fates)
                assert await said(supply) == [0]
                assert await said(supply) == [1]
                await elapse(15.0)
                assert data.registrations == {"orders": 1}
                assert gaps(supply) == {}

    run(main())


def test_a_registration_that_outlasts_its_requests_is_found_by_the_next_ones() -> None:
    async def main() -> None:
        data = table(strict=True)
        async with serving(data, limits=Limits(wait=0.5), store=Scripted) as service:
            handle, supply = service.store, await service.local_counter("orders")
            assert isinstance(handle, Scripted)
            handle.kind, handle.fates = "register", ["late_request"] * 50
            assert await said(supply) == "waited_too_long"
            await elapse(15.0)  # one of them is applied
            handle.fates = []
            assert await said(supply) == [0]
            assert data.registrations == {"orders": 1}
            assert gaps(supply) == {}

    run(main())


def test_a_writer_that_was_pruned_registers_anew_and_serves_the_same_requests() -> None:
    async def main() -> None:
        data = table(strict=True)
        async with strict(data) as (supply, handle, _):
            assert await said(supply) == [0]
            (name,) = data.records["orders"]
            await handle.prune(supply.counter, name, 1)
            assert await said(supply, 2) == [1, 2]
            assert data.registrations == {"orders": 2}
            assert gaps(supply) == {}

    run(main())


def test_a_writer_that_somebody_prunes_all_the_time_does_not_take_the_store_for_gone() -> None:
    async def main() -> None:
        data = table(strict=True)

        class Pruned(Scripted):
            async def reserve(self, counter: Counter, **request: Any) -> Any:
                data.records.get("orders", {}).clear()
                return await super().reserve(counter, **request)

        async with serving(data, store=Pruned, limits=Limits(wait=1.0)) as service:
            supply = await service.local_counter("orders")
            assert await said(supply) == "waited_too_long"
            assert supply.reading().stats.reservations.get("not_applied"), "its turns were up"
            assert service.health.up

    run(main())


def test_two_instances_lose_no_id_to_each_other() -> None:
    async def main() -> None:
        data, limits = table(strict=True), Limits(wait=20.0)
        async with strict(data, limits=limits) as one, strict(data, limits=limits, seed=2) as two:
            random, got = Random(4), []
            for _ in range(60):
                for _, handle, _ in (one, two):
                    handle.fates = random.choices(["fine", "lost_after", "lost_before"], k=3)
                answers = await asyncio.gather(said(one[0], 2), said(two[0]))
                got += [id for answer in answers if isinstance(answer, list) for id in answer]
            assert sorted(got) == [*range(180)]
            assert gaps(one[0]) == gaps(two[0]) == {}
            assert len(data.records["orders"]) == 2

    run(main())


def test_without_a_place_a_counter_is_served_by_ordinary_reservations() -> None:
    async def main() -> None:
        data = table(strict=True)
        full(data, WRITERS_MAX)
        async with serving(data, store=Scripted) as service:
            handle, supply = service.store, await service.local_counter("orders")
            assert isinstance(handle, Scripted)
            assert await said(supply) == [0]
            handle.fates = ["lost_after"]
            assert await said(supply) == [2], "a lost answer is a gap, and asked for anew"
            assert gaps(supply) == {"unknown": 1}
            assert {sent.nonce for sent in handle.sent} == {""}
            moving = await moved(data, supply.counter, "w3")
            await elapse(STANDS_STILL_S + 1.0)
            assert list(data.records["orders"]) == [moving]
            handle.fates = ["lost_after"]
            assert await said(supply) == [4], "3 went to the one that moved"
            assert gaps(supply) == {"unknown": 1}
            assert len(data.records["orders"]) == 2

    run(main())


async def moved(data: Table, counter: Counter, name: str) -> str:
    batch = Batch(name, 1, "n", 1)
    data.reserve(counter, count=1, seen=0, room=99, shard=0, batch=batch)
    return name


def full(data: Table, writers: int) -> None:
    for number in range(writers):
        assert data.register(data.entries["orders"], f"w{number}", number)


@pytest.mark.parametrize(("others", "left"), [(WRITERS_FEW - 1, WRITERS_FEW), (WRITERS_FEW, 1)])
def test_writers_that_stand_still_are_pruned_where_there_are_many(others: int, left: int) -> None:
    async def main() -> None:
        data = table(strict=True)
        full(data, others)
        async with strict(data) as (supply, _, _):
            await elapse(STANDS_STILL_S - 1.0)
            assert len(data.records["orders"]) == others + 1
            await elapse(2.0)
            assert len(data.records["orders"]) == left
            assert supply.refiller.batches._writer.name in data.records["orders"]
            assert await said(supply) == [0]

    run(main())


def test_a_writer_is_watched_for_longer_than_any_request_waits() -> None:
    longest = next(setting for setting in settings.SERVE if setting.flag == "--wait")
    with pytest.raises(ValueError):
        longest.parse(str(STANDS_STILL_S - 10))
    assert Limits().wait < STANDS_STILL_S


# --- epochs ---------------------------------------------------------------------------------------


def test_an_unanswered_batch_granted_before_a_change_is_burnt_as_changed() -> None:
    async def main() -> None:
        data = table(strict=True)
        async with strict(data) as (supply, handle, _):
            handle.fates = ["lost_after"] * 2
            asked = asyncio.create_task(said(supply, 3))
            await elapse(0.05)
            data.set_by_hand("orders", epoch="sealed:2.b")
            assert await asked == "counter_suspect"
            assert gaps(supply) == {"epoch": 3}
            data.repair("orders", "b")
            await elapse(3.0)
            assert await said(supply) == [3]
            assert gaps(supply) == {"epoch": 3}

    run(main())


def test_a_writer_registers_anew_in_the_next_epoch_and_nothing_is_lost() -> None:
    async def main() -> None:
        data = table(strict=True)
        async with strict(data) as (supply, _, _):
            assert await said(supply) == [0]
            (before,) = data.records["orders"]
            await elsewhere(data, SetNext(next=100))
            await elapse(POLL_S + 0.1)
            assert await said(supply) == [100]
            assert data.registrations == {"orders": 1}
            ((after, record),) = data.records["orders"].items()
            assert after != before
            assert (record.seq, record.top) == (1, 1)
            assert not gaps(supply)

    run(main())


@pytest.mark.parametrize(
    "wish",
    [Configure(state="suspended"), SetNext(next=3), Fence(ahead=0)],
    ids=lambda wish: wish.kind,
)
def test_what_was_left_open_is_counted_as_unknown_once_the_counter_is_changed(wish: Change) -> None:
    async def main() -> None:
        data = table(strict=True)
        async with strict(data, limits=Limits(wait=0.5)) as (supply, handle, _):
            handle.fates = ["lost_after"] * 20
            assert await said(supply, 3) == "waited_too_long"
            assert not gaps(supply)
            handle.fates = []
            await elsewhere(data, wish)
            await elapse(POLL_S + 0.1)
            assert gaps(supply) == {"unknown": 3}
            if isinstance(wish, Configure):
                await elsewhere(data, Configure(state="active"))
                await elapse(POLL_S + 0.1)
            assert await said(supply) == [3]
            assert gaps(supply) == {"unknown": 3}

    run(main())


@pytest.mark.parametrize("first", [True, False], ids=["strict_first", "strict_then"])
def test_a_counter_that_is_created_anew_is_asked_for_as_what_it_is_now(first: bool) -> None:
    """A lost answer loses a block, and of a batch nothing."""

    async def main() -> None:
        data = table(strict=first)
        async with serving(data, limits=Limits(wait=10.0), store=Scripted) as service:
            supply, handle = await service.local_counter("orders"), service.store
            assert isinstance(handle, Scripted)
            for strict in (first, not first):
                handle.fates, before = ["lost_after"], gaps(supply).get("unknown", 0)
                if strict != first:
                    await elsewhere(data, Delete())
                    wanted = new_counter("orders", Random(4), strict=strict)
                    await elsewhere(data, CreateAgain(wanted=wanted))
                    await elapse(POLL_S + 0.1)
                assert isinstance(await said(supply), list)
                assert not handle.fates
                assert (gaps(supply).get("unknown", 0) == before) == strict
                assert bool(data.records.get("orders")) == strict

    run(main())


def test_a_batch_may_be_lost_where_the_position_goes_back_before_its_answer() -> None:
    async def main() -> None:
        data = table(strict=True)
        async with strict(data) as (supply, handle, _):
            assert await said(supply) == [0]
            handle.fates = ["lost_after"] * 2
            asked = asyncio.create_task(said(supply, 3))
            await elapse(0.05)
            data.set_by_hand("orders", next=0)
            assert await asked == "counter_suspect"
            assert gaps(supply) == {"unknown": 3}

    run(main())


def test_a_batch_sent_twice_by_a_hop_is_counted_if_the_position_went_back() -> None:
    async def main() -> None:
        data = table(strict=True)
        async with strict(data) as (supply, handle, _):
            assert await said(supply) == [0]
            handle.fates = ["resent"]
            asked = asyncio.create_task(said(supply, 3))
            while data.positions["orders", 0].next < 4:
                await elapse(STORE_S / 20)
            data.set_by_hand("orders", next=0)
            assert await asked == "counter_suspect"
            assert gaps(supply) == {"unknown": 3}

    run(main())


# --- sizes ----------------------------------------------------------------------------------------


async def test_a_full_item_stays_below_one_write_unit(moto_url: str) -> None:
    """1 KB: names count with their length, a number with half of its digits and a byte."""
    backend = Dynamo(moto_url)
    async with backend.open() as store:
        await store.init(new_counter("default", Random(1)))
        counter = await store.create(
            new_counter("n" * 64, Random(1), start=LIMIT_MAX - 999, limit=LIMIT_MAX, strict=True)
        )
        taker = StrictReserver(store, spawn=print, random=Random(1), burnt=print)
        for _ in range(WRITERS_MAX):
            name = taker._unique()
            found = await store.writers(counter)
            assert found is not None
            assert await store.register(counter, name, registrations=found.registrations)
            await store.reserve(
                counter, count=1, seen=0, room=LIMIT_MAX, batch=Batch(name, 1, taker._unique(), 1)
            )
        with engines.by_hand(moto_url) as client:
            item = client.get_item(TableName=backend.table, Key=backend.key(counter))["Item"]
    assert sum(name.startswith(items.WRITER) for name in item) == WRITERS_MAX
    longest = {"seq": {"N": "9" * 9}, "rev": {"N": "9" * 12}, "writers": {"N": "9" * 9}}
    assert size(item | longest) + WRITERS_MAX * 4 < 1024


def size(attributes: dict[str, dict[str, object]]) -> int:
    total = 0
    for name, typed in attributes.items():
        ((kind, value),) = typed.items()
        total += len(name.encode())
        if kind == "N":
            total += len(str(value)) // 2 + 2
        elif kind == "M":
            assert isinstance(value, dict)
            total += 3 + len(value) + size(value)
        else:
            total += len(str(value).encode())
    return total
