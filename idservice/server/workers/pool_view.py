"""The status of the whole service, of which this process may be one worker of several."""

import asyncio

from idservice.allocation.service import Service
from idservice.observability.readings import CounterSample, Snapshot
from idservice.observability.view import Readiness
from idservice.server.workers.link import SupervisorLink
from idservice.server.workers.totals import WorkerStatus

READINESS_S = 0.5  # for one worker to find out; others wait for its report


class PoolView:
    """Metrics and readiness of all workers; without a `link`, of this process."""

    def __init__(self, service: Service, link: SupervisorLink | None = None) -> None:
        self._service = service
        self._link = link

    async def snapshot(self) -> Snapshot:
        """Return what is counted. Raises ParentSilent."""
        if self._link is None:
            return await self._service.snapshot()
        snapshot = (await self._link.pool_status(full=True)).snapshot
        assert snapshot is not None
        return snapshot

    async def readiness(self) -> Readiness:
        """Return why the next id cannot be served, if so. Raises ParentSilent."""
        if self._link is None:
            return self._readiness(await self._service.not_ready())
        readiness = (await self._link.pool_status(full=False)).readiness
        assert readiness is not None
        return readiness

    async def reading(self, counter: str) -> CounterSample | None:
        """Return the figures of a counter; None if it is not in use. Raises ParentSilent."""
        if self._link is None:
            local = self._service.local_counters.get(counter)
            return local.reading() if local is not None else None
        readings = (await self.snapshot()).readings
        return next((reading for reading in readings if reading.counter == counter), None)

    async def report(self, full: bool, ready: bool) -> WorkerStatus:
        """Return the status of this process: figures if `full`, and readiness if `ready`."""
        readiness = None
        if ready:
            try:
                async with asyncio.timeout(READINESS_S):
                    why = await self._service.not_ready()
            except TimeoutError:
                why = "the store takes too long to answer"
            readiness = self._readiness(why)
        return WorkerStatus(readiness, await self._service.snapshot() if full else None)

    def _readiness(self, why: str) -> Readiness:
        health = self._service.health
        return Readiness(not_ready=why, degraded="" if health.up else str(health.last_error))
