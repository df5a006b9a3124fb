"""What is known of the whole service, of which this process may be one worker of several."""

import asyncio

from idservice.allocation.service import Service
from idservice.observability.readings import CounterSample, Snapshot
from idservice.observability.view import Readiness
from idservice.server.workers.link import SupervisorLink
from idservice.server.workers.totals import Report

READINESS_S = 0.5  # for one worker to find out, where others wait for what it says


class PoolView:
    """Metrics and readiness of all workers, asked through the `link`; of this process alone, where
    there is none."""

    def __init__(self, service: Service, link: SupervisorLink | None = None) -> None:
        self._service = service
        self._link = link

    async def snapshot(self) -> Snapshot:
        """What is counted. Raises ParentSilent."""
        if self._link is None:
            return await self._service.snapshot()
        snapshot = (await self._link.whole(full=True)).snapshot
        assert snapshot is not None
        return snapshot

    async def readiness(self) -> Readiness:
        """Whether the next id can be served. Raises ParentSilent."""
        if self._link is None:
            return self._readiness(await self._service.not_ready())
        readiness = (await self._link.whole(full=False)).readiness
        assert readiness is not None
        return readiness

    async def reading(self, counter: str) -> CounterSample | None:
        """One counter, where it is in use. Raises ParentSilent."""
        if self._link is None:
            supply = self._service.supplies.get(counter)
            return supply.reading() if supply is not None else None
        readings = (await self.snapshot()).readings
        return next((reading for reading in readings if reading.counter == counter), None)

    async def report(self, full: bool, ready: bool) -> Report:
        """What this process knows of itself; in `full` with all it counts, and where it is asked
        for, whether it is `ready`."""
        readiness = None
        if ready:
            try:
                async with asyncio.timeout(READINESS_S):
                    why = await self._service.not_ready()
            except TimeoutError:
                why = "the store takes too long to say"
            readiness = self._readiness(why)
        return Report(readiness, await self._service.snapshot() if full else None)

    def _readiness(self, why: str) -> Readiness:
        health = self._service.health
        return Readiness(not_ready=why, degraded="" if health.up else str(health.last_error))
