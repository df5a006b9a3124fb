"""Defines the kinds of change that use a name again: for a counter that is created, or arrives."""

import shlex
from typing import ClassVar

from msgspec.structs import replace

from idservice import errors
from idservice.catalogue.changes import NONE_ABOVE, Change, check_not_adopted, refuse
from idservice.stores.records import ACTIVE, ARRIVE, DELETED, MOVED, Counter, Intent


class _Renewal(Change, frozen=True, kw_only=True):
    """Uses a name again, for the counter `wanted`."""

    wanted: Counter

    @property
    def new_shards(self) -> int:
        return self.wanted.shards

    def bounded(self, entry: Counter) -> Counter:
        new = self.wanted
        return replace(entry, request_max=new.request_max, rate_max=new.rate_max)

    def intent(self, entry: Counter, free: int, epoch: str) -> Intent:
        new = self.wanted
        return replace(
            super().intent(entry, free, epoch), move=None, start=new.start, limit=new.limit,
            shards=new.shards, strict=new.strict, runway=new.runway,
        )  # fmt: skip


class CreateAgain(_Renewal, frozen=True):
    """Uses a deleted name again, above all ids that had the name."""

    kind: ClassVar = "create"

    def is_done(self, entry: Counter) -> bool:
        return entry.state not in (DELETED, MOVED)

    def check(self, entry: Counter, free: int) -> None:
        if entry.state == MOVED:
            raise errors.Moved(name=entry.name, why=entry.whereabouts)
        if self.wanted.adopted is not None:
            why = "it was deleted, and its name can only be used for ids above those it handed out."
            why += " An old endpoint does not know of them; adopt under another name"
            refuse(entry, why)
        check_not_adopted(entry, self.kind)
        if free > self.wanted.limit:
            refuse(entry, NONE_ABOVE.format(free - 1, self.wanted.limit))

    def intent(self, entry: Counter, free: int, epoch: str) -> Intent:
        floor = self.wanted.start
        return replace(super().intent(entry, free, epoch), state=ACTIVE, floor=floor)


class Arrive(_Renewal, frozen=True, kw_only=True):
    """Creates a counter that another store had, as the move with the token `origin` brings it.

    The counter is configured as `wanted`. It starts in `state`, at the id `next` or above. `to` is
    the address of this store, for messages, because their reader named the other store.
    """

    to: str
    state: str
    next: int
    origin: str
    kind: ClassVar = ARRIVE
    drops: ClassVar = True

    def is_done(self, entry: Counter) -> bool:
        return self.origin in entry.origins

    def check(self, entry: Counter, free: int) -> None:
        """Refuse a name in use: two counters would have the same ids. Raises ChangeRefused."""
        why, shards = "", self.wanted.shards
        if entry.move is not None and not entry.move.arrived:
            why = f"it is being moved from {self.to} to {entry.move.to}; finish that move first"
        elif entry.state not in (DELETED, MOVED):
            why = "the store has a counter of this name in use, with other ids. If both are to"
            why += " become one counter, delete it there first"
            why += f" (`idservice delete {entry.name} --store {shlex.quote(self.to)}`), and then"
            why += " move: ids go on above both"
        elif self.state != ACTIVE and shards != entry.shards:  # it opens none, see `done`
            why = f"it is {self.state} with {shards} shards, and its name had {entry.shards} there"
            why += f". Resume it first, or create one with {shards} there and delete it"
        refuse(entry, why)
        check_not_adopted(entry, self.kind)

    def intent(self, entry: Counter, free: int, epoch: str) -> Intent:
        intent = super().intent(entry, free, epoch)
        return replace(intent, state=self.state, floor=self.next, origin=self.origin)
