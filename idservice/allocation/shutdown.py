"""The clean stop of an instance: every counter drops its ids, and gives back what it can."""

import asyncio
import logging
from collections.abc import Collection

from idservice import errors
from idservice.allocation import give_back
from idservice.allocation.local_counter import LocalCounter
from idservice.core.gap_causes import GapCause
from idservice.core.shards import Shard
from idservice.stores.protocol import IdStore, with_catalogue

log = logging.getLogger("idservice.closing")

GIVE_BACK_MAX_S = 2.0  # for all counters together
AT_ONCE = 16  # counters, so that the store is not flooded


async def close_all(supplies: Collection[LocalCounter], store: IdStore, *, within_s: float) -> None:
    """Stop all of them for good, and log what became of their ids.

    What was not given back in time is a gap. Raises nothing.
    """
    reasons: dict[str, str] = {}
    waiting = iter(tuple(supplies))

    async def close_some() -> None:
        for supply in waiting:
            await _close(supply, store, reasons, patience_s=within_s / 2)

    try:
        async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(supplies))):
                group.create_task(close_some())
    except TimeoutError:
        pass
    finally:
        for supply in supplies:
            supply.stop(errors.Stopped(), cause=GapCause.STOP)
            _log(supply, reasons.get(supply.counter.name, "there was no time left"))


async def _close(
    supply: LocalCounter, store: IdStore, reasons: dict[str, str], *, patience_s: float
) -> None:
    name = supply.counter.name
    blocks = await supply.close(patience_s)  # first: forget them
    if not blocks:
        reasons[name] = "what was lent is not given back"
        return
    reasons[name] = "the store did not answer in time"
    why = "they are of an epoch that is over"
    for shard in supply.allocator.shards:
        if any(shard.layout.indices(ids) is not None for ids in blocks):
            why = await _give_back(supply, store, shard, blocks) or why
    reasons[name] = why


async def _give_back(
    supply: LocalCounter, store: IdStore, shard: Shard, blocks: list[range]
) -> str:
    """Give back what is of one shard; why some of it is a gap, empty where none is."""
    try:
        plan = await give_back.give_back(
            with_catalogue(store),
            supply.counter,
            blocks,
            rev=shard.rev,
            end=shard.seen,
            shard=shard.layout.shard,
        )
        supply.allocator.returned(plan.count, too_many=plan.too_many)
    except errors.StoreError as error:
        return str(error)
    except Exception:  # a bug of ours or of a library
        log.exception("giving back failed", extra={"action": "give_back_bug"})
        return "an internal fault"
    return "the list of returned ranges is full" if plan.too_many else ""


def _log(supply: LocalCounter, why: str) -> None:
    reading, name = supply.reading(), supply.counter.name
    if reading.returned:
        log.info(
            "counter %s: %d ids were given back", name, reading.returned,
            extra={"action": "ids_returned"},
        )  # fmt: skip
    dropped = {cause: reading.gaps[cause] for cause in ("stop", "full") if cause in reading.gaps}
    if dropped:
        log.info(
            "counter %s: %d ids in memory become a gap: %s", name, sum(dropped.values()), why,
            extra={"action": "ids_dropped"},
        )  # fmt: skip
