"""Whether a table is still the one that was recognised: another may bear its name meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable

SILENCE_MAX_S = 30.0  # less than it takes to delete a table and restore one under its name


class TableIdentity:
    """Of one table. After something was not found in it, or after a silence in which nobody would
    have noticed, it is to be recognised again before anything is asked of it."""

    def __init__(self) -> None:
        self._doubts = 0  # times something was not found,
        self._settled = 0  # and so many of them were before it was last recognised
        self._heard_at = float("inf")  # when it last answered as itself; before that: later
        self._looking = asyncio.Lock()

    @property
    def in_doubt(self) -> bool:
        """Whether something was not found since it was recognised."""
        return self._settled != self._doubts

    def doubt(self) -> None:
        """Something was not found: is this still the table we know?"""
        self._doubts += 1

    def heard(self) -> None:
        """It answered as itself."""
        self._heard_at = asyncio.get_running_loop().time()

    async def by(self, look: Callable[[], Awaitable[None]]) -> None:
        """Recognise it by `look`, which raises where it is another one."""
        doubts = self._doubts
        await look()
        self._settled = doubts
        self.heard()

    async def sure(self, look: Callable[[], Awaitable[None]]) -> None:
        """Recognise it by `look` where that is due."""
        if self._is_due:
            async with self._looking:  # one for all who come meanwhile
                if self._is_due:
                    await self.by(look)

    @property
    def _is_due(self) -> bool:
        silent = asyncio.get_running_loop().time() > self._heard_at + SILENCE_MAX_S
        return self.in_doubt or silent
