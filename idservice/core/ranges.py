"""A block is a `range` of ids and nothing more; this is the arithmetic on blocks."""

from collections.abc import Iterable


def split(block: range, count: int) -> tuple[range, range]:
    """The first `count` ids of a block and the rest; either may be empty. 0 <= count."""
    return block[:count], block[count:]


def joined(blocks: Iterable[range]) -> list[range]:
    """The same ids in the same order, with blocks that continue each other made one."""
    result: list[range] = []
    for block in blocks:
        if result and block and continues(result[-1], block):
            result[-1] = range(result[-1].start, block.stop, block.step)
        elif block:
            result.append(block)
    return result


def continues(block: range, after: range) -> bool:
    """Whether `after` starts where `block` stops, at the same distance between ids."""
    return block.step == after.step and block.stop == after.start
