"""Reserves ids of a strict counter in numbered batches; each is sent until it has an answer (I8).

A lost answer loses no ids: the same batch is sent again while a request waits for it, and any copy
that is answered tells what the batch got. Only a batch that no request waits for is burnt.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from random import Random
from typing import TypeVar

from idservice import errors
from idservice.core.allocator import Request
from idservice.core.gap_causes import GapCause
from idservice.core.timeouts import backoff
from idservice.core.writer import Batch, Burnt, Writer
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import Counter, Grant, Loan, Writers

log = logging.getLogger("idservice.allocation")

WRITERS_MAX = 12  # on one position: DynamoDB's item stays below 1 KB, which is one write unit
WRITERS_FEW = 6  # with fewer, none is pruned
STANDS_STILL_S = 90.0  # a writer is pruned after this; no request waits longer than 60 s
SILENCE_MIN_S, SILENCE_MAX_S = 0.1, 1.0  # without an answer, before a copy is sent
PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 1.0  # before a copy, if the last one failed
CALL_MAX_S = 5.0  # for a call that is not sent again
TRIES = 3  # new batches for one request, each after the writer's record was taken away

T = TypeVar("T")


class BatchAbandoned(errors.OutcomeUnknown):
    text = "The store {store} has not answered {action} yet, and {why}."


class StrictReserver:
    """Sends the batches of one strict counter on this instance.

    `burnt` is called with a number of ids that are not handed out, and the cause. `unique` makes
    texts that were never made before: a copy of this process must not repeat them.
    """

    def __init__(
        self,
        store: CatalogueStore,
        *,
        spawn: Callable[[Coroutine[object, object, None]], object],
        random: Random,
        burnt: Callable[[int, GapCause], None],
        unique: Callable[[], str] = lambda: secrets.token_urlsafe(9),
    ) -> None:
        self._store = store
        self._spawn = spawn
        self._random = random
        self._burnt = burnt
        self._unique = unique
        self._writer = Writer()
        self._epoch = ""
        self._name = ""  # tried for registering: no batch was ever sent under it
        self._full = False  # no place at the last look, and no writer pruned since
        self._watching = False
        self._unsure = False  # a copy of the present batch may be applied without an answer
        self._took = 0.0  # seconds, of the last call that was answered
        self._busy = False
        self._over = False

    async def reserve(
        self, counter: Counter, request: Request, *, wanted: Callable[[], bool]
    ) -> Grant | Loan:
        """Return the grant of one batch; raises as `IdStore.reserve`.

        The batch is sent again while it is `wanted`. If there is no place for another writer, an
        ordinary reservation is sent, once.
        """
        self._begin(counter)
        self._busy, self._over = True, False
        try:
            for _ in range(TRIES):
                try:
                    return await self._reserve(counter, request, wanted)
                except errors.OutOfTurn as error:
                    self._count(self._writer.displaced(error.record))
                    displaced = error
                if not wanted():
                    break
            raise displaced
        finally:
            self._busy = False
            if self._over:
                self.forget()

    def _begin(self, counter: Counter) -> None:
        if counter.epoch != self._epoch:  # which begins without writers
            self.forget()
            self._epoch = counter.epoch

    def end(self) -> None:
        """Reserve no more for now: batches left open are counted as unknown."""
        self._over = True
        if not self._busy:
            self.forget()

    def forget(self) -> None:
        """Give up the name of the writer."""
        self._count(self._writer.unregister())
        self._name = ""

    def _count(self, burnt: Burnt) -> None:
        if burnt.known:
            self._burnt(burnt.known, GapCause.ABANDONED)
        if burnt.unknown:
            self._burnt(burnt.unknown, GapCause.UNKNOWN)

    # --- one batch -------------------------------------------------------------------------------

    async def _reserve(
        self, counter: Counter, request: Request, wanted: Callable[[], bool]
    ) -> Grant | Loan:
        if not self._writer.name and not await self._register(counter, wanted):
            return await self._reserve_once(counter, request)
        batch = self._writer.next_batch(request.count, self._unique())
        try:
            grant = await self._repeat(lambda: self._call(counter, request, batch), wanted)
        except errors.BatchBurnt:
            self._writer.applied(batch)
            self._burnt(batch.count, GapCause.EPOCH)
            raise
        except BaseException as error:
            if not self._never_applied(error):
                self._count(self._writer.left_open(batch))
            raise
        self._writer.applied(batch)
        return grant

    def _never_applied(self, error: BaseException) -> bool:
        """Return True if no copy of the batch that ended so was applied."""
        if isinstance(error, errors.OutOfTurn) and error.record is not None:
            return True  # another batch has its number; without a record the past is unknown
        if isinstance(error, errors.WentBack) and error.applied:
            return False  # by a copy that a proxy had made
        refused = isinstance(error, errors.StoreError) and error.outcome == errors.NOT_APPLIED
        return refused and not self._unsure

    async def _reserve_once(self, counter: Counter, request: Request) -> Grant | Loan:
        """Reserve without a number: ids of an unknown outcome are burnt (I4)."""
        try:
            async with asyncio.timeout(CALL_MAX_S):
                return await self._call(counter, request, None)
        except BaseException as error:
            if not isinstance(error, errors.StoreError) or error.outcome == errors.UNKNOWN:
                self._burnt(request.count, GapCause.UNKNOWN)
            raise

    async def _call(self, counter: Counter, request: Request, batch: Batch | None) -> Grant | Loan:
        return await self._store.reserve(
            counter, count=request.count, seen=request.seen, room=request.room, batch=batch
        )

    async def _repeat(
        self, call: Callable[[], Coroutine[object, object, T]], wanted: Callable[[], bool]
    ) -> T:
        """Return the first answer to any copy of a call that may be repeated."""
        loop = asyncio.get_running_loop()
        began = due = loop.time()
        silence_s = min(max(SILENCE_MIN_S, 3 * self._took), SILENCE_MAX_S)
        failures = 0
        copies: dict[asyncio.Task[T], float] = {}  # without an answer yet, and when each was sent
        self._unsure = False
        try:
            while True:
                if loop.time() >= due:
                    if due > began and not wanted():
                        raise BatchAbandoned(
                            store=self._store.address,
                            action="reserving ids",
                            why="no request waits for them any more",
                        )
                    copies[loop.create_task(call())] = loop.time()
                    due = loop.time() + silence_s
                    silence_s = min(2 * silence_s, SILENCE_MAX_S)
                for copy in await _answered([*copies], due - loop.time()):
                    sent_at = copies.pop(copy)
                    if (error := copy.exception()) is None:
                        self._took = loop.time() - sent_at
                        return copy.result()
                    self._raise_if_final(error, alone=not copies)
                    failures += 1
                    due = min(due, loop.time() + self._pause(failures))
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)

    def _raise_if_final(self, error: BaseException, *, alone: bool) -> None:
        """Raise the error of one copy, unless another copy may do better."""
        if isinstance(error, errors.OutcomeUnknown):
            self._unsure = True
            return
        passing = isinstance(error, errors.StoreError) and not error.answered
        if passing and (self._unsure or not alone):
            return  # that copy was refused; the outcome of the others is not known
        self._unsure = self._unsure or not alone
        raise error

    def _pause(self, failures: int) -> float:
        spread = self._random.random()
        return backoff(failures, first_s=PAUSE_FIRST_S, max_s=PAUSE_MAX_S, spread=spread)

    # --- registration ----------------------------------------------------------------------------

    async def _register(self, counter: Counter, wanted: Callable[[], bool]) -> bool:
        """Become a writer; return False if there is no place for one, or no position."""
        if self._full:
            return False
        self._name = self._name or self._unique()
        for _ in range(WRITERS_MAX):  # each failure is another writer's success
            found = await self._repeat(lambda: self._store.writers(counter), wanted)
            if found is None:
                return False
            if self._name not in found.seqs:
                if len(found.seqs) >= WRITERS_MAX:
                    self._full = True
                    self._watch(counter, found)
                    return False
                if not await self._write_record(counter, found, wanted):
                    continue
            self._writer.registered(self._name)
            self._name = ""
            self._watch(counter, found)
            return True
        return False

    async def _write_record(
        self, counter: Counter, found: Writers, wanted: Callable[[], bool]
    ) -> bool:
        name, known = self._name, found.registrations
        try:
            return await self._repeat(
                lambda: self._store.register(counter, name, registrations=known), wanted
            )
        except errors.OutcomeUnknown as error:
            # No id is at stake: the next look tells if it was applied.
            raise errors.NotApplied(**error.fields) from error

    def _watch(self, counter: Counter, found: Writers) -> None:
        if len(found.seqs) >= WRITERS_FEW and not self._watching:
            self._watching = True
            self._spawn(self._prune(counter, found))

    async def _prune(self, counter: Counter, before: Writers) -> None:
        """Remove writers that have not moved for long; one that returns registers anew."""
        try:
            await asyncio.sleep(STANDS_STILL_S)
            async with asyncio.timeout(CALL_MAX_S):
                after = await self._store.writers(counter)
                for name, seq in before.seqs.items():
                    if after is not None and after.seqs.get(name) == seq:
                        await self._store.prune(counter, name, seq)
        except (errors.StoreError, TimeoutError):
            pass  # the next instance that finds it full tries again
        except Exception:  # a bug of ours or of a library
            log.exception("pruning writers failed", extra={"action": "prune_bug"})
        finally:
            self._watching = self._full = False


async def _answered(copies: list[asyncio.Task[T]], patience_s: float) -> list[asyncio.Task[T]]:
    """Return the copies that have an answer, grants first, as soon as there is one."""
    if not copies:
        await asyncio.sleep(patience_s)
        return []
    done, _ = await asyncio.wait(copies, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
    return sorted(
        (copy for copy in copies if copy in done), key=lambda copy: copy.exception() is not None
    )
