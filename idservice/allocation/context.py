"""The surroundings that all counters of one instance share."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random

from idservice.core.sizing import BLOCK_MAX
from idservice.observability.store_health import StoreHealth
from idservice.stores.protocol import IdStore


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a service. Times are in seconds; each bound has a setting of the same name."""

    runway: float = 30.0  # for counters that name none: how long ids last without the store
    wait: float = 2.0  # how long a request waits for ids
    waiters_max: int = 10_000  # requests waiting per counter
    block_max: int = BLOCK_MAX  # ids per reservation


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings of a counter in use, the same for all of them.

    `spawn` starts a task that ends with the instance. `random` orders the shards and spreads the
    pauses between failed tries.
    """

    store: IdStore
    limits: Limits
    health: StoreHealth
    spawn: Callable[[Coroutine[object, object, None]], object]
    random: Random
