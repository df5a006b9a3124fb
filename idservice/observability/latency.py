"""A histogram of seconds, and the parts of which sums over workers and names are made."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from math import inf

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
REST = "_rest"  # label of the names beyond the cap; it is not a valid name


@dataclass(slots=True)
class Latency:
    """A histogram of seconds. Each counter has one, which is as long as its last bucket that
    counted anything."""

    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        bucket = bisect_left(LATENCY_BUCKETS_S, seconds)
        while len(self.counts) <= bucket:
            self.counts.append(0)
        self.counts[bucket] += 1
        self.total += seconds

    def at_most(self, share: float) -> float | None:
        """Return the seconds within which that share (0 .. 1) of all ended. It is the upper end of
        a bucket, infinite for the last one. None if nothing was counted."""
        rank = share * sum(self.counts)
        if not rank:
            return None
        running = 0
        for bound, counted in zip((*LATENCY_BUCKETS_S, inf), self.counts, strict=False):
            running += counted
            if running >= rank:
                return bound
        raise AssertionError(share)

    @classmethod
    def sum(cls, parts: Iterable["Latency"]) -> "Latency":
        """Return the sum of several histograms."""
        counts: list[int] = []
        total = 0.0
        for part in parts:
            counts = [a + b for a, b in zip_longest(counts, part.counts, fillvalue=0)]
            total += part.total
        return cls(counts, total)


def add_counts(into: dict[str, int], counts: dict[str, int]) -> None:
    """Add counts to those under the same keys."""
    for key, value in counts.items():
        into[key] = into.get(key, 0) + value
