"""Spreads connections evenly over the workers, by counts in memory that they share.

All workers accept from one socket, and the kernel prefers the one that began to wait last. On a
quiet machine one of two workers would get nearly every connection, and one of two cores would idle.
So a worker with more connections than another lets that one accept first.
"""

import mmap

GONE = 2**64 - 1  # in place of a count: this worker accepts nothing
WORD = 8  # bytes of a count; aligned, so it is read and written whole


def shared_counts(workers: int) -> memoryview:
    """Return the connection counts of `workers` workers; made before they are forked."""
    counts = memoryview(mmap.mmap(-1, WORD * workers)).cast("Q")
    for number in range(workers):
        counts[number] = GONE
    return counts


class AcceptSlot:
    """One worker's count among those of all; a process that serves alone has its own."""

    def __init__(self, counts: memoryview | None = None, number: int = 0) -> None:
        self._counts = shared_counts(1) if counts is None else counts
        self._number = number
        self._taken = False
        self.is_alone = counts is None  # no other worker accepts from the sockets
        self.pool_ends = counts is None  # no other process goes on with the sockets

    def take(self) -> None:
        self._taken = True
        self.set_count(0)

    def leave(self) -> None:
        """Accept nothing more as long as another worker does."""
        self._taken = False
        self._counts[self._number] = GONE

    def set_count(self, count: int) -> None:
        """Publish the number of connections that this worker has."""
        if self._taken:
            self._counts[self._number] = count

    def lets_others_first(self) -> bool:
        """Return True if another worker has fewer connections."""
        return self._counts[self._number] > min(self._counts)
