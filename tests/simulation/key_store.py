"""One instance's way to access keys in memory, over a network that is not kind."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from idservice.stores.key_store import KeyBucket

Call = Callable[[str, Callable[[bool], Any]], Awaitable[Any]]


class KeyTable(Protocol):
    """What the store holds, and how it is written at one instant."""

    buckets: dict[str, KeyBucket]

    def rewrite_keys(self, after: KeyBucket) -> bool: ...


class SimKeys:
    """A `KeyStore` over one handle on a table."""

    def __init__(self, data: KeyTable, call: Call) -> None:
        self._data = data
        self._call = call

    async def bucket(self, number: str) -> KeyBucket:
        found: KeyBucket = await self._call(
            "read", lambda _: self._data.buckets.get(number, KeyBucket(number))
        )
        return found

    async def rewrite(self, after: KeyBucket) -> bool:
        done: bool = await self._call("rewrite", lambda _: self._data.rewrite_keys(after))
        return done
