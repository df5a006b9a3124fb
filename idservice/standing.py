"""How a counter stands, on one instance or on several workers together: all of it from memory."""

from collections.abc import Sequence

import msgspec


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
