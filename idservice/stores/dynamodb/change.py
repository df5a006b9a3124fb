"""The writes of a change of epoch on DynamoDB: each one request, each under its own condition."""

from typing import Any

import msgspec

from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.client import Answer
from idservice.stores.dynamodb.items import Item, Place
from idservice.stores.protocol import Counter, Stand


def entry_rewritten(table: str, before: Counter, after: Counter) -> dict[str, Any]:
    """One of a transaction's writes: the entry, if nobody wrote it since it was `before`."""
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


def stand_in(item: Answer, place: Place) -> Stand:
    """A shard as it stands in its item."""
    return Stand(
        items.string(item.get("epoch")),
        items.number(item.get(place.value)),
        items.number(item.get("mark")),
    )


def epoch_replaced(place: Place, found: str | None, epoch: str) -> dict[str, Any]:
    """The write of another epoch, where the one there is `found`; None: where it is no text."""
    names, values = {"#e": "epoch", "#r": "rev"}, {":epoch": {"S": epoch}, ":one": {"N": "1"}}
    if found is None:
        names["#k"] = next(iter(place.key))
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
    """The write of a missing shard: closed, with nothing reserved (I10)."""
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": "SET #n = :zero, #m = :zero, #r = :zero, #e = :seal",
        "ConditionExpression": "attribute_not_exists(#k)",
        "ExpressionAttributeNames": {
            "#k": items.KEY, "#n": "next", "#m": "mark", "#r": "rev", "#e": "epoch",
        },
        "ExpressionAttributeValues": {":zero": {"N": "0"}, ":seal": {"S": seal}},
        "ReturnValues": "UPDATED_NEW",
    }  # fmt: skip


def opened(place: Place, item: Item, seal: str, epoch: str) -> dict[str, Any]:
    """The write that opens a shard: at 0, and nothing else of `item` is left.

    Whatever else stood there belonged to the epoch before.
    """
    own = {*place.key, "next", "mark", "rev", "epoch"}
    gone = {f"#x{at}": name for at, name in enumerate(sorted(set(item) - own))}
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
    """The writes that open an adopted item, of which one applies: its old endpoint may move the
    value at any time, so it is raised where it is below `value`, and else left alone."""
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
