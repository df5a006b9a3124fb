"""The items of a DynamoDB table that describe counters: keys, attributes, and how they are read.

`ctr:<name>` (`ctr:<name>:<s>` from shard 1 on) is a position, `entry:<name>` a counter's catalogue
entry, `catalogue` the catalogue's revision, `identity` the record that `init` wrote.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from idservice.core.writer import Record
from idservice.stores.records import (
    VALUE,
    Adopted,
    Counter,
    Position,
    ShardState,
    Writers,
    decoded,
    encoded,
)

KEY = "pk"
ENTRY = "entry:"
HEAD = "catalogue"
IDENTITY = "identity"
LAST_CHANGE = "last_change"  # beside an entry's config, see `records.encoded`
NO_HEAD = "the table's item 'catalogue' is missing or has no revision; restore the table"
SCHEMA = 1
WRITERS = "writers"  # how often a writer registered; each has a map of its own beside it
WRITER = "w:"
# DynamoDB keeps 38 digits and also 41.5, -1 and 1E20, which no position of ours ever is. int()
# accepts more than is written here.
NUMBER = re.compile(r"0|[1-9][0-9]{0,37}", re.ASCII)

Item = Mapping[str, Any]  # attributes as DynamoDB writes them: {"next": {"N": "42"}}


def number(attribute: Any) -> int | None:
    """Return the value of a whole number >= 0; None for anything else."""
    written = attribute.get("N") if isinstance(attribute, Mapping) else None
    if isinstance(written, str) and NUMBER.fullmatch(written):
        return int(written)
    return None


def string(attribute: Any) -> str | None:
    """Return the value of a text; None for anything else."""
    written = attribute.get("S") if isinstance(attribute, Mapping) else None
    return written if isinstance(written, str) else None


def is_of_an_epoch(name: str) -> bool:
    """Return True for an attribute of ours that ends with its epoch."""
    return name in ("returned", WRITERS) or name.startswith(WRITER)


def ranges(attribute: Any) -> tuple[range, ...]:
    """Return the ranges in a list of pairs of numbers; none if it is missing. Raises ValueError."""
    if attribute is None:
        return ()
    pairs = attribute.get("L") if isinstance(attribute, Mapping) else None
    found = []
    for pair in pairs if isinstance(pairs, list) else [None]:
        match pair:
            case {"L": [first, last]}:
                start, stop = number(first), number(last)
                if start is not None and stop is not None and start < stop:
                    found.append(range(start, stop))
                    continue
        raise ValueError("its attribute 'returned' is not a list of ranges")
    return tuple(found)


def listed(ranges: Iterable[range]) -> dict[str, Any]:
    """Return the attribute that holds these ranges."""
    pairs = [{"L": [{"N": str(each.start)}, {"N": str(each.stop)}]} for each in ranges]
    return {"L": pairs}


def shown(attribute: Any) -> str:
    """Return an attribute as a message shows it."""
    match attribute:
        case {"N": value}:
            return str(value)[:60]
        case {"S": value}:
            return f"the text {str(value)[:60]!r}"
        case None:
            return "missing"
        case _:
            return "of another type"


@dataclass(frozen=True, slots=True)
class Place:
    """The location of a position: table, key, and the attribute that holds its value.

    `barred` is an attribute that must stay a text: an old endpoint would count on in it.
    """

    table: str
    key: dict[str, dict[str, str]]
    value: str
    barred: str | None = None


def foreign_key(item: Adopted) -> dict[str, dict[str, str]]:
    """Return the key of an adopted item."""
    return {name: {kind: value} for name, kind, value in item.key}


def place_of(counter: Counter, shard: int, table: str) -> Place:
    """Return the place of a shard; of an adopted counter it is that of its old endpoint."""
    item = counter.adopted_item
    if item is not None and shard == 0:
        key = foreign_key(item)
        if counter.adopted is not None:
            return Place(item.table, key, item.attribute)
        return Place(item.table, key, VALUE, barred=item.attribute)
    suffix = f":{shard}" if shard else ""
    return Place(table, {KEY: {"S": f"ctr:{counter.name}{suffix}"}}, VALUE)


def place_in(item: Item, place: Place, counter: Counter) -> Place:
    """Return the place of the value in this item, which an unfinished change may have moved."""
    intent = counter.intent
    if intent is not None and intent.ends_adoption and string(item.get("epoch")) == intent.epoch:
        return Place(place.table, place.key, VALUE, barred=place.value)
    return place


def position_in(item: Item, place: Place) -> Position:
    """Return the position in an item. Raises ValueError naming the attribute that is wrong."""
    epoch = string(item.get("epoch"))
    if epoch is None:
        raise ValueError(f"its attribute 'epoch' is {shown(item.get('epoch'))}, not a text")
    values = {}
    for name in (place.value, "mark", "rev"):
        value = number(item.get(name))
        if value is None:
            raise ValueError(
                f"its attribute {name!r} is {shown(item.get(name))}, not a whole number >= 0"
            )
        values[name] = value
    returned = ranges(item.get("returned"))
    return Position(values[place.value], values["mark"], values["rev"], epoch, returned)


def shard_state_in(item: Item, place: Place, counter: Counter) -> ShardState:
    """Return the shard in an item. Its adoption may have ended while the entry, restored from an
    older copy, does not know it."""
    value = place_in(item, place, counter).value
    off = counter.adopted is not None and value != VALUE and number(item.get(value)) is None
    next, mark = number(item.get(VALUE if off else value)), number(item.get("mark"))
    return ShardState(string(item.get("epoch")), next, mark, off)


def record_in(item: Item, writer: str) -> Record | None:
    """Return the record of a writer on a position; None if it is missing or cannot be read."""
    written = (item.get(WRITER + writer) or {}).get("M") or {}
    seq, top = number(written.get("seq")), number(written.get("top"))
    if seq is None:
        return None
    return Record(seq, top or 0, string(written.get("nonce")) or "")


def writers_in(item: Item) -> Writers:
    """Return the writers that are registered on a position."""
    names = [name.removeprefix(WRITER) for name in item if name.startswith(WRITER)]
    records = {name: record_in(item, name) for name in sorted(names)}
    return Writers(
        number(item.get(WRITERS)) or 0,
        {name: -1 if record is None else record.seq for name, record in records.items()},
    )


def entry_key(name: str) -> dict[str, dict[str, str]]:
    """Return the key of a counter's entry."""
    return {KEY: {"S": f"{ENTRY}{name}"}}


def new(table: str, item: Item) -> dict[str, Any]:
    """Return the write of an item that must not exist yet."""
    return {
        "Put": {
            "TableName": table,
            "Item": item,
            "ConditionExpression": "attribute_not_exists(#k)",
            "ExpressionAttributeNames": {"#k": KEY},
        }
    }


def new_entry(table: str, counter: Counter) -> dict[str, Any]:
    """Return the write of a counter's entry."""
    config, change = encoded(counter)
    about = {"epoch": {"S": counter.epoch}, "state": {"S": counter.state}, "config": {"S": config}}
    if change:
        about[LAST_CHANGE] = {"S": change}
    return new(table, {**entry_key(counter.name), **about})


def entry_in(item: Item) -> Counter:
    """Return the entry in an item. Raises msgspec.DecodeError."""
    return decoded(string(item.get("config")) or "", string(item.get(LAST_CHANGE)))


def new_positions(table: str, counter: Counter) -> list[dict[str, Any]]:
    """Return the writes of the positions of a counter that is not adopted."""
    first, epoch = {"N": str(counter.start - counter.base)}, {"S": counter.initial_epoch}
    position = {"next": first, "mark": first, "rev": {"N": "0"}, "epoch": epoch}
    places = (place_of(counter, shard, table) for shard in range(counter.shards))
    return [new(table, {**place.key, **position}) for place in places]


def scan_of_entries(table: str) -> dict[str, Any]:
    """Return the request that reads one page of all entries."""
    return {
        "TableName": table,
        "ConsistentRead": True,
        "FilterExpression": "begins_with(#k, :entry)",
        "ExpressionAttributeNames": {"#k": KEY},
        "ExpressionAttributeValues": {":entry": {"S": ENTRY}},
    }


def why_not_created(counter: Counter, reasons: Sequence[str]) -> str:
    """Return why a transaction could not create a counter that has no entry; empty: unknown.

    `reasons` are those of its writes: the entry, the catalogue, the positions.
    """
    if "ConditionalCheckFailed" in reasons[2:]:
        return (
            f"the table has a position 'ctr:{counter.name}' without an entry; restore the entry"
            f" 'entry:{counter.name}', adopt the item, or choose another name"
        )
    return NO_HEAD if "ConditionalCheckFailed" in reasons else ""
