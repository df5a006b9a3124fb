"""Returns unused ids to the store at a clean stop, and claims ids that other instances returned.

A stop gives back at most once, whatever the outcome (I5). `shutdown` decides when.
"""

import asyncio
import logging
from collections.abc import Iterable

from idservice import errors
from idservice.core.allocator import Allocator
from idservice.core.epoch import Shard
from idservice.core.gap_causes import GapCause
from idservice.core.give_back import GiveBack, merged_below, planned
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import Counter, Grant

log = logging.getLogger("idservice.allocation")


async def give_back(
    store: CatalogueStore,
    counter: Counter,
    blocks: Iterable[range],
    *,
    rev: int,
    end: int,
    shard: int = 0,
) -> GiveBack:
    """Give back ids of one shard that this instance has dropped.

    `rev` and `end` are those of this instance's last reservation there, as the store answered it.
    Ids of other shards, or of an epoch that is over, are left out. Raises StoreError; the ids are
    then gaps. Not even a refusal proves that nothing happened: a proxy may have sent the request
    twice.
    """
    about = {"store": store.address, "name": counter.name}
    about["action"] = f"giving back ids of counter {counter.name}"
    layout = counter.layout(shard)
    pieces = [indices for ids in blocks if (indices := layout.indices(ids)) is not None]
    found = await store.position(counter, shard)
    if found is None:
        raise errors.PositionMissing(**about)
    if found.epoch != counter.epoch:
        raise errors.EpochChanged(**about, found=found.epoch, epoch=counter.epoch)
    if found.next < max(found.mark, end):
        above = max(found.mark, end)
        raise errors.WentBack(**about, position=found.next, above=above, epoch=found.epoch)
    own = (found.rev, found.next) == (rev, end)
    try:
        plan = planned(pieces, next=found.next, returned=found.returned, own=own)
    except ValueError as error:
        raise errors.PositionIllFormed(**about, why=error) from error
    if plan.count and not await store.give_back(
        counter, found, next=plan.next, returned=plan.returned, shard=shard
    ):
        raise errors.NotApplied(**about, why="another instance wrote after the read")
    return plan


async def claim(
    store: CatalogueStore, counter: Counter, grant: Grant, *, shard: int = 0
) -> list[range]:
    """Take over ids that were given back to a shard, as blocks in rising order below the grant.

    The write is applied only if no other came since the grant, so the ranges have no newer id.
    Raises StoreError; after OutcomeUnknown the ranges are gaps.
    """
    about = {"store": store.address, "action": f"claiming ids of counter {counter.name}"}
    below = grant.indices.start
    try:
        merged_below(grant.returned, below)
    except ValueError as error:
        why = f"the list of returned ranges is not valid: {error}"
        raise errors.NotApplied(**about, why=why) from error
    taken = await store.claim(counter, grant.rev, shard)
    try:
        ranges = merged_below(taken, below)
    except ValueError as error:
        raise errors.OutcomeUnknown(**about, why=f"its answer is not valid: {error}") from error
    return [counter.layout(shard).ids(indices) for indices in ranges]


async def inherit(
    store: CatalogueStore,
    counter: Counter,
    grant: Grant,
    allocator: Allocator,
    shard: Shard,
    *,
    patience_s: float,
) -> int:
    """Claim ids that were given back to a shard, bring them into memory, and return their number.

    Nothing is claimed if a newer id of the shard was handed out. Ids that may have been claimed
    without an answer are counted as a gap. Raises nothing.
    """
    over = allocator.retired
    if counter.strict or shard.begun or over:
        return 0
    lost = sum(map(len, grant.returned))  # until the outcome is known
    claimed: list[range] = []
    try:
        async with asyncio.timeout(patience_s):
            claimed = await claim(store, counter, grant, shard=shard.layout.shard)
        lost = 0
    except errors.NotApplied as error:
        lost = 0
        log.info("%s", error, extra={"action": "ids_not_claimed"})
    except (errors.OutcomeUnknown, TimeoutError) as error:
        why = str(error) or f"claiming ids of counter {counter.name} took too long"
        log.warning("%s; they are a gap", why, extra={"action": "ids_not_claimed"})
    except Exception:  # a bug of ours or of a library: nothing is known
        log.exception("claiming returned ids failed", extra={"action": "claim_bug"})
    finally:
        allocator.record_burnt(lost, GapCause.CLAIM)
    count = sum(map(len, claimed))
    if allocator.retired:  # in the meantime
        allocator.record_burnt(count, GapCause.LATE)
        return 0
    if claimed:
        shard.begun = True
        allocator.inherit(claimed)
        log.info(
            "counter %s: claimed %d ids that were given back",
            counter.name,
            count,
            extra={"action": "ids_claimed"},
        )
    return count
