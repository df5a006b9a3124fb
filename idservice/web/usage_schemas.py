"""The report of usage as records, as the route and the command answer it."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from idservice.access.usage_report import NOTES, UsageReport
from idservice.core.limits import NUMBER_MAX
from idservice.core.usage import RunEnd, UsageKind
from idservice.stores.instants import day_text, instant
from idservice.web.schemas import Number

Date = Annotated[str, Meta(description="A day in UTC.", extra_json_schema={"format": "date"})]
Instant = Annotated[
    str, Meta(description="UTC, with milliseconds.", extra_json_schema={"format": "date-time"})
]

Ends = Literal["open", "midnight", "stop"]
ENDS: dict[RunEnd, Ends] = {
    RunEnd.OPEN: "open", RunEnd.MIDNIGHT: "midnight", RunEnd.STOP: "stop",
}  # fmt: skip


class UsageRowAnswer(msgspec.Struct):
    """One counter or tally on one day: the ids that were handed out, or the adds counted."""

    day: Date
    counter: Annotated[str, Meta(description="The name of the counter or the tally.")]
    kind: Literal["ids", "adds"]
    count: Number
    reserved: Annotated[
        Number | None,
        Meta(description="The ids that were at hand, which bound the count; null for adds."),
    ]
    final: Annotated[bool, Meta(description="True once nothing of this day changes any more.")]


class UsageRunAnswer(msgspec.Struct):
    """One run of a process on one day, with its first and its last write."""

    day: Date
    run: str
    first: Instant
    last: Instant
    end: Annotated[
        Ends,
        Meta(description="How the run ended its day; it stays `open` without a stop."),
    ]


class UsageTotals(msgspec.Struct):
    """The sums over all rows."""

    ids: Number
    adds: Number


class UsageAnswer(msgspec.Struct, rename={"first": "from", "last": "to"}):
    """The usage of a period, by day, and by counter or tally. Both days are included."""

    first: Date
    last: Date
    scope: Annotated[str, Meta(description="The names that the report covers.")]
    final: Annotated[bool, Meta(description="True if each day of the period is final.")]
    totals: UsageTotals
    usage: list[UsageRowAnswer]
    runs: Annotated[
        list[UsageRunAnswer], Meta(description="The runs that handed out what is shown.")
    ]
    notes: Annotated[list[str], Meta(description="The rules by which the usage was counted.")]


def usage_answer(report: UsageReport, scope: str) -> UsageAnswer:
    """Return a report as an answer; `scope` is what it covers."""
    return UsageAnswer(
        first=day_text(report.period.first),
        last=day_text(report.period.last),
        scope=scope,
        final=report.final,
        totals=UsageTotals(_number(report.total(UsageKind.IDS)), report.total(UsageKind.ADDS)),
        usage=[
            UsageRowAnswer(
                day_text(row.day), row.name, row.kind.value, _number(row.count),
                None if row.reserved is None else _number(row.reserved), row.final,
            )
            for row in report.usage
        ],
        runs=[
            UsageRunAnswer(
                day_text(run.day), run.run, instant(run.first), instant(run.last),
                ENDS[run.end],
            )
            for run in report.runs
        ],
        notes=[*NOTES],
    )  # fmt: skip


def _number(value: int) -> Number:
    """Return a number for JSON: a string if JavaScript would round it."""
    return value if value <= NUMBER_MAX else str(value)
