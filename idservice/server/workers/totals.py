"""What several workers counted, as one: the sum of their last reports, and of those that ended.

A counter on the metrics page must never fall: Prometheus takes that for a restart, and counts what
is left of it a second time. So what a worker counted stays in the sum when the worker is gone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from idservice import __version__
from idservice.core.gap_causes import GapCause
from idservice.observability.readings import CounterSample, Latency, Snapshot, summed
from idservice.observability.view import Readiness


@dataclass(frozen=True, slots=True)
class Report:
    """One worker at one moment, or all of them; without what nobody asked for: a snapshot takes
    longer with every counter in use, readiness may take a look at the store."""

    readiness: Readiness | None
    snapshot: Snapshot | None


class Totals:
    """The last report of each worker that lives, by its number, and the sum of all that ended."""

    def __init__(self) -> None:
        self._readiness: dict[int, Readiness] = {}
        self._snapshots: dict[int, Snapshot] = {}
        self._past: dict[str, CounterSample] = {}
        self._past_latency = Latency()
        self._past_lag = Latency()
        self._names: dict[str, None] = {}  # in the order of their first use

    @property
    def counters(self) -> int:
        """How many are in use, or were."""
        return len(self._names)

    def reported(self, worker: int, report: Report) -> None:
        """A worker says how it is, and what it counted since it began."""
        if report.readiness is not None:
            self._readiness[worker] = report.readiness
        if report.snapshot is not None:
            self._snapshots[worker] = report.snapshot
            for reading in report.snapshot.readings:
                self._names[reading.counter] = None

    def ended(self, worker: int) -> None:
        """A worker is gone, and with it what it held at its last report: after a clean stop that is
        nothing, and counted as a gap already."""
        self._readiness.pop(worker, None)
        snapshot = self._snapshots.pop(worker, None)
        if snapshot is None:
            return
        for reading in snapshot.readings:
            parts = [_without_memory(reading)]
            if reading.counter in self._past:
                parts.append(self._past[reading.counter])
            self._past[reading.counter] = summed(reading.counter, parts)
        self._past_latency = Latency.sum([self._past_latency, snapshot.latency])
        self._past_lag = Latency.sum([self._past_lag, snapshot.lag])

    def readiness(self, serving: Iterable[int]) -> Readiness:
        """Whether the next id can be served, whoever of those is asked for it."""
        parts = [self._readiness[worker] for worker in serving if worker in self._readiness]
        if not parts:
            return Readiness(not_ready="no worker serves", degraded="")
        return Readiness(
            not_ready=next((part.not_ready for part in parts if part.not_ready), ""),
            degraded=next((part.degraded for part in parts if part.degraded), ""),
        )

    def snapshot(self, serving: Sequence[int], *, restarts: int) -> Snapshot:
        """What all workers counted, and those that ended."""
        of: dict[str, list[CounterSample]] = {name: [] for name in self._names}
        for reading in self._past.values():
            of[reading.counter].append(reading)
        for snapshot in self._snapshots.values():
            for reading in snapshot.readings:
                of[reading.counter].append(reading)
        living = self._snapshots.values()
        stores = [self._snapshots[worker] for worker in serving if worker in self._snapshots]
        return Snapshot(
            readings=[summed(name, readings) for name, readings in of.items()],
            store_up=all(snapshot.store_up for snapshot in stores),
            store_error=next((one.store_error for one in stores if not one.store_up), ""),
            uptime_s=max((snapshot.uptime_s for snapshot in living), default=0.0),
            latency=Latency.sum([self._past_latency, *(one.latency for one in living)]),
            lag=Latency.sum([self._past_lag, *(one.lag for one in living)]),
            silence=max(
                (one.silence for one in stores if one.silence is not None),
                key=lambda silence: silence.seconds / silence.most,
                default=None,
            ),
            draining=any(one.draining for one in living),
            version=__version__,
            workers=len(serving),
            restarts=restarts,
        )


def _without_memory(reading: CounterSample) -> CounterSample:
    """Of a worker that ended: what it held will never be handed out by anybody."""
    gaps = dict(reading.gaps)
    if reading.held:
        gaps[GapCause.KILLED] = gaps.get(GapCause.KILLED, 0) + reading.held
    return replace(reading, held=0, waiting=0, rate=0.0, gaps=gaps, standing=None)
