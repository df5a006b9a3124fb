"""Defines the records that describe counters, on one instance or on several workers together, and
the view by which others get them. They are made from memory, without a call to the store."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Protocol

import msgspec

from idservice.observability.latency import REST, Latency, add_counts
from idservice.observability.tally_readings import TallySample

PIECE = 10  # counters that are read or summed up at once: less than a tenth of a millisecond
SUSPECT = ("counter_suspect", "store_replaced")  # codes of errors
NOT_SAID = "The store failed; the operator of the service sees why."
UNTOLD = "Whoever runs the service sees why."
# Codes of errors whose words name no store, table or address.
TELLABLE = (
    "", "exhausted", "suspended", "changing", "stopping", "unknown_counter", "catalogue_stale",
    "tally_suspended", "unknown_tally",
)  # fmt: skip
CLOSED = ("suspended", "changing", "moved", "unknown_counter")


class CounterState(msgspec.Struct, frozen=True):
    """A counter that an instance has in use. Numbers are ids, `runway` is in seconds.

    `code` and `why` are the error that a request for an id would get now. They are empty if ids are
    served.
    """

    epoch: int
    strict: bool
    shards: int
    limit: int | None  # the highest id; None if the ids are borrowed
    runway: float  # for which the ids in memory are meant to last
    stock: int  # in memory after the last refill
    low: int  # in memory when the next refill begins
    highest: int | None  # id that this instance was granted in this epoch
    pace: float  # ids per second of all instances together; 0 if not known
    borrowed: bool = False  # borrowed from another service
    change: str = ""  # the kind of a change under way
    last_change: str = ""  # in words
    code: str = ""
    why: str = ""
    start: int = 0

    @property
    def suspect(self) -> bool:
        """True if its ids may repeat others, so that no id is handed out."""
        return self.code in SUSPECT

    @property
    def closed(self) -> bool:
        """True if an operator closed the counter, so that it needs no ids in memory."""
        return self.code in CLOSED

    @property
    def limit_used(self) -> float | None:
        """The used share of the ids up to the limit, 0 .. 1. None if it is not known."""
        if self.code == "exhausted":
            return 1.0
        if self.limit is None or self.highest is None:
            return None
        return (self.highest + 1) / (self.limit + 1)


def together(states: Sequence[CounterState]) -> CounterState | None:
    """Return the state of a counter that several workers have in use. Each worker has its own ids,
    and sees all of the counter. The trouble of one worker is the trouble of the clients connected
    to it."""
    if not states:
        return None
    newest = max(states, key=lambda one: one.epoch)
    worst = next((one for one in states if one.code), newest)
    current = [one for one in states if one.epoch == newest.epoch]
    return msgspec.structs.replace(
        newest,
        stock=sum(one.stock for one in states),
        low=sum(one.low for one in states),
        highest=max((one.highest for one in current if one.highest is not None), default=None),
        pace=max(one.pace for one in current),
        code=worst.code,
        why=worst.why,
    )


def worst(states: Sequence[CounterState]) -> CounterState | None:
    """Return the state that looks as bad as each of several: suspect if one is, and as near to its
    limit as the nearest."""
    if not states:
        return None
    shown = next((one for one in states if one.suspect), states[0])
    nearest = max(states, key=lambda one: one.limit_used or 0.0)
    return msgspec.structs.replace(
        shown,
        strict=any(one.strict for one in states),
        limit=nearest.limit,
        highest=nearest.limit if nearest.code == "exhausted" else nearest.highest,
    )


@dataclass(slots=True)
class CounterStats:
    """The counts of one counter, except for those that its allocator keeps."""

    reservations: dict[str, int] = field(default_factory=dict)  # by result
    refusals: dict[str, int] = field(default_factory=dict)  # by error code
    waits: int = 0
    wait_seconds: float = 0.0
    claimed: int = 0  # ids that other instances gave back, and this one took over
    latency: Latency = field(default_factory=Latency)  # of its reservations
    moves: dict[str, int] = field(default_factory=dict)  # from shard to shard, by cause


@dataclass(frozen=True, slots=True)
class CounterSample:
    """One counter at one moment."""

    counter: str
    issued: int
    reserved: int
    held: int
    rate: float  # recent ids per second; 0 for a strict counter
    waiting: int
    gaps: dict[str, int]
    stats: CounterStats
    returned: int = 0  # ids returned to the store at shutdown
    state: CounterState | None = None  # None if no running worker uses it

    @property
    def named(self) -> tuple[str, str]:
        """The label that names it on the metrics page, and its value."""
        return "counter", self.counter

    @property
    def runway_s(self) -> float:
        """Seconds for which the ids in memory last at that rate. Infinite if none need to be
        held."""
        if not self.held:
            unneeded = self.state is not None and (self.state.closed or self._expired)
            return inf if unneeded else 0.0
        return self.held / self.rate if self.rate else inf

    @property
    def _expired(self) -> bool:
        """True if the ids were borrowed and not used in time: the next request borrows others."""
        state = self.state
        return state is not None and state.borrowed and not (state.code or self.waiting)


@dataclass(frozen=True, slots=True)
class CatalogueAge:
    """Seconds since the catalogue was read, and the age from which no id is handed out."""

    seconds: float
    most: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All counts at one moment."""

    readings: list[CounterSample]
    store_up: bool
    latency: Latency
    version: str
    lag: Latency = field(default_factory=Latency)  # of the event loop; see `loop_lag`
    workers: int = 1  # that serve
    restarts: int = 0  # workers that replaced one that ended
    log_dropped: int = 0  # lines
    store_error: str = ""  # why it is not up
    uptime_s: float = 0.0
    catalogue_age: CatalogueAge | None = None  # None if the store has no catalogue
    draining: bool = False  # told to stop, and still answering
    tallies: list[TallySample] = field(default_factory=list)
    tally_reads: int = 0  # reads of tallies in the store
    usage_behind_s: float | None = None  # see `access.usage`; None if the store keeps no usage
    key_refusals: dict[str, int] = field(default_factory=dict)  # of requests, by error code


@dataclass(frozen=True, slots=True)
class Readiness:
    """The reason why the next id cannot be served, and the fault of a service that still serves.

    Either is empty if there is none. Both are in words for callers.
    """

    not_ready: str
    degraded: str


class ServiceView(Protocol):
    """A service with all its workers. Each method raises ParentSilent if they cannot be asked."""

    async def snapshot(self) -> Snapshot:
        """Return everything that is counted."""

    async def readiness(self) -> Readiness:
        """Return if the next id can be served."""

    async def reading(self, counter: str) -> CounterSample | None:
        """Return the sample of a counter; None if it is not in use."""


def seen(snapshot: Snapshot, sees: Callable[[str], bool]) -> Snapshot:
    """Return what a snapshot has of the names that somebody sees. What went wrong with the store
    may name others, or where it is, and is left out."""
    readings = [_tellable(one) for one in snapshot.readings if sees(one.counter)]
    return replace(
        snapshot,
        readings=readings,
        tallies=[
            replace(
                one,
                why=one.why if one.code in TELLABLE else UNTOLD,
                trouble=one.trouble and UNTOLD,
            )
            for one in snapshot.tallies
            if sees(one.tally)
        ],
        latency=Latency.sum(one.stats.latency for one in readings),
        store_error="" if snapshot.store_up else NOT_SAID,
        tally_reads=0,
    )


def _tellable(one: CounterSample) -> CounterSample:
    if one.state is None or one.state.code in TELLABLE:
        return one
    return replace(one, state=msgspec.structs.replace(one.state, why=UNTOLD))


def count(counts: dict[str, int], key: str) -> None:
    """Add one under `key`."""
    counts[key] = counts.get(key, 0) + 1


def capped(readings: list[CounterSample], most: int) -> list[CounterSample]:
    """Return the first `most` readings, and the sum of all others as one.

    They stay in the order in which the counters came into use. A counter that moved between its own
    label and the sum would look like a burst or a restart.
    """
    *_, rows = capping(readings, most)
    return rows


def capping(readings: list[CounterSample], most: int) -> Iterator[list[CounterSample]]:
    """Yield what `capped` would return for more and more of the readings, after a short step each.

    The last one is for all of them.
    """
    kept, rest = readings[:most], readings[most:]
    if not rest:
        yield kept
    total: list[CounterSample] = []
    shortest = inf  # ids of one counter do not serve another: the shortest runway stands for all
    for at in range(0, len(rest), PIECE):
        part = rest[at : at + PIECE]
        shortest = min(shortest, *(reading.runway_s for reading in part))
        total = [summed(REST, total + part, worst)]
        rate = total[0].held / shortest if shortest else inf
        yield [*kept, replace(total[0], rate=rate)]


def summed(
    counter: str,
    readings: list[CounterSample],
    state_of: Callable[[Sequence[CounterState]], CounterState | None] = together,
) -> CounterSample:
    """Return the sum of several readings, as one of `counter`, in the state that `state_of` makes
    of theirs."""
    gaps: dict[str, int] = {}
    stats = CounterStats()
    for reading in readings:
        add_counts(gaps, reading.gaps)
        add_counts(stats.reservations, reading.stats.reservations)
        add_counts(stats.refusals, reading.stats.refusals)
        stats.waits += reading.stats.waits
        stats.wait_seconds += reading.stats.wait_seconds
        stats.claimed += reading.stats.claimed
        add_counts(stats.moves, reading.stats.moves)
    stats.latency = Latency.sum(reading.stats.latency for reading in readings)
    return CounterSample(
        counter=counter,
        issued=sum(reading.issued for reading in readings),
        reserved=sum(reading.reserved for reading in readings),
        held=sum(reading.held for reading in readings),
        rate=sum(reading.rate for reading in readings),
        waiting=sum(reading.waiting for reading in readings),
        gaps=gaps,
        stats=stats,
        returned=sum(reading.returned for reading in readings),
        state=state_of([one.state for one in readings if one.state is not None]),
    )
