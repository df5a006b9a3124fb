"""One instance's way to the usage in memory, over a network that is not kind."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from idservice.core.usage import UsagePart

Call = Callable[[str, Callable[[bool], Any]], Awaitable[Any]]


class UsageTable(Protocol):
    """What the store holds, and how it is written at one instant."""

    usage: dict[tuple[int, str], UsagePart]

    def write_usage(self, part: UsagePart) -> bool: ...


class SimUsage:
    """A `UsageStore` over one handle on a table."""

    def __init__(self, data: UsageTable, call: Call) -> None:
        self._data = data
        self._call = call

    async def write(self, part: UsagePart) -> bool:
        done: bool = await self._call("usage", lambda _: self._data.write_usage(part))
        return done

    async def parts(self, day: int) -> list[UsagePart]:
        found: list[UsagePart] = await self._call(
            "read", lambda _: [self._data.usage[key] for key in sorted(self._data.usage)]
        )
        return [part for part in found if part.day == day]
