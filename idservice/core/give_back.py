"""A plan for giving unused indices back to the position they came from (I5)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RETURNED_MAX = 8  # ranges that a position holds for other instances to claim


@dataclass(frozen=True, slots=True)
class GiveBack:
    """One write's result on a position: `next`, and the ranges that any instance may claim.

    `count` indices go back by it; `too_many` do not, because the list is full.
    """

    next: int
    returned: tuple[range, ...]
    count: int
    too_many: int


def planned(
    unused: Iterable[range], *, next: int, returned: Sequence[range], own: bool
) -> GiveBack:
    """Return how unused indices of one instance go back to a position that stands at `next`.

    `own` says that this instance made the last write there. Then the longest stretch of unused
    indices that ends at `next` is given up by moving the position back. A stretch that ends
    elsewhere is not: the index after it belongs to another instance. The rest is listed for other
    instances to claim. Raises ValueError if the position already lists some of these indices, or is
    below them.
    """
    pieces = merged(unused)
    total = sum(map(len, pieces))
    before = merged_below(returned, next)
    merged([*before, *merged_below(pieces, next)])
    if own and pieces and pieces[-1].stop == next:
        next = pieces.pop().start
    listed, too_many = before, 0
    for piece in sorted(pieces, key=len, reverse=True):
        longer = merged([*listed, piece])
        if len(longer) > RETURNED_MAX:
            too_many += len(piece)
        else:
            listed = longer
    return GiveBack(next, tuple(listed), total - too_many, too_many)


def merged(ranges: Iterable[range]) -> list[range]:
    """Return the same indices in rising order, adjacent ranges made one. Raises ValueError if an
    index is in two of them."""
    result: list[range] = []
    for each in sorted((each for each in ranges if each), key=lambda each: each.start):
        if result and each.start < result[-1].stop:
            raise ValueError(f"{each} and {result[-1]} share indices")
        if result and each.start == result[-1].stop:
            result[-1] = range(result[-1].start, each.stop)
        else:
            result.append(each)
    return result


def merged_below(ranges: Iterable[range], bound: int) -> list[range]:
    """Return the same as `merged`. Raises ValueError also if not all are between 0 and `bound`."""
    result = merged(ranges)
    if result and not 0 <= result[0].start <= result[-1].stop <= bound:
        raise ValueError(f"{result} is not below {bound}")
    return result
