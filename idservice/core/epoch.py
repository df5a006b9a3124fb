"""An epoch is one incarnation of a counter: its written name, how indices become ids, and where the
next one may begin."""

from collections.abc import Sequence
from dataclasses import dataclass

FIRST_ORDINAL = 1
SEALED, GONE_BACK = "sealed:", "gone-back:"


def epoch_name(ordinal: int, random: str) -> str:
    """How an open epoch is written on a position: `<ordinal>.<random>`.

    The random part keeps two epochs of one ordinal apart (two stores, a restored table).
    """
    return f"{ordinal}.{random}"


def ordinal_of(epoch: str) -> int:
    """The ordinal in an open epoch's name. Raises ValueError where `epoch` is no such name."""
    ordinal, dot, random = epoch.partition(".")
    if not (dot and random and ordinal.isascii() and ordinal.isdigit()):
        raise ValueError(f"{epoch!r} is no epoch")
    return int(ordinal)


def gone_back(epoch: str) -> str:
    """What replaces the epoch of a position that somebody moved back: nobody is granted on it."""
    return f"{GONE_BACK}{ordinal_of(epoch)}"


def sealed(epoch: str) -> str:
    """What stands on a position while the change that is to open `epoch` is under way.

    It names that change: a constant would let a late copy of one change's opening pass in another.
    """
    ordinal_of(epoch)
    return f"{SEALED}{epoch}"


def ordinal_on(position: str | None) -> int:
    """The ordinal of whatever a position carries: open, sealed, or gone back.

    0, below every epoch, for anything else, which nobody of ours wrote.
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
    """How the indices of one shard become ids in one epoch (I6)."""

    base: int
    limit: int
    shard: int = 0
    shards: int = 1

    def ids(self, indices: range) -> range:
        """The ids of a stretch of indices of this shard, in rising order."""
        assert indices.step == 1
        return range(
            self.base + self.shard + self.shards * indices.start,
            self.base + self.shard + self.shards * indices.stop,
            self.shards,
        )

    def id(self, index: int) -> int:
        """The id of one index."""
        return self.base + self.shard + self.shards * index

    def indices(self, ids: range) -> range | None:
        """The stretch of indices that yields these ids, without those below the base: a block of
        the epoch before may have been continued by one of this. None where there is none."""
        first, rest = divmod(ids.start - self.base - self.shard, self.shards)
        last = first + len(ids)
        if ids.step != self.shards or rest or last <= 0:
            return None
        return range(max(0, first), last)

    @property
    def end(self) -> int:
        """The first index whose id is above the limit; 0 where the shard has none below it."""
        return max(0, (self.limit - self.base - self.shard) // self.shards + 1)


def first_base(start: int, shards: int) -> int:
    """Where the first epoch of a counter of our own begins: at 0 with one shard, so that index and
    id agree; with several at its first id, so that every shard begins at index 0."""
    return start if shards > 1 else 0


def first_free(base: int, reserved: Sequence[int], high: int) -> int:
    """The lowest id above every one that was ever granted, and not below the base.

    `reserved` is, for each shard of the epoch that ends, the larger of position and mark: a
    position alone may have been moved back by hand. `high` is the same of all epochs before.
    """
    shards = len(reserved)
    ends = (
        Layout(base=base, limit=base, shard=shard, shards=shards).id(index - 1) + 1
        for shard, index in enumerate(reserved)
        if index
    )
    return max(high, base, *ends) if reserved else high


def base_of(free: int, *, floor: int, ahead: int, lower: bool) -> int:
    """Where an epoch begins: at `floor`, or further on where ids from there may be in use already.

    `free` is above every id known to be granted, `ahead` how far beyond it to go. With `lower` it
    is `floor` whatever was granted: somebody takes the blame for repeated ids.
    """
    return floor if lower else max(free + ahead, floor)
