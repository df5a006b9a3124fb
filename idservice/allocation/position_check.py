"""Questions to the store about a counter whose position is not as it was left."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from idservice import errors
from idservice.core.epoch import Shards
from idservice.core.timeouts import REFILL_MAX_S
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.records import Counter, Position

log = logging.getLogger("idservice.allocation")


@dataclass(frozen=True, slots=True)
class MismatchAnswer:
    """The entry of a counter; None if there is none or the store does not tell. If `changing`, the
    counter may be under a change, which moves its positions."""

    entry: Counter | None
    changing: bool


async def ask(
    store: IdStore, counter: Counter, error: errors.NotApplied, shard: int
) -> MismatchAnswer:
    """Ask why the position of a shard is not as the epoch of `counter` left it. Raises nothing. A
    position that was moved back is closed first, for all instances."""
    entry, known = None, False
    async with _in_time():
        if isinstance(error, errors.WentBack) and has_catalogue(store):
            # Other positions may have been moved back too: first this one, then all.
            for each in (shard, *range(counter.shards)):
                await store.close_gone_back(counter, error.epoch, each)
        entry = await store.counter(counter.name)
        known = True
    return MismatchAnswer(entry, changing=not known if entry is None else entry.intent is not None)


async def compare(
    store: IdStore, counter: Counter, shards: Shards, *, serving: Callable[[], bool]
) -> tuple[errors.NotApplied, MismatchAnswer] | None:
    """Return what is wrong with the positions that this instance has reserved ids on, and the
    answer to `ask`. None if nothing is wrong, if the store does not tell, or if the instance no
    longer is `serving`: a stop gives ids back, which lowers a position. Raises nothing."""
    for shard, seen in [(each.layout.shard, each.seen) for each in shards if each.seen]:
        error = await _wrong(store, counter, shard, seen)
        if error is not None and serving():
            return error, await ask(store, counter, error, shard)
    return None


async def _wrong(
    store: IdStore, counter: Counter, shard: int, seen: int
) -> errors.NotApplied | None:
    """Return what is wrong with a position, if it was `seen` as the end of a reservation."""
    about = {"store": store.address, "name": counter.name}
    async with _in_time():
        try:
            found = await store.position(counter, shard)
        except errors.PositionIllFormed as error:
            return error
        if found is None:
            return errors.PositionMissing(**about)
        if found.epoch != counter.epoch:
            return errors.EpochChanged(**about, found=found.epoch, epoch=counter.epoch)
        if found.next < (above := max(found.mark, seen)):
            return errors.WentBack(**about, position=found.next, above=above, epoch=found.epoch)
    return None


async def look(store: IdStore, name: str) -> tuple[Counter, Position] | None:
    """Return the entry of a counter and its first position; None if the store does not tell, or if
    the two are not of one epoch. Raises nothing."""
    entry = found = None
    async with _in_time():
        entry = await store.counter(name)
        found = await store.position(entry) if entry is not None else None
    if entry is None or found is None or found.epoch != entry.epoch:
        return None
    return entry, found


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """Bound the time of the calls inside. A failed call leaves the question open."""
    try:
        async with asyncio.timeout(REFILL_MAX_S):
            yield
    except (errors.StoreError, errors.StoreKeyNotEnough, TimeoutError):
        pass
    except Exception:  # a bug of ours or of a library
        log.exception("reading a counter failed", extra={"action": "doubt_bug"})
