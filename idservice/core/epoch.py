"""An epoch is one incarnation of a counter: its written name, and how indices become ids."""

from dataclasses import dataclass

FIRST_ORDINAL = 1


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
    return f"gone-back:{ordinal_of(epoch)}"


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

    @property
    def end(self) -> int:
        """The first index whose id is above the limit; 0 where the shard has none below it."""
        return max(0, (self.limit - self.base - self.shard) // self.shards + 1)
