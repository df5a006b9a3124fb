"""One counter in use: its ids in memory, who waits for them, and the refill that brings more."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random

from idservice import errors, returns
from idservice.account import Account
from idservice.batches import Batches, LeftAlone
from idservice.core.allocator import Allocator, Request
from idservice.core.shards import Shard, Shards
from idservice.health import StoreHealth
from idservice.line import Line, Served, Waiter
from idservice.linger import Linger
from idservice.metrics import Reading, Tally, count
from idservice.standing import Standing
from idservice.stores.protocol import ACTIVE, DELETED, MOVED, Counter, Grant, Loan, Store

log = logging.getLogger("idservice.supply")

BACKOFF_FIRST_S = 0.05  # the pause after a failed refill, doubled with each further failure
BACKOFF_MAX_S = 2.0
REFILL_MAX_S = 5.0  # what a refill in the background may take at most,
REFILL_MIN_S = 2.0  # and at least: a quarter of a short runway is too short for a slow store
ATTEMPT_MIN_S = 0.05  # a store call is given at least this long
TRIES_MIN = 6  # failures in a row before a counter that nobody uses is left alone
# What a service that lends ids says of a counter; of one's own store the catalogue tells it.
ELSEWHERE = (errors.UnknownCounter, errors.Suspended)
SUSPECT_RECHECK_S = 2.0  # how often a counter that was refused is looked at again


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a service. Times in seconds; each has a setting of the same name."""

    runway: float = 30.0  # for counters that name none: how long ids last without the store
    wait: float = 2.0  # how long a request waits for ids
    waiters_max: int = 10_000  # requests waiting per counter
    block_max: int = 10_000_000  # ids per reservation


class Supply:
    """The ids of one counter on this instance.

    `spawn` starts a task that the owner ends; `random` spreads the pauses between failed tries.
    With `keep_filled` the counter is refilled after an outage even if nobody asks. `missing` is
    told where a counter turned out not to be there of which nothing was known; such a supply is
    stopped for good.
    """

    def __init__(
        self,
        counter: Counter,
        store: Store,
        limits: Limits,
        *,
        health: StoreHealth,
        spawn: Callable[[Coroutine[object, object, None]], object],
        random: Random,
        keep_filled: bool = False,
        missing: "Callable[[Supply], None]",
    ) -> None:
        self.counter = counter
        self.tally = Tally()
        self.keep_filled = keep_filled
        self.suspect: errors.IdserviceError | None = None
        self.closed: errors.IdserviceError | None = None  # why nothing is handed out meanwhile
        self._store = store
        self._limits = limits
        self._health = health
        self._spawn = spawn
        self._random = random
        self._missing = missing
        self._loop = asyncio.get_running_loop()
        self._line = Line(self.tally, self._too_long)
        self._sent_to = 0  # arrivals by the time the last request was sent,
        self._unsure_to = 0  # and the last one whose outcome is unknown
        self._refilling = False
        self._asking = False  # something is under way to the store
        self._closing: asyncio.Event | None = None  # set once nothing is any more
        self._linger = Linger(self.refill_if_due)
        self._recheck_at = 0.0
        self._expiry: asyncio.TimerHandle | None = None
        self._batches: Batches | None = None  # of a strict counter, from its first use on
        self._error = _not_yet(store.address)
        self._account = Account(counter.name, self.tally)
        self.allocator = self._new_allocator(self._new_shards())
        if counter.wished_state != ACTIVE:
            self._close(self._why_closed(), cause="revoked")

    # --- ids out ---------------------------------------------------------------------------------

    async def one(self) -> int:
        """The next id. Raises Exhausted, Suspended, UnknownCounter, TooManyWaiting, WaitedTooLong,
        CounterSuspect, CatalogueStale, Stopped."""
        id = self.take()
        return id if id is not None else (await self.wait(1))[0].start

    async def many(self, count: int) -> list[range]:
        """`count` ids as blocks, all or an error; raises as `one`. 0 < count <= block_max."""
        blocks = self.take_many(count)
        return blocks if blocks is not None else await self.wait(count)

    def take(self) -> int | None:
        """The next id, where one is in memory."""
        id = self.allocator.take()
        if id is None and not self.counter.strict:
            self.allocator.advance()
            id = self.allocator.take()
            self.refill_if_due()
        return id

    def take_many(self, count: int) -> list[range] | None:
        """`count` ids as blocks, where that many are in memory."""
        blocks = self.allocator.take_batch(count)
        if blocks is not None:
            self.refill_if_due()
        return blocks

    async def wait(self, count: int) -> list[range]:
        """Stand in line for `count` ids; raises as `one`."""
        future: asyncio.Future[list[range]] = self._loop.create_future()
        waiter = self.queue(count, partial(_settle, future), gone=future.done)
        try:
            return await future
        except asyncio.CancelledError:
            if not self._line.leave(waiter, self._loop.time()) and _has_result(future):
                self.allocator.wasted(count)  # served, but gone
            raise

    def queue(
        self,
        count: int,
        answer: Callable[[Served], None],
        *,
        gone: Callable[[], bool] | None = None,
    ) -> Waiter:
        """Stand in line for `count` ids; `answer` is called later with them, or with what `one`
        raises. Raises the same where it is clear at once.

        First come, first served among those whom memory cannot serve at once.
        """
        now = self._loop.time()
        self._admit(count, now)
        patience_s = self._limits.wait
        waiter = self._line.join(count, answer, now=now, patience_s=patience_s, gone=gone)
        self.refill_if_due()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Stand in line no longer."""
        self._line.leave(waiter, self._loop.time())

    def _admit(self, count: int, now: float) -> None:
        if self.suspect is not None:
            if now < self._recheck_at:
                raise self.suspect.with_traceback(None)  # told to many: do not gather their frames
            self.look_again()
        if self.closed is not None:
            raise self.closed.with_traceback(None)
        if len(self._line) >= self._limits.waiters_max:
            raise errors.TooManyWaiting(name=self.counter.name, count=len(self._line))
        room = self.allocator.room(now)
        if count > room and count > room + self.allocator.held:
            raise self._exhausted(count)

    def _exhausted(self, count: int) -> errors.Exhausted:
        lent = self._store.hold_s is not None  # a limit that is not always told
        limit = f"at {self._store.address}" if lent else self.counter.limit
        return errors.Exhausted(name=self.counter.name, count=count, limit=limit)

    def _too_long(self, waiter: Waiter) -> errors.IdserviceError:
        why = str(self._error).rstrip(".")
        error = errors.WaitedTooLong(name=self.counter.name, seconds=self._limits.wait, why=why)
        return self._unsure(waiter, error)

    def _unsure(self, waiter: Waiter, error: errors.IdserviceError) -> errors.IdserviceError:
        """An error for one who waits, with what is known of the batch it was to be served from."""
        sent = self._sent_to if self.allocator.waits_for_store else self._unsure_to
        if self.counter.strict and waiter.number < sent:
            error.outcome = errors.UNKNOWN  # a batch with its id may have been applied
        return error

    async def fill(self) -> None:
        """Bring the first ids into memory; the start of a service does this, to see that it can.

        One try, and others for what is left where the limit is near. Raises StoreError.
        Nothing to do for a strict counter, which holds nothing, and for one that is used up.
        """
        if self._refilling:
            return
        self._refilling = True
        try:
            for _ in range(self.counter.shards + 1):
                request = self._due()
                if request is None:
                    return
                if not await self._reserve(request, in_background=True):
                    raise self._error
                if self.allocator.held:
                    return
        finally:
            self._refilling = False
            if len(self._line):  # who came in the meantime, and is not served yet
                self.refill_if_due()

    # --- refill ----------------------------------------------------------------------------------

    def refill_if_due(self) -> None:
        """Begin a refill where one is needed and none runs. Cheap to call at any time."""
        if self._refilling or self.allocator.waits_for_store or self._linger.holds(len(self._line)):
            return
        request = self._due()
        if request is not None:
            self._refilling = True
            self._spawn(self._refill(self.allocator, request))

    def _due(self) -> Request | None:
        """The next request to the store, once waiters that no reservation can serve are told."""
        if self._closing is not None:
            return None
        now = self._loop.time()
        room = self.allocator.held + self.allocator.room(now)
        waiting = first = 0
        for waiter in self._line:
            if waiter.count > room:
                self._line.refuse(waiter, self._unsure(waiter, self._exhausted(waiter.count)))
                continue
            if waiting + waiter.count > room:
                break  # the rest is looked at again after this one
            first = first or waiter.count
            waiting += waiter.count
        return self.allocator.due(now, waiting=waiting, first=first)

    async def _refill(self, allocator: Allocator, request: Request | None) -> None:
        failures = 0
        try:
            if allocator.retired:  # since it made this: sent now, it would be for another epoch
                request = self._due()
            while request is not None:
                used = self.allocator.issued_ids
                if await self._reserve(request, in_background=failures > 0):
                    failures = 0
                else:
                    failures += 1
                    await asyncio.sleep(self._pause(failures))
                    if failures >= TRIES_MIN and self._idle_since(used):
                        break  # the next request, or half of the rest used, begins another
                request = None if self._linger.holds(len(self._line)) else self._due()
        finally:
            self._refilling = False

    def _pause(self, failures: int) -> float:
        longest = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10))
        longest = min(longest, max(BACKOFF_FIRST_S, self._lasts / 4))
        return longest * (0.5 + 0.5 * self._random.random())

    def _idle_since(self, used: int) -> bool:
        if len(self._line) or self.allocator.issued_ids != used:
            return False
        return bool(self.allocator.held) or not self.keep_filled

    @property
    def _lasts(self) -> float:
        """Seconds until memory is empty, at the rate last measured, for several tries before it is;
        infinite where it is empty already, and there is nothing to hurry for."""
        held, rate = self.allocator.held, self.allocator.rate
        return held / rate if held and rate else float("inf")

    def _patience(self, in_background: bool) -> float:
        """Seconds a store call may take: no longer than the request that waits for it, unless that
        was tried and is too short for this store."""
        background = min(max(min(self._runway, self._lasts) / 4, REFILL_MIN_S), REFILL_MAX_S)
        deadlines = [waiter.deadline for waiter in self._line]
        if self.allocator.numbered and deadlines:  # later ones are given nothing of this batch
            return max(ATTEMPT_MIN_S, deadlines[-1] - self._loop.time())
        if in_background or not deadlines:
            return background
        return max(ATTEMPT_MIN_S, min(background, deadlines[-1] - self._loop.time()))

    async def _reserve(self, request: Request, *, in_background: bool) -> bool:
        """Carry one request out, and hand what it brings to those who wait; False: try later."""
        allocator, counter = self.allocator, self.counter
        arrived = self._sent_to = self._line.arrivals
        began = self._loop.time()
        result = "unknown"
        self._asking = True
        try:
            if 0 < counter.ordinal <= counter.revoked:  # what this brings would have to be dropped
                raise errors.EpochChanged(**self._about, name=counter.name, found="", epoch="")
            try:
                async with asyncio.timeout(self._patience(in_background)):
                    answer = await self._ask(allocator, counter, request, arrived)
            finally:  # before anybody is answered, which takes time too
                self._linger.took = self._loop.time() - began
                self._health.latency.observe(self._linger.took)
                self.tally.latency.observe(self._linger.took)
            self._health.answered()
            if await self._taken(allocator, request, answer):
                result = "granted"
                self.suspect = None
                self._share_out(arrived)
                if self._expiry is None:
                    self._expire_lent(began)
                return True
            result = "late"  # of an epoch that is over: burnt
        except TimeoutError:
            # Cancelled in the middle: it may be applied all the same, now or later.
            self._lost(allocator, request, "it took too long")
        except errors.OutcomeUnknown as error:
            self._failed(allocator, request, error)
        except errors.NoRoom as error:
            result = "no_room"
            await self._no_room(allocator, request, error, arrived)
            return True  # which tells at once what to ask for instead, and on which shard
        except (errors.WentBack, errors.EpochChanged, errors.PositionMissing) as error:
            allocator.refused(request.token, unknown=False)
            result = await self._doubt(error, counter, request.shard)
        except (errors.PositionIllFormed, errors.Withheld, *ELSEWHERE) as error:
            result = "suspect"
            allocator.refused(request.token, unknown=error.outcome == errors.UNKNOWN)
            if allocator is self.allocator:
                self._turned_down(error)
        except errors.NotApplied as error:
            result = "throttled" if error.throttled else "not_applied"
            self._failed(allocator, request, error)
        except asyncio.CancelledError:
            allocator.refused(request.token, unknown=True)
            raise
        except Exception as error:  # a bug of ours or of a library: nothing is known
            log.exception("a reservation failed", extra={"action": "reservation_bug"})
            self._lost(allocator, request, f"an internal fault ({type(error).__name__})")
        finally:
            count(self.tally.reservations, result)
            if allocator is not self.allocator:
                self._account.add_late(allocator)
            self._asking = False
            if self._closing is not None:
                self._closing.set()
        return False

    async def _ask(
        self, allocator: Allocator, counter: Counter, request: Request, arrived: int
    ) -> Grant | Loan:
        """One reservation; a numbered one is sent again while those who had `arrived` wait (I8)."""
        if not allocator.numbered:
            return await self._store.reserve(
                counter,
                count=request.count,
                seen=request.seen,
                room=request.room,
                shard=request.shard,
            )

        def wanted() -> bool:
            there = any(waiter.number < arrived for waiter in self._line)
            return there and not allocator.retired

        return await self.batches.reserve(counter, request, wanted=wanted)

    @property
    def batches(self) -> Batches:
        """The reservations of a strict counter."""
        if self._batches is None:
            self._batches = Batches(
                self._store,
                spawn=self._spawn,
                random=self._random,
                burnt=lambda count, cause: self.allocator.burnt(count, cause),
            )
        return self._batches

    def _end_batches(self) -> None:
        if self._batches is not None:
            self._batches.end()

    async def _taken(self, allocator: Allocator, request: Request, answer: Grant | Loan) -> bool:
        """Take what was granted or lent into memory; False where it comes too late."""
        if isinstance(answer, Grant):
            shard = allocator.shards[request.shard]
            shard.rev = answer.rev
            try:
                claimed = await self._claim(allocator, shard, answer)
            except asyncio.CancelledError:
                allocator.granted(request.token, answer.indices, self._loop.time())
                raise
            if claimed:
                allocator.inherit(claimed)
                shard.rev += 1  # our claim's
            return allocator.granted(request.token, answer.indices, self._loop.time())
        now = self._loop.time()
        if answer.counter.ordinal > self.counter.ordinal and not allocator.retired:
            allocator.renew(Shards(answer.counter.layout()), strict=answer.counter.strict)
            self.counter = answer.counter
        return allocator.lent(request.token, answer.blocks, now, since=answer.since)

    async def _no_room(
        self, allocator: Allocator, request: Request, error: errors.NoRoom, arrived: int
    ) -> None:
        """The limit leaves fewer ids than asked for. Who comes now is granted nothing, and nobody
        else would ever claim what others gave back."""
        self._error = error
        self._health.answered()
        allocator.no_room(request.token, error.position, self._loop.time())
        nothing = range(error.position, error.position)
        grant = Grant(nothing, error.rev, error.returned)
        claimed = await self._claim(allocator, allocator.shards[request.shard], grant)
        if claimed:
            allocator.inherit(claimed)
            self._share_out(arrived)

    async def _claim(self, allocator: Allocator, shard: Shard, grant: Grant) -> list[range]:
        """What others gave back to a shard, where the grant tells of any, and nothing newer of it
        was handed out."""
        over = allocator.retired or self._closing is not None
        if not grant.returned or self.counter.strict or shard.begun or over:
            return []
        lost = sum(map(len, grant.returned))  # unless it proves otherwise
        claimed: list[range] = []
        try:
            async with asyncio.timeout(self._patience(in_background=False)):
                claimed = await returns.claim(
                    self._store, self.counter, grant, shard=shard.layout.shard
                )
            lost = 0
        except errors.NotApplied as error:
            lost = 0
            log.info("%s", error, extra={"action": "ids_not_claimed"})
        except (errors.OutcomeUnknown, TimeoutError) as error:
            why = str(error) or f"claiming ids of counter {self.counter.name} took too long"
            log.warning("%s; they are a gap", why, extra={"action": "ids_not_claimed"})
        except Exception:  # a bug of ours or of a library: nothing is known
            log.exception("a claim failed", extra={"action": "claim_bug"})
        finally:
            allocator.lost("claim", lost)
        count = sum(map(len, claimed))
        if allocator.retired:  # in the meantime
            allocator.lost("late", count)
            return []
        if claimed:
            shard.begun = True
            self.tally.claimed += count
            log.info(
                "counter %s: %d ids are claimed that others gave back",
                self.counter.name,
                count,
                extra={"action": "ids_claimed"},
            )
        return claimed

    def _expire_lent(self, now: float) -> None:
        """Drop ids on loan whose time is over, now and again as long as any are held."""
        self.allocator.expire(now)
        at = self.allocator.expires_at
        self._expiry = None if at is None else self._loop.call_at(at, self._expire_lent, at)

    @property
    def _about(self) -> dict[str, str]:
        return {
            "store": self._store.address,
            "action": f"reserving ids of counter {self.counter.name}",
        }

    def _lost(self, allocator: Allocator, request: Request, why: str) -> None:
        self._failed(allocator, request, errors.OutcomeUnknown(**self._about, why=why))

    def _failed(self, allocator: Allocator, request: Request, error: errors.StoreError) -> None:
        self._error = error
        if not isinstance(error, LeftAlone):  # which says nothing of the store
            self._health.failed(error)
        unknown = error.outcome == errors.UNKNOWN
        self._unsure_to = self._sent_to if unknown else self._unsure_to
        if error.throttled:
            allocator.throttled(request.token)
        else:
            allocator.refused(request.token, unknown=unknown)

    def _share_out(self, arrived: int) -> None:
        """Serve who waits, in the order of arrival; a strict batch serves only those who waited
        when it was sent, which are the ones that had `arrived` (I8)."""
        now = self._loop.time()
        waiting = list(self._line)
        served = []
        for waiter in waiting:
            late = self.counter.strict and waiter.number >= arrived
            blocks = None if late else self.allocator.take_batch(waiter.count)
            if blocks is not None:
                self._line.leave(waiter, now)
                served.append((waiter, blocks))
        if self.counter.strict:
            self._linger.expect(len(waiting))
        self.allocator.settle()
        for waiter, blocks in served:  # who is answered may ask again at once
            waiter.answer(blocks)

    # --- doubt -----------------------------------------------------------------------------------

    async def _doubt(self, error: errors.NotApplied, counter: Counter, shard: int) -> str:
        """The position of a shard is not as the epoch of `counter` left it: the entry alone decides
        what that means. Whether it is `changed` or `suspect`."""
        if self.allocator.retired:
            return "changed"  # a request overtaken by our own give-back finds it lower than we left
        entry, known = None, False
        try:
            async with asyncio.timeout(REFILL_MAX_S):
                if isinstance(error, errors.WentBack):
                    # Who moved one of them may have moved others: that one first, and then all.
                    for each in (shard, *range(counter.shards)):
                        await self._store.close_gone_back(counter, error.epoch, each)
                entry = await self._store.counter(counter.name)
            known = True
        except (errors.StoreError, TimeoutError):
            pass  # still in doubt
        except Exception:  # a bug of ours or of a library
            log.exception("reading a counter failed", extra={"action": "doubt_bug"})
        if entry is not None:
            self.see(entry)
        if self.allocator.retired or self.counter.epoch != counter.epoch:
            return "changed"  # or stopped in the meantime
        under_way = not known if entry is None else entry.intent is not None
        if under_way and isinstance(error, errors.EpochChanged) and not error.gone_back:
            why = "it is being changed, or the store does not tell whether it was"
            self._error = errors.NotApplied(**self._about, why=why)
            return "changed"
        self._distrust(error)
        return "suspect"

    # --- change ----------------------------------------------------------------------------------

    def see(self, entry: Counter) -> None:
        """What the catalogue says of the counter; what is older than what is known is ignored.

        Ids of a revoked epoch are dropped, those of one that is merely over are used up (I6).
        """
        known = self.counter
        if self._over or entry.rev <= known.rev or entry.ordinal < known.ordinal:
            return
        opened, revoked = entry.ordinal > known.ordinal, entry.revoked >= known.ordinal
        self.counter = entry
        if entry.wished_state != ACTIVE:
            self._close(self._why_closed(), cause="revoked")
        elif isinstance(self.closed, errors.CatalogueStale):
            pass  # whoever found that out says when it ends
        elif opened or revoked or self.closed is not None:
            self.closed = None
            self.suspect = None if opened else self.suspect
            if self.suspect is None:
                self._begin_epoch(keep=not revoked)
        else:
            self.allocator.keep_for(self._runway)

    def _begin_epoch(self, *, keep: bool) -> None:
        before, self.allocator = self.allocator, self._new_allocator(self._new_shards())
        self.allocator.succeed(before, keep=keep)
        self._forget(before, "revoked")
        self._end_batches()
        self.refill_if_due()

    def _why_closed(self) -> errors.IdserviceError:
        if self.counter.wished_state == DELETED:
            return errors.UnknownCounter(name=self.counter.name)
        if self.counter.wished_state == MOVED:
            return errors.Moved(name=self.counter.name, why=self.counter.whereabouts)
        return errors.Suspended(name=self.counter.name)

    def _close(self, error: errors.IdserviceError, *, cause: str) -> None:
        """Hand out nothing until there is other news, and answer everybody with `error`."""
        self.closed = error
        self._turn_away(error)
        self._end_batches()
        self.allocator.retire(cause)

    def go_stale(self, error: errors.CatalogueStale) -> None:
        """The catalogue was not heard of for too long: ids in memory may be revoked by now."""
        if self.closed is None and not self._over:
            self._close(error, cause="stale")

    def go_on(self) -> None:
        """The catalogue was heard of again."""
        if isinstance(self.closed, errors.CatalogueStale):
            self.closed = None
            if self.suspect is None:
                self._begin_anew("stale")
                self.refill_if_due()

    # --- suspicion -------------------------------------------------------------------------------

    def _distrust(self, error: errors.StoreError) -> None:
        """Hand out nothing more: ids in memory may be those that a restored store gives others."""
        if self.allocator.retired:
            return  # stopped in the meantime, and for good
        log.error("%s", error, extra={"action": "counter_suspect"})
        self.stop(errors.CounterSuspect(name=self.counter.name, why=str(error)), cause="went_back")
        self._recheck_at = self._loop.time() + SUSPECT_RECHECK_S

    def _turned_down(self, error: errors.IdserviceError) -> None:
        if isinstance(error, errors.StoreError):
            self._distrust(error)
            return
        # The service that lends the ids has no such counter (any more), or gives none of it.
        self._health.answered()
        if self.allocator.retired:
            return  # stopped in the meantime, and for good
        self.stop(error, cause="revoked")
        if isinstance(error, errors.UnknownCounter) and not self.counter.ordinal:
            self._missing(self)  # and over: were it to come back, nobody would count or stop it
        else:
            self._recheck_at = self._loop.time() + SUSPECT_RECHECK_S

    def stop(self, error: errors.IdserviceError, *, cause: str) -> None:
        """Drop the ids in memory and answer everybody with `error`, for good."""
        self.suspect = self._error = error
        self._recheck_at = float("inf")
        self._turn_away(error)
        self._end_batches()
        self.allocator.retire(cause)

    def _turn_away(self, error: errors.IdserviceError) -> None:
        for waiter in self._line:
            self._line.refuse(waiter, self._unsure(waiter, type(error)(**error.fields)))

    @property
    def _over(self) -> bool:
        """Whether it was stopped for good."""
        return self.suspect is not None and self._recheck_at == float("inf")

    async def close(self, patience_s: float) -> list[range]:
        """Drop the ids in memory for good; those that may go back to the store, as blocks.

        First, nothing more is asked for, and what is under way may end: it would be a gap.
        """
        self._closing = asyncio.Event()
        for waiter in self._line:
            self._line.refuse(waiter, self._unsure(waiter, errors.Stopped()))
        lasting = self._store.hold_s is None and not self.counter.strict
        if self._asking and lasting:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._closing.wait()
        unused = self.allocator.unused
        self.stop(errors.Stopped(), cause="stop")
        return unused if lasting else []

    def forget_in_child(self) -> None:
        """After a fork: the ids belong to the parent."""
        self.suspect = errors.Stopped()
        self._recheck_at = float("inf")
        self._end_batches()
        self.allocator.retire("fork")

    def look_again(self) -> None:
        """Ask the store once more about a counter that was refused, where it is time to, as one who
        remembers its own last reservation. A grant ends the doubt."""
        now = self._loop.time()
        if self.suspect is None or now < self._recheck_at:
            return
        self._recheck_at = now + SUSPECT_RECHECK_S
        if self.closed is not None:
            return
        if self.allocator.retired:
            self._begin_anew("went_back")
        if self.counter.strict:
            self._spawn(self._inspect())  # it reserves nothing until somebody waits
        self.refill_if_due()

    async def _inspect(self) -> None:
        """End the doubt about a strict counter that looks as it should again."""
        allocator = self.allocator
        try:
            async with asyncio.timeout(REFILL_MAX_S):
                entry = await self._store.counter(self.counter.name)
                found = await self._store.position(entry) if entry is not None else None
        except (errors.StoreError, TimeoutError):
            return  # still in doubt
        except Exception:  # a bug of ours or of a library
            log.exception("reading a counter failed", extra={"action": "doubt_bug"})
            return
        if entry is None or found is None or allocator.retired or found.epoch != entry.epoch:
            return
        if entry.ordinal > self.counter.ordinal:
            self.see(entry)
        elif found.next >= max(found.mark, allocator.shards.present.seen):
            self.suspect = None

    def _begin_anew(self, cause: str) -> None:
        """With nothing in memory, and with the memory of where its own last reservation ended."""
        before = self.allocator
        known = self._allocator_epoch == self.counter.epoch
        self.allocator = self._new_allocator(before.shards if known else self._new_shards())
        self.allocator.succeed(before, keep=False)
        self._forget(before, cause)

    def _forget(self, allocator: Allocator, cause: str) -> None:
        """Retire an allocator that was replaced, and keep what it counted."""
        allocator.retire(cause)
        self._account.close(allocator)

    # --- what is known ---------------------------------------------------------------------------

    @property
    def _runway(self) -> float:
        return self.counter.runway or self._limits.runway

    def _new_shards(self) -> Shards:
        """The shards of its epoch, in an order that is this instance's own: each begins elsewhere,
        and goes elsewhere from there."""
        count = self.counter.shards
        order = self._random.sample(range(count), count) if count > 1 else (0,)
        return Shards(*(self.counter.layout(at) for at in order), moves=self.tally.moves)

    def _new_allocator(self, shards: Shards) -> Allocator:
        self._allocator_epoch = self.counter.epoch
        return Allocator(
            shards,
            now=self._loop.time(),
            runway_s=self._runway,
            block_max=self._limits.block_max,
            strict=self.counter.strict,
            hold_s=self._store.hold_s,
        )

    @property
    def trouble(self) -> errors.IdserviceError | None:
        """Why the next id cannot be served now; None where it can."""
        if (why := self.suspect or self.closed) is not None:
            return why
        if self.allocator.held:
            return None
        if self.allocator.used_up:
            return self._exhausted(1)
        return None if self._health.up else self._error

    def reading(self) -> Reading:
        """What is counted of this counter since the start."""
        return self._account.reading(
            self.allocator,
            now=self._loop.time(),
            waiting=len(self._line),
            standing=self._standing(),
        )

    def _standing(self) -> Standing:
        counter, allocator, trouble = self.counter, self.allocator, self.trouble
        return Standing(
            epoch=counter.ordinal,
            strict=counter.strict,
            shards=counter.shards,
            limit=counter.limit if self._store.hold_s is None else None,
            runway=allocator.runway_s,
            stock=allocator.stock,
            low=allocator.low,
            highest=allocator.pace.highest,
            pace=allocator.pace.per_second(self._loop.time()),
            lent=self._store.hold_s is not None,
            change=counter.intent.kind if counter.intent is not None else "",
            code=trouble.code if trouble is not None else "",
            why=str(trouble) if trouble is not None else "",
        )


@lru_cache(maxsize=16)
def _not_yet(store: str) -> errors.IdserviceError:
    """The same for all counters, which are many; it is told, never raised."""
    return errors.StoreError(store=store, why="it has not answered yet")


def _settle(future: asyncio.Future[list[range]], served: Served) -> None:
    if future.done():
        return  # cancelled; ids are not handed out to who is gone
    if isinstance(served, errors.IdserviceError):
        future.set_exception(served)
    else:
        future.set_result(served)


def _has_result(future: asyncio.Future[list[range]]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
