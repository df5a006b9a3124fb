"""The real server over SQLite, where an answer to a reservation takes `BENCH_STORE_DELAY_S` in all.

Run as `python -m benchmarks.delayed serve …`, with idservice's own arguments.
"""

import asyncio
import os
import sys
import time
from typing import Any
from unittest import mock

from idservice import server
from idservice.cli import main
from idservice.stores.protocol import Counter, Grant
from idservice.stores.sqlite import SQLiteStore

VARIABLE = "BENCH_STORE_DELAY_S"


class Delayed(SQLiteStore):
    """What a reservation brought is held back until the delay is over."""

    async def reserve(self, counter: Counter, **request: Any) -> Grant:
        due = time.perf_counter() + float(os.environ[VARIABLE])
        grant = await super().reserve(counter, **request)
        # In a thread: the loop's own timers are in whole milliseconds, and may end before theirs.
        await asyncio.to_thread(time.sleep, max(0.0, due - time.perf_counter()))
        return grant


def open_delayed(address: str, *, hold_s: float) -> Delayed:
    """In place of `stores.open_store`."""
    return Delayed(address.partition(":")[2])


if __name__ == "__main__":
    with mock.patch.object(server, "open_store", open_delayed):
        sys.exit(main())
