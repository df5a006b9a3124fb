"""Gives the examples of the OpenAPI document: bodies of requests and answers as records."""

from collections.abc import Mapping
from typing import Any

import msgspec

from idservice import errors
from idservice.access.usage_report import NOTES
from idservice.core.gap_causes import GapCause
from idservice.core.limits import NUMBER_MAX
from idservice.observability.status_records import Status, StoreStatus
from idservice.web import key_schemas, schemas, tally_schemas, usage_schemas
from idservice.web.problems import problem_record
from idservice.web.schemas import IdBatch, IdRange, IdRanges, OneId

ORDERS = schemas.CounterAnswer(
    counter="orders", state="active", epoch=1, start=1000, limit=NUMBER_MAX, strict=False,
    shards=1, runway=30.0,
)  # fmt: skip
SHOWN = msgspec.structs.replace(
    ORDERS,
    next=4000,
    ids_in_memory=1200,
    gaps={"stop": schemas.GapAnswer(ids=3, why=GapCause.STOP.text)},
    runway_seconds=41.5,
)
AT = "2026-11-03T10:00:00.123Z"
GIFTS = tally_schemas.TallyAnswer(
    tally="donations", state="active", decimals=2, floor="0.00", ceiling=None, only=None,
    start="0.00", sum="1234.50", at=AT, rev=812, adds=811,
    last_change=tally_schemas.TallyChangeAnswer("create", "http:unix", AT, ""),
)  # fmt: skip
TALLY_RECORDS: Mapping[str, Any] = {
    "TallyConfiguration": {"decimals": 2, "floor": "0"},
    "TallyPatchRequest": {"state": "suspended", "reason": "the campaign is over"},
    "TallyDeletion": {"reason": "the campaign is over"},
    "AddRequest": {"amount": "12.50"},
    "SetSumRequest": {"sum": "0", "reason": "a new year"},
    "AddAnswer": tally_schemas.AddAnswer(
        "donations", "don-4711", "12.50", "1234.50", AT, 812, replayed=False
    ),
    "SetSumAnswer": tally_schemas.SetSumAnswer(
        "donations", "year-2027", "-1234.50", "1234.50", "0.00", AT, 813, replayed=False
    ),
    "RecordAnswer": tally_schemas.RecordAnswer(
        "donations", "don-4711", "counted", "12.50", "1234.50", AT, 812
    ),
    "SumAnswer": tally_schemas.SumAnswer("donations", "1234.50", AT, AT, 812),
    "TallyAnswer": GIFTS,
    "TallyList": tally_schemas.TallyList([GIFTS]),
}
KEY = key_schemas.KeyAnswer(
    id="k7f3q9m2xw", role="use", scopes=["acme.*"], state="active", note="checkout",
    by="ana@ops", created=AT, expires="2027-11-01T00:00:00.000Z",
)  # fmt: skip
KEY_RECORDS: Mapping[str, Any] = {
    "KeyRequest": {
        "role": "use", "scopes": ["acme.*"], "note": "checkout", "expires": "2027-11-01",
    },
    "Revocation": {"reason": "replaced"},
    "NewKey": key_schemas.NewKey(
        KEY.id, "idk_use_k7f3q9m2xw_…", KEY.role, KEY.scopes, KEY.note, KEY.expires
    ),
    "KeyAnswer": KEY,
    "KeyList": key_schemas.KeyList([KEY]),
}  # fmt: skip
DAY = "2026-10-05"
USAGE = usage_schemas.UsageAnswer(
    first="2026-10-01", last="2026-10-31", scope="acme.*", final=True,
    totals=usage_schemas.UsageTotals(48211, 811),
    usage=[
        usage_schemas.UsageRowAnswer(DAY, "acme.gifts", "adds", 811, None, final=True),
        usage_schemas.UsageRowAnswer(DAY, "acme.orders", "ids", 48211, 48600, final=True),
    ],
    runs=[
        usage_schemas.UsageRunAnswer(
            DAY, "k7f3q9m2xw", f"{DAY}T00:00:41.512Z", "2026-10-06T00:00:00.003Z", "midnight"
        )
    ],
    notes=[*NOTES],
)  # fmt: skip
RECORDS: Mapping[str, msgspec.Struct] = {
    "CounterConfiguration": schemas.CounterConfiguration(start=1000, limit=NUMBER_MAX, runway=30.0),
    "Patch": schemas.Patch(state="suspended", reason="a restore"),
    "Deletion": schemas.Deletion(reason="not used any more"),
    "SetTo": schemas.SetTo(next=5000, reason="above the ids of the old system"),
    "CounterAnswer": SHOWN,
    "CounterList": schemas.CounterList([ORDERS]),
    "UsageAnswer": USAGE,
    "Status": Status(
        verdict="No counter is in use yet.", level="calm", version="1.0.0", time=1790000000.0,
        uptime_seconds=12.5, store=StoreStatus("sqlite:idservice.db", up=True, error=""),
        workers=1, restarts=0, loop_lag=None, reserve=None, issued=0, ids_per_second=0.0,
        ids_in_memory=0, waiting=0, shortest="", shortest_runway_seconds=None, in_use=0,
        attention=0, found=0, find="", page=1, pages=1, per=50, counters=[], gap_causes={},
        tallies=[], tallies_in_use=0,
    ),
}  # fmt: skip
PROBLEMS: Mapping[int, errors.IdserviceError] = {
    400: errors.BadCount(value="0", most=10_000),
    401: errors.AccessKeyMissing(),
    403: errors.KeyNotEnough(needed="the role 'admin'", has="the role 'use'"),
    404: errors.UnknownCounter(name="orders"),
    409: errors.CounterDiffers(name="orders", difference="limit is 900, not 1000"),
    410: errors.Exhausted(name="orders", count=1, limit=1000),
    423: errors.Suspended(name="orders"),
    429: errors.RateExceeded(name="orders", rate=" of 100 ids/s", seconds=0.4),
    503: errors.Stopped(),
}
KEY_PROBLEMS: Mapping[int, errors.IdserviceError] = {
    400: errors.BadAccessKey(why="a scope is named twice; name each once"),
    404: errors.NoSuchKey(id="k7f3q9m2xw"),
}
TALLY_PROBLEMS: Mapping[int, errors.IdserviceError] = {
    400: errors.KeyMissing(),
    404: errors.UnknownTally(name="donations"),
    409: errors.OutOfBounds(
        name="donations", key="don-4711", amount="-12.50", sum="10.00", at=1793700000123, rev=812,
        replayed=False, beyond="below 0.00",
    ),
    422: errors.KeyReused(
        name="donations", key="don-4711", amount="12.50", first="an add of 12.50"
    ),
    423: errors.TallySuspended(name="donations", by="by http:unix"),
    503: errors.AddUnsettled(
        name="donations", key="don-4711", why="the store has not answered yet"
    ),
}  # fmt: skip

USAGE_PROBLEMS: Mapping[int, errors.IdserviceError] = {
    400: errors.BadUsageReport(why="its last day is '2026-10-32'; write a day as 2026-10-31"),
    409: errors.UsageElsewhere(store="http://ids.internal:8080"),
}

OF_TAGS = {"tallies": TALLY_PROBLEMS, "keys": KEY_PROBLEMS, "usage": USAGE_PROBLEMS}


def of(record: str) -> Any:
    """Return the example of a record as JSON values."""
    for records in (TALLY_RECORDS, KEY_RECORDS):
        if record in records:
            return msgspec.to_builtins(records[record])
    return _plain(RECORDS[record])


def problem(status: int, tag: str) -> Any:
    """Return an example of a problem with this status, as JSON values; None if there is none. `tag`
    is the group of the operation in the document."""
    error = OF_TAGS.get(tag, {}).get(status) or PROBLEMS.get(status)
    return None if error is None else _plain(problem_record(error))


def _plain(record: msgspec.Struct) -> Any:
    values = msgspec.to_builtins(record)
    # A field of a request that is null is left out.
    return {name: value for name, value in values.items() if value is not None or name in KEPT}


KEPT = ("loop_lag", "reserve", "shortest_runway_seconds")
CSV = (
    "day,counter,kind,count,reserved,final\n"
    f"{DAY},acme.gifts,adds,811,,true\n"
    f"{DAY},acme.orders,ids,48211,48600,true\n"
)
IDS = {
    "one": {"value": _plain(OneId("orders", 42))},
    "several": {"value": _plain(IdBatch("orders", 3, [42, 43, 44]))},
    "ranges": {
        "value": _plain(IdRanges("orders", 1000, 1, "block", [IdRange(42, 1, 1000)])),
    },
}
