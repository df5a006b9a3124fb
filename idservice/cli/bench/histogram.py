"""A histogram of durations, in buckets that grow with the value.

Its memory is bounded, and no quantile is off by more than 1 %.
"""

from typing import Self

HALF = 128  # buckets per power of two: one is at most 1/128 of its values wide
SHIFT = HALF.bit_length()  # each whole number below 2 * HALF has its own bucket
NS_MAX = 2**63 - 1
SIZE = (63 - SHIFT + 2) * HALF


class Histogram:
    """Durations in whole nanoseconds."""

    __slots__ = ("_counts", "max", "total")

    def __init__(self) -> None:
        self._counts = [0] * SIZE
        self.total = 0
        self.max = 0

    def record(self, ns: int) -> None:
        """Count one duration; a negative one counts as 0."""
        if ns > self.max:
            self.max = min(ns, NS_MAX)
        ns = min(max(ns, 0), NS_MAX)
        shift = max(0, ns.bit_length() - SHIFT)
        self._counts[shift * HALF + (ns >> shift)] += 1
        self.total += 1

    def quantile(self, share: float) -> int:
        """Return the duration in ns that `share` of all did not exceed; 0 if there are none.

        It is never less than the true value, at most 1 % more, and exact at 1. 0 < share <= 1.
        """
        missing = min(self.total, max(1, -int(-share * self.total // 1)))
        for index, count in enumerate(self._counts):
            missing -= count
            if count and missing <= 0:
                shift = max(0, index // HALF - 1)
                return min(((index - shift * HALF + 1) << shift) - 1, self.max)
        return 0

    def copy(self) -> Self:
        """Return a copy."""
        other = type(self)()
        other._counts, other.total, other.max = self._counts[:], self.total, self.max
        return other

    def since(self, earlier: Self) -> Self:
        """Return the durations counted after `earlier` was copied; `max` is that of both."""
        later = self.copy()
        later.total -= earlier.total
        later._counts = [a - b for a, b in zip(self._counts, earlier._counts, strict=True)]
        return later
