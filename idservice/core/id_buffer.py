"""The ids in memory: a row of blocks, and the cursor that runs through the first (I3, I11)."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

Guard = Callable[[Iterator[int]], Iterator[int]]
FEW = 64  # ids: to take up to so many one by one is faster than to make a new cursor


class IdBuffer:
    """Hands out ids of blocks in the order in which these were appended.

    `cursor` is an iterator on the first block, and each id comes out of it. It ends with its block,
    or earlier, when the number of ids given to `stop_at` is left. `advance` points it at the rest.

    With `shared`, threads may be about to move the cursor. Then it is never pointed anew while it
    has ids left, and blocks are not joined: they come in no order.

    With `guarded`, the cursor is the iterator that this function returns. It may end early, and be
    safe for threads (I1).
    """

    __slots__ = (
        "_guarded",
        "_ids",
        "_rest",
        "_rest_count",
        "_segment",
        "_shared",
        "_stop_at",
        "cursor",
    )

    def __init__(self, *, shared: bool, guarded: Guard | None = None) -> None:
        self._shared = shared
        self._guarded = guarded
        self._point_at(range(0))
        self._rest: deque[range] = deque()  # the blocks after that of the cursor
        self._rest_count = 0
        self._stop_at = 0  # how many ids are left where the cursor ends early

    @property
    def held(self) -> int:
        """The number of ids at hand."""
        return self._left_in_segment() + self._rest_count

    @property
    def blocks(self) -> list[range]:
        """The ids at hand, as blocks in the order in which they would be handed out."""
        return [ids for ids in (self._remaining(), *self._rest) if ids]

    def _left_in_segment(self) -> int:
        left: int = self._ids.__length_hint__()  # type: ignore[attr-defined]
        return left

    def _remaining(self) -> range:
        return self._segment[len(self._segment) - self._left_in_segment() :]

    def take(self) -> int | None:
        """Take the next id; None if the cursor has ended."""
        return next(self.cursor, None)

    def advance(self) -> None:
        """Move the cursor on to the next ids, if it has none left."""
        if not self._left_in_segment() and self._rest:
            self._load()

    def take_few(self, count: int) -> tuple[int, ...] | None:
        """Take `count` ids, if they are few and the cursor has as many left."""
        if count <= FEW and not self._shared and count <= self._left_in_segment():
            return tuple(islice(self.cursor, count))
        return None

    def take_batch(self, count: int) -> list[range] | None:
        """Take `count` ids, as blocks in rising order; None if fewer are held. 0 < count."""
        assert count > 0
        if count == 1:
            id = next(self.cursor, None)
            if id is None:
                self.advance()
                id = next(self.cursor, None)
            return None if id is None else [range(id, id + self._segment.step, self._segment.step)]
        ids = self.take_few(count)
        if ids is not None:
            return [range(ids[0], ids[-1] + self._segment.step, self._segment.step)]
        if count > self.held:
            return None
        blocks: list[range] = []
        missing = count
        while missing:
            self.advance()
            remaining = self._remaining()
            self._point_at(remaining[missing:])
            blocks.append(remaining[:missing])
            missing -= len(blocks[-1])
        return joined(blocks)

    def drop_first(self) -> int:
        """Drop what is left of the first block; return its number of ids."""
        left = self._left_in_segment()
        if left:
            self._point_at(range(0))
        else:
            left = len(self._rest.popleft())
            self._rest_count -= left
        return left

    def clear(self) -> list[range]:
        """Drop every id; return them as blocks."""
        blocks = self.blocks
        self._point_at(range(0))
        self._rest.clear()
        self._rest_count = 0
        return blocks

    def append(self, ids: range) -> None:
        """Add a block behind the others, joined to the last one if it continues it."""
        self._rest_count += len(ids)
        if not self._shared and self._rest and _continues(self._rest[-1], ids):
            ids = range(self._rest.pop().start, ids.stop, ids.step)
        self._rest.append(ids)

    def stop_at(self, left: int) -> None:
        """Let the cursor hand out ids until `left` of them are left."""
        self._stop_at = left
        if self._shared:
            self.advance()
            return
        remaining = self._remaining()
        if remaining:
            self._point_at(range(0))
            self._rest = deque(joined([remaining, *self._rest]))
            self._rest_count += len(remaining)
        if self._rest:
            self._load()

    def _load(self) -> None:
        """Point the cursor at the next block, or at its part before the stop."""
        ids = self._rest.popleft()
        before_stop = self._rest_count - self._stop_at
        if 0 < before_stop < len(ids):
            self._rest.appendleft(ids[before_stop:])
            ids = ids[:before_stop]
        self._rest_count -= len(ids)
        self._point_at(ids)

    def _point_at(self, ids: range) -> None:
        self._segment = ids  # what the cursor runs through
        self._ids = iter(ids)
        self.cursor = self._ids if self._guarded is None else self._guarded(self._ids)


def joined(blocks: Iterable[range]) -> list[range]:
    """Return the same ids in the same order, with blocks that continue each other made one."""
    result: list[range] = []
    for block in blocks:
        if result and block and _continues(result[-1], block):
            result[-1] = range(result[-1].start, block.stop, block.step)
        elif block:
            result.append(block)
    return result


def _continues(block: range, after: range) -> bool:
    return block.step == after.step and block.stop == after.start
