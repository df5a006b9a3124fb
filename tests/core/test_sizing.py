"""Blocks are sized in time: enough for the runway, few writes, and no leap from a short burst."""

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from idservice.core import sizing
from idservice.core.allocator import Allocator, Request
from idservice.core.epoch import Layout, Shards

RATES = st.floats(0, 1e6, allow_nan=False)
RUNWAYS = st.floats(1, 86_400)
COUNTS = st.integers(0, 10**9)


@given(RATES, RUNWAYS, COUNTS, COUNTS, st.integers(1, 10**7))
def test_a_refill_asks_for_at_least_one_and_grows_at_most_eightfold(
    rate: float, runway_s: float, held: int, used: int, block_max: int
) -> None:
    count = sizing.refill(rate=rate, runway_s=runway_s, held=held, used=used, block_max=block_max)
    assert 1 <= count <= block_max
    assert count <= max(sizing.BLOCK_MIN, sizing.GROWTH_MAX * used)


@given(RATES, RUNWAYS, COUNTS)
def test_a_refill_fills_up_to_two_runways_where_use_allows_it(
    rate: float, runway_s: float, held: int
) -> None:
    count = sizing.refill(rate=rate, runway_s=runway_s, held=held, used=10**12, block_max=10**12)
    assert held + count >= 2 * rate * runway_s - 1e-3
    assert count == sizing.BLOCK_MIN or held + count <= 2 * rate * runway_s + 1


@given(RATES, RUNWAYS, COUNTS)
def test_the_low_water_mark_is_a_runway_and_at_most_half_of_what_is_held(
    rate: float, runway_s: float, held: int
) -> None:
    low = sizing.low_water(rate=rate, runway_s=runway_s, held=held)
    assert 0 <= low <= held // 2
    assert low == held // 2 or low >= rate * runway_s


def test_a_time_too_short_to_measure_gives_no_infinite_rate() -> None:
    assert sizing.rate(10, 0.0) == 10 / sizing.WINDOW_MIN_S
    assert sizing.rate(0, 0.0) == 0.0
    assert sizing.rate(100, 4.0) == 25.0


@dataclass
class Write:
    """One request to the store, how many waited for it, and what had been handed out by then."""

    count: int
    waiting: int
    issued: int


class Demand:
    """One counter asked for `rate` ids a second, over a store that answers after `store_s`."""

    def __init__(self, *, rate: int, runway_s: float, store_s: float) -> None:
        self.rate, self.runway_s, self.store_s = rate, runway_s, store_s
        self.allocator = Allocator(
            Shards(Layout(base=0, limit=2**53 - 1)),
            now=0.0,
            runway_s=runway_s,
            block_max=10_000_000,
        )
        self.position = 0
        self.now = 0.0
        self.waiting = 0
        self.writes: list[Write] = []
        self.dry: list[float] = []  # when somebody had to wait
        self.answer: tuple[float, Request] | None = None

    def run(self, seconds: float, *, step_s: float = 0.01) -> None:
        for _ in range(round(seconds / step_s)):
            self.now += step_s
            if self.answer is not None and self.answer[0] <= self.now:
                self.grant(self.answer[1])
            for _ in range(round(self.rate * step_s)):
                self.take()
            self.ask()

    def take(self) -> None:
        if self.allocator.buffer.take() is not None:
            return
        self.allocator.buffer.advance()
        taken = self.allocator.buffer.take()
        self.ask()
        if taken is None:
            self.dry.append(self.now)
            self.waiting = min(self.waiting + 1, 10_000)

    def ask(self) -> None:
        request = self.allocator.due(self.now, waiting=self.waiting, first=1 if self.waiting else 0)
        if request is not None:
            issued = self.allocator.issued_ids
            self.writes.append(Write(request.count, self.waiting, issued))
            self.answer = (self.now + self.store_s, request)

    def grant(self, request: Request) -> None:
        self.answer = None
        indices = range(self.position, self.position + request.count)
        self.position = indices.stop
        assert self.allocator.granted(request.token, indices)
        served = min(self.waiting, self.allocator.held)
        if served:
            self.allocator.take_batch(served)
        self.waiting -= served


def test_a_million_ids_at_ten_thousand_a_second_cost_at_most_ten_writes() -> None:
    demand = Demand(rate=10_000, runway_s=30.0, store_s=1.0)
    demand.run(40.0, step_s=0.05)  # growing
    began, ids = len(demand.writes), demand.allocator.issued_ids
    demand.run(150.0, step_s=0.05)
    issued = demand.allocator.issued_ids - ids
    assert issued == 1_500_000
    assert 0 < (len(demand.writes) - began) / issued <= 10 / 1_000_000
    assert max(demand.dry) < 15.0  # only while it grew
    assert demand.allocator.held >= (30.0 - 1.0) * 10_000


def test_growth_from_the_first_block_is_at_most_eightfold_and_reaches_two_runways() -> None:
    demand = Demand(rate=1_000, runway_s=10.0, store_s=0.01)
    demand.run(60.0)
    assert demand.writes[0].count == sizing.BLOCK_MIN
    for before, after in pairwise(demand.writes):
        used = after.issued - before.issued + after.waiting
        assert after.count <= after.waiting + max(sizing.BLOCK_MIN, sizing.GROWTH_MAX * used)
    assert demand.allocator.held >= 9.5 * 1_000
    assert demand.allocator.held <= 2.1 * 10.0 * 1_000


def test_a_steady_counter_always_holds_a_runway_less_what_one_store_call_uses() -> None:
    demand = Demand(rate=200, runway_s=30.0, store_s=1.0)
    demand.run(120.0)
    lowest = 10**9
    for _ in range(100):
        demand.run(1.0)
        lowest = min(lowest, demand.allocator.held)
    assert lowest >= 0.95 * (30.0 - 1.0) * 200
    assert max(demand.dry) < 15.0


def test_a_crash_loses_between_one_runway_and_two_of_a_steady_counter() -> None:
    """These are the figures of docs/explanation/how-it-works.md."""
    demand = Demand(rate=2_000, runway_s=30.0, store_s=1.0)
    demand.run(120.0, step_s=0.05)
    lost = []
    for _ in range(120):
        demand.run(1.0, step_s=0.05)
        lost.append(demand.position - demand.allocator.issued_ids)
    assert 115_000 <= max(lost) <= 121_000
    assert 55_000 <= min(lost) <= 65_000


def test_single_big_batches_do_not_inflate_the_rate() -> None:
    demand = Demand(rate=10, runway_s=30.0, store_s=0.01)
    demand.run(60.0, step_s=0.1)
    rate = demand.allocator.rate
    request = demand.allocator.due(demand.now, waiting=100_000, first=100_000)
    assert request is not None
    assert request.count >= 100_000
    demand.grant(request)
    assert demand.allocator.take_batch(100_000)
    demand.run(120.0, step_s=0.1)
    assert demand.allocator.rate <= 3 * rate
    assert demand.allocator.held <= 3 * 2 * 30 * 10


def writes_of_ranges(*, limit: int, minutes: int) -> tuple[list[int], Demand]:
    """Drive 4 clients that ask for a million ids 20 times a second each; return writes by minute,
    and the demand."""
    demand = Demand(rate=0, runway_s=30.0, store_s=0.05)
    demand.allocator = Allocator(
        Shards(Layout(base=0, limit=limit)), now=0.0, runway_s=30.0, block_max=sizing.BLOCK_MAX
    )
    writes, waiting = [], 0
    for _ in range(minutes):
        before = len(demand.writes)
        for _ in range(60 * 20):
            demand.run(0.05, step_s=0.05)
            waiting = 4
            while waiting and demand.allocator.take_batch(1_000_000):
                waiting -= 1
            due = demand.allocator.due(
                demand.now, waiting=waiting * 1_000_000, first=bool(waiting) * 1_000_000
            )
            if due is not None:
                demand.writes.append(Write(due.count, waiting, demand.allocator.issued_ids))
                demand.answer = (demand.now + 0.05, due)
        writes.append(len(demand.writes) - before)
    return writes, demand


def test_ranges_of_a_million_cost_two_writes_a_minute_however_many_come() -> None:
    writes, demand = writes_of_ranges(limit=2**53 - 1, minutes=4)
    assert writes[0] <= 14  # growing
    assert max(writes[1:]) <= 2
    assert demand.allocator.issued_ids >= 4 * 1_000_000 * 60 * 20 * 4 * 0.95


def test_a_refill_leaves_most_of_a_counter_that_ends_soon_to_others() -> None:
    limit = 10**12
    _, demand = writes_of_ranges(limit=limit, minutes=1)
    assert demand.allocator.held > sizing.BLOCK_ANY
    assert max(write.count for write in demand.writes) <= limit // sizing.LEFT_SHARE + 4_000_000
    assert sizing.ceiling(sizing.BLOCK_MAX, left=100) == sizing.BLOCK_ANY
    assert sizing.ceiling(50, left=2**53) == 50


def test_borrowed_ids_come_in_few_requests_to_the_lender() -> None:
    allocator = Allocator(
        Shards(Layout(base=0, limit=2**53 - 1)), now=0.0, runway_s=30.0, hold_s=10.0,
        block_max=sizing.BLOCK_MAX,
    )  # fmt: skip
    assert allocator.block_max == sizing.BLOCK_ANY
