"""A read that waiting requests share: each gets one that began after it came (T7)."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedRead(Generic[T]):
    """Calls `read` one at a time. `spawn` starts a task that ends with the instance."""

    def __init__(
        self,
        read: Callable[[], Coroutine[object, object, T]],
        spawn: Callable[[Coroutine[object, object, None]], object],
    ) -> None:
        self._read = read
        self._spawn = spawn
        self._reading = False
        self._next: asyncio.Future[T] | None = None

    @property
    def is_idle(self) -> bool:
        """Return True if no read is under way or waited for."""
        return not self._reading

    async def begun_from_now(self) -> T:
        """Return the result of the next read to begin. Raises what it raises."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._next.add_done_callback(_retrieve)
            if not self._reading:
                self._reading = True
                self._spawn(self._run())
        return await asyncio.shield(self._next)

    async def _run(self) -> None:
        try:
            while (asked := self._next) is not None:
                self._next = None
                try:
                    asked.set_result(await self._read())
                except asyncio.CancelledError:
                    asked.cancel()
                    raise
                except Exception as error:
                    asked.set_exception(error)
        finally:
            self._reading = False
            if self._next is not None:
                self._next.cancel()
                self._next = None


def _retrieve(future: asyncio.Future[T]) -> None:
    if not future.cancelled():
        future.exception()  # every request for it may have left
