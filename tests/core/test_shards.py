"""An instance goes from shard to shard as it must; its ids are distinct, and rise within each."""

from collections import defaultdict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idservice.core.allocator import Allocator, Request
from idservice.core.epoch import EXHAUSTED_RECHECK_S, Layout, Shards

FAR = 2**53 - 1


def layouts(shards: int, *, base: int = 0, limit: int = FAR) -> list[Layout]:
    return [Layout(base=base, limit=limit, shard=at, shards=shards) for at in range(shards)]


def new(shards: Shards, *, block_max: int = 1000) -> Allocator:
    return Allocator(shards, now=0.0, runway_s=10.0, block_max=block_max)


def asked(allocator: Allocator, count: int = 1, now: float = 0.0) -> Request:
    request = allocator.due(now, waiting=count, first=count)
    assert request is not None
    return request


# --- moving ---------------------------------------------------------------------------------------


def test_it_stays_with_the_shard_that_it_prefers() -> None:
    of = layouts(3)
    allocator = new(Shards(of[2], of[0], of[1]))
    position = 0
    for _ in range(20):
        request = asked(allocator, 50)
        assert request.shard == 2
        assert allocator.granted(request.token, range(position, position + request.count))
        position += request.count
        allocator.take_batch(allocator.held)


def test_a_shard_that_takes_no_more_is_left_for_the_next_in_its_own_order() -> None:
    moves: dict[str, int] = {}
    of = layouts(3)
    allocator = new(Shards(of[1], of[2], of[0], moves=moves))
    tried = []
    for _ in range(4):
        request = asked(allocator)
        tried.append(request.shard)
        allocator.throttled(request.token)
    assert tried == [1, 2, 0, 1]
    assert moves == {"throttled": 4}
    assert not allocator.gaps


def test_other_failures_are_no_reason_to_move() -> None:
    allocator = new(Shards(*layouts(3)))
    for unknown in (True, False, True):
        request = asked(allocator)
        assert request.shard == 0
        allocator.refused(request.token, unknown=unknown)


def test_an_old_answer_moves_nobody() -> None:
    allocator = new(Shards(*layouts(3)))
    first = asked(allocator)
    allocator.throttled(first.token)
    second = asked(allocator)
    allocator.throttled(first.token)
    allocator.no_room(first.token, FAR, 0.0)
    assert allocator.waits_for_store
    assert allocator.granted(second.token, range(second.count))
    assert allocator.buffer.take() == 1


def test_it_moves_when_its_shard_is_used_up_and_takes_all_of_that_first() -> None:
    moves: dict[str, int] = {}
    allocator = new(Shards(*layouts(2, limit=40), moves=moves))
    request = asked(allocator, 15)
    allocator.no_room(request.token, 18, 0.0)  # of 21: others were here
    request = asked(allocator, 15)
    assert (request.shard, request.count) == (0, 3)
    assert allocator.granted(request.token, range(18, 21))
    request = asked(allocator, 15)
    assert (request.shard, request.seen) == (1, 0)
    assert allocator.granted(request.token, range(request.count))
    assert allocator.take_batch(15) == [range(36, 42, 2), range(1, 25, 2)]
    assert moves == {"exhausted": 1}


def test_where_one_shard_ended_says_nothing_of_another() -> None:
    of = layouts(2, base=100)
    allocator = new(Shards(*of))
    request = asked(allocator)
    assert allocator.granted(request.token, range(7000, 7000 + request.count))
    allocator.take_batch(allocator.held)
    allocator.throttled(asked(allocator).token)
    assert asked(allocator).seen == 0
    allocator.throttled(allocator._token)
    assert asked(allocator).seen == 7000 + request.count


def test_exhausted_is_said_only_once_every_shard_was_looked_at() -> None:
    allocator = new(Shards(*layouts(3, limit=29)))
    now = 0.0
    for shard in range(3):
        assert allocator.shards.room(now)
        assert not allocator.shards.used_up
        request = asked(allocator, now=now)
        assert request.shard == shard
        now += 0.9 * EXHAUSTED_RECHECK_S  # slower than one answer alone is believed
        allocator.no_room(request.token, 10, now)
    assert allocator.shards.room(now) == 0
    assert allocator.shards.used_up
    assert allocator.due(now, waiting=1, first=1) is None
    now += EXHAUSTED_RECHECK_S
    assert allocator.shards.room(now) == 30
    assert asked(allocator, now=now).count > 0


def test_one_shard_alone_has_nowhere_to_go() -> None:
    moves: dict[str, int] = {}
    allocator = new(Shards(*layouts(1, limit=5), moves=moves))
    allocator.throttled(asked(allocator).token)
    allocator.no_room(asked(allocator).token, 6, 0.0)
    assert allocator.due(0.0, waiting=1, first=1) is None
    assert not moves


# --- the property ---------------------------------------------------------------------------------


class Wandering:
    """Several instances over the same shards, all of which come to an end."""

    def __init__(self, of: list[Layout], rng: Random) -> None:
        self.rng = rng
        self.positions = [0] * len(of)
        self.instances = [
            new(Shards(*rng.sample(of, len(of))), block_max=rng.choice((1, 5, 50)))
            for _ in range(3)
        ]
        self.issued: list[list[int]] = [[] for _ in self.instances]
        self.now = 0.0

    def step(self) -> bool:
        """One request for ids to one of them; False once nobody has or expects any."""
        self.now += 0.001
        busy = [
            at for at, one in enumerate(self.instances) if one.held or one.shards.room(self.now)
        ]
        if not busy:
            return False
        at = self.rng.choice(busy)
        allocator = self.instances[at]
        count = min(self.rng.randint(1, 8), allocator.held + allocator.shards.room(self.now))
        blocks = allocator.take_batch(count)
        if blocks is None:
            request = allocator.due(self.now, waiting=count, first=count)
            assert request is not None
            self.answer(allocator, request)
        else:
            assert sum(map(len, blocks)) == count
            self.issued[at] += [id for block in blocks for id in block]
        return True

    def answer(self, allocator: Allocator, request: Request) -> None:
        position = self.positions[request.shard]
        assert request.seen <= position
        if self.rng.random() < 0.2:
            allocator.throttled(request.token)
        elif position > request.room:
            allocator.no_room(request.token, position, self.now)
        else:
            self.positions[request.shard] += request.count
            indices = range(position, position + request.count)
            assert allocator.granted(request.token, indices)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.integers(0, 30), st.integers(0, 120), st.integers(0, 10**6))
def test_instances_that_wander_use_up_every_id_once_and_rise_within_each_shard(
    shards: int, base: int, more: int, seed: int
) -> None:
    world = Wandering(layouts(shards, base=base, limit=base + more), Random(seed))
    while world.step():
        pass
    assert sorted(id for ids in world.issued for id in ids) == list(range(base, base + more + 1))
    for ids in world.issued:
        last: dict[int, int] = defaultdict(lambda: -1)
        for id in ids:
            assert id > last[(id - base) % shards]
            last[(id - base) % shards] = id


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_a_batch_of_all_there_is_is_put_together_from_every_shard(shards: int) -> None:
    limit = 41
    allocator = new(Shards(*layouts(shards, limit=limit)))
    assert allocator.shards.room(0.0) == limit + 1
    while allocator.held <= limit:
        request = allocator.due(0.0, waiting=limit + 1, first=limit + 1)
        assert request is not None
        assert allocator.granted(request.token, range(request.count))
    blocks = allocator.take_batch(limit + 1)
    assert blocks is not None
    assert len(blocks) == shards
    assert sorted(id for block in blocks for id in block) == list(range(limit + 1))
