"""The real server over SQLite, where every answer of the store takes `BENCH_STORE_DELAY_S` longer.

Run as `python -m benchmarks.delayed serve …`, with idservice's own arguments.
"""

import asyncio
import os
import sys
from unittest import mock

from idservice import server
from idservice.cli import main
from idservice.stores.protocol import Counter
from idservice.stores.sqlite import SQLiteStore

VARIABLE = "BENCH_STORE_DELAY_S"


class Delayed(SQLiteStore):
    """Reservations take longer: half of it before the write and half after."""

    async def reserve(
        self, counter: Counter, *, count: int, seen: int, room: int, shard: int = 0
    ) -> range:
        delay_s = float(os.environ[VARIABLE])
        await asyncio.sleep(delay_s / 2)
        ids = await super().reserve(counter, count=count, seen=seen, room=room, shard=shard)
        await asyncio.sleep(delay_s / 2)
        return ids


def open_delayed(address: str) -> Delayed:
    """In place of `stores.open_store`."""
    return Delayed(address.partition(":")[2])


if __name__ == "__main__":
    with mock.patch.object(server, "open_store", open_delayed):
        sys.exit(main())
