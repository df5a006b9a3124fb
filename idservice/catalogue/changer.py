"""Carries out changes of epoch, step by step.

Theory of operation. The state of a change is in the store: in the entry and on the shards. Each
step leads to the next state. Every step is conditional and may be repeated by any instance or
operator at any time: a step that was taken before, by an operator that died or by a late copy of a
request, is found done. So each look at an entry begins at INTENT and passes the steps that are
done. If another writer was ahead of a step, the look ends and the next one begins.

| state | the store | left by |
|---|---|---|
| INTENT | the entry has an intent | each shard is sealed, conditional on the value read |
| SEALED | no shard grants an id of a former epoch | the base is written, on no base yet |
| BASED | the entry has the base of the new epoch | each shard is opened, on the seal |
| OPEN | the shards carry the new epoch; none if the counter is closed | the entry is rewritten |
| DONE | the entry is in the new epoch | |
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from random import Random
from time import time
from typing import TypeVar

from msgspec.structs import replace

from idservice import errors
from idservice.catalogue import change_log, rules
from idservice.catalogue.changes import Change, word_of
from idservice.catalogue.in_time import in_time
from idservice.core import epoch as epochs
from idservice.core.timeouts import backoff
from idservice.stores.at_once import for_each
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import VALUE, Counter, Intent, ShardState

TRIES = 8  # failures in a row after which a change is left to an instance
PAUSE_FIRST_S, PAUSE_MAX_S = 0.1, 2.0

T = TypeVar("T")


class ChangeState(Enum):
    """The states of a change."""

    INTENT = "intent"
    SEALED = "sealed"
    BASED = "based"
    OPEN = "open"
    DONE = "done"


@dataclass(slots=True)
class _Seals:
    """The seals for an epoch, the loop time at which this process first saw all of them, and if the
    wait that follows was logged."""

    epoch: str
    seen_at: float
    is_told: bool = False


@dataclass(slots=True)
class _Work:
    """A change under way, as one look found it; `past` is the number an operator vouches for. The
    change is `left` if another operator or instance began it, and it stood still."""

    entry: Counter
    past: int | None
    left: bool
    found: list[ShardState] = field(default_factory=list)  # shards, once sealed
    seals: _Seals | None = None  # once sealed

    @property
    def intent(self) -> Intent:
        assert self.entry.intent is not None
        return self.entry.intent


class EpochChanger:
    """Changes counters of one store.

    An instance that cannot reach the store goes on for `stale_s` at most. An epoch that repeats ids
    on purpose opens only that long after the last shard was sealed. `clock` tells the time of day.
    Every method raises StoreError.
    """

    def __init__(
        self,
        store: CatalogueStore,
        *,
        random: Random,
        stale_s: float,
        clock: Callable[[], float] = time,
    ) -> None:
        self._store = store
        self._random = random
        self._stale_s = stale_s
        self._clock = clock
        self._seals: dict[str, _Seals] = {}  # by counter, of the change under way
        # By the state that is left, in the order of the states.
        self._steps: dict[ChangeState, Callable[[_Work], Coroutine[object, object, bool]]] = {
            ChangeState.INTENT: self._seal_shards,
            ChangeState.SEALED: self._write_base,
            ChangeState.BASED: self._open_shards,
            ChangeState.OPEN: self._conclude,
        }

    async def change(self, name: str, wanted: Change) -> tuple[Counter, Counter]:
        """Change a counter; return its entry before and after, which is the same if the counter is
        as wanted already.

        Another change under way is finished first. Raises UnknownCounter, Moved, ChangeRefused;
        OutcomeUnknown also if the change was begun, which an instance then finishes.
        """
        before, begun = await self.begin(name, wanted, follows=True)
        return before, await self.finish(begun, wanted)

    async def begin(
        self, name: str, wanted: Change, *, follows: bool = False
    ) -> tuple[Counter, Counter]:
        """Begin a change; return the entry before it and the entry that was written. The
        written entry has the intent, unless this write completes the change.

        If another change is under way, it is finished first if this one `follows` it. Else Changing
        is raised. Raises also UnknownCounter, Moved, ChangeRefused.
        """
        vouched = wanted.vouched is not None
        for _ in range(TRIES):
            if follows:
                before = await self.carry_out(name, past=wanted.vouched)
            elif (before := await self._patiently(partial(self._entry, name))).intent is not None:
                raise before.being_changed()
            shards = range(max(before.shards, wanted.new_shards))
            found = await for_each(shards, partial(self._found, before, vouched=vouched))
            wanted = replace(wanted, at=datetime.fromtimestamp(int(self._clock()), UTC))
            after = self._with_end(rules.begun(before, wanted, found, self._random))
            if after is before or await self._begin(before, after, wanted):
                return before, after
        why = "other operators change it at the same time; try again"
        raise errors.NotApplied(store=self._store.address, action=_action(name), why=why)

    async def finish(self, begun: Counter, wanted: Change) -> Counter:
        """Finish what `begin` began; return the entry afterwards. Raises OutcomeUnknown if that
        does not succeed: an instance then finishes it."""
        if begun.intent is None:
            return begun
        try:
            return await self.carry_out(begun.name, past=wanted.vouched)
        except errors.StoreError as error:
            raise errors.OutcomeUnknown(
                store=self._store.address,
                action=_action(begun.name),
                why=f"{word_of(wanted.kind)} is begun and not done ({str(error).rstrip('.')}). A"
                " serving instance finishes it, and so does the same command",
            ) from error

    async def plan(self, name: str, wanted: Change) -> tuple[Counter, int]:
        """Return a counter and the first id above all that were granted; change nothing.

        Raises UnknownCounter, and ChangeRefused and others if `change` would be refused.
        """
        entry = await self._patiently(partial(self._entry, name))
        find = partial(self._found, entry, vouched=wanted.vouched is not None)
        entry, free = rules.settled(entry, await for_each(range(entry.shards), find))
        wanted.check(entry, free)
        return entry, free

    async def carry_out(self, name: str, *, past: int | None = None, left: bool = False) -> Counter:
        """Carry out the change under way, if any; return the entry without one.

        `past` is a number that an operator vouches is above every id in use, if the position of a
        shard is lost. `left` is for the log: the change stood still. Raises UnknownCounter.
        """
        while True:
            entry = await self._patiently(partial(self._take_steps, name, past, left=left))
            if entry.intent is None:
                self._seals.pop(name, None)
                return entry

    def _with_end(self, begun: Counter) -> Counter:
        """Return the entry with the time at which ids are to come again, if that takes long."""
        change = begun.last_change
        if begun.intent is None or not begun.intent.lower or change is None or change.at is None:
            return begun
        until = change.at + timedelta(seconds=self._stale_for(begun))
        return replace(begun, last_change=replace(change, until=until))

    def _stale_for(self, entry: Counter) -> float:
        """Return the seconds for which an instance may serve without the catalogue."""
        return max(self._stale_s, 2 * (entry.runway or 0.0))

    # --- the steps -------------------------------------------------------------------------------

    async def _begin(self, before: Counter, after: Counter, wanted: Change) -> bool:
        """Write the intent; return False if another writer wrote the entry first."""
        unsure = False
        for attempt in range(1, TRIES + 1):
            try:
                if await self._call(self._store.rewrite(before, after)):
                    break
                # The condition failed, maybe because of our own write, whose answer was lost.
                entry = await self._call(self._store.entry(before.name))
                if entry == after or _carries(entry, after.intent):
                    break
                if not unsure or entry is None or entry.rev == after.rev:
                    return False
                raise self._unsure(before, "another change followed")
            except errors.OutcomeUnknown:
                unsure = True
                if attempt == TRIES:
                    raise
            except errors.NotApplied as error:
                if not error.retryable or attempt == TRIES:
                    if unsure:  # the refusal of a repeat does not tell what became of the first
                        raise self._unsure(before, str(error).rstrip(".")) from error
                    raise
            await self._pause(attempt)
        change_log.tell_of_begin(before, after, wanted)
        return True

    def _unsure(self, before: Counter, why: str) -> errors.OutcomeUnknown:
        """Return the error for a write of the intent whose outcome cannot be found out."""
        return errors.OutcomeUnknown(
            store=self._store.address,
            action=_action(before.name),
            why=f"{why}; `idservice show {before.name}` tells what it is now",
        )

    async def _take_steps(self, name: str, past: int | None, *, left: bool) -> Counter:
        """Take the change under way, if any, from its first state to the last.

        Return the entry as it was found. Another writer that is ahead ends the look early.
        """
        entry = await self._entry(name)
        if entry.intent is not None:
            work = _Work(entry, past, left)
            for step in self._steps.values():
                if not await step(work):
                    break
        return entry

    async def _seal_shards(self, work: _Work) -> bool:
        intent = work.intent
        vouched = work.past is not None or (intent.fences and not intent.ahead)
        seal = partial(self._seal, work.entry, intent, vouched=vouched)
        work.found = await for_each(rules.to_seal(work.entry), seal)
        known = self._seals.get(work.entry.name)
        if known is None or known.epoch != intent.epoch:
            known = _Seals(intent.epoch, asyncio.get_running_loop().time())
            self._seals[work.entry.name] = known
        work.seals = known
        return True

    async def _write_base(self, work: _Work) -> bool:
        entry, intent = work.entry, work.intent
        if intent.base is not None:
            return True
        if any(stand.epoch == intent.epoch for stand in work.found):
            # Another writer is ahead of the entry as read, and `found` does not tell the past.
            raise self._unexpected(entry, 0, intent.epoch)
        work.entry = rules.based(entry, work.found[: entry.shards], work.past)
        return await self._call(self._store.rewrite(entry, work.entry))

    async def _open_shards(self, work: _Work) -> bool:
        intent = work.intent
        if intent.lower:
            assert work.seals is not None
            await self._outlast_the_stale(work.entry, work.seals)
        if intent.opens:
            await for_each(range(intent.shards), partial(self._open, work.entry, intent))
        return True

    async def _conclude(self, work: _Work) -> bool:
        entry, intent = work.entry, work.intent
        after = rules.done(entry)
        if intent.fences:
            after = await self._call(self._store.with_table_identity(after))
        if not await self._call(self._store.rewrite(entry, after)):
            return False
        change_log.tell_of_end(after, intent, left=work.left)
        return True

    async def _seal(
        self, entry: Counter, intent: Intent, shard: int, *, vouched: bool
    ) -> ShardState:
        """Seal a shard, so that no writer is granted ids there; return it as it is then."""
        seal, ordinal = epochs.sealed(intent.epoch), epochs.ordinal_of(intent.epoch)
        for _ in range(2):
            stand = await self._stand(entry, shard, vouched=vouched)
            if stand is not None and stand.epoch in (seal, intent.epoch):
                return stand
            if stand is not None and epochs.ordinal_on(stand.epoch) >= ordinal:
                break
            await self._call(self._store.seal(entry, shard, stand, seal))
        raise self._unexpected(entry, shard, stand.epoch if stand else None)

    async def _open(self, entry: Counter, intent: Intent, shard: int) -> None:
        assert intent.base is not None
        seal = epochs.sealed(intent.epoch)
        if intent.ends_adoption:
            opening = self._store.finish_adoption(entry, seal, intent.epoch, first=intent.base)
        else:
            value = max(0, intent.base - entry.base)  # of an adopted item
            opening = self._store.open_shard(entry, shard, seal, intent.epoch, value=value)
        await self._call(opening)
        stand = await self._call(self._store.shard_state(entry, shard))
        if stand is None or stand.epoch != intent.epoch:
            raise self._unexpected(entry, shard, stand.epoch if stand else None)

    def _unexpected(self, entry: Counter, shard: int, found: str | None) -> errors.NotApplied:
        return errors.NotApplied(
            store=self._store.address,
            action=_action(entry.name),
            why=f"its shard {shard} has the epoch {found!r}, which its entry does not have. Another"
            " operator changes it now, or changed it by hand; try again",
        )

    async def _found(self, entry: Counter, shard: int, *, vouched: bool) -> ShardState | None:
        return await self._patiently(partial(self._stand, entry, shard, vouched=vouched))

    async def _stand(self, entry: Counter, shard: int, *, vouched: bool) -> ShardState | None:
        """Return a shard. Raises PositionMissing or PositionIllFormed if it cannot be read.

        It need not be readable if an operator vouches for the ids that it granted, or if it is new.
        """
        stand = await self._call(self._store.shard_state(entry, shard))
        if shard >= entry.shards or (stand and stand.reserved is not None):
            return stand
        about = {"store": self._store.address, "name": entry.name}
        if vouched:
            adopted = entry.adopted
            if adopted is None or (stand is not None and adopted.attribute != VALUE):
                return stand
            raise errors.ItemUnusable(**about, item=adopted)  # which is never created
        if stand is None:
            raise errors.PositionMissing(**about)
        raise errors.PositionIllFormed(**about, why="its next or mark is not a whole number")

    async def _outlast_the_stale(self, entry: Counter, seals: _Seals) -> None:
        """Wait until every instance that has not read of the seals has stopped serving."""
        until = seals.seen_at + self._stale_for(entry)
        seconds = until - asyncio.get_running_loop().time()
        if seconds <= 0:
            return
        if not seals.is_told:
            seals.is_told = True
            change_log.tell_of_wait(entry, seconds)
        await asyncio.sleep(seconds)

    # --- calls -----------------------------------------------------------------------------------

    async def _entry(self, name: str) -> Counter:
        entry = await self._call(self._store.entry(name))
        if entry is None:
            raise errors.UnknownCounter(name=name)
        return entry

    async def _call(self, call: Coroutine[object, object, T]) -> T:
        return await in_time(self._store, call)

    async def _patiently(self, step: Callable[[], Coroutine[object, object, T]]) -> T:
        """Repeat a step until it succeeds, TRIES times at most."""
        attempt = 1
        while True:
            try:
                return await step()
            except errors.StoreError as error:
                if not error.retryable or attempt == TRIES:
                    raise
            await self._pause(attempt)
            attempt += 1

    async def _pause(self, attempt: int) -> None:
        spread = self._random.random()
        pause_s = backoff(attempt, first_s=PAUSE_FIRST_S, max_s=PAUSE_MAX_S, spread=spread)
        await asyncio.sleep(pause_s)


def _carries(entry: Counter | None, intent: Intent | None) -> bool:
    """Return True if the entry has this intent under way, or done."""
    if entry is None or intent is None:
        return False
    under_way = entry.intent is not None and entry.intent.epoch == intent.epoch
    return under_way or entry.epoch == intent.epoch


def _action(name: str) -> str:
    return f"changing counter {name}"
