"""Takes ids for one caller straight from the store; none are kept in memory."""

from random import Random

from idservice import errors
from idservice.core.allocator import Allocator
from idservice.core.epoch import Shards
from idservice.stores.protocol import IdStore
from idservice.stores.records import Counter, Loan


async def take(store: IdStore, counter: Counter, count: int, *, random: Random) -> list[range]:
    """Return `count` ids as blocks, from one shard if it has enough left; fewer if a service lends
    no more now. Raises Exhausted, and as `IdStore.reserve`; ids reserved before another shard
    failed are a gap."""
    order = random.sample(range(counter.shards), counter.shards)
    allocator = Allocator(
        Shards(*(counter.layout(at) for at in order)),
        now=0.0,
        runway_s=1.0,
        block_max=count,
        strict=True,
    )
    refused = 0
    while allocator.held < count:
        missing = count - allocator.held
        if allocator.shards.room(0.0) < missing:
            raise errors.Exhausted(name=counter.name, count=count, limit=counter.limit)
        request = allocator.due(0.0, waiting=missing, first=missing)
        assert request is not None
        try:
            answer = await store.reserve(
                counter,
                count=request.count,
                seen=request.seen,
                room=request.room,
                shard=request.shard,
            )
        except errors.NoRoom as error:
            allocator.no_room(request.token, error.position, 0.0)
            continue
        except errors.NotApplied as error:
            refused += 1
            if not error.throttled or refused == counter.shards:
                raise
            allocator.throttled(request.token)
            continue
        if isinstance(answer, Loan):
            return list(answer.blocks)
        allocator.granted(request.token, answer.indices)
    return allocator.take_batch(count) or []
