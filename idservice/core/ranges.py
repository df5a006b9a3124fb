"""Arithmetic on ranges. A block is a `range` of ids, a stretch is a `range` of indices."""

from collections.abc import Iterable


def split(block: range, count: int) -> tuple[range, range]:
    """Return the first `count` ids of a block and the rest; either may be empty. 0 <= count."""
    return block[:count], block[count:]


def joined(blocks: Iterable[range]) -> list[range]:
    """Return the same ids in the same order, with blocks that continue each other made one."""
    result: list[range] = []
    for block in blocks:
        if result and block and continues(result[-1], block):
            result[-1] = range(result[-1].start, block.stop, block.step)
        elif block:
            result.append(block)
    return result


def continues(block: range, after: range) -> bool:
    """Return True if `after` starts where `block` stops, at the same distance between ids."""
    return block.step == after.step and block.stop == after.start


def merged(ranges: Iterable[range]) -> list[range]:
    """Return the same indices in rising order, adjacent ranges made one.

    Raises ValueError if an index is in two of them.
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


def merged_below(ranges: Iterable[range], bound: int) -> list[range]:
    """Return the same indices in rising order, adjacent ranges made one.

    Raises ValueError if ranges overlap, or are not all between 0 and `bound`.
    """
    result = merged(ranges)
    if result and not 0 <= result[0].start <= result[-1].stop <= bound:
        raise ValueError(f"{result} is not below {bound}")
    return result
