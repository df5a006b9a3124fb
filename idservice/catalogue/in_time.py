"""Bounds the time that one call of a change to the store may take."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from idservice import errors
from idservice.stores.protocol import CatalogueStore

CALL_MAX_S = 5.0

T = TypeVar("T")


async def in_time(store: CatalogueStore, call: Coroutine[object, object, T]) -> T:
    """Return the answer of the store. Raises OutcomeUnknown if a call takes too long."""
    try:
        async with asyncio.timeout(CALL_MAX_S):
            return await call
    except TimeoutError:
        raise errors.OutcomeUnknown(
            store=store.address, action="a change", why="it took too long"
        ) from None
