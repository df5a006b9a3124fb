"""Shows tallies to people: all of them as a table, one of them as fields, and an audit in words."""

from collections.abc import Iterator, Sequence

from idservice.cli.counter_table import NONE, print_columns
from idservice.core.amounts import written
from idservice.core.tally import Tally
from idservice.stores.instants import instant
from idservice.stores.tally_source import TallyReading, Told
from idservice.tallies.audit import TallyAudit

COLUMNS = ("NAME", "STATE", "SUM", "RECORDS", "FLOOR", "CEILING", "LAST ADD OR CHANGE")


def described(tally: Tally) -> dict[str, object]:
    """Return a tally with its configuration, as JSON values."""

    def amount(value: int | None) -> str | None:
        return None if value is None else written(value, tally.decimals)

    change = tally.change
    return {
        "tally": tally.name,
        "state": tally.state.value,
        "sum": amount(tally.sum),
        "at": instant(tally.at),
        "rev": tally.rev,
        "adds": tally.adds,
        "decimals": tally.decimals,
        "floor": amount(tally.floor),
        "ceiling": amount(tally.ceiling),
        "only": amount(tally.only),
        "start": amount(tally.start),
        "last_change": change
        and {
            "what": change.what,
            "by": change.by,
            "at": instant(change.at),
            "reason": change.reason,
        },
    }


def reading(seen: TallyReading) -> dict[str, object]:
    """Return a reading as JSON values, as a service answers it."""
    return {
        "tally": seen.tally,
        "sum": written(seen.sum, seen.decimals),
        "at": instant(seen.at),
        "as_of": instant(seen.as_of),
        "rev": seen.rev,
    }


def told(answer: Told) -> dict[str, object]:
    """Return an add as JSON values, as a service answers it."""
    record = answer.record
    return {
        "tally": answer.tally,
        "key": record.key,
        "amount": written(record.amount, answer.decimals),
        "sum": written(record.sum, answer.decimals),
        "at": instant(record.at),
        "rev": record.rev,
        "replayed": answer.replayed,
    }


def audited(audit: TallyAudit) -> dict[str, object]:
    """Return an audit as JSON values."""
    tally = audit.tally
    return {
        "tally": tally.name,
        "agrees": audit.agrees,
        "sum": written(tally.sum, tally.decimals),
        "rev": tally.rev,
        "adds": tally.adds,
        "records": audit.records,
        "sum_of_records": written(audit.sum, tally.decimals),
        "highest_rev": audit.rev,
    }


def verdict(audit: TallyAudit) -> Iterator[str]:
    """Yield an audit in words, with what to do if the tally disagrees with its records."""
    tally = audit.tally
    stands = f"its sum is {written(tally.sum, tally.decimals)} at revision {tally.rev}"
    if audit.agrees:
        agree = "agrees" if tally.adds == 1 else "agree"
        yield f"tally {tally.name}: {stands}, and {_records(tally.adds)} {agree}"
        return
    made = written(audit.sum, tally.decimals)
    yield (
        f"tally {tally.name}: {stands} with {_records(tally.adds)}, but there are"
        f" {_records(audit.records)}, which make {made}, the last at revision {audit.rev}"
    )
    yield (
        "It was restored in part, or changed by hand. Send no adds, keep a copy of the store, and"
        " run `idservice fence --all --ahead N`: it makes the sum anew of the records, and logs it;"
        " see docs/how-to/recover.md"
    )


def print_table(tallies: Sequence[Tally]) -> None:
    """Print tallies in columns."""
    print_columns(COLUMNS, [_cells(tally) for tally in tallies])


def _cells(tally: Tally) -> tuple[str, ...]:
    bounds = (
        NONE if bound is None else written(bound, tally.decimals)
        for bound in (tally.floor, tally.ceiling)
    )
    total, at = written(tally.sum, tally.decimals), instant(tally.at)
    return (tally.name, tally.state.value, total, str(tally.adds), *bounds, at)


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count} records"
