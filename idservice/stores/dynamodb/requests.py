"""The writes of a position on DynamoDB: each one conditional request, sent once, and its answer.

`reserve` moves the position on, `give_back` and `claim` carry ranges from one instance to another,
`register` and `prune` keep the writers of a strict counter.
"""

from typing import Any

from idservice import errors
from idservice.core.writer import Batch
from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.client import Answer
from idservice.stores.dynamodb.items import Place
from idservice.stores.records import Counter, Grant, Position
from idservice.stores.reservation import SentReservation

# --- reserve --------------------------------------------------------------------------------------


def reserve(sent: SentReservation, place: Place) -> dict[str, Any]:
    """Return the parameters of the only UpdateItem of a reservation."""
    # No ADD and no if_not_exists: they would start a deleted counter from 0 (I10).
    update = "SET #n = #n + :count, #m = #n + :count, #r = #r + :one"
    condition = "#e = :epoch AND #n BETWEEN :seen AND :room AND #n >= #m"
    names = {"#n": place.value, "#m": "mark", "#r": "rev", "#e": "epoch"}
    values = {
        ":count": {"N": str(sent.count)},
        ":one": {"N": "1"},
        ":epoch": {"S": sent.counter.epoch},
        ":seen": {"N": str(sent.seen)},
        ":room": {"N": str(sent.room)},
    }
    if sent.batch is not None:
        # Never "or not there": a late copy would pass once the writer is pruned.
        update += ", #w.#s = :seq, #w.#t = #n + :count, #w.#o = :nonce"
        condition += " AND #w.#s = :before"
        names |= _names(sent.batch)
        values |= {
            ":seq": {"N": str(sent.batch.seq)},
            ":before": {"N": str(sent.batch.seq - 1)},
            ":nonce": {"S": sent.batch.nonce},
        }
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": update,
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ReturnValues": "ALL_NEW",  # `returned` matters, which it does not write
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _names(batch: Batch) -> dict[str, str]:
    return {"#w": items.WRITER + batch.writer, "#s": "seq", "#t": "top", "#o": "nonce"}


def read_grant(sent: SentReservation, place: Place, written: Answer) -> Grant:
    """Return the grant in an answer's attributes, if they are well-formed (I2).

    A `returned` that cannot be read is left out, as it grants nothing.

    Raises OutcomeUnknown or, where the position itself is at fault, PositionIllFormed.
    """
    for name in (place.value, "rev"):
        if items.number(written.get(name)) is not None:
            continue
        if "N" not in (written.get(name) or {}):
            raise sent.unknown(f"its answer has no {name!r}")
        # Set to 41.5 by hand, say: DynamoDB adds to that too, and all later answers are like it.
        suspect = errors.PositionIllFormed(
            store=sent.store,
            name=sent.counter.name,
            why=f"its attribute {name!r} became {items.shown(written[name])}, not a whole number",
        )
        suspect.outcome = errors.UNKNOWN
        raise suspect
    stop, rev = items.number(written[place.value]), items.number(written["rev"])
    assert stop is not None
    assert rev is not None
    if not sent.seen <= stop - sent.count <= sent.room:
        raise sent.unknown(f"its answer ends at {stop}, outside of the requested range")
    try:
        returned = items.ranges(written.get("returned"))
    except ValueError:
        returned = ()
    return Grant(range(stop - sent.count, stop), rev, returned)


def read_refusal(sent: SentReservation, place: Place, item: Answer | None) -> Grant:
    """Interpret a failed condition, by the item as it was then."""
    if not item:
        return sent.interpret_failure(None, None)
    record = None if sent.batch is None else items.record_in(item, sent.batch.writer)
    epoch = items.string(item.get("epoch"))
    if epoch is not None and epoch != sent.counter.epoch:
        sent.raise_other_epoch(epoch, record)
    try:
        found = items.position_in(item, place)
    except ValueError as error:
        raise errors.PositionIllFormed(
            store=sent.store, name=sent.counter.name, why=error
        ) from None
    return sent.interpret_failure(found, record)


# --- give back and claim ------------------------------------------------------------------------


def give_back(
    place: Place, epoch: str, found: Position, next: int, returned: tuple[range, ...]
) -> dict[str, Any]:
    """Return the write of a give-back to a position that was read as `found`.

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


def claim(place: Place, epoch: str, rev: int) -> dict[str, Any]:
    """Return the write of a claim, for a position with this `rev`. It answers with the old item."""
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


def read_claim(before: Answer, rev: int) -> tuple[range, ...]:
    """Return the ranges that a claim took. Raises ValueError if `before` is not its answer."""
    if items.number(before.get("rev")) != rev:
        raise ValueError("its answer has another 'rev'")
    return items.ranges(before.get("returned"))


# --- writers of a strict counter ----------------------------------------------------------------


def register(place: Place, counter: Counter, name: str, registrations: int) -> dict[str, Any]:
    """Return the write of a new record, as the next registration in this epoch."""
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


def prune(place: Place, name: str, seq: int) -> dict[str, Any]:
    """Return the write that removes a record if its number is still `seq`."""
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": "SET #r = #r + :one REMOVE #w",
        "ConditionExpression": "#w.#s = :seq",
        "ExpressionAttributeNames": {"#w": items.WRITER + name, "#s": "seq", "#r": "rev"},
        "ExpressionAttributeValues": {":one": {"N": "1"}, ":seq": {"N": str(seq)}},
        "ReturnValues": "UPDATED_NEW",
    }
