"""The operations of a store on usage: parts of the totals of each run on each day.

One run alone writes a part, and always the whole of it. An operation raises NotApplied (nothing
happened) or OutcomeUnknown (it may have; a write may even be applied later).
"""

from typing import Protocol

import msgspec

from idservice.core.usage import UsageKind, UsagePart, UsageRow


class UsageStore(Protocol):
    """The usage in a store of our own."""

    async def write(self, part: UsagePart) -> bool:
        """Write a part, if its `seq` is higher than that of the one in the store; False if it is
        not. A late copy does nothing (U1). May be repeated."""

    async def parts(self, day: int) -> list[UsagePart]:
        """Return every part of a day, by name. Raises NotApplied, UsageIllFormed."""


_rows = msgspec.json.Decoder(list[tuple[UsageKind, str, int, int | None]])


def encoded_rows(rows: tuple[UsageRow, ...]) -> str:
    """Return rows as stores write them: `[["ids","orders",42,60],…]`."""
    return msgspec.json.encode(
        [(row.kind, row.name, row.count, row.reserved) for row in rows]
    ).decode()


def decoded_rows(text: str) -> tuple[UsageRow, ...]:
    """Return the rows that were written so. Raises ValueError."""
    return tuple(UsageRow(*row) for row in _rows.decode(text))  # its error is a ValueError


def split_name(name: str) -> tuple[str, int]:
    """Return the run and the number of the part of a name. Raises ValueError."""
    run, _, number = name.partition(".")
    return run, int(number or "0")
