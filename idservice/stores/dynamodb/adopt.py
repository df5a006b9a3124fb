"""Adoption of an existing counter item while its old endpoint goes on counting.

The old endpoint knows only its value. `epoch`, `mark` and `rev` are written beside it. From then on
a reservation differs from any other only in the name of the value.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

import msgspec

from idservice import errors
from idservice.core.epoch import ordinal_of
from idservice.stores.dynamodb import client as dynamo
from idservice.stores.dynamodb import description, items, requests
from idservice.stores.dynamodb.client import Answer, CallRefused, CallUnanswered, DynamoClient
from idservice.stores.dynamodb.items import Place
from idservice.stores.records import DELETED, Adopted, Counter

OURS = ("epoch", "mark", "next", "returned", "rev")  # and `items.is_of_an_epoch`
TAKE_OVER_TRIES = 3
KEY_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", re.ASCII)


async def locate(
    client: DynamoClient, table: str, key: Mapping[str, str], attribute: str, returns: str
) -> tuple[Adopted, int]:
    """Return the location of the counter, with the types of its key, and its value.

    Raises Usage if it cannot be adopted, NotApplied if that could not be found out.
    """
    if returns not in ("old", "new"):
        raise _usage(f"--adopt-returns is {returns!r}; it must be old or new")
    action = f"looking at table {table}"
    try:
        answer = await client.call("DescribeTable", action, TableName=table)
    except CallRefused as refused:
        if refused.said != dynamo.NO_TABLE:
            raise
        raise _usage(
            f"--adopt-table is {table!r}, and region {client.region} has no such table; name the"
            " right table, or the right region in --store"
        ) from refused
    except CallUnanswered as unanswered:
        raise errors.NotAnswered(**unanswered.fields) from unanswered
    regions = description.split_over(answer["Table"], client.region)
    if regions:
        why = description.why_split(regions)
        raise _usage(f"--adopt-table is {table!r}, which cannot hold a counter: {why}")
    typed = _typed_key(table, answer["Table"], key)
    ours = attribute in ("epoch", "mark", "rev") or items.is_of_an_epoch(attribute)
    if attribute in key or ours:
        raise _usage(
            f"--adopt-attribute is {attribute!r}, which is a key attribute or a name this service"
            " needs for itself; name the attribute that holds the counter's value"
        )
    table_id = answer["Table"].get("TableId")
    adopted = Adopted(table, typed, attribute, returns, table_id)
    try:
        value, _ = await _look(client, adopted, action)
    except ValueError as error:
        raise _usage(str(error)) from error
    return adopted, value


def recognise(store: str, counter: Counter, table: Answer, region: str) -> None:
    """Check that an adopted counter's table is the one that was adopted and can hold a counter.

    Raises NotApplied.
    """
    adopted = counter.adopted_item
    assert adopted is not None
    action = f"serving counter {counter.name}"
    regions = description.split_over(table, region)
    if regions:
        why = f"of its table {adopted.table!r}: {description.why_split(regions)}"
        raise errors.NotApplied(store=store, action=action, why=why)
    table_id = table.get("TableId")
    if None not in (adopted.table_id, table_id) and table_id != adopted.table_id:
        raise errors.NotApplied(
            store=store,
            action=action,
            why=f"its table {adopted.table!r} was recreated or restored since it was adopted."
            " Going on could repeat ids, so none are handed out. Put the original back, or go on"
            f" above N, the highest id in use: `idservice fence {counter.name} --past N`, see"
            " docs/how-to/recover.md",
        )


def with_table_identity(counter: Counter, table_id: str | None) -> Counter:
    """Return the entry of a counter that was adopted from a table with this identity."""
    assert counter.adopted_item is not None
    item = msgspec.structs.replace(counter.adopted_item, table_id=table_id)
    if counter.adopted is None:
        return msgspec.structs.replace(counter, home=item)
    return msgspec.structs.replace(counter, adopted=item)


def _usage(why: str) -> errors.Usage:
    return errors.Usage(why=why)


def _typed_key(
    table: str, description: Answer, key: Mapping[str, str]
) -> tuple[tuple[str, str, str], ...]:
    """Return each key attribute of the table with its type and value, in the table's order."""
    kinds = {
        each["AttributeName"]: each["AttributeType"] for each in description["AttributeDefinitions"]
    }
    names = [each["AttributeName"] for each in description["KeySchema"]]
    if set(key) != set(names) or not all(key.values()):
        wanted = ",".join(f"{name}=VALUE" for name in names)
        given = ",".join(f"{name}={value}" for name, value in key.items())
        raise _usage(
            f"--adopt-key is {given!r}; it must name exactly the key of table {table!r}: {wanted}"
        )
    for name in names:
        if name in OURS:
            raise _usage(
                f"--adopt-key names {name!r}, which this service needs for itself; a counter under"
                " such a key cannot be adopted"
            )
        if kinds[name] == "B":
            raise _usage(
                f"--adopt-key names {name!r}, which is binary in table {table!r}; only texts and"
                " numbers can be named"
            )
        if kinds[name] == "N" and not KEY_NUMBER.fullmatch(key[name]):
            raise _usage(
                f"--adopt-key has {name}={key[name]!r}, and in table {table!r} that is a number;"
                " give it in plain digits"
            )
    return tuple((name, kinds[name], key[name]) for name in names)


async def _look(client: DynamoClient, adopted: Adopted, action: str) -> tuple[int, str | None]:
    """Return the item's value, and the epoch it has if it was taken over already.

    Raises ValueError if it cannot be adopted, NotApplied.
    """
    place = Place(adopted.table, items.foreign_key(adopted), adopted.attribute)
    try:
        answer = await client.call(
            "GetItem", action, TableName=place.table, Key=place.key, ConsistentRead=True
        )
    except CallUnanswered as unanswered:
        raise errors.NotAnswered(**unanswered.fields) from unanswered
    item = answer.get("Item")
    key = ",".join(f"{name}={value}" for name, _, value in adopted.key)
    item_name = f"the item {key} of table {adopted.table!r}"
    if not item:
        raise ValueError(f"there is no {item_name[4:]}; name the key of the existing counter")
    value = items.number(item.get(adopted.attribute))
    if value is None:
        raise ValueError(
            f"in {item_name} the attribute {adopted.attribute!r} is"
            f" {items.shown(item.get(adopted.attribute))}; it must be a whole number from 0 up:"
            " name the attribute that the old endpoint counts in"
        )
    epoch = item.get("epoch")
    if epoch is not None:
        return value, _open(epoch, item_name)
    for name in item:
        # A number in `rev` is continued, as the template's mapping does.
        taken = name != adopted.attribute and (name in OURS or items.is_of_an_epoch(name))
        if taken and not (name == "rev" and items.number(item["rev"]) is not None):
            raise ValueError(
                f"{item_name} has an attribute {name!r} of its own, a name this service needs;"
                " rename it in the item first"
            )
    return value, None


def _open(epoch: object, item_name: str) -> str:
    """Return the epoch of an item if a counter can go on in it. Raises ValueError."""
    written = items.string(epoch)
    try:
        ordinal_of(written or "")
    except ValueError:
        raise ValueError(
            f"{item_name} has the epoch {items.shown(epoch)}, in which nothing is handed out; it"
            " was closed by another store, or is in use for something else"
        ) from None
    assert written is not None
    return written


async def take_over(client: DynamoClient, counter: Counter, adopted: Adopted) -> Counter:
    """Write our attributes beside the value, and return the counter for its entry.

    This write comes before the entry's transaction on purpose: while a transaction holds an item, a
    plain UpdateItem of the old endpoint would fail. An operator that died between the two writes
    leaves an item with an open epoch; the counter goes on in that one.
    """
    action = f"adopting counter {counter.name}"
    place = Place(adopted.table, items.foreign_key(adopted), adopted.attribute)
    for _ in range(TAKE_OVER_TRIES):
        try:
            value, epoch = await _look(client, adopted, action)
        except ValueError as error:
            raise errors.BadConfiguration(why=error) from error
        if epoch is None:
            try:
                write = requests.update(
                    place, "SET #e = :epoch, #m = #v, #r = if_not_exists(#r, :zero)",
                    "attribute_type(#v, :number) AND #v >= :read AND attribute_not_exists(#e)",
                    epoch=counter.epoch, number="N", read=value,
                )  # fmt: skip
                await client.call("UpdateItem", action, **write)
            except CallRefused as refused:
                if refused.said != dynamo.CONDITION_FAILED:
                    raise
                continue  # it was written since it was read: look again
        start = value + counter.base
        return msgspec.structs.replace(counter, start=start, epoch=epoch or counter.epoch)
    raise errors.NotApplied(
        store=client.store, action=action, why="the item is written all the time; try again"
    )


def check_alone(counter: Counter, others: Iterable[Counter], table: str) -> None:
    """Refuse the item of another counter in the store on `table`. Raises BadConfiguration.

    The two would hand out distinct ids at first, and the next change of one would close the other.
    """
    assert counter.adopted is not None
    for other in others:
        if other.name != counter.name and any(
            _is_same(item, counter.adopted) for item in _items_of(other, table)
        ):
            key = ",".join(f"{name}={value}" for name, _, value in counter.adopted.key)
            item = f"the item {key} of table {counter.adopted.table!r}"
            why = f"counter {other.name!r} goes on in {item}, and two counters cannot share one"
            if other.target_state == DELETED:
                why = (
                    f"{item} is that of counter {other.name!r}, which is deleted, and two counters"
                    f" cannot share one. `idservice create {other.name}` goes on in it, above all"
                    " ids of that counter; or put the value into an item with another key, let the"
                    " old endpoint count there, and adopt that one"
                )
            raise errors.BadConfiguration(why=why)


def _items_of(counter: Counter, table: str) -> Iterator[Adopted]:
    """Return the items of all shards, one of which it may have been adopted from."""
    for shard in range(counter.shards):
        if shard == 0 and counter.adopted_item is not None:
            yield counter.adopted_item
        else:
            place = items.place_of(counter, shard, table)
            key = tuple((name, "S", value["S"]) for name, value in place.key.items())
            yield Adopted(place.table, key, place.value, "old")


def _is_same(item: Adopted, other: Adopted) -> bool:
    """Return True if both are one item: a table also has an ARN, and 7.0 is the key 7."""
    is_one_id = item.table_id is not None and item.table_id == other.table_id
    is_one_table = item.table == other.table or is_one_id
    return is_one_table and _compared(item.key) == _compared(other.key)


def _compared(key: Iterable[tuple[str, str, str]]) -> set[tuple[str, object]]:
    return {(name, Decimal(value) if kind == "N" else value) for name, kind, value in key}
