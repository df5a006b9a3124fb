"""Whether ids are distinct, and whether they rise; from the ids alone.

Distinct: what was seen is kept as intervals. A sharded counter gives ids S apart, so all ids are
kept by their remainder modulo S: there they lie side by side again, and some hundred intervals
hold a hundred million ids.
"""

from bisect import bisect_left, bisect_right
from math import gcd, lcm

EXAMPLES_MAX = 10
LOOSE_MAX = 1024  # single ids put aside: to sort so few takes a fraction of a millisecond
MODULUS_MAX = 4096


class Intervals:
    """A set of whole numbers, kept as intervals that neither overlap nor touch."""

    __slots__ = ("starts", "stops")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []

    def add(self, start: int, stop: int) -> list[range]:
        """Add start .. stop - 1; what of it was there already."""
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
    """Every id seen; `step` is how far apart the ids of one block are, as far as is known."""

    def __init__(self, step: int = 1) -> None:
        self.seen = 0  # ids added, repeated ones included
        self.repeated = 0  # of those in intervals: how often one was there before; see `settle`
        self.examples: list[int] = []  # a few of the repeated ones
        self._modulus = step if step <= MODULUS_MAX else 1
        self._kept: dict[int, Intervals] = {}  # by remainder
        self._loose: list[int] = []

    def add(self, id: int) -> None:
        """One more."""
        self.seen += 1
        loose = self._loose
        loose.append(id)
        if len(loose) >= LOOSE_MAX:
            self.settle()

    def add_block(self, ids: range) -> None:
        """Many more, whose step is one of the counter. 0 < step, none below 0."""
        self.seen += len(ids)
        if self._modulus % ids.step:
            together = lcm(self._modulus, ids.step)
            if together <= MODULUS_MAX:
                self._refine(together)
        self._put(ids)

    def settle(self) -> None:
        """Put the single ids in place; from then on `repeated` is exact."""
        loose, self._loose = self._loose, []
        loose.sort()
        by_remainder: dict[int, list[int]] = {}
        for id in loose if self._modulus > 1 else ():
            by_remainder.setdefault(id % self._modulus, []).append(id)
        for ids in by_remainder.values() if self._modulus > 1 else [loose]:
            for run in runs(ids, self._modulus):
                self._put(run)

    @property
    def intervals(self) -> int:
        """How many are kept."""
        return sum(len(kept.starts) for kept in self._kept.values())

    def _put(self, ids: range) -> None:
        """Where every so-many-th id has the same remainder and follows the one before, each such
        part is one interval; else each id is one."""
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
        """Keep the same ids by another modulus."""
        old, before = self._kept, self._modulus
        self._kept, self._modulus = {}, modulus
        for remainder, kept in old.items():
            for start, stop in zip(kept.starts, kept.stops, strict=True):
                self._put(range(remainder + before * start, remainder + before * stop, before))


def runs(ids: list[int], step: int) -> list[range]:
    """The same ids in the same order, as ranges of `step`, as few as there can be."""
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
    """Whether ids rise: an answer's ids lie above all that had been read when it was asked for.

    In one scope: a connection, where the ids of one instance rise; every connection, where a strict
    counter has one order over all instances. Whoever drives the load sees one event after the
    other, so the highest id read so far is all that need be known of the past.
    """

    __slots__ = ("examples", "faults")

    def __init__(self) -> None:
        self.faults = 0
        self.examples: list[tuple[int, int]] = []  # (an id, one above it that had come before)

    def fault(self, id: int, above: int) -> None:
        """`id` came although `above` had been read before it was asked for."""
        self.faults += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append((id, above))


class Scope:
    """Where ids rise. `highest` is read when a request is sent, and told as its `floor`."""

    __slots__ = ("_order", "highest")

    def __init__(self, order: Order) -> None:
        self._order = order
        self.highest = -1

    def answered(self, floor: int, id: int) -> None:
        """A request sent at `floor` was answered with one id."""
        if id <= floor:
            self._order.fault(id, floor)
        if id > self.highest:
            self.highest = id

    def answered_blocks(self, floor: int, blocks: list[range]) -> None:
        """A request sent at `floor` was answered with many ids, which rise among themselves."""
        for block in blocks:
            if block[0] <= floor:
                self._order.fault(block[0], floor)
            floor = max(floor, block[-1])
        self.highest = max(self.highest, floor)
