"""A store in memory that counts its writes and answers after a set time."""

import asyncio
from random import Random

from idservice.counters import new_counter
from idservice.stores.protocol import Counter


class MemoryStore:
    """As much of a `Store` as a service needs to hand out ids. `delay_s` is per answer."""

    address = "memory:"
    hold_s: float | None = None

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.writes = 0
        self._positions: dict[str, int] = {}
        self._random = Random(1)

    async def counter(self, name: str) -> Counter:
        """Every name is a counter that starts from 0."""
        self._positions.setdefault(name, 0)
        return new_counter(name, self._random)

    async def reserve(
        self, counter: Counter, *, count: int, seen: int, room: int, shard: int = 0
    ) -> range:
        """Move the position forward, half of the delay before and half of it after."""
        await asyncio.sleep(self.delay_s / 2)
        first = self._positions[counter.name]
        assert seen <= first <= room
        self._positions[counter.name] = first + count
        self.writes += 1
        await asyncio.sleep(self.delay_s / 2)
        return range(first, first + count)

    async def verify(self) -> None:
        """It is what it was."""
