"""Planted faults of shards: one rule of the real classes broken each, which must be found."""

from typing import Any

from idservice import errors
from idservice.allocation.epoch_state import EpochState
from idservice.core import epoch
from idservice.core.epoch import Shards
from idservice.stores.records import Counter, Position
from tests.simulation import sharded  # noqa: F401  its scenarios join the others
from tests.simulation.mutants import (
    Mutant,
    OpensWhateverIsThere,
    SealsBeside,
    SealsWhateverIsThere,
    WithoutEpoch,
    from_the_position_alone,
    one_seal_for_all,
)
from tests.simulation.store import ADDRESS, SimStore, Table


def based_on_all_but_the_last(base: int, reserved: Any, high: int) -> int:
    """Off by one shard: where the last one ended is not looked at."""
    return epoch.first_free(base, [*reserved[:-1], 0], high)


def based_on_the_first(base: int, reserved: Any, high: int) -> int:
    """Takes the first shard for all of them."""
    return epoch.first_free(base, [reserved[0]] + [0] * (len(reserved) - 1), high)


def based_without_the_shard(base: int, reserved: Any, high: int) -> int:
    """Takes every shard's ids for those of the first one: S - 1 too low at worst."""
    ends = (base + len(reserved) * (index - 1) + 1 for index in reserved if index)
    return max(high, base, *ends)


def based_on_indices(base: int, reserved: Any, high: int) -> int:
    """Takes indices for ids, as if there were one shard."""
    return max(high, *(base + index for index in reserved))


def seals_the_old(entry: Counter) -> range:
    """Only the shards of the epoch that ends."""
    return range(entry.shards)


def seals_the_new(entry: Counter) -> range:
    """Only the shards of the epoch that opens."""
    assert entry.intent is not None
    return range(entry.intent.shards)


class GivesBackToTheFirst(SimStore):
    """Gives ids of any shard back to the first one."""

    async def give_back(self, counter: Counter, found: Position, **rest: Any) -> bool:
        here = self.data.positions[counter.name, 0]
        rest["next"] = min(rest["next"], here.next)
        return await super().give_back(counter, here, **{**rest, "shard": 0})


class ClaimsFromTheFirst(SimStore):
    """Claims the ranges of any shard from the first one."""

    async def claim(self, counter: Counter, rev: int, shard: int = 0) -> tuple[range, ...]:
        here = self.data.positions[counter.name, 0]
        return await super().claim(counter, here.rev, 0)


class OneRoomForAll(Shards):
    """Takes a shard that is used up for all of them."""

    def room(self, now: float) -> int:
        return 0 if any(not shard.room for shard in self) else super().room(now)


class NeverGoesOn(Shards):
    """Waits for the shard that it began with."""

    def _go_on(self, cause: str, steps: int = 1) -> None:
        pass


class TakesAChangeForTheEnd(Table):
    """Says that a shard whose epoch is over has no room."""

    def reserve(self, counter: Counter, *, shard: int, **rest: Any) -> range:
        try:
            return super().reserve(counter, shard=shard, **rest)
        except errors.EpochChanged as error:
            raise errors.NoRoom(
                store=ADDRESS,
                name=counter.name,
                position=counter.layout(shard).end,
                rev=self.positions[counter.name, shard].rev,
                returned=(),
            ) from error


class DropsWhatIsOver(EpochState):
    """Drops the ids of an epoch that is merely over."""

    def begin_epoch(self, *, keep: bool) -> None:
        super().begin_epoch(keep=False)


SHARDS, FREE = "idservice.allocation.epoch_state.Shards", "idservice.catalogue.rules.first_free"
STANDS = "idservice.catalogue.rules.stand_reserved"
SHARDED_MUTANTS = [
    Mutant(based_on_all_but_the_last, FREE, "resharded", "unique"),
    Mutant(based_on_the_first, FREE, "resharded", "unique"),
    Mutant(based_without_the_shard, FREE, "rushed", "unique"),
    Mutant(based_on_indices, FREE, "resharded", "unique"),
    Mutant(seals_the_new, "idservice.catalogue.rules.to_seal", "rushed", "unique"),
    Mutant(seals_the_old, "idservice.catalogue.rules.to_seal", "resharded", "standing"),
    Mutant(OpensWhateverIsThere, "table", "rushed", "unique", found_by=11),
    Mutant(SealsBeside, "table", "rushed", "unique", found_by=2),
    Mutant(SealsWhateverIsThere, "table", "rushed", "false alarm", found_by=2),
    Mutant(one_seal_for_all, "idservice.core.epoch.sealed", "rushed", "unique", found_by=3),
    Mutant(WithoutEpoch, "table", "resharded", "unique", found_by=2),
    Mutant(from_the_position_alone, STANDS, "resharded", "unique", found_by=18),
    Mutant(GivesBackToTheFirst, "store", "relayed", "unique", found_by=6),
    Mutant(ClaimsFromTheFirst, "store", "relayed", "unique", found_by=11),
    Mutant(TakesAChangeForTheEnd, "table", "relayed", "exhausted", found_by=9),
    Mutant(OneRoomForAll, SHARDS, "wandering", "exhausted"),
    Mutant(NeverGoesOn, SHARDS, "wandering", "resumes"),
    Mutant(DropsWhatIsOver, "idservice.allocation.local_counter.EpochState", "online", "available"),
]
