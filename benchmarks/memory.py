"""A store in memory that counts its writes and answers after a set time."""

import asyncio
from random import Random

from idservice.catalogue.counters import new_counter
from idservice.stores.records import Counter, Grant, Position


class MemoryStore:
    """As much of a `Store` as a service needs to hand out ids. `delay_s` is per answer."""

    address = "memory:"
    hold_s: float | None = None

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.writes = 0
        self._counters: dict[str, Counter] = {}
        self._positions: dict[tuple[str, int], int] = {}
        self._random = Random(1)

    @property
    def reserved(self) -> int:
        """The number of ids that were reserved, also if the answer is still under way."""
        return sum(self._positions.values())

    async def counter(self, name: str) -> Counter:
        """Return a counter that starts from 0; every name is one."""
        if name not in self._counters:
            self._counters[name] = new_counter(name, self._random)
            self._positions[name, 0] = 0
        return self._counters[name]

    async def entry(self, name: str) -> Counter | None:
        """Return the counter, if it was asked for."""
        return self._counters.get(name)

    async def reserve(
        self, counter: Counter, *, count: int, seen: int, room: int, shard: int = 0
    ) -> Grant:
        """Move the position forward, half of the delay before and half of it after."""
        await asyncio.sleep(self.delay_s / 2)
        first = self._positions[counter.name, shard]
        assert seen <= first <= room
        self._positions[counter.name, shard] = first + count
        self.writes += 1
        await asyncio.sleep(self.delay_s / 2)
        return Grant(range(first, first + count), self.writes)

    async def position(self, counter: Counter, shard: int = 0) -> Position:
        """Return the position; its `rev` is not that of a reservation, so nothing goes back."""
        next = self._positions[counter.name, shard]
        return Position(next, next, -1, counter.epoch)

    async def give_back(self, *arguments: object, **rest: object) -> bool:
        """Refuse, because this store measures what is reserved."""
        return False

    async def revision(self) -> int:
        """Return always the same revision: nothing changes."""
        return 1

    async def verify(self) -> None:
        """Find nothing wrong: this store is never replaced."""
