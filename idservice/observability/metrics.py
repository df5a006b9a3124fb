"""The metrics of each counter and of each tally, in tables that `prometheus` and `otel` read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from idservice.observability.readings import CounterSample
from idservice.observability.tally_readings import TallySample

Row = TypeVar("Row", CounterSample, TallySample)


@dataclass(frozen=True, slots=True)
class NamedMetric(Generic[Row]):
    """A metric of each counter, or of each tally; `counts` if it only rises.

    Its value is a number, several by `label`, or None if that one has none now.
    """

    name: str
    text: str
    value: Callable[[Row], float | dict[str, int] | None]
    label: str = ""
    counts: bool = True


COUNTER_METRICS: tuple[NamedMetric[CounterSample], ...] = (
    NamedMetric("ids_issued", "Ids handed out.", lambda row: row.issued),
    NamedMetric(
        "ids_reserved", "Ids that the store granted, claimed ids included.",
        lambda row: row.reserved,
    ),
    NamedMetric(
        "ids_claimed", "Ids claimed that other instances gave back.", lambda row: row.stats.claimed
    ),
    NamedMetric(
        "reservations", "Reservations, by result.", lambda row: row.stats.reservations, "result"
    ),
    NamedMetric(
        "shard_moves", "Moves of reservations to another shard, by cause.",
        lambda row: row.stats.moves, "cause",
    ),
    NamedMetric(
        "gap_ids", "Ids that will never be handed out, by cause.", lambda row: row.gaps, "cause"
    ),
    NamedMetric(
        "refusals", "Requests refused, by error code.", lambda row: row.stats.refusals, "code"
    ),
    NamedMetric("waits", "Requests that waited for the store.", lambda row: row.stats.waits),
    NamedMetric(
        "wait_seconds", "Seconds that requests waited for the store.",
        lambda row: row.stats.wait_seconds,
    ),
    NamedMetric(
        "ids_in_memory", "Ids in memory, not handed out yet.", lambda row: row.held, counts=False
    ),
    NamedMetric(
        "waiting_requests", "Requests waiting now.", lambda row: row.waiting, counts=False
    ),
    NamedMetric(
        "runway_seconds", "Seconds until the ids in memory run out at the current rate; +Inf before"
        " the first id is taken.", lambda row: row.runway_s, counts=False,
    ),
    NamedMetric(
        "suspect", "1 if the position of the counter cannot be trusted, so that no id is handed"
        " out.", lambda row: row.state.suspect if row.state else None, counts=False,
    ),
    NamedMetric(
        "strict", "1 if the counter is strict, so that each id waits for a write.",
        lambda row: row.state.strict if row.state else None, counts=False,
    ),
    NamedMetric(
        "limit_used_ratio", "Share of the ids up to the limit that is used, 0 to 1.",
        lambda row: row.state.limit_used if row.state else None, counts=False,
    ),
)  # fmt: skip
# Not the sum: a metric is a float, which rounds it.
TALLY_METRICS: tuple[NamedMetric[TallySample], ...] = (
    NamedMetric(
        "tally_commits", "Commits of adds, by result.", lambda row: row.stats.commits, "result"
    ),
    NamedMetric(
        "tally_adds", "Adds to a tally, by result: the fate in its record, replayed, unsettled, or"
        " an error code.", lambda row: row.stats.adds, "result",
    ),
    NamedMetric("tally_waiting", "Adds waiting now.", lambda row: row.waiting, counts=False),
    NamedMetric(
        "tally_suspect", "1 if the tally went back or is missing, so that nothing is added.",
        lambda row: row.went_back, counts=False,
    ),
)  # fmt: skip
