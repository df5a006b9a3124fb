"""Writes to the store what this run hands out: every LOOK_S, at midnight in UTC and at a stop.

No request waits for it. A write that fails is made again, with the totals as they are then, and for
the day that they belong to. While nothing is handed out, nothing is written.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from random import Random

from idservice import errors
from idservice.core.timeouts import backoff
from idservice.core.usage import DAY_MS, RunTotals, UsageReading, day_of, may_be_sent
from idservice.observability.logs import RateLimitedLog
from idservice.stores.instants import day_text
from idservice.stores.usage_store import UsageStore

log = logging.getLogger("idservice.usage")

# A crash loses at most the last minute: a look, one write that fails, and the one after it.
LOOK_S = 50.0
WRITE_MAX_S = 4.0
AGAIN_FIRST_S, AGAIN_MAX_S = 2.0, 15.0  # after a write that failed
STOP_TRIES, STOP_AGAIN_S = 3, 0.1  # the same at a stop
PIECE = 50  # counters that are read at once: well below a millisecond
RUN_LETTERS, RUN_LENGTH = "0123456789abcdefghjkmnpqrstvwxyz", 10

_not_written = RateLimitedLog(log)


class UsageMeter:
    """Writes the usage of this run. `run` is a task of the service, and `stop` follows its end.

    `readings` yields all counters and tallies as counted since the run began; `clock` tells the
    seconds since 1970.
    """

    def __init__(
        self,
        store: UsageStore,
        readings: Callable[[], Iterable[UsageReading]],
        *,
        random: Random,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._readings = readings
        self._random = random
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._look_at = self._loop.time() + LOOK_S
        self._behind_since: float | None = None  # since when the store lacks something
        self._due = asyncio.Event()
        self.run_name = "".join(random.choice(RUN_LETTERS) for _ in range(RUN_LENGTH))
        self._totals = RunTotals(self.run_name, day_of(self._now()))

    async def run(self) -> None:
        """Look and write until cancelled. A write under way delays no look: a day ends on time."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_on_time())
            group.create_task(self._write_on())

    async def stop(self, within_s: float) -> None:
        """Write what is left, once nothing is handed out any more. Raises nothing."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.look()
                self._totals.stop(self._now())
                for _ in range(STOP_TRIES):
                    if await self._write():
                        return
                    await asyncio.sleep(STOP_AGAIN_S)
        log.warning(
            "usage: the last totals of this run, %s, were not written; its usage since its last "
            "write is not billed",
            self.run_name, extra={"action": "usage_not_written"},
        )  # fmt: skip

    @property
    def behind_s(self) -> float:
        """The seconds since a look found something that the store does not have; 0 if it has
        all."""
        since = self._behind_since
        return 0.0 if since is None else self._loop.time() - since

    # --- looking ---------------------------------------------------------------------------------

    async def _look_on_time(self) -> None:
        while True:
            midnight_s = (DAY_MS - self._now() % DAY_MS) / 1000
            await asyncio.sleep(min(midnight_s, max(0.0, self._look_at - self._loop.time())))
            try:
                await self.look()
            except Exception:  # a bug of ours: ids go on, and the next look counts all
                log.exception("looking at the usage failed", extra={"action": "usage_bug"})

    async def look(self) -> None:
        """Take note of all totals. They are of the day that ends, if this is the first look on a
        later one (U3)."""
        if self._loop.time() >= self._look_at:
            self._look_at = self._loop.time() + LOOK_S
        now_ms = self._now()
        for number, reading in enumerate(self._readings(), 1):
            self._totals.see(reading)
            if number % PIECE == 0:
                await asyncio.sleep(0)
        self._totals.looked(day_of(now_ms), now_ms)
        if not self._totals.is_written:
            if self._behind_since is None:
                self._behind_since = self._loop.time()
            self._due.set()

    # --- writing ---------------------------------------------------------------------------------

    async def _write_on(self) -> None:
        failures = 0
        while True:
            await self._due.wait()
            self._due.clear()
            if await self._write():
                failures = 0
                continue
            failures += 1
            spread = self._random.random()
            await asyncio.sleep(
                backoff(failures, first_s=AGAIN_FIRST_S, max_s=AGAIN_MAX_S, spread=spread)
            )
            self._due.set()

    async def _write(self) -> bool:
        """Write all that the store does not have, one part after the other; False if one failed."""
        for day, count in self._totals.drop_late(self._now()).items():
            log.error(
                "usage: %d ids and adds of %s were not written in time, so they are not billed",
                count, day_text(day), extra={"action": "usage_dropped"},
            )  # fmt: skip
        for part, version in self._totals.due():
            if not may_be_sent(part.day, self._now()):  # this process stood still meanwhile (U4)
                return False
            why = "a part of a later write is there already: is there a copy of this process?"
            try:
                async with asyncio.timeout(WRITE_MAX_S):
                    written = await self._store.write(part)
            except TimeoutError:
                written, why = False, f"it took longer than {WRITE_MAX_S:g} s"
            except errors.StoreError as error:
                written, why = False, str(error).rstrip(".")
            except Exception as error:  # a bug of ours or of a library
                log.exception("writing the usage failed", extra={"action": "usage_bug"})
                written, why = False, f"an internal fault ({type(error).__name__})"
            if not written:
                _not_written.warning(
                    "usage of %s was not written, and is soon tried again: %s",
                    day_text(part.day), why, extra={"action": "usage_not_written"},
                )  # fmt: skip
                return False
            self._totals.wrote(part, version)
        if self._totals.is_written:
            self._behind_since = None
        return True

    def _now(self) -> int:
        return int(self._clock() * 1000)
