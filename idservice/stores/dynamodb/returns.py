"""Giving back and claiming on DynamoDB: two writes, each conditional, each sent once."""

from typing import Any

from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.client import Answer
from idservice.stores.dynamodb.items import Place
from idservice.stores.records import Position


def given_back(
    place: Place, epoch: str, found: Position, next: int, returned: tuple[range, ...]
) -> dict[str, Any]:
    """The write of a give-back, for a position that was found so.

    An old endpoint moves the value of an adopted item and no `rev`: hence also `next` as found.
    """
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": "SET #n = :next, #m = :mark, #l = :list, #r = #r + :one",
        "ConditionExpression": "#e = :epoch AND #r = :rev AND #n = :found",
        "ExpressionAttributeNames": {
            "#n": place.value, "#m": "mark", "#l": "returned", "#r": "rev", "#e": "epoch",
        },
        "ExpressionAttributeValues": {
            ":next": {"N": str(next)},
            ":mark": {"N": str(min(next, found.mark))},
            ":list": items.listed(returned),
            ":one": {"N": "1"},
            ":epoch": {"S": epoch},
            ":rev": {"N": str(found.rev)},
            ":found": {"N": str(found.next)},
        },
        "ReturnValues": "UPDATED_NEW",
    }  # fmt: skip


def claimed(place: Place, epoch: str, rev: int) -> dict[str, Any]:
    """The write of a claim, for a position that had this `rev`; answers with what was there."""
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": "SET #r = #r + :one REMOVE #l",
        "ConditionExpression": "#e = :epoch AND #r = :rev",
        "ExpressionAttributeNames": {"#l": "returned", "#r": "rev", "#e": "epoch"},
        "ExpressionAttributeValues": {
            ":one": {"N": "1"},
            ":epoch": {"S": epoch},
            ":rev": {"N": str(rev)},
        },
        "ReturnValues": "ALL_OLD",
    }


def taken(before: Answer, rev: int) -> tuple[range, ...]:
    """The ranges that a claim took. Raises ValueError where its answer is not one to it."""
    if items.number(before.get("rev")) != rev:
        raise ValueError("its answer has another 'rev'")
    return items.ranges(before.get("returned"))
