"""Reads the counters that scopes cover, and no others."""

import asyncio
from collections.abc import Sequence

from idservice.core.access_key import BELOW, EVERYTHING, outermost
from idservice.stores.protocol import IdStore
from idservice.stores.records import DELETED, Counter


async def listed(store: IdStore, after: str, most: int, scopes: Sequence[str]) -> list[Counter]:
    """Return the first `most` counters after a name that the scopes cover, by name.

    A prefix is read from its first name on, and a single name is read alone. Raises StoreError.
    """
    if EVERYTHING in scopes:
        return await store.page(after, most)
    parts = outermost(scopes)
    names = [part for part in parts if not part.endswith(BELOW) and part > after]
    entries = dict(zip(names, await asyncio.gather(*map(store.entry, names)), strict=True))
    found: list[Counter] = []
    for part in parts:
        if len(found) >= most:
            break
        if part.endswith(BELOW):
            prefix = part.removesuffix(EVERYTHING)
            page = await store.page(max(after, _below(prefix)), most - len(found))
            found += [one for one in page if one.name.startswith(prefix)]
        elif (entry := entries.get(part)) is not None and entry.state != DELETED:
            found.append(entry)
    return found


def _below(prefix: str) -> str:
    """Return a text that comes after every name before a prefix, and before all that begin with it:
    `~` is above all that a name has."""
    return f"{prefix[:-1]}{chr(ord(prefix[-1]) - 1)}~"
