"""The writes of a change of epoch on DynamoDB: each is one request under its own condition."""

from typing import Any

import msgspec

from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.client import Answer
from idservice.stores.dynamodb.items import Item, Place
from idservice.stores.records import Counter, ShardState

# What an old endpoint's attribute holds once it is off: to add to a text is an error.
BARRED = {"S": "finished: idservice counts in the attribute 'next'"}


def entry_rewritten(table: str, before: Counter, after: Counter) -> dict[str, Any]:
    """Return the write of the entry, for a transaction, if its `rev` is still that of `before`."""
    # Entries are written since a time when they had no `rev`.
    unwritten = "" if before.rev else " OR attribute_not_exists(#r)"
    return {
        "Update": {
            "TableName": table,
            "Key": items.entry_key(after.name),
            "UpdateExpression": "SET #e = :epoch, #s = :state, #c = :config, #r = :after",
            "ConditionExpression": f"attribute_exists(#k) AND (#r = :before{unwritten})",
            "ExpressionAttributeNames": {
                "#k": items.KEY, "#e": "epoch", "#s": "state", "#c": "config", "#r": "rev",
            },
            "ExpressionAttributeValues": {
                ":epoch": {"S": after.epoch},
                ":state": {"S": after.state},
                ":config": {"S": msgspec.json.encode(after).decode()},
                ":before": {"N": str(before.rev)},
                ":after": {"N": str(after.rev)},
            },
        }
    }  # fmt: skip


def shard_state_in(item: Answer, place: Place) -> ShardState:
    """Return the state of a shard in its item."""
    return ShardState(
        items.string(item.get("epoch")),
        items.number(item.get(place.value)),
        items.number(item.get("mark")),
    )


def epoch_replaced(place: Place, found: str | None, epoch: str) -> dict[str, Any]:
    """Return the write of another epoch, if the present one is `found`; None: not a text."""
    names, values = {"#e": "epoch", "#r": "rev"}, {":epoch": {"S": epoch}, ":one": {"N": "1"}}
    if found is None:
        names["#k"] = place.any_key
        values[":text"] = {"S": "S"}
        condition = "attribute_exists(#k) AND NOT attribute_type(#e, :text)"
    else:
        values[":found"] = {"S": found}
        condition = "#e = :found"
    return {
        "TableName": place.table,
        "Key": place.key,
        # ADD creates a `rev` that is missing, but no item: the condition needs one.
        "UpdateExpression": "SET #e = :epoch ADD #r :one",
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ReturnValues": "UPDATED_NEW",
    }


def created_closed(place: Place, seal: str) -> dict[str, Any]:
    """Return the write of a missing shard: closed, with nothing reserved (I10)."""
    names = {"#k": place.any_key, "#n": "next", "#m": "mark", "#r": "rev", "#e": "epoch"}
    values = {":zero": {"N": "0"}, ":seal": {"S": seal}}
    update = "SET #n = :zero, #m = :zero, #r = :zero, #e = :seal"
    if place.barred is not None:
        update += ", #v = :barred"
        names["#v"], values[":barred"] = place.barred, BARRED
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": update,
        "ConditionExpression": "attribute_not_exists(#k)",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ReturnValues": "UPDATED_NEW",
    }


def opened(place: Place, item: Item, seal: str, epoch: str) -> dict[str, Any]:
    """Return the write that opens a shard at 0 and removes the other attributes of `item`.

    These belonged to the epoch before. An item that was adopted also has foreign attributes, and
    one that must stay: without it the old endpoint would begin anew.
    """
    kept = {*place.key, "next", "mark", "rev", "epoch"}
    if place.barred is not None:
        kept |= {name for name in item if not items.is_of_an_epoch(name)} | {place.barred}
    gone = {f"#x{at}": name for at, name in enumerate(sorted(set(item) - kept))}
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": "SET #n = :zero, #m = :zero, #e = :epoch ADD #r :one"
        + (f" REMOVE {', '.join(gone)}" if gone else ""),
        "ConditionExpression": "#e = :seal",
        "ExpressionAttributeNames": {
            "#n": "next", "#m": "mark", "#r": "rev", "#e": "epoch", **gone,
        },
        "ExpressionAttributeValues": {
            ":zero": {"N": "0"},
            ":one": {"N": "1"},
            ":epoch": {"S": epoch},
            ":seal": {"S": seal},
        },
        "ReturnValues": "UPDATED_NEW",
    }  # fmt: skip


def reopened(place: Place, seal: str, epoch: str, value: int) -> list[dict[str, Any]]:
    """Return the writes that open an adopted item, of which one applies.

    Its old endpoint may move the value at any time. The value is raised if it is below `value`, and
    else left alone.
    """
    epoch_alone = {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": "SET #e = :epoch ADD #r :one REMOVE #l",
        "ConditionExpression": "#e = :seal AND #v >= :value",
        "ExpressionAttributeNames": {
            "#e": "epoch",
            "#r": "rev",
            "#v": place.value,
            "#l": "returned",
        },
        "ExpressionAttributeValues": {
            ":epoch": {"S": epoch},
            ":one": {"N": "1"},
            ":seal": {"S": seal},
            ":value": {"N": str(value)},
        },
        "ReturnValues": "UPDATED_NEW",
    }
    raised = {
        **epoch_alone,
        "UpdateExpression": "SET #e = :epoch, #v = :value, #m = :value ADD #r :one REMOVE #l",
        "ConditionExpression": "#e = :seal AND #v < :value",
        "ExpressionAttributeNames": {
            "#e": "epoch", "#r": "rev", "#v": place.value, "#m": "mark", "#l": "returned",
        },
    }  # fmt: skip
    return [raised, epoch_alone]


def finished(
    place: Place, counter: Counter, seal: str, epoch: str, first: int
) -> list[dict[str, Any]]:
    """Return the writes that end an adoption, of which one applies.

    The old endpoint counts until the write that makes its value a text. The position is computed
    from the value in the same write, so it includes the last id that the old endpoint took.
    """
    base = counter.base  # of its index is the value, and of the new epoch's the id
    update = "#e = :epoch, #v = :barred ADD #r :one REMOVE #l"
    names = {"#n": "next", "#m": "mark", "#v": place.value, "#e": "epoch", "#r": "rev"}
    values = {
        ":epoch": {"S": epoch}, ":barred": BARRED, ":one": {"N": "1"}, ":seal": {"S": seal},
        ":value": {"N": str(max(0, first - base))},
    }  # fmt: skip
    counted = {
        "TableName": place.table,
        "Key": place.key,
        # Every operand is the value as it was before the write.
        "UpdateExpression": f"SET #n = #v + :base, #m = #v + :base, {update}",
        "ConditionExpression": "#e = :seal AND #v >= :value",
        "ExpressionAttributeNames": {**names, "#l": "returned"},
        "ExpressionAttributeValues": {**values, ":base": {"N": str(base)}},
        "ReturnValues": "UPDATED_NEW",
    }
    moved_back = {
        **counted,
        "UpdateExpression": f"SET #n = :first, #m = :first, {update}",
        "ConditionExpression": "#e = :seal AND #v < :value",
        "ExpressionAttributeValues": {**values, ":first": {"N": str(first)}},
    }
    return [moved_back, counted]
