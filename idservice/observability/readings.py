"""How a counter stands, on one instance or on several workers together: all of it from memory."""

from collections.abc import Sequence

import msgspec

SUSPECT = ("counter_suspect", "store_replaced")  # codes of errors
CLOSED = ("suspended", "moved", "unknown_counter")


class Standing(msgspec.Struct, frozen=True):
    """A counter as an instance has it in use. Numbers are ids, `runway` is in seconds.

    `code` and `why` are the error that whoever asks now is told; empty where ids are handed out.
    """

    epoch: int
    strict: bool
    shards: int
    limit: int | None  # the highest id; None where another service lends them and does not tell
    runway: float  # for which ids are to last
    stock: int  # held after the last refill
    low: int  # held when the next one begins
    highest: int | None  # of the ids this instance was ever granted in this epoch
    pace: float  # ids a second by which all instances together move on; 0: not known
    lent: bool = False  # by another service
    change: str = ""  # the kind of a change under way
    code: str = ""
    why: str = ""

    @property
    def suspect(self) -> bool:
        """Whether its ids may be those that others have: nothing is handed out."""
        return self.code in SUSPECT

    @property
    def closed(self) -> bool:
        """Whether an operator wants none of it handed out: that nothing is held is in order."""
        return self.code in CLOSED

    @property
    def limit_used(self) -> float | None:
        """Which part of the ids up to the limit is used, 0 .. 1; None where that is not known."""
        if self.code == "exhausted":
            return 1.0
        if self.limit is None or self.highest is None:
            return None
        return (self.highest + 1) / (self.limit + 1)


def together(standings: Sequence[Standing]) -> Standing | None:
    """How a counter stands that several workers have in use: each has a stock of its own, and sees
    all of the counter. The trouble of one is the trouble of whoever is connected to it."""
    if not standings:
        return None
    newest = max(standings, key=lambda one: one.epoch)
    worst = next((one for one in standings if one.code), newest)
    current = [one for one in standings if one.epoch == newest.epoch]
    return Standing(
        epoch=newest.epoch,
        strict=newest.strict,
        shards=newest.shards,
        limit=newest.limit,
        runway=newest.runway,
        stock=sum(one.stock for one in standings),
        low=sum(one.low for one in standings),
        highest=max((one.highest for one in current if one.highest is not None), default=None),
        pace=max(one.pace for one in current),
        lent=newest.lent,
        change=newest.change,
        code=worst.code,
        why=worst.why,
    )


def worst(standings: Sequence[Standing]) -> Standing | None:
    """Several counters as one that looks as bad as each: suspect if one is, as near to its limit
    as the nearest."""
    if not standings:
        return None
    shown = next((one for one in standings if one.suspect), standings[0])
    nearest = max(standings, key=lambda one: one.limit_used or 0.0)
    return msgspec.structs.replace(
        shown,
        strict=any(one.strict for one in standings),
        limit=nearest.limit,
        highest=nearest.limit if nearest.code == "exhausted" else nearest.highest,
    )
