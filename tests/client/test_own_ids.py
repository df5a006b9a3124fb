"""The ids of a client: each goes to one thread, of its own process."""

import sys
from collections.abc import Iterator
from itertools import islice
from threading import Lock

import pytest

from idservice.client import own_ids
from idservice.core.id_buffer import IdBuffer


def buffer_of(mark: object) -> IdBuffer:
    buffer = IdBuffer(shared=True, guarded=own_ids.own_ids(mark))
    buffer.append(range(5))
    buffer.advance()
    return buffer


@pytest.mark.parametrize("gil", [True, False])
def test_each_id_comes_once_and_none_in_a_child(gil: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil, raising=False)
    mark = [1]
    buffer = buffer_of(mark)
    assert [buffer.take(), next(buffer.cursor), *islice(buffer.cursor, 2)] == [0, 1, 2, 3]
    assert buffer.held == 1
    mark.clear()
    assert buffer.take() is None
    whole = buffer_of([1])
    assert [*whole.cursor] == [*range(5)]


def test_without_a_global_lock_the_cursor_moves_under_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = Lock()

    def watched() -> Iterator[int]:
        for id in range(3):
            assert lock.locked()
            yield id

    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    monkeypatch.setattr(own_ids, "Lock", lambda: lock)
    cursor = own_ids.own_ids([1])(watched())
    assert [*cursor] == [0, 1, 2]
    assert not lock.locked()
