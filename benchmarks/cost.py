"""The price of a million ids, and of a million adds to a tally: by API Gateway with a write for
each, by Lambda, and by this service.

It is arithmetic on list prices; the writes of the service are simulated (see `fleet`). It does not
include what AWS charges by the hour for a container, and for storage, logs and traffic.
"""

import math

from benchmarks.measure import Row
from benchmarks.picture import Bar, bars
from benchmarks.sidecar import DIRECT, sample
from idservice.access.usage import LOOK_S
from idservice.core.tally import ADDS_MAX

MILLION = 1_000_000
MONTH_S = 30 * 86_400

# To be checked again before they are relied on: from secondary pages, not from a bill.
LIST_PRICES = "list prices of us-east-1, in force since November 2024 and to be re-checked"
WRITE_UNIT = 0.625 / MILLION  # $ per write of up to 1 KB, on demand
READ_UNIT = 0.125 / MILLION  # $ per strongly consistent read of up to 4 KB, on demand
REST_CALL = 3.50 / MILLION  # $ per call of a REST API, first tier
HTTP_CALL = 1.00 / MILLION  # $ per call of an HTTP API, first tier
LAMBDA_CALL = 0.20 / MILLION
LAMBDA_GB_S = 0.0000166667
LAMBDA_USE_GB_S = 0.128 * 0.012  # a call: 128 MB for 12 ms, which is an assumption

POLL_S = 2.0  # between two reads of the catalogue's head by an instance: each is one read unit
RATES = (1, 100, 1_000)
ADD_RATES = (100, 1_000, 9_900)  # adds per second to one tally
TRANSACTION_S = 0.01
ITEM_UNITS = 2  # of writing, for each item of a transaction


def monthly(writes_per_s: float, reads_per_s: float) -> float:
    """Return the dollars for 30 days of these writes and reads."""
    return MONTH_S * (writes_per_s * WRITE_UNIT + reads_per_s * READ_UNIT)


def run(quick: bool) -> list[Row]:
    """Return the rows of `cost`."""
    rows = [
        _row("REST API, a write per id", REST_CALL + WRITE_UNIT, "the replaced one"),
        _row(
            "HTTP API, Lambda, a write per id",
            HTTP_CALL + LAMBDA_CALL + LAMBDA_GB_S * LAMBDA_USE_GB_S + WRITE_UNIT,
            "a call of 12 ms at 128 MB is assumed",
        ),
        _row("a write per id, nothing else", WRITE_UNIT, "strict, clients that never meet"),
    ]
    for rate in RATES[:2] if quick else RATES:
        found = sample(DIRECT, rate, instances=2, windows=2 if quick else 10)
        writes = found.refills_per_s * WRITE_UNIT / rate
        reads, usage = READ_UNIT / POLL_S / rate, WRITE_UNIT / LOOK_S / rate
        note = (
            f"{writes * MILLION:.6f} $ for reservations, {usage * MILLION:.6f} $ for usage every"
            f" {LOOK_S:g} s, the rest for the poll every {POLL_S:g} s"
        )
        rows.append(_row(f"idservice, one instance at {rate:,}/s", writes + reads + usage, note))
    return [*rows, *_adds()]


def _adds() -> list[Row]:
    """Return rows for a million adds to a tally: a transaction costs two units for each item."""
    rows = []
    for rate in ADD_RATES:
        together = min(max(1.0, rate * TRANSACTION_S), float(ADDS_MAX))
        note = f"{together:g} in a commit, if a transaction takes {TRANSACTION_S * 1000:g} ms"
        each = ITEM_UNITS * (1 + 1 / together) * WRITE_UNIT
        rows.append(_row(f"idservice at {rate:,}/s", each, note, of="adds"))
    recorded = 2 * ITEM_UNITS * WRITE_UNIT
    return [
        *rows,
        _row("an UpdateItem per add", WRITE_UNIT, "a retry is counted twice", of="adds"),
        _row("a transaction with a record per add", recorded, "as idservice, one each", of="adds"),
        _row("REST API, UpdateItem", REST_CALL + WRITE_UNIT, "the replaced one", of="adds"),
        _row("REST API, transaction with a record", REST_CALL + recorded, "", of="adds"),
    ]


def _row(way: str, dollars: float, note: str, of: str = "ids") -> Row:
    return Row(
        f"cost: $ per million {of}, {way}",
        dollars * MILLION,
        "$",
        note=note,
        parts={"way": way, "prices": LIST_PRICES, "of": of},
    )


def documents(rows: list[Row]) -> dict[str, str]:
    """Return the rows as a table and as a picture."""
    ways = [
        Bar(str(row.parts["way"]), row.figure or 0.0, "idservice" in row.what, said=_said(row))
        for row in rows
        if row.parts.get("of") == "ids"
    ]
    lines = [f"| {bar.name} | {bar.said[1:]} |" for bar in ways]
    return {
        "cost.md": "\n".join(["| way | $ per million ids |", "|---|---|", *lines, ""]),
        "cost.svg": bars(
            ways,
            title="What a million ids cost at AWS",
            subtitle="Requests only, in dollars",
            note=LIST_PRICES[0].upper() + LIST_PRICES[1:],
        ),
    }


def _said(row: Row) -> str:
    figure = row.figure or 0.0
    digits = 3 if figure >= 0.1 else 2 - math.ceil(math.log10(figure))  # two that are not 0
    return f"${figure:.{digits}f}"
