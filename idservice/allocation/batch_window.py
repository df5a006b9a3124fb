"""How long a strict counter's next batch is held for more requests to join it."""

import asyncio
from collections.abc import Callable

LINGER_MAX_S = 0.002  # uvloop makes this 1 to 2 ms


class BatchWindow:
    """Those whom the last batch served ask again at once, and who misses a batch waits for a whole
    one. So the next one is not sent (I8) before as many wait; `over` is called once it need not be
    held any longer, which is after so long at most, and no longer than the last one `took`, in
    seconds.
    """

    __slots__ = ("_expected", "_over", "_timer", "took")

    def __init__(self, over: Callable[[], None]) -> None:
        self.took = 0.0
        self._over = over
        self._expected = 0
        self._timer: asyncio.TimerHandle | None = None

    def holds(self, waiting: int) -> bool:
        """Whether the next batch is held, with so many that wait for it."""
        if not 0 < waiting < self._expected:
            return False
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(LINGER_MAX_S, self.took), self._end)
        return True

    def expect(self, requests: int) -> None:
        """So many are expected to join the next batch."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._expected = None, requests

    def _end(self) -> None:
        self.expect(0)
        self._over()
