"""The real server over SQLite, where an answer to a write takes `BENCH_STORE_DELAY_S` in all.

Writes are those of reservations, and of commits to a tally.

Run as `python -m benchmarks.delayed serve …`, with idservice's own arguments.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar
from unittest import mock

from idservice.cli.main import main
from idservice.stores.sqlite import store, tallies, transactions
from idservice.stores.sqlite.connection import FileConnection

T = TypeVar("T")

VARIABLE = "BENCH_STORE_DELAY_S"
SET_TIMER_SLACK = 29  # of prctl(2)
DELAYED = (transactions.reserve, tallies._commit)


class DelayedConnection(FileConnection):
    """Holds the answer to a write back until the delay is over."""

    async def write(self, action: str, function: Callable[..., T], *arguments: object) -> T:
        due = time.perf_counter() + float(os.environ[VARIABLE])
        return await self.run(self._write_until, due, action, function, arguments)

    def _write_until(
        self, due: float, action: str, function: Callable[..., T], arguments: tuple[object, ...]
    ) -> T:
        # In the thread of the store, as if it waited for a disk. The loop's timers are in whole
        # milliseconds and may end early, and another thread would cost two more switches.
        result = self._write(action, function, arguments)
        if function in DELAYED:
            time.sleep(max(0.0, due - time.perf_counter()))
        return result


if __name__ == "__main__":
    # Otherwise the kernel ends each delay up to 50 µs late. New threads inherit this setting.
    ctypes.CDLL(None).prctl(SET_TIMER_SLACK, 1)
    with mock.patch.object(store, "FileConnection", DelayedConnection):
        sys.exit(main())
