"""The items of a DynamoDB table that tallies are, and how they are read and written.

`tally:<name>` is a tally, `add:<name>:<inc>:<key>` the record of an add in an incarnation of it.
Both are written by updates, so that a role that may update items needs no other permission.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from idservice.core.amounts import DECIMALS_MAX
from idservice.core.tally import AddFate, AddRecord, Commit, Tally, TallyState
from idservice.stores.dynamodb import requests
from idservice.stores.dynamodb.items import KEY, Item, Place, number, shown, string
from idservice.stores.tally_store import decoded_change, encoded_change

TALLY, ADD = "tally:", "add:"
# As DynamoDB writes it, see `items.NUMBER`. A set from bound to bound is a difference of 19 digits.
AMOUNT = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
AMOUNTS = ("sum", "start")
BOUNDS = ("floor", "ceiling", "only")  # the attribute is missing where there is none
COUNTS = ("decimals", "rev", "inc", "at", "adds")
# The condition of `core.tally.is_as_it_was`.
AS_IT_WAS = "#r = :rev AND #i = :inc AND #v = :known AND #n = :count AND #w = :then"
NAMES = {"#i": "inc", "#n": "adds", "#w": "at"}
SEEN = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


def tally_place(table: str, name: str) -> Place:
    """Return the place of a tally."""
    return Place(table, {KEY: {"S": f"{TALLY}{name}"}}, "sum")


def record_place(table: str, tally: Tally, key: str) -> Place:
    """Return the place of the record of a key in the tally's incarnation."""
    return Place(table, {KEY: {"S": f"{records_prefix(tally.name, tally.inc)}{key}"}}, "sum")


def records_prefix(name: str, inc: int) -> str:
    """Return what the keys of all records of an incarnation begin with; no name has a colon."""
    return f"{ADD}{name}:{inc}:"


# --- reading --------------------------------------------------------------------------------------


def tally_in(item: Item, name: str) -> Tally:
    """Return the tally in an item. Raises ValueError naming the attribute that is wrong."""
    _check_key(item, f"{TALLY}{name}")
    written = string(item.get("state"))
    state = next((one for one in TallyState if one.value == written), None)
    if state is None:
        raise _wrong(item, "state", "a state of this version")
    amounts = {field: _amount(item, field) for field in AMOUNTS}
    bounds = {field: _amount(item, field) for field in BOUNDS if field in item}
    counts = {field: _count(item, field) for field in COUNTS}
    if counts["decimals"] > DECIMALS_MAX:
        raise _wrong(item, "decimals", f"from 0 to {DECIMALS_MAX}")
    change = decoded_change(string(item.get("change")))
    return Tally(name, state=state, change=change, **amounts, **bounds, **counts)


def record_in(item: Item, name: str, inc: int) -> AddRecord:
    """Return the record in an item of an incarnation. Raises ValueError, as `tally_in`."""
    whole, prefix = string(item.get(KEY)) or "", records_prefix(name, inc)
    if not whole.startswith(prefix):
        raise _wrong(item, KEY, f"{prefix}…")
    written = string(item.get("kind"))
    fate = next((one for one in AddFate if one.value == written), None)
    if fate is None:
        raise _wrong(item, "kind", "a fate of this version")
    by = string(item.get("by")) or ""
    return AddRecord(
        whole.removeprefix(prefix), fate, _amount(item, "amount"), _amount(item, "sum"),
        _count(item, "rev"), _count(item, "at"), by,
    )  # fmt: skip


def _check_key(item: Item, expected: str) -> None:
    if string(item.get(KEY)) != expected:
        raise _wrong(item, KEY, repr(expected))


def _amount(item: Item, field: str) -> int:
    attribute = item.get(field)
    written = attribute.get("N") if isinstance(attribute, Mapping) else None
    # int() alone would take more than what is written here.
    if not isinstance(written, str) or not AMOUNT.fullmatch(written):
        raise _wrong(item, field, "a whole number of at most 19 digits")
    return int(written)


def _count(item: Item, field: str) -> int:
    value = number(item.get(field))
    if value is None:
        raise _wrong(item, field, "a whole number >= 0")
    return value


def _wrong(item: Item, field: str, wanted: str) -> ValueError:
    return ValueError(f"its attribute {field!r} is {shown(item.get(field))}, not {wanted}")


# --- writing --------------------------------------------------------------------------------------


def created(table: str, tally: Tally) -> dict[str, Any]:
    """Return the parameters of the UpdateItem that creates a tally."""
    place = tally_place(table, tally.name)
    return _set(place, tally_attributes(tally), "attribute_not_exists(#k)")


def rewritten(table: str, before: Tally, after: Tally) -> dict[str, Any]:
    """Return the parameters of the UpdateItem that replaces a tally if it is still `before`."""
    place, attributes = tally_place(table, before.name), tally_attributes(after)
    gone = [field for field in BOUNDS if field not in attributes]
    return _set(place, attributes, AS_IT_WAS, gone, **_as_it_was(before))


def committed(table: str, commit: Commit) -> list[dict[str, Any]]:
    """Return the writes of a commit: the tally is the first, and the records are in their order."""
    before, after = commit.before, commit.after
    tally = requests.update(
        tally_place(table, before.name),
        "SET #v = :sum, #r = :after, #w = :at, #n = :adds",
        f"{AS_IT_WAS} AND #a = :active",
        NAMES,
        sum=after.sum, after=after.rev, at=after.at, adds=after.adds,
        active=TallyState.ACTIVE.value, **_as_it_was(before),
    )  # fmt: skip
    records = [
        _set(
            record_place(table, before, record.key),
            record_attributes(record),
            "attribute_not_exists(#k)",
        )
        for record in commit.records
    ]
    return [{"Update": {**tally, **SEEN}}, *({"Update": record} for record in records)]


def _as_it_was(before: Tally) -> dict[str, int]:
    """Return the values in the condition AS_IT_WAS."""
    return {
        "rev": before.rev, "inc": before.inc, "known": before.sum, "count": before.adds,
        "then": before.at,
    }  # fmt: skip


def tally_attributes(tally: Tally) -> dict[str, Item]:
    """Return the attributes of a tally's item beside its key."""
    bounds = {field: getattr(tally, field) for field in BOUNDS}
    return {
        **_numbers(**{field: getattr(tally, field) for field in (*AMOUNTS, *COUNTS)}),
        **_numbers(**{field: value for field, value in bounds.items() if value is not None}),
        "state": {"S": tally.state.value},
        "change": {"S": encoded_change(tally.change)},
    }


def record_attributes(record: AddRecord) -> dict[str, Item]:
    """Return the attributes of a record's item beside its key."""
    numbers = _numbers(amount=record.amount, sum=record.sum, rev=record.rev, at=record.at)
    by = {"by": {"S": record.by}} if record.by else {}
    return {"kind": {"S": record.fate.value}, **numbers, **by}


def _numbers(**values: int) -> dict[str, Item]:
    return {name: {"N": str(value)} for name, value in values.items()}


def _set(
    place: Place,
    attributes: Mapping[str, Item],
    condition: str,
    gone: Sequence[str] = (),
    **values: int,
) -> dict[str, Any]:
    """Return the parameters of an update of these attributes; those that are `gone` are removed."""
    names = {f"#x{at}": name for at, name in enumerate((*attributes, *gone))}
    given = {f"x{at}": value for at, value in enumerate(attributes.values())}
    change = "SET " + ", ".join(f"#{place_} = :{place_}" for place_ in given)
    if gone:
        change += " REMOVE " + ", ".join(list(names)[len(attributes) :])
    names |= NAMES
    return requests.update(place, change, condition, names, **values, **given) | SEEN


def scan(table: str, prefix: str) -> dict[str, Any]:
    """Return the request that reads one page of the items whose key begins so."""
    return {
        "TableName": table,
        "ConsistentRead": True,
        "FilterExpression": "begins_with(#k, :prefix)",
        "ExpressionAttributeNames": {"#k": KEY},
        "ExpressionAttributeValues": {":prefix": {"S": prefix}},
    }
