"""Work on many items over a store: several at once, but without flooding it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import TypeVar

AT_ONCE = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


async def for_each(
    items: Iterable[Item], work: Callable[[Item], Coroutine[object, object, Result]]
) -> list[Result]:
    """Return the results of `work` on each item, in the order of the items. If some of them fail,
    the others end, and then the first failure is raised."""
    free = asyncio.Semaphore(AT_ONCE)

    async def work_on(item: Item) -> Result | BaseException:
        async with free:
            try:
                return await work(item)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # raised below, as itself and not in a group
                return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work_on(item)) for item in items]
    done = []
    for task in tasks:
        result = task.result()
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
