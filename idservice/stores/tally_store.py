"""The operations of a store on tallies. Each is atomic: it happens whole or not at all.

An operation raises NotApplied (nothing happened) or OutcomeUnknown (it may have; a write may even
be applied later). None repeats a write by itself (I7).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from idservice.core.tally import AddRecord, Commit, Tally, TallyChange


@dataclass(frozen=True, slots=True)
class Beaten:
    """Why a commit was not applied, as far as the store said. At least one field tells.

    `tally` is the tally as it is now, if it was not as the commit believed. `records` are those
    that were there already, by key. `conflict` means that another write was in the way, which says
    nothing about the others. `missing` means that there is no such tally.
    """

    tally: Tally | None = None
    records: Mapping[str, AddRecord] = field(default_factory=dict)
    conflict: bool = False
    missing: bool = False


class TallyStore(Protocol):
    """The tallies of a store of our own."""

    async def tally(self, name: str) -> Tally | None:
        """Return a tally, read consistently; deleted ones too. Raises NotApplied."""

    async def tallies(self) -> list[Tally]:
        """Return every tally, by name; deleted ones too. On DynamoDB it reads the whole table."""

    async def create(self, tally: Tally) -> Tally:
        """Create a tally unless there is one; return the one that is there now.

        May be repeated with the same `tally`. Raises NotApplied, OutcomeUnknown.
        """

    async def rewrite(self, before: Tally, after: Tally) -> bool:
        """Write a tally, with no record; its `rev` is one more.

        Conditional on `rev`, `inc`, sum and `adds` of `before`; False if they do not hold. A late
        copy does nothing, since `rev` never returns.
        """

    async def commit(self, commit: Commit) -> Beaten | None:
        """Write a tally and its new records in one transaction; None: that was done.

        Conditional as `Commit` says, with each condition judged by the same transaction. May be
        repeated: the records decide. Raises NotApplied; OutcomeUnknown: it may have been applied.
        """

    async def records(self, tally: Tally, keys: Sequence[str]) -> dict[str, AddRecord]:
        """Return the records of these keys in the tally's incarnation, read consistently."""

    def every_record(self, name: str, inc: int) -> AsyncIterator[AddRecord]:
        """Yield every record of an incarnation, in no order. On DynamoDB it reads the whole table.

        Raises NotApplied.
        """


def encoded_change(change: TallyChange | None) -> str:
    """Return the last change of a tally as stores write it."""
    return msgspec.json.encode(change).decode()


def decoded_change(text: str | None) -> TallyChange | None:
    """Return the last change that was written so; None if it cannot be read: it is only shown."""
    try:
        return msgspec.json.decode(text or "null", type=TallyChange | None)
    except msgspec.DecodeError:
        return None
