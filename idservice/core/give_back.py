"""Ids that nobody used go back to where they came from: which indices of a shard, and as what."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RETURNED_MAX = 8  # ranges that a position holds for others to claim


@dataclass(frozen=True, slots=True)
class GiveBack:
    """What one write is to leave on a position: `next`, and the ranges that anybody may claim.

    `count` indices go back by it; `too_many` do not, because the list is full.
    """

    next: int
    returned: tuple[range, ...]
    count: int
    too_many: int


def merged(ranges: Iterable[range]) -> list[range]:
    """The same indices in rising order, what continues another made one with it.

    Raises ValueError where an index is in two of them.
    """
    result: list[range] = []
    for each in sorted((each for each in ranges if each), key=lambda each: each.start):
        if result and each.start < result[-1].stop:
            raise ValueError(f"{each} and {result[-1]} share indices")
        if result and each.start == result[-1].stop:
            result[-1] = range(result[-1].start, each.stop)
        else:
            result.append(each)
    return result


def claimable(returned: Iterable[range], *, below: int) -> list[range]:
    """Returned ranges in rising order, as they are handed out.

    Raises ValueError where they overlap, or are not all `below` what was granted since.
    """
    ranges = merged(returned)
    if ranges and not 0 <= ranges[0].start <= ranges[-1].stop <= below:
        raise ValueError(f"{ranges} is not below {below}")
    return ranges


def give_back(
    unused: Iterable[range], *, next: int, returned: Sequence[range], own: bool
) -> GiveBack:
    """How unused indices of one's own go back to a position that stands at `next`.

    With `own`, nothing was written there since one's own last reservation. Then the longest stretch
    of them that ends at `next` is simply given up: not all that was reserved, of which some may be
    used, and not what ends elsewhere, where the next one is somebody else's. The rest is for others
    to claim. Raises ValueError where the position cannot be as it is: it has some of them already.
    """
    pieces = merged(unused)
    total = sum(map(len, pieces))
    before = claimable(returned, below=next)
    merged([*before, *claimable(pieces, below=next)])
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
