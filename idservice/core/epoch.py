"""The epoch of a counter: its written name, the layout by which indices become ids, and the base of
the next one."""

from collections.abc import Sequence
from dataclasses import dataclass

FIRST_ORDINAL = 1
SEALED, GONE_BACK = "sealed:", "gone-back:"


def epoch_name(ordinal: int, random: str) -> str:
    """Return the name of an open epoch, as a position carries it: `<ordinal>.<random>`.

    The random part tells two epochs of one ordinal apart (two stores, a restored table).
    """
    return f"{ordinal}.{random}"


def ordinal_of(epoch: str) -> int:
    """Return the ordinal in the name of an open epoch. Raises ValueError if `epoch` is not such a
    name."""
    ordinal, dot, random = epoch.partition(".")
    if not (dot and random and ordinal.isascii() and ordinal.isdigit()):
        raise ValueError(f"{epoch!r} is not an epoch")
    return int(ordinal)


def gone_back(epoch: str) -> str:
    """Return the mark that replaces the epoch of a position that went back: nothing is granted on
    it."""
    return f"{GONE_BACK}{ordinal_of(epoch)}"


def sealed(epoch: str) -> str:
    """Return the seal that a position carries while the change that opens `epoch` is under way.

    The seal names that change. With a constant, a late copy of one opening would pass in another
    change.
    """
    ordinal_of(epoch)
    return f"{SEALED}{epoch}"


def ordinal_on(position: str | None) -> int:
    """Return the ordinal of the epoch that a position carries: open, sealed, or gone back.

    It is 0, below every epoch, for any other text, which was not written by idservice.
    """
    if position is None:
        return 0
    if position.startswith(GONE_BACK):
        position = position.removeprefix(GONE_BACK) + ".closed"
    try:
        return ordinal_of(position.removeprefix(SEALED))
    except ValueError:
        return 0


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout by which the indices of one shard become ids in one epoch (I6)."""

    base: int
    limit: int
    shard: int = 0
    shards: int = 1

    def ids(self, indices: range) -> range:
        """Return the ids of a stretch of indices of this shard, in rising order."""
        assert indices.step == 1
        return range(
            self.base + self.shard + self.shards * indices.start,
            self.base + self.shard + self.shards * indices.stop,
            self.shards,
        )

    def id(self, index: int) -> int:
        """Return the id of one index."""
        return self.base + self.shard + self.shards * index

    def indices(self, ids: range) -> range | None:
        """Return the stretch of indices that yields these ids, without those below the base; None
        if there is none. A block of the epoch before may have been continued by one of this
        epoch."""
        first, rest = divmod(ids.start - self.base - self.shard, self.shards)
        last = first + len(ids)
        if ids.step != self.shards or rest or last <= 0:
            return None
        return range(max(0, first), last)

    @property
    def end(self) -> int:
        """The first index whose id is above the limit; 0 if the shard has no id below it."""
        return max(0, (self.limit - self.base - self.shard) // self.shards + 1)


def first_base(start: int, shards: int) -> int:
    """Return the base of the first epoch of a counter that was not adopted. With one shard it is 0,
    so that index and id agree. With several it is the first id, so that every shard begins at index
    0."""
    return start if shards > 1 else 0


def first_free(base: int, reserved: Sequence[int], high: int) -> int:
    """Return the lowest id above all that were ever granted, and not below the base.

    `reserved` is, for each shard of the epoch that ends, the larger of position and mark, because a
    position alone may have been moved back by hand. `high` is the same for all epochs before.
    """
    shards = len(reserved)
    ends = (
        Layout(base=base, limit=base, shard=shard, shards=shards).id(index - 1) + 1
        for shard, index in enumerate(reserved)
        if index
    )
    return max(high, base, *ends) if reserved else high


def base_of(free: int, *, floor: int, ahead: int, lower: bool) -> int:
    """Return the base of an epoch: `floor`, or higher if ids from there may be in use already.

    `free` is above every id known to be granted, `ahead` is the distance to keep from it. With
    `lower` it is `floor`, whatever was granted: the operator answers for repeated ids.
    """
    return floor if lower else max(free + ahead, floor)
