"""How a strict counter's writers are registered and pruned on DynamoDB: each one write."""

from typing import Any

from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.items import Place
from idservice.stores.records import Counter


def registered(place: Place, counter: Counter, name: str, registrations: int) -> dict[str, Any]:
    """The write of a new record, as the next registration in this epoch."""
    values: dict[str, Any] = {
        ":writer": {"M": {"seq": {"N": "0"}}},
        ":after": {"N": str(registrations + 1)},
        ":one": {"N": "1"},
        ":epoch": {"S": counter.epoch},
    }
    condition = "#e = :epoch AND attribute_not_exists(#w)"
    if registrations:
        condition += " AND #c = :before"
        values[":before"] = {"N": str(registrations)}
    else:
        condition += " AND attribute_not_exists(#c)"
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": "SET #w = :writer, #c = :after, #r = #r + :one",
        "ConditionExpression": condition,
        "ExpressionAttributeNames": {
            "#w": items.WRITER + name, "#c": items.WRITERS, "#r": "rev", "#e": "epoch",
        },
        "ExpressionAttributeValues": values,
        "ReturnValues": "UPDATED_NEW",
    }  # fmt: skip


def pruned(place: Place, name: str, seq: int) -> dict[str, Any]:
    """The write that takes a record away, while it stands at `seq`."""
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": "SET #r = #r + :one REMOVE #w",
        "ConditionExpression": "#w.#s = :seq",
        "ExpressionAttributeNames": {"#w": items.WRITER + name, "#s": "seq", "#r": "rev"},
        "ExpressionAttributeValues": {":one": {"N": "1"}, ":seq": {"N": str(seq)}},
        "ReturnValues": "UPDATED_NEW",
    }
