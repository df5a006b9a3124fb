"""Shares each turn of the event loop between requests that come many at once or ask for much.

A single request for one id is answered as soon as it is read. A client that sends thousands in one
go, or a thousand clients that ask for 10,000 ids each, would hold everybody else up. So the work of
a turn is bounded. What is left over waits for a later turn, in order of arrival, and the loop reads
from all other connections in between.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

TURN_MAX = 64  # answers with one id in a turn of the loop, or as much work: about a millisecond


class Turns:
    """The work that is left for this turn of the loop, and what waits for a later turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._schedule = partial(loop.call_soon, self._begin)
        self._is_scheduled = False
        self._left = TURN_MAX
        self._queue: dict[object, Callable[[], object]] = {}  # in order

    @property
    def is_over(self) -> bool:
        """True if no more work should be begun in this turn."""
        return self._left <= 0

    def spend(self, cost: int) -> None:
        """Count work, in answers with one id."""
        self._left -= cost
        self._go_on()

    def join(
        self, work: Callable[[], object], given_up: Callable[[], object] | None = None
    ) -> Callable[[], object]:
        """Call `work`, which spends something, in a later turn; return what takes it out again,
        and then calls `given_up`."""
        ticket = object()
        self._queue[ticket] = work
        self._go_on()

        def leave() -> None:
            if self._queue.pop(ticket, None) is not None and given_up is not None:
                given_up()

        return leave

    async def take(self, cost: int) -> None:
        """Spend `cost` in this turn, or in a later one if this is over."""
        if self.is_over:
            came = asyncio.get_running_loop().create_future()

            def spend() -> None:
                self.spend(cost)
                came.set_result(None)

            leave = self.join(spend)
            try:
                await came
            finally:
                leave()
        else:
            self.spend(cost)

    def _go_on(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule()

    def _begin(self) -> None:
        """Begin a turn with the work that waits for it."""
        self._is_scheduled = False
        self._left = TURN_MAX
        while self._queue and not self.is_over:
            self._go_on()
            self._queue.pop(next(iter(self._queue)))()


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def loop_turns() -> Turns:
    """Return the turns of the running loop, which all its listeners share."""
    loop = asyncio.get_running_loop()
    found = _of_loops.get(loop)
    if found is None:
        found = _of_loops[loop] = Turns(loop)
    return found
