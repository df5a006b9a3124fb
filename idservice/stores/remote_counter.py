"""A counter as another service shows it."""

from typing import Annotated

import msgspec

from idservice.core.epoch import epoch_name
from idservice.stores.records import ACTIVE, LIMIT_MAX, MOVED, SUSPENDED, Counter

# As a service writes numbers: above 2^53 - 1 as a text. int() would take " 1" and "1_0" too.
Digits = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,18})\Z")]
Number = Annotated[int, msgspec.Meta(ge=0)] | Digits


class RemoteCounter(msgspec.Struct, frozen=True):
    """The fields that matter here of a counter as a service shows it."""

    counter: str
    epoch: int
    start: Number
    limit: Number
    strict: bool
    runway: float
    state: str
    next: Number = 0
    request_max: int | None = None
    rate_max: float | None = None
    store: str = ""  # "down" while the service shows what its memory knows

    def entry(self) -> Counter:
        """Return the counter as an entry with one shard: those of the service are not seen."""
        return Counter(
            name=self.counter,
            epoch=epoch_of(self.epoch),
            start=int(self.start),
            limit=int(self.limit),
            strict=self.strict,
            runway=self.runway,
            request_max=self.request_max,
            rate_max=self.rate_max,
            state=self.state if self.state in (SUSPENDED, MOVED) else ACTIVE,
        )


class RemoteCounters(msgspec.Struct, frozen=True):
    """A page of the counters of a service; `next` leads to the page after it."""

    counters: list[RemoteCounter]
    next: str = ""


def epoch_of(ordinal: int) -> str:
    """Return a name for an epoch. A service gives only the ordinal, which is enough for order."""
    return epoch_name(ordinal, "chained")


def assumed(name: str) -> Counter:
    """Return the entry that is assumed of a counter before any answer about it."""
    return Counter(name=name, epoch=epoch_of(0), limit=LIMIT_MAX, strict=True)
