"""Another service's counters, as far as it tells of them."""

import msgspec

from idservice.core.epoch import epoch_name
from idservice.stores.records import ACTIVE, LIMIT_MAX, MOVED, SUSPENDED, Counter


class RemoteCounter(msgspec.Struct, frozen=True):
    """A counter as a service shows it, as far as it matters here."""

    counter: str
    epoch: int
    start: int | str
    limit: int | str
    strict: bool
    runway: float
    state: str
    next: int | str = 0

    def entry(self) -> Counter:
        """The same as an entry. As seen from here there is one row of ids, whatever the shards."""
        return Counter(
            name=self.counter,
            epoch=told_epoch(self.epoch),
            start=int(self.start),
            limit=int(self.limit),
            strict=self.strict,
            runway=self.runway,
            state=self.state if self.state in (SUSPENDED, MOVED) else ACTIVE,
        )


class Listed(msgspec.Struct, frozen=True):
    """All counters of a service."""

    counters: list[RemoteCounter]


def told_epoch(ordinal: int) -> str:
    """The random part of an epoch's name is not told; its ordinal is enough for order."""
    return epoch_name(ordinal, "chained")


def untold(name: str) -> Counter:
    """What is taken for a counter's entry before anything was told of it."""
    return Counter(name=name, epoch=told_epoch(0), limit=LIMIT_MAX, strict=True)
