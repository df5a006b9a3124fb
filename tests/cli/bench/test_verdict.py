"""Distinct and rising: against a set, against every pair, and with planted faults."""

import random
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idservice.cli.bench import verdict
from idservice.cli.bench.verdict import Distinct, Intervals, Order, Scope, runs

ids = st.integers(0, 120)
blocks = st.builds(
    lambda first, step, count: range(first, first + step * count, step),
    ids, st.integers(1, 12), st.integers(1, 20),
)  # fmt: skip


def intervals(distinct: Distinct) -> int:
    """The number of intervals that it keeps."""
    return sum(len(kept.starts) for kept in distinct._kept.values())


# --- distinct -------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.lists(ids | blocks | st.none(), max_size=40))
def test_repeated_ids_are_those_that_a_set_finds(
    step: int, given: list[int | range | None]
) -> None:
    distinct = Distinct(step)
    seen: Counter[int] = Counter()
    for some in given:
        if some is None:
            distinct.settle()
        elif isinstance(some, int):
            distinct.add(some)
            seen[some] += 1
        else:
            distinct.add_block(some)
            seen.update(some)
    distinct.settle()
    assert distinct.seen == seen.total()
    assert distinct.repeated == seen.total() - len(seen)
    assert {seen[id] > 1 for id in distinct.examples} <= {True}
    assert len(distinct.examples) == min(distinct.repeated, verdict.EXAMPLES_MAX)


@given(st.lists(st.tuples(ids, st.integers(1, 20)), max_size=60))
def test_intervals_neither_overlap_nor_touch(given: list[tuple[int, int]]) -> None:
    kept = Intervals()
    known: set[int] = set()
    for start, length in given:
        again = kept.add(start, start + length)
        assert {i for part in again for i in part} == known & set(range(start, start + length))
        known |= set(range(start, start + length))
    assert known == {i for a, b in zip(kept.starts, kept.stops, strict=True) for i in range(a, b)}
    assert all(b < a for b, a in zip(kept.stops, kept.starts[1:], strict=False))


@pytest.mark.parametrize(
    ("given", "repeated"),
    [
        ([7, 7], [7]),
        ([7, 8, 9, 7], [7]),
        ([range(10), 3], [3]),
        ([3, range(10)], [3]),
        ([range(10), range(9, 12)], [9]),
        ([range(10), range(12, 20), range(8, 14)], [8, 9, 12, 13]),
        ([range(0, 80, 8), range(50, 60)], [56]),
        ([range(50, 60), range(0, 80, 8)], [56]),
        ([range(0, 60, 6), range(3, 63, 4)], []),
        ([range(0, 60, 6), range(2, 62, 4)], [6, 18, 30, 42, 54]),
        ([range(0, 3, 3), range(1, 10, 3), range(2, 11, 3), 7], [7]),
        ([range(0, 10_007 * 5, 10_007), range(0, 10_007 * 3, 10_007)], [0, 10_007, 20_014]),
        ([*range(5000), 0], [0]),
        ([*range(5000), 4999], [4999]),
    ],
    ids=str,
)  # fmt: skip
def test_a_planted_duplicate_is_found_and_named(
    given: list[int | range], repeated: list[int]
) -> None:
    for step in (1, 3, 8):
        distinct = Distinct(step)
        for some in given:
            if isinstance(some, int):
                distinct.add(some)
            else:
                distinct.add_block(some)
        distinct.settle()
        assert sorted(distinct.examples) == repeated
        assert distinct.repeated == len(repeated)


def test_a_hundred_million_ids_of_interleaved_blocks_are_a_few_intervals() -> None:
    distinct = Distinct()
    order = list(range(100))
    random.Random(1).shuffle(order)
    for million in order:
        distinct.add_block(range(million * 1_000_000, (million + 1) * 1_000_000))
        assert intervals(distinct) <= 50
    assert (distinct.seen, distinct.repeated, intervals(distinct)) == (100_000_000, 0, 1)


def test_single_ids_of_one_shard_are_one_interval() -> None:
    distinct = Distinct(8)
    for id in range(3, 8 * 20_000, 8):
        distinct.add(id)
    distinct.settle()
    assert intervals(distinct) == 1


def test_ids_stay_in_few_intervals_when_the_counter_is_sharded_anew() -> None:
    distinct = Distinct()
    distinct.add_block(range(1_000_000))
    for shards in (8, 6, 2):
        base = 10_000_000 * shards
        distinct.add_block(range(base + 1, base + 1 + shards * 100_000, shards))
    assert distinct.repeated == 0
    assert intervals(distinct) == 24 + 3 + 4 + 12, "by the remainders modulo 24"
    distinct.add(80_000_009)
    distinct.settle()
    assert distinct.examples == [80_000_009]


@given(st.lists(ids, max_size=40), st.integers(1, 5))
def test_runs_hold_the_same_ids_in_the_same_order(given: list[int], step: int) -> None:
    found = runs(given, step)
    assert [id for run in found for id in run] == given
    assert all(run.step == step for run in found)
    assert all(a.stop != b.start for a, b in pairwise(found))


# --- order ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Request:
    connection: int
    blocks: list[range]
    sent: int = 0
    answered: int = 0


def history(rng: random.Random) -> list[Request]:
    """A few connections, one request at a time on each, ids mostly in the order of the answers."""
    requests: list[Request] = []
    under_way: dict[int, Request] = {}
    for now in range(rng.randint(2, 16)):
        connection = rng.randint(0, 2)
        request = under_way.pop(connection, None)
        if request is not None:
            request.answered = now
            continue
        first = 3 * (5 + now + rng.choice([0, 0, 0, 1, -2]))
        size = rng.randint(1, 3)
        given = (
            [range(first, first + size)] if rng.random() < 0.9 else [range(29, 30), range(22, 24)]
        )
        under_way[connection] = Request(connection, given, sent=now)
        requests.append(under_way[connection])
    return [request for request in requests if request.answered]


def faults_by_force(requests: list[Request], *, one_order: bool) -> int:
    """Blocks that begin at or below an id of an answer that ended before their request began, or
    of an earlier block of their own."""
    faults = 0
    for b in requests:
        before = [
            id
            for a in requests
            if a.answered < b.sent and (one_order or a.connection == b.connection)
            for block in a.blocks
            for id in block
        ]
        for block in b.blocks:
            faults += any(id >= block[0] for id in before)
            before += block
    return faults


def faults_by_scopes(requests: list[Request], *, one_order: bool, single: bool) -> int:
    order = Order()
    shared = Scope(order)
    scopes = {c: shared if one_order else Scope(order) for c in range(3)}
    floors: dict[int, int] = {}
    events = [(r.sent, r) for r in requests] + [(r.answered, r) for r in requests]
    for now, request in sorted(events, key=lambda event: event[0]):
        scope = scopes[request.connection]
        if now == request.sent:
            floors[request.connection] = scope.highest
        elif single:
            scope.answered(floors[request.connection], request.blocks[0][0])
        else:
            scope.answered_blocks(floors[request.connection], request.blocks)
    return order.faults


@pytest.mark.parametrize("one_order", [True, False])
@pytest.mark.parametrize("single", [True, False])
def test_order_is_judged_as_by_looking_at_every_pair(one_order: bool, single: bool) -> None:
    rng = random.Random(5)
    outcomes: Counter[bool] = Counter()
    for _ in range(3000):
        requests = history(rng)
        if single:
            for request in requests:
                request.blocks = [request.blocks[0][:1]]
        expected = faults_by_force(requests, one_order=one_order)
        outcomes[expected > 0] += 1
        assert faults_by_scopes(requests, one_order=one_order, single=single) == expected
    assert min(outcomes.values()) > 300, "both kinds of histories are common"


def test_order_is_not_asked_of_requests_that_overlap() -> None:
    order = Order()
    scope = Scope(order)
    early, late = scope.highest, scope.highest
    scope.answered(late, 9)
    scope.answered(early, 5)
    assert order.faults == 0
    scope.answered(scope.highest, 8)
    assert order.examples == [(8, 9)]
