"""A read that waiting requests share: each gets one that began after it came (T7)."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

from idservice import errors

T = TypeVar("T")


class SharedRead(Generic[T]):
    """Calls `read` one at a time, with the keys that the waiting requests ask for. `spawn` starts a
    task that ends with the instance. `on_idle` is called when no read is waited for any more."""

    def __init__(
        self,
        read: Callable[[set[str]], Coroutine[object, object, T]],
        spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
        on_idle: Callable[[], object] = lambda: None,
    ) -> None:
        self._read = read
        self._spawn = spawn
        self._on_idle = on_idle
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[T] | None = None
        self._keys: set[str] = set()  # of the next read

    async def begun_from_now(self, *keys: str) -> T:
        """Return the result of the next read to begin. Raises what it raises, and Stopped."""
        self._keys.update(keys)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._next.add_done_callback(_retrieve)
            if self._task is None:
                self._task = self._spawn(self._run())
                self._task.add_done_callback(self._ended)
        return await asyncio.shield(self._next)

    async def _run(self) -> None:
        try:
            while (asked := self._next) is not None:
                keys, self._next, self._keys = self._keys, None, set()
                try:
                    asked.set_result(await self._read(keys))
                except asyncio.CancelledError:
                    asked.set_exception(errors.Stopped())
                    raise
                except Exception as error:
                    asked.set_exception(error)
        finally:
            self._end()  # in the same moment, or a request that comes now would start no task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # it was cancelled before it began
            self._end()

    def _end(self) -> None:
        self._task = None
        if self._next is not None:
            self._next.set_exception(errors.Stopped())
            self._next = None
        self._on_idle()


def _retrieve(future: asyncio.Future[T]) -> None:
    if not future.cancelled():
        future.exception()  # every request for it may have left
