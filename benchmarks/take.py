"""The cost of taking an id out of memory, beside a bare `next()` on a range iterator.

Both run in one process, round by round. The figure is CPU time of the process, without that of the
empty loop.
"""

import asyncio
import time
from collections.abc import Callable
from itertools import repeat
from random import Random
from statistics import median

from benchmarks.measure import Row, check, distinct, interleaved, ratio
from benchmarks.memory import MemoryStore
from idservice.allocation.local_counter import LocalCounter
from idservice.allocation.service import Service
from idservice.core.allocator import Allocator
from idservice.core.epoch import Layout, Shards
from idservice.stores.records import LIMIT_DEFAULT

GOAL = 2.5


def run(quick: bool) -> list[Row]:
    """Return the rows of `take`."""
    return asyncio.run(_run(count=20_000 if quick else 500_000, rounds=5 if quick else 15))


async def _run(count: int, rounds: int) -> list[Row]:
    service = Service(MemoryStore(), random=Random(1))
    async with service:
        supply = await service.local_counter("default")
        candidates = {
            "empty": lambda: _empty(count),
            "next": lambda: _next(count),
            "allocator": lambda: _allocator(count),
            "supply": lambda: _supply(supply, count),
        }
        found = interleaved(candidates, rounds)
        _check_every_id(count)
    net = {
        name: [figure - empty for figure, empty in zip(figures, found["empty"], strict=True)]
        for name, figures in found.items()
    }
    ns = {name: median(figures) / count * 1e9 for name, figures in net.items()}
    return [
        Row(
            "take: IdBuffer.take / next() on a range iterator",
            ratio(net["allocator"], net["next"]),
            "×",
            GOAL,
            f"{ns['allocator']:.1f} ns beside {ns['next']:.1f} ns",
        ),
        Row(
            "take: LocalCounter.take / next() on a range iterator",
            ratio(net["supply"], net["next"]),
            "×",
            note=f"{ns['supply']:.1f} ns",
        ),
    ]


# --- candidates: the same loop around each; the last id shows that all were taken -----------------


def _empty(count: int) -> float:
    began = time.process_time()
    for _ in repeat(None, count):
        pass
    return time.process_time() - began


def _next(count: int) -> float:
    ids = iter(range(count))
    began = time.process_time()
    for _ in repeat(None, count):
        id = next(ids)
    took = time.process_time() - began
    check(id == count - 1, f"the last id is {id}")
    return took


def _allocator(count: int) -> float:
    holder = _Holder(_filled(count))
    began = time.process_time()
    for _ in repeat(None, count):
        id = holder.buffer.take()  # as LocalCounter.take reaches it
    took = time.process_time() - began
    check(id == count - 1, f"the last id is {id}")
    return took


def _supply(supply: LocalCounter, count: int) -> float:
    supply.epoch_state.allocator = _filled(count)
    supply.epoch_state.buffer = supply.epoch_state.allocator.buffer
    return _timed(supply.take, count)


def _timed(take: Callable[[], int | None], count: int) -> float:
    began = time.process_time()
    for _ in repeat(None, count):
        id = take()
    took = time.process_time() - began
    check(id == count - 1, f"the last id is {id}")
    return took


class _Holder:
    """Holds a buffer as a counter's state does."""

    def __init__(self, allocator: Allocator) -> None:
        self.buffer = allocator.buffer


def _filled(count: int) -> Allocator:
    """Return an allocator with twice `count` ids; its low-water mark is in the second half."""
    allocator = Allocator(
        Shards(Layout(base=0, limit=LIMIT_DEFAULT)), now=0.0, runway_s=1e-6, block_max=4 * count
    )
    request = allocator.due(1.0, waiting=2 * count, first=2 * count)
    assert request is not None
    check(allocator.granted(request.token, range(request.count)), "the grant was refused")
    return allocator


def _check_every_id(count: int) -> None:
    """Check that ids come once and in order across low-water marks and grants."""
    allocator = _filled(count)
    ids: list[int] = []
    granted = allocator.held
    while len(ids) < 4 * count:
        id = allocator.buffer.take()
        if id is None:
            allocator.buffer.advance()
            request = allocator.due(1.0)
            if request is not None:
                allocator.granted(request.token, range(granted, granted + request.count))
                granted += request.count
        else:
            ids.append(id)
    distinct(ids)
    check(ids == list(range(4 * count)), "the ids are not in order")
