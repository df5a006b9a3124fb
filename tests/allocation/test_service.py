"""Every counter in use: how they are read, what they cost, and when all of them stop."""

import asyncio
import gc
import logging
import re
import tracemalloc
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.allocation.catalogue_watch import POLL_S, POSITIONS_MAX
from idservice.allocation.context import Limits
from idservice.allocation.local_counter import SUSPECT_RECHECK_S
from idservice.allocation.service import LOADING_MAX, Service
from idservice.catalogue.changes import Configure
from idservice.catalogue.counters import new_counter
from idservice.core.timeouts import BACKOFF_MAX_S
from idservice.stores.records import SUSPENDED, Grant
from tests.simulation.loop import VirtualLoop, elapse, run
from tests.simulation.serving import answers_after, elsewhere, serving, table
from tests.simulation.store import Faults, SimStore

FOREVER = 10.0**9
BYTES_PER_IDLE_COUNTER = 4096


def store_of(service: Service) -> SimStore:
    assert isinstance(service.store, SimStore)
    return service.store


def now() -> float:
    return asyncio.get_running_loop().time()


def scheduled() -> int:
    """Timers that are set on the loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.timers


# --- counters -------------------------------------------------------------------------------------


def test_a_counter_that_is_not_there_is_never_created_by_asking_for_it() -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            for _ in range(3):
                with pytest.raises(errors.UnknownCounter, match="idservice create tickets"):
                    await service.local_counter("tickets")
            assert set(data.entries) == {"orders"}
            assert set(data.positions) == {("orders", 0)}
            assert set(service.local_counters) == set()
            data.create(new_counter("tickets", Random(1), start=7))
            await elapse(POLL_S)
            assert await (await service.local_counter("tickets")).next_id() == 7

    run(main())


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "é", "a" * 65, "a\n"])
def test_what_is_no_name_is_refused_without_asking_the_store(name: str) -> None:
    async def main() -> None:
        async with serving(table()) as service:
            with pytest.raises(errors.BadName):
                await service.local_counter(name)
            assert store_of(service).calls == 0

    run(main())


def test_requests_for_a_new_counter_share_one_read_and_none_may_cancel_it() -> None:
    async def main() -> None:
        async with serving(table(), answers_after(0.5)) as service:
            tasks = [asyncio.create_task(service.local_counter("orders")) for _ in range(20)]
            await elapse(0.1)
            tasks[0].cancel()
            tasks[7].cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            supplies = {id(one) for one in found if not isinstance(one, BaseException)}
            assert len(supplies) == 1
            assert sum(isinstance(one, asyncio.CancelledError) for one in found) == 2
            assert store_of(service).calls == 1

    run(main())


def test_a_counter_first_used_in_an_outage_is_refused_in_time_and_served_after_it() -> None:
    async def main() -> None:
        faults = Faults(outages=[(0.0, 30.0)])
        async with serving(table(), faults, limits=Limits(wait=2.0)) as service:
            while now() < 30.0:
                began = now()
                with pytest.raises(errors.NotApplied) as caught:
                    await service.local_counter("orders")
                assert now() - began <= 2.0 + 1e-6
                assert caught.value.retryable
                await elapse(1.0)
            assert await (await service.local_counter("orders")).next_id() == 0

    run(main())


def test_only_so_many_counters_are_read_at_once() -> None:
    async def main() -> None:
        names = [f"n{number}" for number in range(LOADING_MAX + 1)]
        async with serving(table(*names), answers_after(0.5)) as service:
            tasks = [asyncio.create_task(service.local_counter(name)) for name in names]
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(isinstance(one, errors.TooManyWaiting) for one in done) == 1

    run(main())


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.long
def test_two_thousand_idle_counters_cost_memory_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"n{number}" for number in range(2000)]
    data = table(*names)

    async def main() -> float:
        async with serving(data) as service:
            await elapse(0.1)  # its own tasks have begun
            tasks, timers = len(asyncio.all_tasks()), scheduled()
            for name in names[:-500]:
                await (await service.local_counter(name)).next_id()
            gc.collect()
            tracemalloc.start()  # slow, and five hundred are enough to weigh
            for name in names[-500:]:
                await (await service.local_counter(name)).next_id()
            del store_of(service).sent[-500:], data.ledger[-500:]
            await elapse(60.0)
            gc.collect()
            used, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert len(asyncio.all_tasks()) == tasks
            assert scheduled() == timers
            calls = store_of(service).calls
            await elapse(600.0)
            looks = 600.0 / (0.85 * POLL_S)  # each at the revision and at some of the positions
            assert store_of(service).calls - calls <= looks * (1 + POSITIONS_MAX)
            return used / 500

    each = run(main())
    with capsys.disabled():
        print(f" [{each:.0f} bytes per idle counter]", end="")
    assert each < BYTES_PER_IDLE_COUNTER


# --- all at once ----------------------------------------------------------------------------------


class Careful(SimStore):
    """Serves nothing from a table that is not the one it knew, as stores promise."""

    async def reserve(self, *arguments: Any, **rest: Any) -> Grant:
        if self.data.identity != self.data.recorded:
            raise errors.NotApplied(store=self.address, action="reserving", why="another table")
        return await super().reserve(*arguments, **rest)


class Unreachable(SimStore):
    """A store to which no connection is made any more, once it is down."""

    down = False

    async def reserve(self, *arguments: Any, **rest: Any) -> Grant:
        if self.down:
            about = {"store": self.address, "action": "reserving"}
            raise errors.NotReached(place="DynamoDB at http://d", cause="refused", **about)
        return await super().reserve(*arguments, **rest)


def test_an_outage_tells_how_long_ids_last_and_makes_no_gap(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        data = table("orders", "tickets")
        async with serving(data, store=Unreachable) as service:
            used = await service.local_counter("orders")
            for _ in range(200):
                await used.next_id()
                await elapse(0.05)
            store_of(service).down = True
            while service.health.up:
                await used.next_id()
                await elapse(0.05)
            (said,) = (one.getMessage() for one in caplog.records if "DynamoDB" in one.message)
            assert said.startswith("Cannot reach DynamoDB at http://d (refused).")
            assert re.search(r"Ids in memory last \d+ s more for `orders`\.$", said)
            gaps = dict(used.reading().gaps)
            assert not any(gaps.values()), gaps

    run(main())


def test_a_store_that_was_replaced_is_refused_by_every_counter_and_for_good() -> None:
    async def main() -> None:
        data = table("orders", "tickets", "late")
        async with serving(data, store=Careful) as service:
            used = await service.local_counter("orders")
            other = await service.local_counter("tickets")
            await used.next_batch(20)
            await other.next_id()
            data.identity = "another"
            with pytest.raises(errors.StoreReplaced):
                await used.next_batch(100)
            await elapse(BACKOFF_MAX_S)
            for _ in range(5):
                for supply in (used, other):
                    assert supply.take() is None
                    with pytest.raises(errors.StoreReplaced):
                        await supply.next_id()
                with pytest.raises(errors.StoreReplaced):
                    await service.local_counter("late")
                assert "was restored or replaced" in str(await service.not_ready())
                await elapse(2 * SUSPECT_RECHECK_S)
            sent = len(store_of(service).sent)
            await elapse(60.0)
            assert len(store_of(service).sent) == sent
            assert other.reading().gaps["went_back"] > 0

    run(main())


def test_a_counter_that_was_being_read_when_the_store_was_found_replaced_is_refused() -> None:
    async def main() -> None:
        async with serving(table(), answers_after(1.0)) as service:
            reading = asyncio.create_task(service.local_counter("orders"))
            await elapse(0.5)
            service._refuse_all(errors.StoreReplaced(store="sim:", why="a test says so"))
            with pytest.raises(errors.StoreReplaced):
                await reading
            assert service.local_counters == {}

    run(main())


def test_a_service_that_stopped_answers_everybody_and_leaves_no_task() -> None:
    async def main() -> None:
        faults = answers_after(1.0)
        async with serving(table("orders", "tickets"), faults) as service:
            supply = await service.local_counter("orders")
            waiting = [asyncio.create_task(supply.next_id()) for _ in range(5)]
            loading = asyncio.create_task(service.local_counter("tickets"))
            await elapse(0.1)
        answers = await asyncio.gather(*waiting, loading, return_exceptions=True)
        assert {type(answer) for answer in answers} == {errors.Stopped}
        assert len(asyncio.all_tasks()) == 1
        for _ in range(3):
            assert supply.take() is None
            with pytest.raises(errors.Stopped):
                await supply.next_id()
            with pytest.raises(errors.Stopped):
                await service.local_counter("never")
            await elapse(10.0)
        end = supply.reading()
        assert end.reserved == end.returned + end.gaps.get("stop", 0) > 0, "what was under way came"

    run(main())


def test_a_fault_in_verifying_the_store_that_nobody_foresaw_does_not_end_the_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(SimStore):
        """Raises what no store should."""

        async def verify(self) -> None:
            raise KeyError("identity")

    async def main() -> None:
        faults = Faults()
        async with serving(table(), faults, store=Broken) as service:
            supply = await service.local_counter("orders")
            faults.outages = [(0.0, 10.0)]
            with pytest.raises(errors.WaitedTooLong):
                await supply.next_id()
            await elapse(20.0)
            assert await supply.next_id() >= 0

    with caplog.at_level(logging.ERROR):
        run(main())
    assert "verifying the store failed" in caplog.text


# --- readiness ------------------------------------------------------------------------------------


def test_warm_brings_the_first_ids_so_that_the_first_request_does_not_wait() -> None:
    async def main() -> None:
        async with serving(table(), answers_after(1.0), declared=["orders"]) as service:
            await service.warm()
            began = now()
            supply = await service.local_counter("orders")
            assert await supply.next_id() == 0
            assert now() == began
            assert await service.not_ready() is None

    run(main())


def test_a_declared_counter_that_is_missing_is_told_and_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with serving(table(), declared=["missing", "orders"]) as service:
            await service.warm()
            assert await (await service.local_counter("orders")).next_id() == 0
            assert await service.not_ready() is None
        async with serving(table(), declared=["missing"]) as service:
            await service.warm()
            assert "missing" in str(await service.not_ready())

    run(main())
    assert "missing" in caplog.text


@pytest.mark.parametrize("closed", ["suspended", "used up", "position lost"])
def test_one_counter_that_is_closed_leaves_the_instance_ready_for_the_others(closed: str) -> None:
    """BerriAI/litellm#34934: one of many decided for all, and every instance was taken out."""

    async def main() -> None:
        data = table("orders", "members", limit=5)
        async with serving(data, declared=["orders", "members"]) as service:
            match closed:
                case "suspended":
                    await elsewhere(data, Configure(state=SUSPENDED))
                case "used up":
                    await (await service.local_counter("orders")).next_batch(6)
                case "position lost":
                    del data.positions["orders", 0]
            await service.warm()
            with pytest.raises(errors.IdserviceError):
                await (await service.local_counter("orders")).next_id()
            assert await service.not_ready() is None
            assert await (await service.local_counter("members")).next_id() == 0
            await (await service.local_counter("members")).next_batch(5)
            assert await service.not_ready() is not None, "nothing can be served any more"

    run(main())


def test_ready_as_long_as_there_are_ids_and_not_when_they_and_the_store_are_gone() -> None:
    async def main() -> None:
        faults = Faults()
        async with serving(table(), faults, declared=["orders"]) as service:
            await service.warm()
            supply = await service.local_counter("orders")
            faults.outages = [(now(), FOREVER)]
            assert await service.not_ready() is None
            await supply.next_id()
            while supply.allocator.held:
                await supply.next_batch(1)
            with pytest.raises(errors.WaitedTooLong):
                await supply.next_id()
            assert await service.not_ready() is not None
            faults.heal()
            await elapse(15.0)
            assert await service.not_ready() is None
            assert supply.allocator.held

    run(main())


@pytest.mark.parametrize("strict", [False, True])
def test_a_repaired_counter_becomes_ready_without_any_request(
    strict: bool,
) -> None:
    async def main() -> None:
        data = table(strict=strict)
        async with serving(data, declared=["orders"]) as service:
            supply = await service.local_counter("orders")
            first = await supply.next_id()
            data.set_by_hand("orders", next=0)
            with pytest.raises(errors.CounterSuspect):
                await supply.next_batch(1000)
            assert "moved back" in str(await service.not_ready())
            if not strict:
                for _ in range(10):  # as a load balancer asks
                    await elapse(1.0)
                    assert await service.not_ready() is not None, "ready, but nothing was repaired"
            data.repair("orders", "b")
            why: object = "not asked"
            until = now() + 2 * SUSPECT_RECHECK_S + 1.0
            while why and now() < until:
                await elapse(0.5)
                why = await service.not_ready()
            assert why is None
            assert await supply.next_id() > first

    run(main())


class Full(SimStore):
    """Answers reads, and refuses every reservation."""

    async def reserve(self, *arguments: Any, **rest: Any) -> Grant:
        if self.full:
            raise errors.NotApplied(store=self.address, action="reserving", why="disk is full")
        return await super().reserve(*arguments, **rest)

    full = False


def test_a_store_that_answers_reads_alone_is_down_once_and_until_it_reserves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    def told() -> list[str]:
        actions = (getattr(record, "action", "") for record in caplog.records)
        return [action for action in actions if action in ("store_down", "store_up")]

    async def main() -> None:
        async with serving(table(), store=Full, declared=["orders"]) as service:
            supply = await service.local_counter("orders")
            await supply.next_id()
            store = service.store
            assert isinstance(store, Full)
            store.full = True
            with pytest.raises(errors.WaitedTooLong):
                while True:
                    await supply.next_id()
            for _ in range(60):
                with pytest.raises(errors.WaitedTooLong):
                    await supply.next_id()
                assert "disk is full" in str(await service.not_ready())
            assert told() == ["store_down"]
            store.full = False
            await supply.next_id()
            assert told() == ["store_down", "store_up"]
            assert await service.not_ready() is None

    run(main())


def test_the_snapshot_counts_every_counter_in_use() -> None:
    async def main() -> None:
        async with serving(table("orders", "tickets")) as service:
            for name, count in (("orders", 3), ("tickets", 4)):
                await (await service.local_counter(name)).next_batch(count)
            snapshot = await service.snapshot()
            assert {one.counter: one.issued for one in snapshot.readings} == {
                "orders": 3,
                "tickets": 4,
            }
            assert snapshot.store_up
            assert sum(snapshot.latency.counts) == len(store_of(service).sent)

    run(main())
