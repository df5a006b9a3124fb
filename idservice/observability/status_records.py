"""Defines the records of a status with the meaning of each field; OpenAPI is made of them."""

import math
from typing import Annotated, Literal, Self

import msgspec

from idservice.observability.latency import Latency


def _said(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


State = Literal[
    "suspect", "stale", "empty", "exhausted", "suspended", "changing", "short", "stopping",
    "active", "unused", "moved", "deleted",
]  # fmt: skip
Level = Literal["ok", "warn", "bad", "calm"]
Seconds = Annotated[
    float | None, _said("The upper end of a histogram's bucket; null: longer than 5 s.")
]
Runway = Annotated[
    float | None,
    _said(
        "Seconds until the ids in memory run out at the current rate; null before the first id is"
        " taken, and while an operator has the counter closed."
    ),
]


class Reserve(msgspec.Struct):
    """The time in seconds within which half, and 99 of 100, ended since the start."""

    count: int
    p50: Seconds
    p99: Seconds

    @classmethod
    def of(cls, latency: Latency) -> Self | None:
        """Return the times of a histogram; None if it counted nothing."""
        p50, p99 = latency.at_most(0.5), latency.at_most(0.99)
        if p50 is None or p99 is None:
            return None
        return cls(sum(latency.counts), finite(p50), finite(p99))


def finite(seconds: float) -> float | None:
    """Return seconds as JSON has them: rounded, and None if they are infinite."""
    return round(seconds, 4) if math.isfinite(seconds) else None


class CounterStatus(msgspec.Struct):
    """A counter in use, as it is in the memory of all workers together."""

    counter: str
    state: State
    level: Level
    code: Annotated[
        str, _said("Error code that a request for an id would get now. Empty if ids are served.")
    ]
    why: Annotated[str, _said("The message of that error.")]
    command: Annotated[
        str, _said("The command that an operator runs. N is for the operator to choose.")
    ]
    change: Annotated[str, _said("The change under way. Empty if there is none.")]
    last_change: Annotated[
        str, _said("The last change: command, operator, time and reason. Empty if not known.")
    ]
    epoch: int
    mode: Literal["block", "strict"]
    shards: int
    ids_in_memory: int
    stock: Annotated[int, _said("Ids in memory after the last refill.")]
    refill_at: Annotated[int, _said("Ids in memory at which the next refill begins.")]
    issued: Annotated[int, _said("Ids handed out since the start.")]
    ids_per_second: Annotated[
        float | None,
        _said("Rate since the refill before the last one; null for a strict counter."),
    ]
    waiting: Annotated[int, _said("Requests that wait for ids.")]
    runway: Annotated[float, _said("Seconds for which the ids in memory are meant to last.")]
    runway_seconds: Runway
    reserve: Reserve | None
    gaps: Annotated[dict[str, int], _said("Ids lost since the start, by cause.")]
    limit: Annotated[
        int | str | None,
        _said("The highest id; a string above 2^53 - 1; null if the ids are borrowed."),
    ]
    limit_used: Annotated[
        float | None,
        _said("Share of the ids up to the limit that is used, 0 to 1; null if not known yet."),
    ]
    runs_out_seconds: Annotated[
        float | None,
        _said(
            "Seconds until the limit is reached at the pace of all instances in the last hour or"
            " two; null if not known."
        ),
    ]


TallyStanding = Literal["suspect", "unsettled", "suspended", "deleted", "active"]


class TallyStatus(msgspec.Struct):
    """A tally in use, as all workers together know it. Its sum is not read for a status."""

    tally: str
    state: TallyStanding
    level: Level
    code: Annotated[str, _said("Error code that an add gets now. Empty if adds are settled.")]
    why: Annotated[str, _said("The message of that error.")]
    command: Annotated[
        str, _said("The command that an operator runs. N is for the operator to choose.")
    ]
    adds: Annotated[dict[str, int], _said("Adds since the start, by result.")]
    adds_per_second: Annotated[float, _said("Settled, in the last few seconds.")]
    waiting: Annotated[int, _said("Adds that wait.")]
    commits_per_second: Annotated[float, _said("In the last few seconds.")]
    lost_share: Annotated[
        float | None,
        _said(
            "Share of commits since the start that failed because another write came first, 0 to "
            "1; their adds are planned again. Null before the first commit."
        ),
    ]
    commit: Reserve | None
    trouble: Annotated[str, _said("The last trouble of an add, which may be over.")]
    trouble_seconds: Annotated[float | None, _said("Seconds since then; null if there was none.")]


class StoreStatus(msgspec.Struct):
    """The store, as the last call to it ended."""

    address: str
    up: bool
    error: str


class Status(msgspec.Struct):
    """A service, one page of its counters in use, and its tallies in use. Those that need attention
    come first."""

    verdict: Annotated[str, _said("A sentence that says whether to act.")]
    level: Level
    version: str
    time: Annotated[float, _said("Seconds since 1970.")]
    uptime_seconds: float
    store: StoreStatus
    workers: int
    restarts: Annotated[int, _said("Workers that were started to replace one that had ended.")]
    loop_lag: Annotated[Reserve | None, _said("Seconds by which the event loop was late.")]
    reserve: Annotated[Reserve | None, _said("Reservations of all counters.")]
    issued: int
    ids_per_second: float
    ids_in_memory: int
    waiting: int
    shortest: Annotated[str, _said("The counter of the shortest runway.")]
    shortest_runway_seconds: Runway
    in_use: Annotated[int, _said("Counters in use.")]
    attention: Annotated[int, _said("Counters whose level is warn or bad.")]
    found: Annotated[int, _said("Counters whose name contains `find`.")]
    find: str
    page: int
    pages: int
    per: int
    counters: list[CounterStatus]
    gap_causes: Annotated[dict[str, str], _said("The meaning of each cause in `gaps`.")]
    tallies: Annotated[
        list[TallyStatus],
        _said("At most 50 of the tallies whose name contains `find`, worst first."),
    ]
    tallies_in_use: int
