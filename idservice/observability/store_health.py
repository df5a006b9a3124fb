"""Notes if the store answers, as this instance last saw it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TypeVar

from idservice import errors
from idservice.observability.latency import Latency

log = logging.getLogger("idservice.health")

T = TypeVar("T")

READS_MISLEAD_S = 10.0  # a full disk, or a missing permission, lets a store answer reads alone


class StoreHealth:
    """Records if the store answered the last call, and the time that its answers took."""

    def __init__(self, ids_left: Callable[[], str] = str) -> None:
        self._ids_left = ids_left  # a sentence: how long the ids in memory last
        self.latency = Latency()
        self.down = asyncio.Event()
        self.last_error: Exception | None = None
        self._reads_count_from = 0.0  # loop time

    @property
    def up(self) -> bool:
        """True if the last call got an answer."""
        return not self.down.is_set()

    def answered(self, *, read: bool = False) -> None:
        """Record that the store answered, with a refusal or without. The answer to a `read` does
        not end what failed writes began, for a while."""
        if read and asyncio.get_running_loop().time() < self._reads_count_from:
            return
        self._reads_count_from = 0.0
        if self.down.is_set():
            log.info("the store answers again", extra={"action": "store_up"})
        self.down.clear()
        self.last_error = None

    def failed(self, error: Exception, *, read: bool = False) -> None:
        """Record that the store gave no answer, or could not serve."""
        if not read:
            self._reads_count_from = asyncio.get_running_loop().time() + READS_MISLEAD_S
        if not self.down.is_set():
            left = "" if isinstance(error, errors.StoreReplaced) else self._ids_left()
            said = f"{error} {left}".rstrip()
            log.warning("%s", said, extra={"action": "store_down"})
        self.last_error = error
        self.down.set()

    async def read(
        self, call: Coroutine[object, object, T], action: str, store: str, within_s: float
    ) -> T:
        """Return the answer to a call that changes nothing, and note if the store answered.

        Raises StoreError, and NotApplied if the call takes longer than `within_s`.
        """
        try:
            async with asyncio.timeout(within_s):
                result = await call
        except TimeoutError:
            slow = errors.NotAnswered(store=store, action=action, why="it took too long")
            self.failed(slow, read=True)
            raise slow from None
        except errors.StoreError as error:
            if error.answered:
                self.answered(read=True)
            else:
                self.failed(error, read=True)
            raise
        self.answered(read=True)
        return result
