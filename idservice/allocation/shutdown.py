"""The clean stop of an instance: every counter drops its ids, and gives back the unused ones."""

import asyncio
import logging
from collections.abc import Collection
from functools import partial

from idservice import errors
from idservice.allocation import give_back
from idservice.allocation.local_counter import LocalCounter
from idservice.core.epoch import Shard
from idservice.core.gap_causes import GapCause
from idservice.core.limits import LINES_MAX
from idservice.stores.at_once import for_each
from idservice.stores.protocol import IdStore, with_catalogue

log = logging.getLogger("idservice.allocation")

GIVE_BACK_MAX_S = 2.0  # for all counters together


async def close_all(
    local_counters: Collection[LocalCounter], store: IdStore, *, within_s: float
) -> None:
    """Stop all counters for good, and log what became of their ids; ids that were not given back in
    time are a gap. Raises nothing."""
    reasons: dict[str, str] = {}
    named = {local.counter.name: local for local in local_counters}
    close = partial(_close, store=store, reasons=reasons, patience_s=within_s / 2)
    try:
        async with asyncio.timeout(within_s):
            await for_each(tuple(local_counters), close)
    except TimeoutError:
        pass
    finally:
        lost = {name: _lost(local) for name, local in named.items()}
        back = {name: local.reading().returned for name, local in named.items()}
        _log_returned({f"counter {name}": ids for name, ids in back.items() if ids})
        _log_dropped({name: ids for name, ids in lost.items() if ids}, reasons)


async def _close(
    local: LocalCounter, store: IdStore, reasons: dict[str, str], *, patience_s: float
) -> None:
    name = local.counter.name
    blocks = await local.close(patience_s)  # first: forget them
    if not blocks:
        reasons[name] = "borrowed ids are not given back"
        return
    reasons[name] = "the store did not answer in time"
    why = "they are of an epoch that is over"
    for shard in local.allocator.shards:
        if any(shard.layout.indices(ids) is not None for ids in blocks):
            why = await _give_back(local, store, shard, blocks) or why
    reasons[name] = why


async def _give_back(local: LocalCounter, store: IdStore, shard: Shard, blocks: list[range]) -> str:
    """Give back the ids of one shard; return why some of them are a gap, empty if none are."""
    try:
        plan = await give_back.give_back(
            with_catalogue(store),
            local.counter,
            blocks,
            rev=shard.rev,
            end=shard.seen,
            shard=shard.layout.shard,
        )
        local.allocator.returned(plan.count, too_many=plan.too_many)
    except errors.StoreError as error:
        return str(error)
    except Exception:  # a bug of ours or of a library
        log.exception("giving unused ids back failed", extra={"action": "give_back_bug"})
        return "an internal fault"
    return "the list of returned ranges is full" if plan.too_many else ""


def _lost(local: LocalCounter) -> int:
    """Stop a counter for good; return the ids in memory that become a gap."""
    local.stop(errors.Stopped(), cause=GapCause.STOP)
    gaps = local.reading().gaps
    return gaps.get("stop", 0) + gaps.get("full", 0)


def _log_returned(ids: dict[str, int]) -> None:
    if len(ids) > LINES_MAX:
        ids = {f"{len(ids)} counters": sum(ids.values())}
    for name, count in ids.items():
        log.info("%s: %d ids were given back", name, count, extra={"action": "ids_returned"})


def _log_dropped(ids: dict[str, int], reasons: dict[str, str]) -> None:
    late = "there was no time left"
    told = {f"counter {name}": (ids[name], reasons.get(name, late)) for name in ids}
    if len(ids) > LINES_MAX:
        whys = dict.fromkeys(why for _, why in told.values())
        told = {f"{len(ids)} counters": (sum(ids.values()), "; ".join([*whys][:LINES_MAX]))}
    for name, (count, why) in told.items():
        log.info(
            "%s: %d ids in memory become a gap: %s", name, count, why,
            extra={"action": "ids_dropped"},
        )  # fmt: skip
