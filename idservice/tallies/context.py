"""The surroundings that all tallies of one instance share."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from idservice.observability.store_health import StoreHealth
from idservice.stores.tally_store import TallyStore

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TallyContext:
    """The surroundings of a tally in use, the same for all of them.

    `address` is how messages name the store. `wait_s` is how long a request waits, `waiting_max`
    how many may wait for one tally. `clock` tells the seconds since 1970, `spawn` starts a task
    that ends with the instance, and `random` spreads pauses.
    """

    store: TallyStore
    address: str
    health: StoreHealth
    spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]]
    random: Random
    clock: Callable[[], float]
    wait_s: float = 2.0
    waiting_max: int = 10_000

    def now_ms(self) -> int:
        """Return the time in milliseconds since 1970."""
        return int(self.clock() * 1000)

    async def read(self, call: Coroutine[object, object, T], action: str) -> T:
        """Return the answer to a call that changes nothing. Raises StoreError."""
        return await self.health.read(call, action, self.address, self.wait_s)
