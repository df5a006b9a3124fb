"""One counter in use: its line of waiters, its refills, its end, and its doubts."""

import asyncio
import os
import re
import signal
from itertools import pairwise
from random import Random
from types import TracebackType
from typing import Any

import pytest

from idservice import errors
from idservice.allocation.context import Limits
from idservice.allocation.local_counter import SUSPECT_RECHECK_S, LocalCounter
from idservice.allocation.service import Service
from idservice.allocation.strict import CALL_MAX_S, WRITERS_MAX
from idservice.allocation.wait_queue import WINDOW_MAX_S, WaitQueue
from idservice.core.gap_causes import GapCause
from idservice.core.timeouts import BACKOFF_FIRST_S, BACKOFF_MAX_S, REFILL_MAX_S
from idservice.stores.records import Counter, Grant
from tests.simulation.loop import elapse, run
from tests.simulation.serving import answers_after, serving, table
from tests.simulation.store import Faults, SimStore

FOREVER = 10.0**9


def store_of(service: Service) -> SimStore:
    assert isinstance(service.store, SimStore)
    return service.store


def now() -> float:
    return asyncio.get_running_loop().time()


def gone(faults: Faults) -> None:
    faults.outages = [(now(), FOREVER)]


async def use(supply: LocalCounter, *, rate: float, seconds: float) -> list[int]:
    """Ask for ids at a steady rate, one at a time; raises as `one`."""
    until = now() + seconds
    ids = []
    while now() < until:
        ids.append(await supply.next_id())
        await elapse(1 / rate)
    return ids


async def outcome(supply: LocalCounter, count: int = 1) -> list[int] | errors.IdserviceError:
    try:
        return [id for block in await supply.next_batch(count) for id in block]
    except errors.IdserviceError as error:
        return error


async def registered(supply: LocalCounter) -> None:
    """A strict counter's writer registers at its first use; here before."""
    supply.refiller.batches._begin(supply.counter)
    assert await supply.refiller.batches._register(supply.counter, lambda: True)


# --- the line -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
def test_who_waits_is_served_in_the_order_of_arrival(strict: bool) -> None:
    async def main() -> None:
        counts = [Random(2).choice((1, 1, 5, 30)) for _ in range(40)]
        async with serving(table(strict=strict), answers_after(0.9)) as service:
            supply = await service.local_counter("orders")
            if strict:
                await registered(supply)
            async with asyncio.TaskGroup() as group:
                tasks = []
                for count in counts:
                    tasks.append(group.create_task(outcome(supply, count)))
                    await elapse(0.001)  # before the first answer
            answers = [task.result() for task in tasks]
        ids = [id for answer in answers if isinstance(answer, list) for id in answer]
        assert [len(answer) for answer in answers if isinstance(answer, list)] == counts
        assert ids == sorted(ids)

    run(main())


def test_a_thousand_requests_at_once_share_one_refill_at_a_time() -> None:
    async def main() -> None:
        async with serving(table(), answers_after(0.5)) as service:
            supply = await service.local_counter("orders")
            answers = await asyncio.gather(*(supply.next_id() for _ in range(1000)))
            assert sorted(answers) == [*range(1000)]
            sent = store_of(service).sent
            assert len(sent) <= 3
            assert all(before.until <= after.at for before, after in pairwise(sent))

    run(main())


def test_no_more_wait_than_the_bound() -> None:
    async def main() -> None:
        limits = Limits(waiters_max=5)
        async with serving(table(), answers_after(1.0), limits=limits) as service:
            supply = await service.local_counter("orders")
            waiting = [asyncio.create_task(supply.next_id()) for _ in range(5)]
            await elapse(0.1)
            with pytest.raises(errors.TooManyWaiting, match="5 requests already wait"):
                await supply.next_id()
            assert sorted(await asyncio.gather(*waiting)) == [0, 1, 2, 3, 4]
            await supply.next_id()

    run(main())


def test_nobody_waits_longer_than_the_bound() -> None:
    async def main() -> None:
        faults = Faults()
        async with serving(table(), faults, limits=Limits(wait=2.0)) as service:
            supply = await service.local_counter("orders")
            gone(faults)
            began = now()
            with pytest.raises(errors.WaitedTooLong) as caught:
                await supply.next_id()
            assert now() - began == pytest.approx(2.0)
            assert caught.value.outcome == errors.NOT_APPLIED
            assert caught.value.retryable
            assert caught.value.status == 503

    run(main())


def test_a_strict_request_that_gave_up_while_its_batch_was_under_way_says_unknown() -> None:
    async def main() -> None:
        faults = answers_after(0.1)
        async with serving(table(strict=True), faults, limits=Limits(wait=2.0)) as service:
            supply = await service.local_counter("orders")
            faults.late_answer = 1.0
            with pytest.raises(errors.WaitedTooLong) as caught:
                await supply.next_id()
            assert caught.value.outcome == errors.UNKNOWN

    run(main())


def test_a_strict_request_with_an_unanswered_batch_is_unknown_between_tries() -> None:
    async def main() -> None:
        faults = answers_after(0.01)
        limits = Limits(wait=CALL_MAX_S + BACKOFF_FIRST_S / 4)
        data = table(strict=True)
        for number in range(WRITERS_MAX):  # no place to register, and so no batch to send again
            assert data.register(data.entries["orders"], f"w{number}", number)
        async with serving(data, faults, limits=limits) as service:
            supply = await service.local_counter("orders")
            supply.refiller.batches._begin(supply.counter)
            assert not await supply.refiller.batches._register(supply.counter, lambda: True)
            faults.lost_after = 1.0
            with pytest.raises(errors.WaitedTooLong) as caught:
                await supply.next_id()
            assert not supply.allocator.waits_for_store
            assert caught.value.outcome == errors.UNKNOWN

    run(main())


class Leaves(WaitQueue):
    """Ends the client in the same instant in which its ids are shared out."""

    client: "asyncio.Task[list[range]]"
    __slots__ = ()

    def share_out(self, *arguments: Any, **keywords: Any) -> None:
        super().share_out(*arguments, **keywords)
        self.client.cancel()


def test_ids_of_a_client_that_left_as_they_came_are_counted_as_a_gap() -> None:
    async def main() -> None:
        async with serving(table(), answers_after(1.0)) as service:
            supply = await service.local_counter("orders")
            supply._queue.__class__ = Leaves
            Leaves.client = asyncio.create_task(supply.next_batch(7))
            with pytest.raises(asyncio.CancelledError):
                await Leaves.client
            reading = supply.reading()
            assert reading.gaps == {"abandoned": 7}
            assert reading.issued == 0
            assert reading.waiting == 0
            assert await supply.next_id() == 7

    run(main())


def test_a_client_that_leaves_early_takes_nobodys_place() -> None:
    async def main() -> None:
        async with serving(table(), answers_after(1.0)) as service:
            supply = await service.local_counter("orders")
            first, second = (asyncio.create_task(supply.next_id()) for _ in range(2))
            await elapse(0.1)
            first.cancel()
            assert await second == 0
            assert supply.reading().gaps == {}

    run(main())


# --- refills --------------------------------------------------------------------------------------


def test_in_steady_use_nobody_waits_though_the_store_takes_a_second() -> None:
    async def main() -> None:
        limits = Limits(runway=30.0)
        async with serving(table(), answers_after(1.0), limits=limits) as service:
            supply = await service.local_counter("orders")
            await use(supply, rate=50, seconds=60.0)
            waits, sent = supply.stats.waits, len(store_of(service).sent)
            ids = await use(supply, rate=50, seconds=120.0)
            assert supply.stats.waits == waits
            assert len(store_of(service).sent) - sent <= 120 / 30 + 1
            assert len(ids) > 5900

    run(main())


def test_without_the_store_ids_last_for_the_runway_then_503_then_it_resumes() -> None:
    async def main() -> None:
        faults = Faults()
        limits = Limits(runway=20.0, wait=2.0)
        async with serving(table(), faults, limits=limits) as service:
            supply = await service.local_counter("orders")
            await use(supply, rate=20, seconds=120.0)
            gone(faults)
            await use(supply, rate=20, seconds=19.0)  # raises if it cannot
            failed = 0
            until = now() + 120.0
            while now() < until:
                answer = await outcome(supply)
                if isinstance(answer, errors.WaitedTooLong | errors.CatalogueStale):
                    failed += 1
                else:
                    assert isinstance(answer, list)
                await elapse(0.05)
            assert failed > 25
            faults.heal()
            began = now()
            await elapse(BACKOFF_MAX_S + limits.runway / 4)  # the longest pause and call
            assert now() - began <= 7.0
            await use(supply, rate=20, seconds=20.0)
            assert supply.allocator.held >= 20.0 * 20, "not ready for the next outage"

    run(main())


@pytest.mark.parametrize("seed", range(10))
def test_an_outage_that_ends_shortly_before_memory_is_empty_is_felt_by_nobody(seed: int) -> None:
    """Neither a call that hangs nor a long pause may last beyond the end of the ids."""

    async def main() -> None:
        faults = Faults()
        async with serving(table(), faults, limits=Limits(runway=20.0), seed=seed) as service:
            supply = await service.local_counter("orders")
            await use(supply, rate=20, seconds=100.0 + 3 * seed)
            lasts = supply.allocator.held / 20
            waits = supply.stats.waits
            faults.outages = [(now(), now() + lasts - 3.0)]
            await use(supply, rate=20, seconds=lasts + 20.0)
            assert supply.stats.waits == waits

    run(main(), seed=seed)


def test_tries_during_an_outage_are_few_spread_and_cost_no_runway_each() -> None:
    async def main() -> None:
        faults = Faults()
        async with serving(table(), faults, limits=Limits(runway=20.0), seed=5) as service:
            supply = await service.local_counter("orders")
            await use(supply, rate=20, seconds=120.0)
            gone(faults)
            before = len(store_of(service).sent)
            asked = supply.allocator.gaps.get("unknown", 0)
            until = now() + 120.0
            while now() < until:
                await outcome(supply)
                await elapse(0.05)
            sent = store_of(service).sent[before:]
            assert 20 < len(sent) <= 125
            pauses = [after.at - previous.until for previous, after in pairwise(sent)]
            assert min(pauses) >= 0.025
            assert max(pauses) <= BACKOFF_MAX_S + 1e-6
            late = pauses[len(pauses) // 2 :]
            assert max(late) - min(late) > 0.3, "not spread"
            burnt = supply.allocator.gaps["unknown"] - asked
            assert burnt <= 2 * sent[0].count + len(sent)

    run(main())


def test_after_one_lost_answer_a_slowly_used_counter_is_refilled_at_once() -> None:
    """Else it would live on half a runway, and an outage that begins then lasts too long."""

    async def main() -> None:
        faults = Faults()
        async with serving(table(), faults, limits=Limits(runway=20.0)) as service:
            supply = await service.local_counter("orders")
            await use(supply, rate=5, seconds=120.0)
            sent = store_of(service).sent
            faults.lost_after, before = 1.0, len(sent)
            while len(sent) == before:
                await use(supply, rate=5, seconds=0.1)
            faults.lost_after = 0.0
            await use(supply, rate=5, seconds=8.0)  # a hanging call takes 5 s
            assert supply.allocator.held > 1.5 * 20.0 * 5

    run(main())


def test_an_idle_counter_does_not_go_on_trying_in_an_outage() -> None:
    async def main() -> None:
        faults = Faults()
        async with serving(table(), faults) as service:
            supply = await service.local_counter("orders")
            gone(faults)
            await outcome(supply)
            await elapse(90.0)
            sent = len(store_of(service).sent)
            await elapse(600.0)
            assert len(store_of(service).sent) == sent

    run(main())


def test_a_declared_counter_is_filled_again_after_an_outage_though_nobody_asks() -> None:
    async def main() -> None:
        faults = Faults()
        async with serving(table(), faults, declared=["orders"]) as service:
            supply = await service.local_counter("orders")
            gone(faults)
            await outcome(supply)
            await elapse(60.0)
            faults.heal()
            await elapse(10.0)
            assert supply.allocator.held

    run(main())


def test_who_came_while_the_first_ids_were_fetched_is_not_forgotten() -> None:
    async def main() -> None:
        faults = answers_after(0.5)
        async with serving(table(), faults, declared=["orders"]) as service:
            supply = await service.local_counter("orders")
            filling = asyncio.create_task(supply.fill())
            await elapse(0.1)
            waiting = [asyncio.create_task(supply.next_id()) for _ in range(50)]
            await filling
            assert sorted(await asyncio.gather(*waiting)) == [*range(50)]

        faults = answers_after(0.5)
        faults.throttled = 1.0
        async with serving(table(), faults) as service:
            supply = await _loaded(service, faults)
            filling = asyncio.create_task(supply.fill())
            await elapse(0.1)
            waiter = asyncio.create_task(supply.next_id())
            with pytest.raises(errors.NotApplied):
                await filling
            faults.throttled = 0.0
            assert await waiter == 0

    async def _loaded(service: Service, faults: Faults) -> LocalCounter:
        faults.throttled, before = 0.0, faults.throttled
        supply = await service.local_counter("orders")
        faults.throttled = before
        return supply

    run(main())


def test_a_store_slower_than_a_request_may_wait_serves_those_who_come_later() -> None:
    async def main() -> None:
        async with serving(table(), answers_after(3.0), limits=Limits(runway=30.0)) as service:
            supply = service._add(store_of(service).data.entries["orders"])  # reading takes as long
            assert isinstance(await outcome(supply), errors.WaitedTooLong)
            served = [await outcome(supply) for _ in range(5)]
            assert any(isinstance(answer, list) for answer in served)

    run(main())


def test_a_request_that_the_store_refused_in_its_own_words_costs_no_ids() -> None:
    async def main() -> None:
        faults = Faults(throttled=0.5)
        data = table()
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            store_of(service).faults = faults
            for _ in range(60):
                await outcome(supply, 500)
            refused = supply.stats.reservations["throttled"]
            assert refused > 0
            assert supply.reading().gaps == {}

    run(main())


def test_an_answer_that_does_not_fit_the_request_is_burnt_and_asked_for_again() -> None:
    class Wrong(SimStore):
        """Answers one number too many, once."""

        wrong = True

        async def reserve(self, *arguments: object, **rest: object) -> Grant:
            grant = await super().reserve(*arguments, **rest)  # type: ignore[arg-type]
            if self.wrong:
                self.wrong = False
                return Grant(range(grant.indices.start, grant.indices.stop + 1), grant.rev)
            return grant

    async def main() -> None:
        async with serving(table(), store=Wrong) as service:
            supply = await service.local_counter("orders")
            first = await supply.next_id()
            assert first == store_of(service).data.ledger[1].ids[0]
            assert supply.reading().gaps == {"unknown": store_of(service).sent[0].count}

    run(main())


def test_a_fault_of_the_store_that_nobody_foresaw_ends_one_try_and_not_the_service() -> None:
    class Broken(SimStore):
        """Raises what no store should."""

        broken = 0

        async def reserve(self, *arguments: object, **rest: object) -> Grant:
            if self.broken:
                self.broken -= 1
                raise KeyError("next")
            return await super().reserve(*arguments, **rest)  # type: ignore[arg-type]

        async def close_gone_back(self, *arguments: object, **rest: object) -> None:
            raise KeyError("epoch")

    async def main() -> None:
        data = table("orders", "others")
        async with serving(data, store=Broken) as service:
            supply = await service.local_counter("orders")
            store_of(service).broken = 2  # type: ignore[attr-defined]
            assert await supply.next_id() == 0
            assert supply.reading().gaps["unknown"] > 0
            await supply.next_batch(5)
            data.set_by_hand("orders", next=0)
            assert isinstance(await outcome(supply, 1000), errors.CounterSuspect)
            assert await (await service.local_counter("others")).next_id() == 0

    run(main())


def test_an_answer_that_fails_costs_no_other_waiter_its_ids(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(served: object) -> None:
        raise ConnectionError("the connection is broken")

    async def main() -> None:
        async with serving(table(), answers_after(0.5)) as service:
            counter = await service.local_counter("orders")
            counter.enqueue(1, fails)
            assert await counter.next_id() == 1
            assert await counter.next_batch(3)
        assert "answer_bug" in [getattr(record, "action", "") for record in caplog.records]

    run(main())


# --- batches, and the end -------------------------------------------------------------------------


def test_a_batch_larger_than_memory_is_served_whole_and_in_one_block() -> None:
    async def main() -> None:
        async with serving(table(), answers_after(0.1)) as service:
            supply = await service.local_counter("orders")
            await supply.next_id()
            assert await supply.next_batch(5000) == [range(1, 5001)]

    run(main())


def test_the_last_ids_are_handed_out_and_then_it_is_exhausted() -> None:
    async def main() -> None:
        async with serving(table(start=5, limit=40), answers_after(0.1)) as service:
            supply = await service.local_counter("orders")
            ids = [await supply.next_id() for _ in range(30)]
            refused = await outcome(supply, 7)
            assert isinstance(refused, errors.Exhausted)
            assert (refused.status, refused.retryable) == (410, False)
            ids += [id for block in await supply.next_batch(4) for id in block]
            ids += [await supply.next_id() for _ in range(2)]
            assert ids == [*range(5, 41)]
            with pytest.raises(errors.Exhausted, match="limit 40"):
                await supply.next_id()
            sent = len(store_of(service).sent)
            for _ in range(100):
                assert isinstance(await outcome(supply), errors.Exhausted)
            assert len(store_of(service).sent) == sent, "the store is asked at most once a second"

    run(main())


def test_the_last_ids_go_to_whoever_comes_first_and_nobody_waits_in_vain() -> None:
    async def main() -> None:
        data = table(limit=99)
        async with (
            serving(data, answers_after(0.2)) as one,
            serving(data, answers_after(0.2)) as two,
        ):
            supplies = [await one.local_counter("orders"), await two.local_counter("orders")]
            began = now()
            answers = await asyncio.gather(
                *(outcome(supplies[number % 2], 1 + number % 7) for number in range(60))
            )
            assert now() - began < 2.0, "some were told only at their deadline"
            ids = [id for answer in answers if isinstance(answer, list) for id in answer]
            assert len(ids) == len(set(ids))
            assert max(ids) <= 99
            refused = [answer for answer in answers if not isinstance(answer, list)]
            assert refused
            assert all(isinstance(answer, errors.Exhausted) for answer in refused)
            left = 0
            for supply in supplies:
                left += supply.allocator.held
            assert len(ids) + left == 100

    run(main())


def test_room_made_by_somebody_else_is_found_within_a_second() -> None:
    async def main() -> None:
        data = table(limit=9)
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            data.set_by_hand("orders", next=10, mark=10)
            assert isinstance(await outcome(supply), errors.Exhausted)
            data.set_by_hand("orders", next=8, mark=8)
            await elapse(1.1)
            assert await supply.next_id() == 8

    run(main())


# --- strict ---------------------------------------------------------------------------------------


def test_strict_requests_that_wait_together_share_one_exact_reservation() -> None:
    async def main() -> None:
        async with serving(table(strict=True), answers_after(0.2)) as service:
            supply = await service.local_counter("orders")
            first = asyncio.create_task(supply.next_id())
            await elapse(0.05)
            others = [asyncio.create_task(supply.next_id()) for _ in range(20)]
            assert await first == 0
            assert sorted(await asyncio.gather(*others)) == [*range(1, 21)]
            assert [sent.count for sent in store_of(service).sent] == [1, 20]
            assert supply.allocator.held == 0
            assert supply.reading().gaps == {}

    run(main())


def test_a_strict_batch_is_not_given_to_who_came_after_it_was_sent() -> None:
    async def main() -> None:
        async with serving(table(strict=True), answers_after(0.2)) as service:
            supply = await service.local_counter("orders")
            first = asyncio.create_task(supply.next_id())
            await elapse(0.05)
            early = [asyncio.create_task(supply.next_id()) for _ in range(3)]
            assert await first == 0
            await elapse(0.05)  # the batch of three is under way
            early[1].cancel()
            later = asyncio.create_task(supply.next_id())
            assert await later == 4
            assert supply.reading().gaps == {"abandoned": 1}

    run(main())


@pytest.mark.parametrize(("store_s", "back_after_s"), [(0.005, 0.0009), (0.2, 0.0019)])
def test_strict_clients_that_ask_again_at_once_are_all_in_every_batch(
    store_s: float, back_after_s: float
) -> None:
    async def client(supply: LocalCounter, random: Random, ids: list[int]) -> None:
        for _ in range(10):
            ids.append(await supply.next_id())
            await elapse(random.uniform(0.0, back_after_s))

    async def main() -> None:
        async with serving(table(strict=True), answers_after(store_s)) as service:
            supply = await service.local_counter("orders")
            ids: list[int] = []
            random = Random(3)
            await asyncio.gather(*(client(supply, random, ids) for _ in range(64)))
            sent = store_of(service).sent
            # The very first was alone, and at the end it leaves before the others.
            assert [request.count for request in sent] == [1, *[64] * 9, 63]
            # Nothing is waited for but the slowest of them.
            pauses = [after.at - before.at for before, after in pairwise(sent[1:-1])]
            assert max(pauses) <= store_s + back_after_s + 1e-9
            assert sorted(ids) == [*range(640)]
            assert supply.reading().gaps == {}

    run(main())


def test_a_strict_request_that_expects_no_other_is_sent_at_once() -> None:
    async def main() -> None:
        async with serving(table(strict=True), answers_after(0.2)) as service:
            supply = await service.local_counter("orders")
            await registered(supply)
            for _ in range(3):
                began = now()
                await supply.next_id()
                assert now() - began == pytest.approx(0.2)

    run(main())


@pytest.mark.parametrize(("store_s", "held_s"), [(0.2, WINDOW_MAX_S), (0.0005, 0.0005)])
def test_a_strict_batch_is_held_no_longer_than_a_write_takes(store_s: float, held_s: float) -> None:
    async def main() -> None:
        async with serving(table(strict=True), answers_after(store_s)) as service:
            supply = await service.local_counter("orders")
            await asyncio.gather(*(supply.next_id() for _ in range(5)))
            for expected_s in (held_s + store_s, store_s):  # held once, and not again
                began = now()
                await supply.next_id()
                assert now() - began == pytest.approx(expected_s)

    run(main())


def test_a_held_strict_batch_takes_in_requests_until_it_is_sent() -> None:
    async def main() -> None:
        async with serving(table(strict=True), answers_after(0.2)) as service:
            supply = await service.local_counter("orders")
            await asyncio.gather(*(supply.next_id() for _ in range(5)))
            first = asyncio.create_task(supply.next_id())
            await elapse(WINDOW_MAX_S / 2)
            joined = asyncio.create_task(supply.next_id())
            await elapse(WINDOW_MAX_S)
            late = asyncio.create_task(supply.next_id())
            assert [await first, await joined, await late] == [5, 6, 7]
            assert [sent.count for sent in store_of(service).sent][-2:] == [2, 1]

    run(main())


def test_a_strict_batch_that_is_held_ends_with_the_service() -> None:
    async def main() -> None:
        async with serving(table(strict=True), answers_after(0.2)) as service:
            supply = await service.local_counter("orders")
            await asyncio.gather(*(supply.next_id() for _ in range(5)))
            sent = len(store_of(service).sent)
            held = asyncio.create_task(outcome(supply))
            await elapse(WINDOW_MAX_S / 2)
            supply.stop(errors.Stopped(), cause=GapCause.STOP)
            await elapse(1.0)
            assert isinstance(held.result(), errors.Stopped)
            assert held.result().outcome == errors.NOT_APPLIED
            assert len(store_of(service).sent) == sent

    run(main())


# --- doubt ----------------------------------------------------------------------------------------


def test_a_position_moved_back_is_refused_by_warm_fresh_and_other_instances() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as warm, serving(data, seed=2) as other:
            ids = [
                await (await service.local_counter("orders")).next_id() for service in (warm, other)
            ]
            data.set_by_hand("orders", next=3)
            async with serving(data, seed=3) as fresh:
                for service in (fresh, warm, other):
                    supply = await service.local_counter("orders")
                    answer = await outcome(supply, 1000)
                    assert isinstance(answer, errors.CounterSuspect), service
                    assert (answer.status, answer.retryable) == (503, False)
                    assert supply.allocator.held == 0
            assert data.positions["orders", 0].epoch == "gone-back:1"
            assert len(set(ids)) == 2

    run(main())


def test_a_suspect_counter_is_looked_at_again_and_resumes_when_it_was_repaired() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            await supply.next_id()
            data.set_by_hand("orders", next=3)
            assert isinstance(await outcome(supply, 1000), errors.CounterSuspect)
            sent = len(store_of(service).sent)
            for _ in range(50):
                assert isinstance(await outcome(supply), errors.CounterSuspect)
            assert len(store_of(service).sent) == sent, "each request asked the store"
            await elapse(SUSPECT_RECHECK_S)
            assert isinstance(await outcome(supply), errors.CounterSuspect)
            highest = max(grant.ids.stop for grant in data.ledger)
            data.repair("orders", "b")
            await elapse(SUSPECT_RECHECK_S)
            assert await supply.next_id() == highest
            assert supply.counter.ordinal == 2
            reading = supply.reading()
            gaps = sum(reading.gaps.values())
            assert reading.reserved == reading.issued + reading.held + gaps

    run(main())


def test_who_was_stopped_while_in_doubt_hands_out_nothing_of_a_newer_epoch() -> None:
    async def main() -> None:
        data = table()
        async with serving(data, answers_after(1.0)) as service:
            supply = await service.local_counter("orders")
            await supply.next_id()
            data.repair("orders", "b")
            asking = asyncio.create_task(outcome(supply, 1000))
            await elapse(1.5)  # refused by now, and the entry is being read
            service._refuse_all(errors.StoreReplaced(store="sim:", why="a test says so"))
            assert isinstance(await asking, errors.StoreReplaced)
            await elapse(30.0)
            assert supply.take() is None
            assert isinstance(await outcome(supply), errors.StoreReplaced)
            assert supply.counter.ordinal == 1

    run(main())


def test_a_second_look_remembers_where_the_own_last_reservation_ended() -> None:
    """Mark and all were moved back, and nobody could close the position: only `seen` tells."""

    class CannotClose(SimStore):
        """Loses the request that closes a position."""

        async def close_gone_back(self, *arguments: object, **rest: object) -> None:
            raise errors.OutcomeUnknown(store=self.address, action="closing", why="reset")

    async def main() -> None:
        data = table()
        async with serving(data, store=CannotClose) as service:
            supply = await service.local_counter("orders")
            await supply.next_id()
            data.set_by_hand("orders", next=0, mark=0)
            for _ in range(4):
                assert isinstance(await outcome(supply, 1000), errors.CounterSuspect)
                await elapse(SUSPECT_RECHECK_S)
            assert len(data.ledger) == 1

    run(main())


def test_a_missing_position_is_an_error_and_never_a_start_from_zero() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            del data.positions["orders", 0]
            answer = await outcome(supply)
            assert isinstance(answer, errors.CounterSuspect)
            assert "orders" in str(answer)
            assert data.positions == {}

    run(main())


def test_a_grant_ends_the_doubt_about_a_position_that_is_back() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            kept = data.positions.pop(("orders", 0))
            assert isinstance(await outcome(supply), errors.CounterSuspect)
            data.positions["orders", 0] = kept
            await elapse(SUSPECT_RECHECK_S)
            assert await supply.next_id() == 0
            assert supply.unavailable_reason is None
            assert supply.counter.ordinal == 1

    run(main())


def test_an_ill_formed_position_is_suspect_and_the_ids_of_the_write_are_counted() -> None:
    class IllFormed(SimStore):
        """Its answer shows that the write went to a position that is no whole number."""

        async def reserve(self, counter: Counter, **rest: Any) -> Grant:
            await super().reserve(counter, **rest)
            error = errors.PositionIllFormed(store=self.address, name=counter.name, why="41.5")
            error.outcome = errors.UNKNOWN
            raise error

    async def main() -> None:
        async with serving(table(), store=IllFormed) as service:
            supply = await service.local_counter("orders")
            assert isinstance(await outcome(supply), errors.CounterSuspect)
            assert supply.reading().gaps == {"unknown": store_of(service).sent[0].count}

    run(main())


def test_refusing_for_hours_costs_no_memory() -> None:
    """One error told to many must not gather the frames of each who heard it."""

    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await service.local_counter("orders")
            del data.positions["orders", 0]
            for _ in range(30):
                await outcome(supply)
            answer = await outcome(supply)
            assert isinstance(answer, errors.CounterSuspect)
            assert frames(answer.__traceback__) < 10

    run(main())


def frames(trace: TracebackType | None) -> int:
    return 0 if trace is None else 1 + frames(trace.tb_next)


# Where other tests have left threads behind; the child does nothing that could need them.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("held", [True, False])
def test_a_forked_child_hands_out_nothing(held: bool) -> None:
    async def main() -> None:
        async with serving(table(), limits=Limits(runway=2.0)) as service:
            supply = await service.local_counter("orders")
            before = await supply.next_id()
            while not held and supply.allocator.held:
                supply.take_many(1)
            mine, childs = os.pipe()
            child = os.fork()
            if child == 0:  # no test runs on here
                signal.alarm(10)
                os.write(childs, child_says(supply))
                os._exit(0)
            os.close(childs)
            with os.fdopen(mine, "rb") as pipe:
                assert pipe.read() == b"None None Stopped Stopped 0"
            os.waitpid(child, 0)
            after = await supply.next_id()
            assert after > before

    run(main())


def child_says(supply: LocalCounter) -> bytes:
    """What a child gets: at once, as a batch, by standing in line, and so when time has passed."""
    said: list[object] = [supply.take(), supply.take_many(1)]
    for later in (0.0, 3600.0):
        supply._loop.now += later  # type: ignore[attr-defined]
        waiting = supply.wait(1)
        try:
            waiting.send(None)
            said.append("waits")
        except StopIteration:
            said.append("served")
        except BaseException as error:
            said.append(type(error).__name__)
    said.append(supply.allocator.held)
    return " ".join(map(str, said)).encode()


def test_what_is_counted_adds_up_over_a_life() -> None:
    async def main() -> None:
        faults = Faults(lost_after=0.2, lost_before=0.1, throttled=0.1)
        data = table()
        async with serving(data, faults, limits=Limits(runway=2.0)) as service:
            supply = await _supply(service)
            issued = 0
            for number in range(200):
                answer = await outcome(supply, 1 + number % 9)
                issued += len(answer) if isinstance(answer, list) else 0
                await elapse(0.1)
            faults.heal()
            await elapse(REFILL_MAX_S)  # a request that is under way is counted when it ends
            reading = supply.reading()
            assert reading.issued == issued > 500
            assert reading.reserved == issued + reading.held
            assert sum(reading.stats.reservations.values()) == len(store_of(service).sent)
            unheard = sum(len(grant.ids) for grant in data.ledger if not grant.answered)
            assert 0 < unheard <= reading.gaps["unknown"]
            assert reading.stats.waits > 0
        end = supply.reading()
        left = end.reserved - end.issued
        assert left == end.returned + end.gaps.get("stop", 0) >= reading.held

    async def _supply(service: Service) -> LocalCounter:
        while True:
            try:
                return await service.local_counter("orders")
            except errors.StoreError:
                await elapse(0.1)

    run(main())


@pytest.mark.parametrize("left", [0, 4])
def test_a_counter_near_its_limit_does_not_keep_a_service_from_starting(left: int) -> None:
    async def main() -> None:
        data = table(limit=13)
        data.set_by_hand("orders", next=14 - left, mark=14 - left)
        async with serving(data, declared=["orders"]) as service:
            await service.warm()
            supply = await service.local_counter("orders")
            assert supply.allocator.held == left
            assert bool(await service.not_ready()) == (left == 0)
            for expected in range(14 - left, 14):
                assert await supply.next_id() == expected
            with pytest.raises(errors.Exhausted):
                await supply.next_id()
            await elapse(5.0)
            assert await service.not_ready() is not None, "it is used up, whoever asks and when"

    run(main())


def test_a_stop_is_for_good_whatever_is_answered_afterwards() -> None:
    async def main() -> None:
        async with serving(table()) as service:
            supply = await service.local_counter("orders")
            supply.stop(
                errors.StoreReplaced(store="sim:", why="restored"), cause=GapCause.WENT_BACK
            )
            supply._distrust(errors.PositionIllFormed(store="sim:", name="orders", why="4.5"))
            await elapse(2 * SUSPECT_RECHECK_S)
            with pytest.raises(errors.StoreReplaced):
                await supply.next_id()

    run(main())


def test_a_strict_request_told_of_the_stop_says_what_may_have_become_of_its_batch() -> None:
    async def main() -> None:
        async with serving(table(strict=True), answers_after(1.0)) as service:
            supply = await service.local_counter("orders")
            client = asyncio.create_task(supply.next_id())
            await elapse(0.5)
            supply.stop(errors.Stopped(), cause=GapCause.STOP)
            with pytest.raises(errors.Stopped) as caught:
                await client
            assert caught.value.outcome == errors.UNKNOWN

    run(main())


# --- a night's log --------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Action and sentence of each line about ids that run out."""
    actions = ("counter_empty", "counter_refilled", "counter_exhausted")
    found = [(getattr(one, "action", ""), one.getMessage()) for one in caplog.records]
    return [one for one in found if one[0] in actions]


def test_an_outage_is_told_with_its_counter_its_length_and_its_refusals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        faults = Faults()
        async with serving(
            table(), faults, limits=Limits(wait=2.0), declared=["orders"]
        ) as service:
            supply = await service.local_counter("orders")
            await supply.next_id()
            faults.outages = [(now(), now() + 44.0)]
            while supply.allocator.held:
                await supply.next_id()
            for _ in range(3):
                with pytest.raises(errors.WaitedTooLong):
                    await supply.next_id()
            await elapse(60.0)
            await supply.next_id()
            assert told(caplog)[0][0] == "counter_empty"
            assert "'orders'" in told(caplog)[0][1]
            assert "2 s" in told(caplog)[0][1]
            [(_, after)] = told(caplog)[1:]
            found = re.fullmatch(
                r"counter orders has ids again after (\d+) s; 3 requests were refused", after
            )
            assert found is not None, after
            assert 40 <= int(found[1]) <= 60

    run(main())


def test_too_many_waiting_requests_are_counted_among_the_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        faults = Faults(outages=[(0.0, 10.0)])
        async with serving(table(), faults, limits=Limits(waiters_max=1)) as service:
            faults.outages = []
            supply = await service.local_counter("orders")
            faults.outages = [(now(), now() + 10.0)]
            first = asyncio.create_task(supply.next_id())
            await asyncio.sleep(0)
            for _ in range(5):
                with pytest.raises(errors.TooManyWaiting):
                    await supply.next_id()
            with pytest.raises(errors.WaitedTooLong):
                await first
            await elapse(20.0)
            await supply.next_id()
            assert "6 requests were refused" in told(caplog)[1][1]

    run(main())


def test_a_used_up_counter_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(table(limit=4)) as service:
            supply = await service.local_counter("orders")
            await supply.next_batch(5)
            for _ in range(3):
                with pytest.raises(errors.Exhausted):
                    await supply.next_id()

    run(main())
    assert [action for action, _ in told(caplog)] == ["counter_exhausted"]
