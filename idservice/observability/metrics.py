"""The metrics of each counter, in one table that `prometheus` and `otel` read."""

from collections.abc import Callable
from dataclasses import dataclass

from idservice.observability.readings import CounterSample


@dataclass(frozen=True, slots=True)
class CounterMetric:
    """A metric of each counter; `counts` if it only rises.

    Its value is a number, several by `label`, or None if the counter has none now.
    """

    name: str
    text: str
    value: Callable[[CounterSample], float | dict[str, int] | None]
    label: str = ""
    counts: bool = True


COUNTER_METRICS = (
    CounterMetric("ids_issued", "Ids handed out.", lambda row: row.issued),
    CounterMetric(
        "ids_reserved", "Ids that the store granted, claimed ids included.",
        lambda row: row.reserved,
    ),
    CounterMetric(
        "ids_claimed", "Ids claimed that other instances gave back.", lambda row: row.stats.claimed
    ),
    CounterMetric(
        "reservations", "Reservations, by result.", lambda row: row.stats.reservations, "result"
    ),
    CounterMetric(
        "shard_moves", "Moves of reservations to another shard, by cause.",
        lambda row: row.stats.moves, "cause",
    ),
    CounterMetric(
        "gap_ids", "Ids that will never be handed out, by cause.", lambda row: row.gaps, "cause"
    ),
    CounterMetric(
        "refusals", "Requests refused, by error code.", lambda row: row.stats.refusals, "code"
    ),
    CounterMetric("waits", "Requests that waited for the store.", lambda row: row.stats.waits),
    CounterMetric(
        "wait_seconds", "Seconds that requests waited for the store.",
        lambda row: row.stats.wait_seconds,
    ),
    CounterMetric(
        "ids_in_memory", "Ids in memory, not handed out yet.", lambda row: row.held, counts=False
    ),
    CounterMetric(
        "waiting_requests", "Requests waiting now.", lambda row: row.waiting, counts=False
    ),
    CounterMetric(
        "runway_seconds", "Seconds until the ids in memory run out at the current rate; +Inf before"
        " the first id is taken.", lambda row: row.runway_s, counts=False,
    ),
    CounterMetric(
        "suspect", "1 if the position of the counter cannot be trusted, so that no id is handed"
        " out.", lambda row: row.state.suspect if row.state else None, counts=False,
    ),
    CounterMetric(
        "strict", "1 if the counter is strict, so that each id waits for a write.",
        lambda row: row.state.strict if row.state else None, counts=False,
    ),
    CounterMetric(
        "limit_used_ratio", "Share of the ids up to the limit that is used, 0 to 1.",
        lambda row: row.state.limit_used if row.state else None, counts=False,
    ),
)  # fmt: skip
