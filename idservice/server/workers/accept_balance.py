"""How many connections each worker has, in memory that all of them see, so that they spread evenly.

Several processes accept from one socket, and the kernel prefers the one that began to wait last: on
a quiet machine one of two workers would have nearly every connection, and one of two cores would
idle. So who has more connections than another lets the other go first.
"""

import mmap

GONE = 2**64 - 1  # in place of a count: a worker that accepts nothing
WORD = 8  # bytes of a count; aligned, so it is read and written whole


class AcceptBalance:
    """The counts of `workers` workers. Made before they are forked, and shared by them."""

    def __init__(self, workers: int) -> None:
        self.counts = memoryview(mmap.mmap(-1, WORD * workers)).cast("Q")
        for number in range(workers):
            self.gone(number)

    def gone(self, number: int) -> None:
        """A worker accepts none."""
        self.counts[number] = GONE


class AcceptSlot:
    """One worker's part in a balance; who serves alone has a balance of its own."""

    def __init__(self, balance: AcceptBalance | None = None, number: int = 0) -> None:
        self._balance = balance or AcceptBalance(1)
        self._number = number
        self._taken = False

    def take(self) -> None:
        """From now on this worker accepts connections."""
        self._taken = True
        self.tell(0)

    def leave(self) -> None:
        """It accepts those only that nobody else takes."""
        self._taken = False
        self._balance.gone(self._number)

    def tell(self, count: int) -> None:
        """It has that many."""
        if self._taken:
            self._balance.counts[self._number] = count

    @property
    def all_left(self) -> bool:
        """Whether no worker wants further connections."""
        return min(self._balance.counts) == GONE

    def lets_others_first(self) -> bool:
        """Whether another worker has fewer connections."""
        counts = self._balance.counts
        return counts[self._number] > min(counts)
