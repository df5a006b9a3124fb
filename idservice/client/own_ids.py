"""Keeps the ids in a client's memory to its process, and each of them to one thread."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import compress, repeat
from threading import Lock


def own_ids(mark: object) -> Callable[[Iterator[int]], Iterator[int]]:
    """Return what makes an iterator give ids only while `mark` is true, each to one thread (I1)."""
    # The global lock keeps threads apart. It may be switched on while Python runs, never off.
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return lambda ids: compress(ids, repeat(mark))
    return partial(_InTurn, mark)


class _InTurn:
    """Gives the next id to one thread at a time: without the global lock the iterator of a range
    may give one number to two."""

    __slots__ = ("_ids", "_lock", "_mark")

    def __init__(self, mark: object, ids: Iterator[int]) -> None:
        self._mark = mark
        self._ids = ids
        self._lock = Lock()

    def __iter__(self) -> "_InTurn":
        return self

    def __next__(self) -> int:
        if not self._mark:  # first: in a forked child the lock may be held for ever
            raise StopIteration
        with self._lock:
            return next(self._ids)
