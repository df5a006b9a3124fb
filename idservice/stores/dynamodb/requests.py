"""The writes on DynamoDB: each is one request under its own condition, and has one answer.

`reserve` moves a position on, `give_back` and `claim` carry ranges from one instance to another,
`register` and `prune` keep the writers of a strict counter. The others are steps of a change.
"""

import re
from typing import Any

from idservice import errors
from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.client import Answer
from idservice.stores.dynamodb.items import Item, Place
from idservice.stores.protocol import SentReservation
from idservice.stores.records import VALUE, Counter, Grant, Position, encoded

# What an old endpoint's attribute holds once it is off: to add to a text is an error.
BARRED = {"S": "finished: idservice counts in the attribute 'next'"}
PLACEHOLDER = re.compile(r"[#:]\w+")
NAMES = {
    "#a": "state", "#c": "config", "#d": items.LAST_CHANGE, "#e": "epoch", "#l": "returned",
    "#m": "mark", "#n": VALUE, "#o": "nonce", "#q": "seq", "#r": "rev", "#s": items.WRITERS,
    "#t": "top",
}  # fmt: skip
NUMBERS = {"one": 1, "zero": 0}


def update(
    place: Place,
    change: str,
    condition: str,
    names: dict[str, str] | None = None,
    **values: int | str | Item,
) -> dict[str, Any]:
    """Return the parameters of an UpdateItem.

    In `change` and `condition`, `#v` is the value at the place, `#k` a part of its key, and others
    are in NAMES or `names`. A value is a number, a text, or an attribute as DynamoDB writes it.
    """
    used = set(PLACEHOLDER.findall(f"{change} {condition}"))  # more of them would be refused
    known = {"#v": place.value, "#k": next(iter(place.key)), **NAMES, **(names or {})}
    given = {f":{name}": _attribute(value) for name, value in {**NUMBERS, **values}.items()}
    return {
        "TableName": place.table,
        "Key": place.key,
        "UpdateExpression": change,
        "ConditionExpression": condition,
        "ExpressionAttributeNames": {name: known[name] for name in known if name in used},
        "ExpressionAttributeValues": {name: given[name] for name in given if name in used},
    }


def _attribute(value: int | str | Item) -> Item:
    match value:
        case int():
            return {"N": str(value)}
        case str():
            return {"S": value}
    return value


# --- reserve --------------------------------------------------------------------------------------


def reserve(sent: SentReservation, place: Place) -> dict[str, Any]:
    """Return the parameters of the only UpdateItem of a reservation."""
    # No ADD and no if_not_exists: they would start a deleted counter from 0 (I10).
    change = "SET #v = #v + :count, #m = #v + :count, #r = #r + :one"
    condition = "#e = :epoch AND #v BETWEEN :seen AND :room AND #v >= #m"
    values: dict[str, int | str] = {
        "count": sent.count, "epoch": sent.counter.epoch, "seen": sent.seen, "room": sent.room,
    }  # fmt: skip
    names = {}
    if sent.batch is not None:
        # Never "or not there": a late copy would pass once the writer is pruned.
        change += ", #w.#q = :seq, #w.#t = #v + :count, #w.#o = :nonce"
        condition += " AND #w.#q = :before"
        names["#w"] = items.WRITER + sent.batch.writer
        seq = sent.batch.seq
        values |= {"seq": seq, "before": seq - 1, "nonce": sent.batch.nonce}
    return update(place, change, condition, names, **values) | {
        "ReturnValues": "ALL_NEW",  # `returned` matters, which it does not write
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def read_grant(sent: SentReservation, place: Place, written: Answer) -> Grant:
    """Return the grant in an answer's attributes, if they are well-formed (I2).

    A `returned` that cannot be read is left out, as it grants nothing. Raises OutcomeUnknown or,
    where the position itself is at fault, PositionIllFormed.
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
    """Interpret a failed condition by the item that the refusal shows."""
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
    return update(
        place, "SET #v = :next, #m = :mark, #l = :list, #r = #r + :one",
        "#e = :epoch AND #r = :rev AND #v = :found",
        next=next, mark=min(next, found.mark), list=items.listed(returned),
        epoch=epoch, rev=found.rev, found=found.next,
    )  # fmt: skip


def claim(place: Place, epoch: str, rev: int) -> dict[str, Any]:
    """Return the write of a claim, for a position with this `rev`. It answers with the old item."""
    change, condition = "SET #r = #r + :one REMOVE #l", "#e = :epoch AND #r = :rev"
    return update(place, change, condition, epoch=epoch, rev=rev) | {"ReturnValues": "ALL_OLD"}


def read_claim(before: Answer, rev: int) -> tuple[range, ...]:
    """Return the ranges that a claim took. Raises ValueError if `before` is not its answer."""
    if items.number(before.get("rev")) != rev:
        raise ValueError("its answer has another 'rev'")
    return items.ranges(before.get("returned"))


# --- writers of a strict counter ----------------------------------------------------------------


def register(place: Place, counter: Counter, name: str, registrations: int) -> dict[str, Any]:
    """Return the write of a new record, as the next registration in this epoch."""
    before = "#s = :before" if registrations else "attribute_not_exists(#s)"
    return update(
        place, "SET #w = :writer, #s = :after, #r = #r + :one",
        f"#e = :epoch AND attribute_not_exists(#w) AND {before}", {"#w": items.WRITER + name},
        writer={"M": {"seq": {"N": "0"}}}, before=registrations, after=registrations + 1,
        epoch=counter.epoch,
    )  # fmt: skip


def prune(place: Place, name: str, seq: int) -> dict[str, Any]:
    """Return the write that removes a record if its number is still `seq`."""
    names = {"#w": items.WRITER + name}
    return update(place, "SET #r = #r + :one REMOVE #w", "#w.#q = :seq", names, seq=seq)


# --- a change of epoch ----------------------------------------------------------------------------


def head_moved(table: str, seen: int | None = None) -> dict[str, Any]:
    """Return the write that goes with every write of an entry: instances poll the revision.

    With `seen` it is refused if another entry was written since that revision.
    """
    head = Place(table, {items.KEY: {"S": items.HEAD}}, "revision")
    condition = "attribute_exists(#v)" if seen is None else "#v = :seen"
    return {"Update": update(head, "SET #v = #v + :one", condition, seen=seen or 0)}


def entry_rewritten(table: str, before: Counter, after: Counter) -> dict[str, Any]:
    """Return the write of the entry, for a transaction, if its `rev` is still that of `before`."""
    # Entries are written since a time when they had no `rev`.
    unwritten = "" if before.rev else " OR attribute_not_exists(#v)"
    config, last = encoded(after)
    write = update(
        Place(table, items.entry_key(after.name), "rev"),
        "SET #e = :epoch, #a = :state, #c = :config, #v = :after" + ", #d = :last" * bool(last),
        f"attribute_exists(#k) AND (#v = :before{unwritten})",
        epoch=after.epoch, state=after.state, config=config, last=last,
        before=before.rev, after=after.rev,
    )  # fmt: skip
    return {"Update": write}


def epoch_replaced(place: Place, found: str | None, epoch: str) -> dict[str, Any]:
    """Return the write of another epoch, if the present one is `found`; None: not a text."""
    condition = "#e = :found"
    if found is None:
        condition = "attribute_exists(#k) AND NOT attribute_type(#e, :text)"
    # ADD creates a `rev` that is missing, but no item: the condition needs one.
    change = "SET #e = :epoch ADD #r :one"
    return update(place, change, condition, epoch=epoch, found=found or "", text="S")


def created_closed(place: Place, seal: str) -> dict[str, Any]:
    """Return the write of a missing shard: closed, with nothing reserved (I10)."""
    change = "SET #v = :zero, #m = :zero, #r = :zero, #e = :seal"
    names = {}
    if place.barred is not None:
        change += ", #b = :barred"
        names["#b"] = place.barred
    return update(place, change, "attribute_not_exists(#k)", names, seal=seal, barred=BARRED)


def opened(place: Place, item: Item, seal: str, epoch: str) -> dict[str, Any]:
    """Return the write that opens a shard at 0 and removes the other attributes of `item`.

    These belonged to the epoch before. An item that was adopted also has foreign attributes, and
    one that must stay: without it the old endpoint would begin anew.
    """
    kept = {*place.key, VALUE, "mark", "rev", "epoch"}
    if place.barred is not None:
        kept |= {name for name in item if not items.is_of_an_epoch(name)} | {place.barred}
    gone = {f"#x{at}": name for at, name in enumerate(sorted(set(item) - kept))}
    change, names = "SET #v = :zero, #m = :zero, #e = :epoch", dict(gone)
    if place.barred is not None:  # an older copy of the item may have come back, with a number
        change += ", #b = :barred"
        names["#b"] = place.barred
    change += " ADD #r :one"
    if gone:
        change += f" REMOVE {', '.join(gone)}"
    return update(place, change, "#e = :seal", names, epoch=epoch, seal=seal, barred=BARRED)


def reopened(place: Place, seal: str, epoch: str, value: int) -> list[dict[str, Any]]:
    """Return the writes that open an adopted item, of which one applies.

    Its old endpoint may move the value at any time. The value is raised if it is below `value`, and
    else left alone.
    """
    rest = "ADD #r :one REMOVE #l"
    raised = (f"SET #e = :epoch, #v = :value, #m = :value {rest}", "#e = :seal AND #v < :value")
    alone = (f"SET #e = :epoch {rest}", "#e = :seal AND #v >= :value")
    return [
        update(place, change, condition, epoch=epoch, seal=seal, value=value)
        for change, condition in (raised, alone)
    ]


def finished(
    place: Place, counter: Counter, seal: str, epoch: str, first: int
) -> list[dict[str, Any]]:
    """Return the writes that end an adoption, of which one applies.

    The old endpoint counts until the write that makes its value a text. The position is computed
    from the value in the same write, so it includes the last id that the old endpoint took. A value
    that is no number, maybe such a text already, is left out of account.
    """
    base = counter.base  # of its index is the value, and of the new epoch's the id
    rest = "#e = :epoch, #v = :barred ADD #r :one REMOVE #l"
    first_of_all = f"SET #n = :first, #m = :first, {rest}"
    moved_back = (first_of_all, "#e = :seal AND #v < :value")
    off = (first_of_all, "#e = :seal AND NOT attribute_type(#v, :number)")
    # Every operand is the value as it was before the write.
    counted = (f"SET #n = #v + :base, #m = #v + :base, {rest}", "#e = :seal AND #v >= :value")
    return [
        update(
            place, change, condition, epoch=epoch, seal=seal, barred=BARRED, first=first,
            base=base, value=max(0, first - base), number="N",
        )
        for change, condition in (off, moved_back, counted)
    ]  # fmt: skip
