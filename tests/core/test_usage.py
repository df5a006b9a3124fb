"""The totals of a run: absolute, each in its own day, and never above what was handed out."""

from idservice.core.usage import (
    DAY_MS,
    PART_ROWS,
    RunEnd,
    RunTotals,
    UsageKind,
    UsagePart,
    UsageReading,
    UsageRow,
    day_of,
    is_final,
    may_be_sent,
)

DAY = 20_700
NOON = DAY * DAY_MS + DAY_MS // 2
MIDNIGHT = (DAY + 1) * DAY_MS


def ids(name: str, count: int, *, brought: int | None = None, held: int = 0) -> UsageReading:
    return UsageReading(
        UsageKind.IDS, name, count, count + held if brought is None else brought, held
    )


def look(totals: RunTotals, *readings: UsageReading, at: int = NOON) -> None:
    for reading in readings:
        totals.see(reading)
    totals.looked(day_of(at), at)


def written(totals: RunTotals) -> list[UsagePart]:
    """What is due, which the store takes."""
    parts = []
    for part, version in totals.due():
        totals.wrote(part, version)
        parts.append(part)
    return parts


def test_totals_are_absolute_and_written_once() -> None:
    totals = RunTotals("run", DAY)
    look(totals, ids("orders", 5, held=20))
    (first,) = written(totals)
    assert first == UsagePart(
        DAY, "run", 0, 1, NOON, NOON, RunEnd.OPEN, (UsageRow(UsageKind.IDS, "orders", 5, 25),)
    )
    look(totals, ids("orders", 5, held=20), at=NOON + 50_000)
    assert not written(totals)
    look(totals, ids("orders", 12, held=13), at=NOON + 100_000)
    (second,) = written(totals)
    assert (second.seq, second.first, second.last) == (2, NOON, NOON + 100_000)
    assert second.rows == (UsageRow(UsageKind.IDS, "orders", 12, 25),)


def test_nothing_is_written_of_a_day_on_which_nothing_was_handed_out() -> None:
    totals = RunTotals("run", DAY)
    look(totals, ids("orders", 0, held=10), UsageReading(UsageKind.ADDS, "gifts", 0))
    look(totals, ids("orders", 0, held=10), at=MIDNIGHT)
    totals.stop(MIDNIGHT + 1)
    assert not written(totals)
    assert totals.is_written


def test_the_next_day_begins_where_the_totals_stood_at_midnight() -> None:
    totals = RunTotals("run", DAY)
    look(totals, ids("orders", 5, held=20), UsageReading(UsageKind.ADDS, "gifts", 3))
    look(totals, ids("orders", 9, held=16), UsageReading(UsageKind.ADDS, "gifts", 3), at=MIDNIGHT)
    (ended,) = written(totals)
    assert (ended.day, ended.end, ended.last) == (DAY, RunEnd.MIDNIGHT, MIDNIGHT)
    assert [row.count for row in ended.rows] == [9, 3]
    look(totals, ids("orders", 11, brought=30, held=19), at=MIDNIGHT + 50_000)
    (next_day,) = written(totals)
    assert (next_day.day, next_day.seq) == (DAY + 1, 1)
    # 16 were in memory at midnight, and 5 were reserved since.
    assert next_day.rows == (UsageRow(UsageKind.IDS, "orders", 2, 21),)


def test_what_was_not_written_of_a_day_stays_in_that_day() -> None:
    totals = RunTotals("run", DAY)
    look(totals, ids("orders", 5))
    look(totals, ids("orders", 9), at=MIDNIGHT)
    look(totals, ids("orders", 10), at=MIDNIGHT + 50_000)
    old, new = (part for part, _ in totals.due())  # both are lost
    assert (old.day, old.rows[0].count, old.end) == (DAY, 9, RunEnd.MIDNIGHT)
    assert (new.day, new.rows[0].count) == (DAY + 1, 1)
    assert [part.seq for part in written(totals)] == [2, 2]


def test_a_change_during_a_write_is_written_by_the_next_one() -> None:
    totals = RunTotals("run", DAY)
    look(totals, ids("orders", 5))
    for part, version in totals.due():
        look(totals, ids("orders", 6))
        totals.wrote(part, version)
    (after,) = written(totals)
    assert after.rows[0].count == 6


def test_a_day_that_is_too_late_is_dropped_and_told() -> None:
    totals = RunTotals("run", DAY)
    look(totals, ids("orders", 5))
    look(totals, ids("orders", 5), at=MIDNIGHT)
    late = MIDNIGHT + 23 * 3_600_000
    assert may_be_sent(DAY, late - 1)
    assert not totals.drop_late(late - 1)
    assert totals.drop_late(late) == {DAY: 5}
    assert not written(totals)
    assert not is_final(DAY, late)
    assert is_final(DAY, MIDNIGHT + DAY_MS)
    assert not is_final(DAY, MIDNIGHT + DAY_MS - 1)


def test_an_id_whose_client_was_gone_is_taken_back() -> None:
    totals = RunTotals("run", DAY)
    look(totals, ids("orders", 5, held=5))
    look(totals, ids("orders", 4, brought=10, held=5), at=NOON + 50_000)
    (part,) = written(totals)
    assert part.rows[0].count == 4
    look(totals, ids("orders", 4, brought=10, held=5), at=MIDNIGHT)
    look(totals, ids("orders", 3, brought=10, held=5), at=MIDNIGHT + 1)
    look(totals, ids("orders", 6, brought=10, held=2), at=MIDNIGHT + 2)
    *_, part = written(totals)
    assert part.rows[0].count == 2  # the one of the day before is off


def test_a_clock_that_goes_back_reopens_no_day() -> None:
    totals = RunTotals("run", DAY)
    look(totals, ids("orders", 5), at=MIDNIGHT)
    look(totals, ids("orders", 8), at=MIDNIGHT - 10)
    by_day = {part.day: part.rows[0].count for part in written(totals)}
    assert by_day == {DAY: 5, DAY + 1: 3}


def test_many_counters_fill_parts_and_each_stays_in_its_own() -> None:
    names = [f"n{number}" for number in range(PART_ROWS + 1)]
    totals = RunTotals("run", DAY)
    look(totals, *(ids(name, 1) for name in names))
    first, second = written(totals)
    assert (first.name, second.name) == ("run", "run.1")
    assert [row.name for row in second.rows] == names[-1:]
    look(totals, ids("n3", 2))
    (only,) = written(totals)
    assert (only.name, only.seq, len(only.rows)) == ("run", 2, PART_ROWS)
