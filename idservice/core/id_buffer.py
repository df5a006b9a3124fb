"""The ids in memory: a row of blocks, and the cursor that runs through the first (I3, I11)."""

from collections import deque
from collections.abc import Iterator

from idservice.core import ranges


class IdBuffer:
    """Hands out ids of blocks in the order in which these were appended.

    `cursor` is an iterator on the first block, and each id comes out of it. It ends with its block,
    or earlier, where as many ids are left as `stop_at` was told. `advance` points it at the rest.

    With `shared`, threads may be about to move the cursor. Then it is never pointed anew while it
    has ids left, and blocks are not joined: they come in no order.
    """

    __slots__ = ("_rest", "_rest_count", "_segment", "_shared", "_stop_at", "cursor")

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self.cursor: Iterator[int] = iter(range(0))
        self._segment = range(0)  # what the cursor runs through
        self._rest: deque[range] = deque()  # what comes after it
        self._rest_count = 0
        self._stop_at = 0  # how many ids are left where the cursor ends early

    # --- what is held ----------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """The number of ids at hand."""
        left: int = self.cursor.__length_hint__()  # type: ignore[attr-defined]
        return left + self._rest_count

    @property
    def blocks(self) -> list[range]:
        """The ids at hand, as blocks in the order in which they would be handed out."""
        return [ids for ids in (self._remaining(), *self._rest) if ids]

    def _left_in_segment(self) -> int:
        left: int = self.cursor.__length_hint__()  # type: ignore[attr-defined]
        return left

    def _remaining(self) -> range:
        return self._segment[len(self._segment) - self._left_in_segment() :]

    # --- ids out ---------------------------------------------------------------------------------

    def take(self) -> int | None:
        """Take the next id; None if the cursor has ended."""
        return next(self.cursor, None)

    def advance(self) -> None:
        """Move the cursor on to the next ids, if it has none left."""
        if not self._left_in_segment() and self._rest:
            self._load()

    def take_batch(self, count: int) -> list[range] | None:
        """Take `count` ids, as blocks in rising order; None if fewer are held. 0 < count."""
        assert count > 0
        if count == 1:
            id = next(self.cursor, None)
            if id is None:
                self.advance()
                id = next(self.cursor, None)
            return None if id is None else [range(id, id + self._segment.step, self._segment.step)]
        if count > self.held:
            return None
        blocks: list[range] = []
        missing = count
        while missing:
            self.advance()
            head, tail = ranges.split(self._remaining(), missing)
            self._point_at(tail)
            blocks.append(head)
            missing -= len(head)
        return ranges.joined(blocks)

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

    # --- ids in ----------------------------------------------------------------------------------

    def append(self, ids: range) -> None:
        """Add a block behind the others, joined to the last one if it continues it."""
        if not self._shared and self._rest and ranges.continues(self._rest[-1], ids):
            before = self._rest.pop()
            ids = range(before.start, ids.stop, ids.step)
            self._rest_count -= len(before)
        self._rest.append(ids)
        self._rest_count += len(ids)

    def stop_at(self, left: int) -> None:
        """Let the cursor end where `left` ids are left, and point it anew."""
        self._stop_at = left
        if self._shared:
            self.advance()
            return
        remaining = self._remaining()
        if remaining:
            self._point_at(range(0))
            if self._rest and ranges.continues(remaining, self._rest[0]):
                after = self._rest.popleft()
                self._rest_count -= len(after)
                remaining = range(remaining.start, after.stop, after.step)
            self._rest.appendleft(remaining)
            self._rest_count += len(remaining)
        if self._rest:
            self._load()

    def _load(self) -> None:
        """Point the cursor at the next block, or at its part before the stop."""
        ids = self._rest.popleft()
        before_stop = self._rest_count - self._stop_at
        self._rest_count -= len(ids)
        if 0 < before_stop < len(ids):
            ids, after = ranges.split(ids, before_stop)
            self._rest.appendleft(after)
            self._rest_count += len(after)
        self._point_at(ids)

    def _point_at(self, ids: range) -> None:
        self._segment = ids
        self.cursor = iter(ids)
