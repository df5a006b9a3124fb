"""The records of a status, and what their fields mean; the OpenAPI document is made of them."""

from typing import Annotated, Literal

import msgspec


def _said(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


State = Literal[
    "suspect", "stale", "empty", "exhausted", "suspended", "short", "stopping", "active", "unused",
    "moved", "deleted",
]  # fmt: skip
Level = Literal["ok", "warn", "bad", "calm"]
Seconds = Annotated[
    float | None, _said("The upper end of a histogram's bucket; null: longer than 5 s.")
]
Runway = Annotated[
    float | None,
    _said(
        "How long the ids in memory last at the rate of late; null: nobody has taken any, or an"
        " operator wants none handed out."
    ),
]


class Reserve(msgspec.Struct):
    """Within which time, in seconds, shares of all since the start ended."""

    count: int
    p50: Seconds
    p99: Seconds


class CounterStatus(msgspec.Struct):
    """A counter in use, as it is in memory; all workers together."""

    counter: str
    state: State
    level: Level
    code: Annotated[str, _said("Of the error that who asks now is told; empty: none.")]
    why: Annotated[str, _said("That error, in words.")]
    command: Annotated[str, _said("What an operator runs; N is theirs to choose.")]
    change: Annotated[str, _said("The change under way, if any.")]
    epoch: int
    mode: Literal["block", "strict"]
    shards: int
    ids_in_memory: int
    stock: Annotated[int, _said("How many were in memory after the last refill.")]
    refill_at: Annotated[int, _said("How many are left when the next one begins.")]
    issued: Annotated[int, _said("Ids handed out since the start.")]
    ids_per_second: Annotated[
        float | None,
        _said("Since the refill before the last one; null: a strict counter measures none."),
    ]
    waiting: Annotated[int, _said("Requests.")]
    runway: Annotated[float, _said("Seconds for which ids are to last.")]
    runway_seconds: Runway
    reserve: Reserve | None
    gaps: Annotated[dict[str, int], _said("Ids lost since the start, by cause.")]
    limit: Annotated[
        int | str | None,
        _said("The highest id; a string above 2^53 - 1; null: another service lends, and has it."),
    ]
    limit_used: Annotated[float | None, _said("From 0 to 1; null: not known yet.")]
    runs_out_seconds: Annotated[
        float | None,
        _said(
            "Until the limit is reached, at the pace of all instances within the last hour or two;"
            " null: not known."
        ),
    ]


class StoreStatus(msgspec.Struct):
    """The store as it answered when it was last asked."""

    address: str
    up: bool
    error: str


class Status(msgspec.Struct):
    """A service, with one page of its counters in use: those that need attention first."""

    verdict: Annotated[str, _said("Whether to act, in a sentence.")]
    level: Level
    version: str
    time: Annotated[float, _said("Seconds since 1970.")]
    uptime_seconds: float
    store: StoreStatus
    workers: int
    restarts: Annotated[int, _said("Of workers that ended by themselves.")]
    loop_lag: Annotated[Reserve | None, _said("How late the event loop ran what was due.")]
    reserve: Annotated[Reserve | None, _said("Reservations of all counters.")]
    issued: int
    ids_per_second: float
    ids_in_memory: int
    waiting: int
    shortest: Annotated[str, _said("The counter of the shortest runway.")]
    shortest_runway_seconds: Runway
    in_use: Annotated[int, _said("Counters.")]
    attention: Annotated[int, _said("Counters whose level is warn or bad.")]
    found: Annotated[int, _said("Counters whose name contains what was to be found.")]
    find: str
    page: int
    pages: int
    per: int
    counters: list[CounterStatus]
    gap_causes: Annotated[dict[str, str], _said("What the causes of these counters' gaps are.")]
