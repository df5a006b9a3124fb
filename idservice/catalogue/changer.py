"""Carries out changes of epoch, step by step.

Theory of operation. The state of a change is in the store: in the entry and on the shards. NEXT is
the order of the states, and each step leads to one. Every step is conditional and may be repeated
by any instance or operator at any time: a step that was taken before, by an operator that died or
by a late copy of a request, is found done. So each look at an entry begins at INTENT and passes the
steps that are done. A step that another writer was ahead of ends the look, and the next one begins.

| state | the store | left by |
|---|---|---|
| INTENT | the entry has an intent | each shard is sealed, conditional on the value read |
| SEALED | no shard grants an id of a former epoch | the base is written, on no base yet |
| BASED | the entry has the base of the new epoch | each shard is opened, on the seal |
| OPEN | the shards carry the new epoch; none if the counter is closed | the entry is rewritten |
| DONE | the entry is in the new epoch | |
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from random import Random
from typing import TypeVar

from idservice import errors
from idservice.catalogue import rules
from idservice.catalogue.changes import Change
from idservice.core import backoff
from idservice.core import epoch as epochs
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import Counter, Intent, ShardState

log = logging.getLogger("idservice.change")

CALL_MAX_S = 5.0  # what one call of the store may take
AT_ONCE = 16  # shards
TRIES = 8  # failures in a row before it is left to others
PAUSE_FIRST_S, PAUSE_MAX_S = 0.1, 2.0

T = TypeVar("T")


class ChangeState(Enum):
    """The states of a change."""

    INTENT = "intent"
    SEALED = "sealed"
    BASED = "based"
    OPEN = "open"
    DONE = "done"


NEXT = {
    ChangeState.INTENT: ChangeState.SEALED,
    ChangeState.SEALED: ChangeState.BASED,
    ChangeState.BASED: ChangeState.OPEN,
    ChangeState.OPEN: ChangeState.DONE,
}


@dataclass(slots=True)
class _Work:
    """A change under way, as one look found it; `past` is what an operator vouches for."""

    entry: Counter
    past: int | None
    found: list[ShardState] = field(default_factory=list)  # shards, once sealed

    @property
    def intent(self) -> Intent:
        assert self.entry.intent is not None
        return self.entry.intent

    @property
    def seal(self) -> str:
        return epochs.sealed(self.intent.epoch)


class EpochChanger:
    """Changes counters of one store.

    `stale_s` is how long any instance goes on that cannot reach the store: an epoch that repeats
    ids on purpose opens only so long after the last one was sealed. Everything raises StoreError.
    """

    def __init__(self, store: CatalogueStore, *, random: Random, stale_s: float) -> None:
        self._store = store
        self._random = random
        self._stale_s = stale_s
        self._sealed_at: dict[str, float] = {}  # by epoch: when all shards were seen to be sealed
        self._steps: dict[ChangeState, Callable[[_Work], Coroutine[object, object, bool]]] = {
            ChangeState.SEALED: self._seal_shards,
            ChangeState.BASED: self._write_base,
            ChangeState.OPEN: self._open_shards,
            ChangeState.DONE: self._conclude,
        }

    async def change(self, name: str, wanted: Change) -> tuple[Counter, Counter]:
        """Change a counter; its entry before and after, the same one where it is so already.

        Another change under way is finished first. Raises UnknownCounter, ChangeRefused;
        OutcomeUnknown also where the change was begun, which somebody will finish.
        """
        vouched = wanted.vouched is not None
        for _ in range(TRIES):
            before = await self.carry_out(name, past=wanted.vouched)
            shards = range(max(before.shards, wanted.new_shards))
            found = await self._on_each(shards, partial(self._found, before, vouched=vouched))
            after = rules.begun(before, wanted, found, self._random)
            if after is before:
                return before, before
            if await self._begin(before, after, wanted):
                if after.intent is None:
                    return before, after
                return before, await self._finish(after, wanted)
        why = "others change it at the same time; try again"
        raise errors.NotApplied(store=self._store.address, action=_action(name), why=why)

    async def carry_out(self, name: str, *, past: int | None = None) -> Counter:
        """The entry once no change is under way; the one that is, is carried out.

        `past` is a number that somebody vouches for to be above every id in use, where the
        position of a shard is lost. Raises UnknownCounter.
        """
        while True:
            done = await self._patiently(partial(self._take_round, name, past))
            if done is not None:
                return done

    async def _take_round(self, name: str, past: int | None) -> Counter | None:
        """The entry where no change is under way; else take its steps, and look again."""
        entry = await self._entry(name)
        if entry is None:
            raise errors.UnknownCounter(name=name)
        if entry.intent is None:
            return entry
        await self._take_steps(entry, past)
        return None

    # --- the steps -------------------------------------------------------------------------------

    async def _begin(self, before: Counter, after: Counter, wanted: Change) -> bool:
        """Write the intent down; False where the entry was written by somebody else first."""
        unsure = False
        for attempt in range(1, TRIES + 1):
            try:
                if await self._call(self._store.rewrite(before, after)):
                    break
                # The condition failed: by a copy of our own that was applied unheard?
                entry = await self._entry(before.name)
                if entry == after or _carries(entry, after.intent):
                    break
                if not unsure or entry is None or entry.rev == after.rev:
                    return False
                raise self._unsure(before, "it was changed again since")
            except errors.OutcomeUnknown:
                unsure = True
                if attempt == TRIES:
                    raise
            except errors.NotApplied as error:
                if not error.retryable or attempt == TRIES:
                    if unsure:  # that a repeat is refused says nothing of the first
                        raise self._unsure(before, str(error).rstrip(".")) from error
                    raise
            await self._pause(attempt)
        _audit(before, after, wanted)
        return True

    def _unsure(self, before: Counter, why: str) -> errors.OutcomeUnknown:
        """Where a write of the intent got no answer, and nothing since tells what became of it."""
        return errors.OutcomeUnknown(
            store=self._store.address, action=_action(before.name), why=f"{why}; see what it is now"
        )

    async def _finish(self, begun: Counter, wanted: Change) -> Counter:
        try:
            return await self.carry_out(begun.name, past=wanted.vouched)
        except errors.StoreError as error:
            raise errors.OutcomeUnknown(
                store=self._store.address,
                action=_action(begun.name),
                why=f"{wanted.kind} is begun and not done ({str(error).rstrip('.')}); a serving"
                " instance finishes it, or the same command again",
            ) from error

    async def _take_steps(self, entry: Counter, past: int | None) -> None:
        """Take the change from its first state to the last, unless another writer is ahead."""
        work = _Work(entry, past)
        state = ChangeState.INTENT
        while state is not ChangeState.DONE:
            state = NEXT[state]
            if not await self._steps[state](work):
                return

    async def _seal_shards(self, work: "_Work") -> bool:
        intent = work.intent
        vouched = work.past is not None or (intent.kind == "fence" and not intent.ahead)
        work.found = await self._on_each(
            rules.to_seal(work.entry), partial(self._seal, work.entry, work.seal, vouched=vouched)
        )
        self._sealed_at.setdefault(intent.epoch, asyncio.get_running_loop().time())
        return True

    async def _write_base(self, work: "_Work") -> bool:
        entry, intent = work.entry, work.intent
        if intent.base is not None:
            return True
        if any(stand.epoch == intent.epoch for stand in work.found):
            # Another writer is ahead of the entry as read, and `found` does not tell the past.
            raise self._unexpected(entry, 0, intent.epoch)
        work.entry = rules.based(entry, work.found[: entry.shards], work.past)
        return await self._call(self._store.rewrite(entry, work.entry))

    async def _open_shards(self, work: "_Work") -> bool:
        intent = work.intent
        if intent.lower:
            await self._outlast_the_stale(work.entry, intent.epoch)
        if intent.opens:
            await self._on_each(
                range(intent.shards), partial(self._open, work.entry, intent, work.seal)
            )
        return True

    async def _conclude(self, work: "_Work") -> bool:
        entry, intent = work.entry, work.intent
        after = rules.done(entry)
        if intent.kind == "fence":
            after = await self._call(self._store.renewed(after))
        if not await self._call(self._store.rewrite(entry, after)):
            return False
        self._sealed_at.pop(intent.epoch, None)
        log.info(
            "counter %s: %s is done: epoch %d, ids from %s",
            entry.name, intent.kind, after.ordinal, intent.base,
            extra={"action": "change_done"},
        )  # fmt: skip
        return True

    async def _seal(self, entry: Counter, seal: str, shard: int, *, vouched: bool) -> ShardState:
        """How a shard stands once nobody is granted anything there."""
        intent = entry.intent
        assert intent is not None
        for _ in range(2):
            stand = await self._stand(entry, shard, vouched=vouched)
            if stand is not None and stand.epoch in (seal, intent.epoch):
                return stand
            if stand is not None and epochs.ordinal_on(stand.epoch) >= epochs.ordinal_of(
                intent.epoch
            ):
                break
            await self._call(self._store.seal(entry, shard, stand, seal))
        raise self._unexpected(entry, shard, stand.epoch if stand else None)

    async def _open(self, entry: Counter, intent: Intent, seal: str, shard: int) -> None:
        assert intent.base is not None
        if intent.finishes:
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
            why=f"its shard {shard} carries {found!r}, which is not as its entry has it: somebody"
            " else changes it, or did by hand",
        )

    async def _entry(self, name: str) -> Counter | None:
        return await self._call(self._store.entry(name))

    async def _found(self, entry: Counter, shard: int, *, vouched: bool) -> ShardState | None:
        return await self._patiently(partial(self._stand, entry, shard, vouched=vouched))

    async def _stand(self, entry: Counter, shard: int, *, vouched: bool) -> ShardState | None:
        """A shard that can be read, unless somebody vouches for what it granted, or it is yet to
        be, and granted nothing."""
        stand = await self._call(self._store.shard_state(entry, shard))
        vouched = vouched and entry.adopted is None  # whose item is not ours to create
        if shard >= entry.shards or vouched or (stand and stand.reserved is not None):
            return stand
        about = {"store": self._store.address, "name": entry.name}
        if stand is None:
            raise errors.PositionMissing(**about)
        raise errors.PositionIllFormed(**about, why="its next or mark is no whole number")

    async def _outlast_the_stale(self, entry: Counter, epoch: str) -> None:
        """Wait until whoever has not heard of the seals has stopped."""
        until = self._sealed_at[epoch] + max(self._stale_s, 2 * (entry.runway or 0.0))
        seconds = until - asyncio.get_running_loop().time()
        if seconds <= 0:
            return
        log.info(
            "counter %s: %s waits %.0f s, until every instance has heard of it or stopped",
            entry.name, entry.intent.kind if entry.intent else "a change", seconds,
            extra={"action": "change_waits"},
        )  # fmt: skip
        await asyncio.sleep(seconds)

    # --- calls -----------------------------------------------------------------------------------

    async def _on_each(
        self, shards: range, step: Callable[[int], Coroutine[object, object, T]]
    ) -> list[T]:
        """What a step brings on each shard, several at once: nobody is granted any id meanwhile.

        Raises what one of them raised, once all are over.
        """
        free = asyncio.Semaphore(AT_ONCE)

        async def one(shard: int) -> T:
            async with free:
                return await step(shard)

        results = await asyncio.gather(*map(one, shards), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if not isinstance(result, BaseException)]

    async def _call(self, call: Coroutine[object, object, T]) -> T:
        return await in_time(self._store, call)

    async def _patiently(self, step: Callable[[], Coroutine[object, object, T]]) -> T:
        """Try a step that may be repeated until it succeeds, for a while."""
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
        pause_s = backoff.pause(attempt, first_s=PAUSE_FIRST_S, max_s=PAUSE_MAX_S, spread=spread)
        await asyncio.sleep(pause_s)


async def in_time(store: CatalogueStore, call: Coroutine[object, object, T]) -> T:
    """What a call of the store answers. Raises OutcomeUnknown where that takes too long."""
    try:
        async with asyncio.timeout(CALL_MAX_S):
            return await call
    except TimeoutError:
        raise errors.OutcomeUnknown(
            store=store.address, action="a change", why="it took too long"
        ) from None


def _carries(entry: Counter | None, intent: Intent | None) -> bool:
    """Whether the entry has this intent under way, or has it behind it."""
    if entry is None or intent is None:
        return False
    under_way = entry.intent is not None and entry.intent.epoch == intent.epoch
    return under_way or entry.epoch == intent.epoch


def _action(name: str) -> str:
    return f"changing counter {name}"


def _audit(before: Counter, after: Counter, wanted: Change) -> None:
    """Who changed what, from what to what, and why."""
    intent = after.intent
    changes = []
    if intent is None:
        changes = [f"runway {before.runway} -> {after.runway}"]
    else:
        for field in ("state", "start", "limit", "strict", "shards", "runway"):
            old, new = getattr(before, field), getattr(intent, field)
            if old != new:
                changes.append(f"{field} {old} -> {new}")
        changes.append(f"epoch {before.ordinal} -> {epochs.ordinal_of(intent.epoch)}")
        if intent.floor:
            how = "from" if intent.lower else "from at least"
            changes.append(f"ids {how} {intent.floor}")
        if intent.ahead:
            changes.append(f"{intent.ahead} ids further on")
    log.info(
        "counter %s: %s by %s (%s): %s",
        before.name, wanted.kind, wanted.by or "somebody", wanted.why or "no reason given",
        ", ".join(changes),
        extra={"action": "counter_changed"},
    )  # fmt: skip
