"""Checks that ids are distinct and that they rise, from the ids alone.

The ids that came are kept as intervals. A sharded counter gives ids S apart, so ids are kept by
their remainder modulo S. There they lie side by side again, and some hundred intervals hold a
hundred million ids.
"""

from bisect import bisect_left, bisect_right
from math import gcd, lcm

EXAMPLES_MAX = 10
LOOSE_MAX = 1024  # single ids put aside; sorting them takes a fraction of a millisecond
MODULUS_MAX = 4096


class Intervals:
    """A set of whole numbers, kept as intervals that neither overlap nor touch."""

    __slots__ = ("starts", "stops")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []

    def add(self, start: int, stop: int) -> list[range]:
        """Add start .. stop - 1; return the parts that were there already."""
        low = bisect_left(self.stops, start)
        high = bisect_right(self.starts, stop)
        again = []
        if low < high:
            for at in range(low, high):
                both = range(max(start, self.starts[at]), min(stop, self.stops[at]))
                if both:
                    again.append(both)
            start = min(start, self.starts[low])
            stop = max(stop, self.stops[high - 1])
        self.starts[low:high] = [start]
        self.stops[low:high] = [stop]
        return again


class Distinct:
    """All ids that came; `step` is the distance of the ids of one block, if it is known."""

    def __init__(self, step: int = 1) -> None:
        self.seen = 0  # ids added, repeated ones included
        self.repeated = 0  # ids that came again; exact after `settle`
        self.examples: list[int] = []  # a few of the repeated ones
        self._modulus = step if step <= MODULUS_MAX else 1
        self._kept: dict[int, Intervals] = {}  # by remainder
        self._loose: list[int] = []

    def add(self, id: int) -> None:
        self.seen += 1
        loose = self._loose
        loose.append(id)
        if len(loose) >= LOOSE_MAX:
            self.settle()

    def add_block(self, ids: range) -> None:
        """Add the ids of a block. 0 < step, none below 0."""
        self.seen += len(ids)
        if self._modulus % ids.step:
            together = lcm(self._modulus, ids.step)
            if together <= MODULUS_MAX:
                self._refine(together)
        self._put(ids)

    def settle(self) -> None:
        """Put the single ids in place, so that `repeated` is exact."""
        loose, self._loose = self._loose, []
        loose.sort()
        by_remainder: dict[int, list[int]] = {}
        for id in loose if self._modulus > 1 else ():
            by_remainder.setdefault(id % self._modulus, []).append(id)
        for ids in by_remainder.values() if self._modulus > 1 else [loose]:
            for run in runs(ids, self._modulus):
                self._put(run)

    def _put(self, ids: range) -> None:
        """Add ids; those that follow each other with the same remainder are one interval."""
        modulus = self._modulus
        period = modulus // gcd(modulus, ids.step)
        follows = ids.step * period == modulus
        for part in (ids[at::period] for at in range(min(period, len(ids)))):
            remainder, first = part.start % modulus, part.start // modulus
            if follows or len(part) == 1:
                self._insert(remainder, first, first + len(part))
            else:
                for id in part:
                    self._insert(remainder, id // modulus, id // modulus + 1)

    def _insert(self, remainder: int, start: int, stop: int) -> None:
        kept = self._kept.get(remainder)
        if kept is None:
            kept = self._kept[remainder] = Intervals()
        for again in kept.add(start, stop):
            self.repeated += len(again)
            room = EXAMPLES_MAX - len(self.examples)
            self.examples += [remainder + self._modulus * index for index in again[:room]]

    def _refine(self, modulus: int) -> None:
        old, before = self._kept, self._modulus
        self._kept, self._modulus = {}, modulus
        for remainder, kept in old.items():
            for start, stop in zip(kept.starts, kept.stops, strict=True):
                self._put(range(remainder + before * start, remainder + before * stop, before))


def runs(ids: list[int], step: int) -> list[range]:
    """Return the ids in their order as ranges of `step`, as few as possible."""
    if not ids:
        return []
    whole = range(ids[0], ids[0] + step * len(ids), step)
    if ids[-1] == whole[-1] and ids == list(whole):  # nearly always
        return [whole]
    found = []
    first = stop = ids[0]
    for id in ids:
        if id != stop:
            found.append(range(first, stop, step))
            first = id
        stop = id + step
    found.append(range(first, stop, step))
    return found


class Order:
    """Counts answers whose ids do not rise.

    The ids of an answer must lie above all ids in its scope that were read before it was asked for.
    The scope is one connection, where the ids of one instance rise, or all connections, for a
    strict counter. The load sees one event after the other, so the highest id so far is enough.
    """

    __slots__ = ("examples", "faults")

    def __init__(self) -> None:
        self.faults = 0
        self.examples: list[tuple[int, int]] = []  # (an id, one above it that had come before)

    def fault(self, id: int, above: int) -> None:
        """Note that `id` came although `above` had been read before it was asked for."""
        self.faults += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append((id, above))


class Scope:
    """A scope in which ids rise; `highest` at the send of a request becomes its `floor`."""

    __slots__ = ("_order", "highest")

    def __init__(self, order: Order) -> None:
        self._order = order
        self.highest = -1

    def answered(self, floor: int, id: int) -> None:
        """Check the one id of an answer to a request sent at `floor`."""
        if id <= floor:
            self._order.fault(id, floor)
        if id > self.highest:
            self.highest = id

    def answered_blocks(self, floor: int, blocks: list[range]) -> None:
        """Check the blocks of an answer to a request sent at `floor`, in their order."""
        for block in blocks:
            if block[0] <= floor:
                self._order.fault(block[0], floor)
            floor = max(floor, block[-1])
        self.highest = max(self.highest, floor)
