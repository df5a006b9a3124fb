"""Sums as callers use them: add to a tally, read it, look up a key. The tallies of a store of our
own are such a source; so is the store of a sidecar, another service to which each request is passed
on."""

from dataclasses import dataclass
from typing import Protocol

from idservice import errors
from idservice.core.access_key import fits
from idservice.core.limits import KEY
from idservice.core.tally import AddRecord


@dataclass(frozen=True, slots=True)
class Told:
    """The record that a caller is told of. `replayed` means that it was there already.

    Its amounts are in units of 10^-decimals.
    """

    tally: str
    decimals: int
    record: AddRecord
    replayed: bool = False

    @property
    def before(self) -> int:
        """Return the sum before this record."""
        return self.record.sum - (self.record.amount if self.record.fate.counts else 0)


@dataclass(frozen=True, slots=True)
class TallyReading:
    """A tally as it was at `as_of` or later, in milliseconds since 1970; a read began then."""

    tally: str
    decimals: int
    sum: int
    rev: int
    at: int
    as_of: int


class TallySource(Protocol):
    """Adds to tallies, and reads them."""

    async def add(self, name: str, key: str, amount: str) -> Told:
        """Count an amount under a key, once for ever (T1); `amount` is a decimal number as text.

        Raises BadName, BadKey, BadAmount, UnknownTally, TallySuspended, OutOfBounds, KeyReused:
        nothing was counted for this request. After AddUnsettled or StoreKeyNotEnough, ask again
        with the same key.
        """

    async def value(self, name: str) -> TallyReading:
        """Return the sum, by a consistent read that began after this call (T7).

        Raises BadName, UnknownTally, StoreError.
        """

    async def recorded(self, name: str, key: str) -> Told:
        """Return the record of a key. Raises BadName, BadKey, UnknownTally, UnknownAdd, StoreError:
        UnknownAdd says that nothing was counted under it up to then."""


def check_key(key: str) -> str:
    """Return the key itself. Raises BadKey."""
    if not fits(KEY, key):
        raise errors.BadKey(value=key[:140])
    return key
