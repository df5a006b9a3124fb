"""Rows of a table on one service: to start one for each would cost ten times what it is asked."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import pytest

T = TypeVar("T")


class Rows(Generic[T]):
    """Row after row uses what `make` makes. Each is a subtest, reported by its name. The rows
    behind one that fails have another, so that it reaches none of them."""

    def __init__(self, subtests: pytest.Subtests, make: Callable[[], Awaitable[T]]) -> None:
        self._subtests = subtests
        self._make = make
        self._made: T | None = None

    @asynccontextmanager
    async def row(self, *name: object) -> AsyncIterator[T]:
        with self._subtests.test(", ".join(map(str, name))):
            made, self._made = self._made, None
            if made is None:
                made = await self._make()
            yield made
            self._made = made
