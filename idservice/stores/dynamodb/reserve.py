"""One reservation on DynamoDB: the conditional write, and how each answer to it is read."""

from dataclasses import dataclass

from idservice import errors
from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.client import Answer
from idservice.stores.dynamodb.items import Place
from idservice.stores.protocol import Counter, Grant


@dataclass(frozen=True, slots=True)
class Reservation:
    """`count` indices of one shard, from `seen` on and starting no higher than `room`."""

    store: str
    counter: Counter
    place: Place
    count: int
    seen: int
    room: int

    @property
    def action(self) -> str:
        """What it does, for messages."""
        return f"reserving {self.count} ids of counter {self.counter.name}"

    def request(self) -> dict[str, object]:
        """The parameters of its only UpdateItem."""
        return {
            "TableName": self.place.table,
            "Key": self.place.key,
            # No ADD and no if_not_exists: they would start a deleted counter from 0 (I10).
            "UpdateExpression": "SET #n = #n + :count, #m = #n + :count, #r = #r + :one",
            "ConditionExpression": "#e = :epoch AND #n BETWEEN :seen AND :room AND #n >= #m",
            "ExpressionAttributeNames": {
                "#n": self.place.value,
                "#m": "mark",
                "#r": "rev",
                "#e": "epoch",
            },
            "ExpressionAttributeValues": {
                ":count": {"N": str(self.count)},
                ":one": {"N": "1"},
                ":epoch": {"S": self.counter.epoch},
                ":seen": {"N": str(self.seen)},
                ":room": {"N": str(self.room)},
            },
            "ReturnValues": "ALL_NEW",  # of what it did not write, `returned` matters
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def granted(self, written: Answer) -> Grant:
        """The indices that an answer's attributes grant: all of it well-formed, or none (I2).

        What others gave back is read where it can be; it grants nothing.

        Raises OutcomeUnknown or, where the position itself is at fault, PositionIllFormed.
        """
        for name in (self.place.value, "rev"):
            if items.number(written.get(name)) is not None:
                continue
            if "N" not in (written.get(name) or {}):
                raise self.unknown(f"it holds no {name!r}")
            # Set to 41.5 by hand, say: DynamoDB adds to that too, and every further answer is so.
            suspect = errors.PositionIllFormed(
                store=self.store,
                name=self.counter.name,
                why=f"its attribute {name!r} became {items.shown(written[name])}, no whole number",
            )
            suspect.outcome = errors.UNKNOWN
            raise suspect
        stop, rev = items.number(written[self.place.value]), items.number(written["rev"])
        assert stop is not None
        assert rev is not None
        if not self.seen <= stop - self.count <= self.room:
            raise self.unknown(f"it ends at {stop}, outside of what was asked for")
        try:
            returned = items.ranges(written.get("returned"))
        except ValueError:
            returned = ()
        return Grant(range(stop - self.count, stop), rev, returned)

    def refused(self, item: Answer | None) -> errors.StoreError:
        """What its failed condition means, read from the item in the order that is safe."""
        name = self.counter.name
        if not item:
            return errors.PositionMissing(store=self.store, name=name)
        epoch = items.string(item.get("epoch"))
        if epoch is not None and epoch != self.counter.epoch:
            return errors.EpochChanged(
                store=self.store, name=name, found=epoch, epoch=self.counter.epoch
            )
        try:
            found = items.position_in(item, self.place)
        except ValueError as error:
            return errors.PositionIllFormed(store=self.store, name=name, why=error)
        if found.next < found.mark or found.next < self.seen:
            return errors.WentBack(
                store=self.store,
                name=name,
                position=found.next,
                above=max(found.mark, self.seen),
                epoch=found.epoch,
            )
        if found.next > self.room:
            return errors.NoRoom(
                store=self.store,
                name=name,
                position=found.next,
                rev=found.rev,
                returned=found.returned,
            )
        return self.unknown("it refused a condition that holds")

    def unknown(self, why: str) -> errors.OutcomeUnknown:
        """The error of an answer that proves nothing (I4)."""
        return errors.OutcomeUnknown(store=self.store, action=self.action, why=why)
