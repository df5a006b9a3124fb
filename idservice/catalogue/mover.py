"""Moves a counter from one store to another.

No ids are granted on the way. A move that stops half-way is finished by the same command.
"""

import logging
from random import Random

from msgspec.structs import replace

from idservice import errors
from idservice.catalogue import rules
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Delete, MoveAway
from idservice.catalogue.in_time import in_time
from idservice.catalogue.renewals import Arrive
from idservice.core.epoch import FIRST_ORDINAL, epoch_name, first_base
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import DELETED, Counter, Move

log = logging.getLogger("idservice.change")

MARK_TRIES = 3


class CounterMover:
    """Moves counters from the store `source` to the store `target`.

    Both are open, and are known to be the right ones (`verify`).
    `to` is the address of the target, as it is written into the entry; `stale_s` is as for
    `EpochChanger`. Every method raises StoreError.
    """

    def __init__(
        self,
        source: CatalogueStore,
        target: CatalogueStore,
        *,
        to: str,
        random: Random,
        stale_s: float,
    ) -> None:
        self._source = source
        self._target = target
        self._to = to
        self._random = random
        self._at_source = EpochChanger(source, random=random, stale_s=stale_s)
        self._at_target = EpochChanger(target, random=random, stale_s=stale_s)

    async def move(self, name: str, *, by: str = "", why: str = "") -> Counter:
        """Move a counter, unless it has arrived already; return it as it is at the target.

        Raises UnknownCounter; ChangeRefused and Moved, with nothing changed; OutcomeUnknown if the
        move is under way, which the same call finishes.
        """
        entry = await self._at_source.carry_out(name)
        if entry.move is None:
            entry = await self._leave(entry, MoveAway(by=by, why=why, to=self._to))
        move = entry.move
        assert move is not None
        if move.to != self._to:
            raise errors.Moved(name=name, why=entry.whereabouts)
        if move.arrived:
            return await self._there(name)
        arrived = await self._arrive(entry, move, by=by, why=why)
        await self._note_arrival(name, move)
        return arrived

    async def _leave(self, entry: Counter, leaving: MoveAway) -> Counter:
        """Close the counter at the source; return its entry, with the address of the target."""
        try:
            await self._prepare(entry, leaving)
        except errors.ChangeRefused:
            # The counter in use there may be this one, moved by another operator meanwhile.
            entry = await self._at_source.carry_out(entry.name)
            if entry.move is None:
                raise
            return entry
        _, entry = await self._at_source.change(entry.name, leaving)
        return entry

    async def _prepare(self, entry: Counter, leaving: MoveAway) -> None:
        """Check that the counter can arrive, before it is closed here.

        A tombstone is written at the target, which also shows that we may write there.
        """
        rules.begun(entry, leaving, [], self._random)  # a refusal here comes first
        there = await self._entry_there(entry.name)
        if there is None:
            there = await self._bury(entry)
        if there.epoch == entry.epoch:
            raise errors.Usage(
                why=f"{self._to} is the store that counter {entry.name} is in already, or a copy"
            )
        there = await self._at_target.carry_out(entry.name)
        if await self._is_untouched(there):
            there = await self._clear(there, leaving)
        trial = self._arrival(entry, token="none yet", floor=0, state=entry.state)  # noqa: S106
        rules.begun(there, trial, [], self._random)

    async def _is_untouched(self, there: Counter) -> bool:
        """Return True if an entry in use has never granted an id, as after `init`."""
        if there.ordinal != FIRST_ORDINAL or there.state == DELETED or there.adopted is not None:
            return False
        stands = [
            await in_time(self._target, self._target.shard_state(there, shard))
            for shard in range(there.shards)
        ]
        first = there.start - there.base
        return all(stand is not None and stand.reserved == first for stand in stands)

    async def _clear(self, there: Counter, leaving: MoveAway) -> Counter:
        """Delete a counter of this name that has never handed out an id."""
        delete = Delete(by=leaving.by, why=leaving.why)
        _, cleared = await self._at_target.change(there.name, delete)
        if cleared.high > there.start:  # its first ids were just taken
            raise errors.ChangeRefused(
                name=there.name,
                why="the store has a counter of this name, which handed out ids up to"
                f" {cleared.high - 1} just now and was deleted. Move again to go on above both, or"
                " create it again there",
            )
        return cleared

    async def _arrive(self, entry: Counter, move: Move, *, by: str, why: str) -> Counter:
        if await self._entry_there(entry.name) is None:
            log.warning(
                "%s had counter %s when the counter left for it, and was created again since. If "
                "ids were handed out there, ids from %d on repeat: fence the counter past them "
                "at once",
                self._to, entry.name, entry.high,
                extra={"action": "arrival_anew"},
            )  # fmt: skip
            await self._bury(entry)
        # `high` is above everything ever granted here: the positions were sealed before it was set.
        arrival = self._arrival(
            entry, token=move.token, floor=entry.high, state=move.state, by=by, why=why
        )
        try:
            _, there = await self._at_target.change(entry.name, arrival)
        except errors.ChangeRefused as refused:
            why = (
                f"{refused.fields['why']}. Until then its ids are not handed out: it left its store"
            )
            raise errors.ChangeRefused(name=entry.name, why=why) from refused
        return there

    async def _note_arrival(self, name: str, move: Move) -> None:
        """Note the arrival at the source. A failure leaves a message there that is out of date."""
        try:
            for _ in range(MARK_TRIES):
                entry = await self._at_source.carry_out(name)
                if entry.move is None or entry.move.token != move.token or entry.move.arrived:
                    return
                if await in_time(self._source, self._source.rewrite(entry, rules.arrived(entry))):
                    log.info("counter %s arrived at %s", name, move.to, extra={"action": "moved"})
                    return
        except errors.StoreError as error:
            log.warning(
                "counter %s arrived at %s, and its old store could not note it: %s; run the same "
                "move again",
                name, move.to, error,
                extra={"action": "arrival_not_noted"},
            )  # fmt: skip

    async def _there(self, name: str) -> Counter:
        there = await self._entry_there(name)
        if there is None:
            why = (
                f"it was moved to {self._to}, and is not there any more; see docs/how-to/recover.md"
            )
            raise errors.ChangeRefused(name=name, why=why)
        return there

    async def _entry_there(self, name: str) -> Counter | None:
        return await in_time(self._target, self._target.entry(name))

    async def _bury(self, entry: Counter) -> Counter:
        """Create the tombstone of a name that has granted no ids and is not in use."""
        epoch = epoch_name(FIRST_ORDINAL, f"{self._random.getrandbits(64):016x}")
        tombstone = Counter(
            name=entry.name, epoch=epoch, start=entry.start, limit=entry.limit,
            base=first_base(entry.start, entry.shards), shards=entry.shards, strict=entry.strict,
            runway=entry.runway, state=DELETED,
        )  # fmt: skip
        return await in_time(self._target, self._target.create(tombstone))

    def _arrival(
        self, entry: Counter, *, token: str, floor: int, state: str, by: str = "", why: str = ""
    ) -> Arrive:
        wanted = replace(entry, adopted=None, home=None, move=None, intent=None)
        return Arrive(
            by=by, why=why, to=self._to, state=state, next=floor, wanted=wanted, origin=token
        )
