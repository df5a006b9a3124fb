"""The real server over SQLite, where an answer to a reservation takes `BENCH_STORE_DELAY_S` in all.

Run as `python -m benchmarks.delayed serve …`, with idservice's own arguments.
"""

import ctypes
import os
import sys
import time
from typing import Any
from unittest import mock

from idservice.cli.main import main
from idservice.server import process
from idservice.stores.records import Counter, Grant
from idservice.stores.reservation import SentReservation
from idservice.stores.sqlite.store import SQLiteStore

VARIABLE = "BENCH_STORE_DELAY_S"
SET_TIMER_SLACK = 29  # of prctl(2)


class Delayed(SQLiteStore):
    """What a reservation brought is held back until the delay is over."""

    _due = 0.0

    async def reserve(self, counter: Counter, **request: Any) -> Grant:
        self._due = time.perf_counter() + float(os.environ[VARIABLE])
        return await super().reserve(counter, **request)

    def _reserve(self, asked: SentReservation, shard: int) -> Grant:
        # In the store's own thread, as it would wait for a disk: the loop's timers are in whole
        # milliseconds and may end early, and a thread of its own would cost two more changes.
        grant = super()._reserve(asked, shard)
        time.sleep(max(0.0, self._due - time.perf_counter()))
        return grant


def open_delayed(address: str, *, hold_s: float) -> Delayed:
    """In place of `stores.open_store`."""
    return Delayed(address.partition(":")[2])


if __name__ == "__main__":
    # Else the kernel ends each delay up to 50 µs late. Threads get it from this one.
    ctypes.CDLL(None).prctl(SET_TIMER_SLACK, 1)
    with mock.patch.object(process, "open_store", open_delayed):
        sys.exit(main())
