"""Adds up the reports of all workers, including those that have ended.

A counter on the metrics page must never fall: Prometheus takes that for a restart, and counts the
rest a second time. So the figures of a worker stay in the sum when the worker is gone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from idservice import __version__
from idservice.core.gap_causes import GapCause
from idservice.observability import logs
from idservice.observability.latency import Latency, add_counts
from idservice.observability.readings import CounterSample, Readiness, Snapshot, summed
from idservice.observability.tally_readings import TallySample, summed_tallies


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The status of one worker, or of all; None for a part that was not asked for.

    A snapshot takes longer with every counter in use; readiness may need a read of the store.
    """

    readiness: Readiness | None
    snapshot: Snapshot | None


class Totals:
    """The last status of each live worker, and the sum of all that have ended."""

    def __init__(self) -> None:
        self._readiness: dict[int, Readiness] = {}
        self._snapshots: dict[int, Snapshot] = {}
        self._past = Snapshot([], True, Latency(), __version__)  # the sum of all that have ended
        self.names: dict[str, None] = {}  # counters in the order of their first use
        self._tallies: dict[str, None] = {}  # tallies in the order of their first use

    def reported(self, worker: int, status: WorkerStatus) -> None:
        """Take the status of a worker, whose figures count from its start."""
        if status.readiness is not None:
            self._readiness[worker] = status.readiness
        if status.snapshot is not None:
            self._snapshots[worker] = status.snapshot
            for reading in status.snapshot.readings:
                self.names[reading.counter] = None
            for sample in status.snapshot.tallies:
                self._tallies[sample.tally] = None

    def ended(self, worker: int) -> None:
        """Count as a gap the ids that an ended worker held; after a clean stop it held none."""
        self._readiness.pop(worker, None)
        snapshot = self._snapshots.pop(worker, None)
        if snapshot is None:
            return
        gone = replace(
            snapshot,
            readings=[_without_memory(one) for one in snapshot.readings],
            tallies=[TallySample(one.tally, one.stats) for one in snapshot.tallies],
        )
        self._past = self._sum([self._past, gone])

    def _sum(self, parts: Sequence[Snapshot]) -> Snapshot:
        """Return the sum of what was counted. A counter keeps its place among the others."""
        of: dict[str, list[CounterSample]] = {name: [] for name in self.names}
        for part in parts:
            for reading in part.readings:
                of[reading.counter].append(reading)
        tallies: dict[str, list[TallySample]] = {name: [] for name in self._tallies}
        for part in parts:
            for sample in part.tallies:
                tallies[sample.tally].append(sample)
        refusals: dict[str, int] = {}
        for part in parts:
            add_counts(refusals, part.key_refusals)
        return replace(
            self._past,
            key_refusals=refusals,
            readings=[summed(name, readings) for name, readings in of.items()],
            latency=Latency.sum([part.latency for part in parts]),
            lag=Latency.sum([part.lag for part in parts]),
            log_dropped=sum(part.log_dropped for part in parts),
            tallies=[summed_tallies(name, samples) for name, samples in tallies.items()],
            tally_reads=sum(part.tally_reads for part in parts),
        )

    def readiness(self, serving: Iterable[int]) -> Readiness:
        """Return why the next id cannot be served by one of the serving workers."""
        parts = [self._readiness[worker] for worker in serving if worker in self._readiness]
        if not parts:
            return Readiness(not_ready="no worker serves", degraded="")
        return Readiness(
            not_ready=next((part.not_ready for part in parts if part.not_ready), ""),
            degraded=next((part.degraded for part in parts if part.degraded), ""),
        )

    def snapshot(self, serving: Sequence[int], *, restarts: int) -> Snapshot:
        """Return the sum of all workers, including those that ended, and of the supervisor."""
        living = self._snapshots.values()
        total = self._sum([self._past, *living])
        stores = [self._snapshots[worker] for worker in serving if worker in self._snapshots]
        return replace(
            total,
            log_dropped=total.log_dropped + logs.dropped(),
            store_up=all(snapshot.store_up for snapshot in stores),
            store_error=next((one.store_error for one in stores if not one.store_up), ""),
            uptime_s=max((snapshot.uptime_s for snapshot in living), default=0.0),
            catalogue_age=max(
                (one.catalogue_age for one in stores if one.catalogue_age is not None),
                key=lambda age: age.seconds / age.most,
                default=None,
            ),
            usage_behind_s=max(
                (one.usage_behind_s for one in stores if one.usage_behind_s is not None),
                default=None,
            ),
            draining=any(one.draining for one in living),
            workers=len(serving),
            restarts=restarts,
        )


def _without_memory(reading: CounterSample) -> CounterSample:
    """Return the figures of a worker that ended, with its ids in memory as a gap."""
    gaps = dict(reading.gaps)
    if reading.held:
        gaps[GapCause.KILLED] = gaps.get(GapCause.KILLED, 0) + reading.held
    return replace(reading, held=0, waiting=0, rate=0.0, gaps=gaps, state=None)
