"""One reservation on DynamoDB: the conditional write, and how each answer to it is read."""

from typing import Any

from idservice import errors
from idservice.core.writer import Batch
from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.client import Answer
from idservice.stores.dynamodb.items import Place
from idservice.stores.records import Grant
from idservice.stores.reservation import SentReservation


def request(asked: SentReservation, place: Place) -> dict[str, Any]:
    """The parameters of its only UpdateItem."""
    # No ADD and no if_not_exists: they would start a deleted counter from 0 (I10).
    update = "SET #n = #n + :count, #m = #n + :count, #r = #r + :one"
    condition = "#e = :epoch AND #n BETWEEN :seen AND :room AND #n >= #m"
    names = {"#n": place.value, "#m": "mark", "#r": "rev", "#e": "epoch"}
    values = {
        ":count": {"N": str(asked.count)},
        ":one": {"N": "1"},
        ":epoch": {"S": asked.counter.epoch},
        ":seen": {"N": str(asked.seen)},
        ":room": {"N": str(asked.room)},
    }
    if asked.batch is not None:
        # Never "or not there": a late copy would pass once the writer is pruned.
        update += ", #w.#s = :seq, #w.#t = #n + :count, #w.#o = :nonce"
        condition += " AND #w.#s = :before"
        names |= _names(asked.batch)
        values |= {
            ":seq": {"N": str(asked.batch.seq)},
            ":before": {"N": str(asked.batch.seq - 1)},
            ":nonce": {"S": asked.batch.nonce},
        }
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": update,
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ReturnValues": "ALL_NEW",  # of what it did not write, `returned` matters
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _names(batch: Batch) -> dict[str, str]:
    return {"#w": items.WRITER + batch.writer, "#s": "seq", "#t": "top", "#o": "nonce"}


def granted(asked: SentReservation, place: Place, written: Answer) -> Grant:
    """The indices that an answer's attributes grant: all of it well-formed, or none (I2).

    What others gave back is read where it can be; it grants nothing.

    Raises OutcomeUnknown or, where the position itself is at fault, PositionIllFormed.
    """
    for name in (place.value, "rev"):
        if items.number(written.get(name)) is not None:
            continue
        if "N" not in (written.get(name) or {}):
            raise asked.unknown(f"it holds no {name!r}")
        # Set to 41.5 by hand, say: DynamoDB adds to that too, and every further answer is so.
        suspect = errors.PositionIllFormed(
            store=asked.store,
            name=asked.counter.name,
            why=f"its attribute {name!r} became {items.shown(written[name])}, no whole number",
        )
        suspect.outcome = errors.UNKNOWN
        raise suspect
    stop, rev = items.number(written[place.value]), items.number(written["rev"])
    assert stop is not None
    assert rev is not None
    if not asked.seen <= stop - asked.count <= asked.room:
        raise asked.unknown(f"it ends at {stop}, outside of what was asked for")
    try:
        returned = items.ranges(written.get("returned"))
    except ValueError:
        returned = ()
    return Grant(range(stop - asked.count, stop), rev, returned)


def refused(asked: SentReservation, place: Place, item: Answer | None) -> Grant:
    """Interpret a failed condition, from the item as it was then."""
    if not item:
        return asked.interpret_failure(None, None)
    record = None if asked.batch is None else items.record_in(item, asked.batch.writer)
    epoch = items.string(item.get("epoch"))
    if epoch is not None and epoch != asked.counter.epoch:
        asked.raise_other_epoch(epoch, record)
    try:
        found = items.position_in(item, place)
    except ValueError as error:
        raise errors.PositionIllFormed(
            store=asked.store, name=asked.counter.name, why=error
        ) from None
    return asked.interpret_failure(found, record)
