"""Commits the adds to one tally, as many together as wait, with one commit under way."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import TypeVar

from idservice import errors
from idservice.core.tally import ADDS_MAX, AddRecord, Tally, Wanted, gone_back, planned
from idservice.core.timeouts import backoff
from idservice.observability.tally_readings import (
    UNSETTLED,
    RecentRate,
    TallySample,
    TallyStats,
)
from idservice.stores.tally_source import Told
from idservice.stores.tally_store import Beaten
from idservice.tallies.context import TallyContext
from idservice.tallies.pending_add import PendingAdd, closed, told, wanted
from idservice.tallies.trouble import AddTrouble
from idservice.tallies.turns import CommitTurns

log = logging.getLogger("idservice.tallies")

T = TypeVar("T")
Check = Callable[[Tally | None], None]

# The time for one call to the store: half of the time that a request waits, so that there is time
# for a second call, but more if calls take longer.
CALL_MIN_S, CALL_MAX_S = 0.5, 5.0
PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 1.0  # after a call that failed
NO_ANSWER, OTHERS_FIRST = "the store has not answered yet", "other writes to the tally came first"
STOPPING = "the service is stopping"


class Committer:
    """The adds to tally `name` that wait on this instance, and the tally as it was last seen.

    `on_idle` is called when nothing waits any more, and no caller is about to wait.
    """

    def __init__(
        self, name: str, context: TallyContext, on_idle: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.tally: Tally | None = None
        self.stats = TallyStats()
        self._adds_rate, self._commits_rate = RecentRate(), RecentRate()
        self._trouble = AddTrouble(name, context.now_ms)
        self._context = context
        self._on_idle = on_idle
        self._waiting: dict[str, PendingAdd] = {}  # by key, in the order of arrival
        self._callers = 0  # in `settle`: one whose key was settled may have to wait again
        self._arrivals = 0
        self._seen = 0  # adds that arrived before the call that brought the known tally
        self._task: asyncio.Task[None] | None = None
        self._call_s = self._call_min_s = max(CALL_MIN_S, context.wait_s / 2)
        self._why = NO_ANSWER
        self._failures = 0  # in a row
        self._turns = CommitTurns(context.random)

    @property
    def waiting(self) -> int:
        """Return how many keys wait."""
        return len(self._waiting)

    def sample(self) -> TallySample:
        """Return what is counted, and the state of the tally."""
        now, trouble = asyncio.get_running_loop().time(), self._trouble
        shut = (
            closed(self.tally, self.name) if self.tally is not None and not trouble.code else None
        )
        return TallySample(
            self.name,
            self.stats,
            waiting=len(self._waiting),
            adds_rate=self._adds_rate.per_second(now),
            commits_rate=self._commits_rate.per_second(now),
            code=trouble.code if shut is None else shut.code,
            why=trouble.why if shut is None else str(shut),
            trouble=trouble.last,
            trouble_at=trouble.last_at,
        )

    async def settle(self, key: str, amount: str, *, sets: bool = False, by: str = "") -> Told:
        """Return the record of a key, which is made by the next commit if it is new.

        Raises as `TallySource.add`; a request that `sets` the sum also TallyNotChanged.
        """
        mine = PendingAdd(key, amount, sets, by, self._arrivals)
        self._arrivals += 1
        self._callers += 1
        try:
            tally, record, replayed = await self._fate(mine)
        finally:
            self._callers -= 1
            self._tell_idle()
        # A record that another request made may be of another amount.
        asked = wanted(tally, key, amount, sets=sets) if replayed else None
        return told(tally, record, asked, replayed=replayed)

    async def _fate(self, mine: PendingAdd) -> tuple[Tally, AddRecord, bool]:
        """Return the fate of a key, which another request for the key may have found out.

        If the store was asked before this request came, it is asked again: the tally may have been
        created again in the meantime.
        """
        began = asyncio.get_running_loop().time()
        while True:
            pending = self._waiting.get(mine.key)
            if pending is None:
                pending = mine
                self._join(mine)
            fate = await pending.fate(began + self._context.wait_s)
            if fate is None:
                self.stats.count_add(UNSETTLED)
                raise self._trouble.unsettled(self._unsettled(mine.key, self._why), began)
            if isinstance(fate, errors.IdserviceError):
                refused = isinstance(fate, errors.RequestRefused)
                if not refused or pending.refusal_holds_for(mine):
                    raise fate
            elif pending.record_holds_for(mine):
                tally, record, replayed = fate
                return tally, record, replayed or pending is not mine

    def _join(self, mine: PendingAdd) -> None:
        if len(self._waiting) >= self._context.waiting_max:
            others = f"{len(self._waiting)} others already wait for this tally"
            self.stats.count_add(UNSETTLED)
            now = asyncio.get_running_loop().time()
            raise self._trouble.unsettled(self._unsettled(mine.key, others), now)
        self._waiting[mine.key] = mine
        if self._task is None:
            self._task = self._context.spawn(self._run())
            self._task.add_done_callback(self._ended)

    def _unsettled(self, key: str, why: str) -> errors.AddUnsettled:
        return errors.AddUnsettled(name=self.name, key=key, why=why)

    # --- the task that commits -------------------------------------------------------------------

    async def _run(self) -> None:
        """Commit until nothing waits."""
        self._why = NO_ANSWER
        try:
            await asyncio.sleep(0)  # requests that came together share the first commit
            while batch := self._batch():
                try:
                    pause_s = await self._step(batch)
                except (errors.StoreError, TimeoutError) as error:
                    pause_s = self._after_failure(error)
                if pause_s:
                    await asyncio.sleep(pause_s)
        except asyncio.CancelledError:
            self._end(STOPPING)
            raise
        except Exception:  # a bug of ours or of a library
            log.exception("committing adds failed", extra={"action": "tally_bug"})
            self._end("the service failed")
        finally:
            self._task = None  # in the same moment, or an add that comes now would start no task
            self._tell_idle()

    def _tell_idle(self) -> None:
        if self._task is None and not self._callers:
            self._on_idle()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # it was cancelled before it began
            self._task = None
            self._end(STOPPING)

    def _batch(self) -> list[PendingAdd]:
        """Return the adds of the next commit; adds whose callers all left are dropped."""
        left = [key for key, one in self._waiting.items() if not one.is_awaited]
        for key in left:
            del self._waiting[key]
        return list(self._waiting.values())[:ADDS_MAX]

    def _end(self, why: str) -> None:
        for pending in self._waiting.values():
            pending.refuse(self._unsettled(pending.key, why))
        self._waiting.clear()

    async def _step(self, batch: list[PendingAdd]) -> float:
        """Settle some of the adds; return a pause before the next step, in seconds.

        Raises StoreError, TimeoutError. After them the same keys are planned again: whether a
        commit was applied or not, their records decide (T1).
        """
        sendable, refused = [], []
        shut = closed(self.tally, self.name)
        for pending in batch:
            judged = self._judged(pending, shut)
            if isinstance(judged, Wanted):
                sendable.append(judged)
            # A tally that was read before a request came is not a reason to refuse it: the tally
            # may have changed. Requests that came before the read are refused now, or a stream of
            # later ones would delay them.
            elif pending.arrived < self._seen:
                refused.append((pending, judged))
        if refused:
            await self._refuse(refused)
        if sendable:
            return await self._commit(sendable)
        if not refused:
            await self._read()
        return 0.0

    def _judged(
        self, pending: PendingAdd, shut: errors.RequestRefused | None
    ) -> Wanted | errors.RequestRefused:
        """Return an add as the next commit can have it, or why no commit can, by the tally as it
        was last seen. `shut` says why the tally takes no adds at all."""
        if shut is not None:
            return shut
        assert self.tally is not None
        try:
            return pending.wanted(self.tally)
        except errors.RequestRefused as unfit:
            return unfit

    async def _read(self) -> None:
        arrivals, check = self._arrivals, self.check_from_now()
        found = await self._call(self._context.store.tally(self.name))
        self._answered(read=True)
        self._learn(found, arrivals, check)

    async def _call(self, call: Coroutine[object, object, T]) -> T:
        """Return the store's answer. Raises StoreError, and TimeoutError if it takes too long."""
        now = asyncio.get_running_loop().time
        began = now()
        async with asyncio.timeout(self._call_s):
            answer = await call
        self._call_s = min(CALL_MAX_S, max(self._call_min_s, 2 * (now() - began)))
        return answer

    def _learn(self, found: Tally | None, arrivals: int, check: Check) -> None:
        """Take note of the tally as the store has it. It may refuse adds that arrived before the
        store was asked; the `check` is of that moment. Raises TallyWentBack."""
        check(found)
        self.tally, self._seen = found, arrivals

    def check_from_now(self) -> Check:
        """Return a check of the result of a call to the store that begins now. The check raises
        TallyWentBack if the result is older than the tally as it is known at this moment."""
        return partial(self._check, self.tally, self._trouble.doubts)

    def _check(self, known: Tally | None, doubts: int, found: Tally | None) -> None:
        how = "" if known is None else gone_back(known, found)
        if not how:
            self._trouble.put_right(doubts)
            return
        back = errors.TallyWentBack(
            store=self._context.address, name=self.name, how=how,
            action=f"asking for tally {self.name}", why=how,
        )  # fmt: skip
        self._trouble.went_back(back)
        raise back

    async def _refuse(self, refused: list[tuple[PendingAdd, errors.RequestRefused]]) -> None:
        """Refuse adds, but not one whose key was counted before the tally was closed (T3).

        The tally was read first: a late commit has an older `rev`, so a record that is not there
        now never will be.
        """
        found: dict[str, AddRecord] = {}
        if self.tally is not None and closed(self.tally, self.name) is not None:
            keys = [pending.key for pending, _ in refused]
            found = await self._call(self._context.store.records(self.tally, keys))
        for pending, error in refused:
            record = found.get(pending.key)
            if record is not None:
                self._settle([record], self._seen, replayed=True)
            else:
                del self._waiting[pending.key]
                self.stats.count_add(error.code)
                self._trouble.settled()
                pending.refuse(error, seen=self._seen)

    async def _commit(self, batch: list[Wanted]) -> float:
        assert self.tally is not None
        arrivals, check = self._arrivals, self.check_from_now()
        commit = planned(self.tally, batch, now=self._context.now_ms())
        began = asyncio.get_running_loop().time()
        beaten = await self._call(self._context.store.commit(commit))
        self._answered()
        now = asyncio.get_running_loop().time()
        took_s = now - began
        self.stats.commit_seconds.observe(took_s)
        if beaten is None:
            self._count("done")
            self._learn(commit.after, arrivals, check)
            self._settle(commit.records, arrivals, replayed=False)
            return self._turns.after_commit(took_s, now)
        return self._beaten(beaten, arrivals, check, took_s)

    def _beaten(self, beaten: Beaten, arrivals: int, check: Check, took_s: float) -> float:
        """Note why a commit was not applied; return a pause before the next one, in seconds."""
        assert self.tally is not None
        self._why, inc = OTHERS_FIRST, self.tally.inc
        now = asyncio.get_running_loop().time()
        was_told = beaten.missing or beaten.tally is not None
        if was_told:
            self._learn(beaten.tally, arrivals, check)
        elif not beaten.conflict:  # the tally is as the commit believed
            check(self.tally)
        if are_of_now(beaten, inc):
            self._settle(beaten.records.values(), arrivals, replayed=True)
        if beaten.conflict:
            self._count("conflict")
            return self._turns.after_conflict(took_s, now)
        if was_told:
            self._turns.beaten(now)
        self._count("replayed" if beaten.tally is None else "beaten")
        return 0.0

    def _count(self, result: str) -> None:
        """Count a commit."""
        self.stats.count_commit(result)
        self._commits_rate.count(asyncio.get_running_loop().time())
        self._trouble.commit_ended(result)

    def _settle(self, records: Collection[AddRecord], arrivals: int, *, replayed: bool) -> None:
        """Tell the callers who wait for these keys. `arrivals` is the number of requests that had
        come when the store was asked."""
        if not records:
            return
        assert self.tally is not None
        self._adds_rate.count(asyncio.get_running_loop().time(), len(records))
        self._trouble.settled()
        for record in records:
            self.stats.count_add("replayed" if replayed else record.fate.value)
            pending = self._waiting.pop(record.key)
            pending.settle(self.tally, record, replayed=replayed, seen=arrivals)

    def _answered(self, *, read: bool = False) -> None:
        self._context.health.answered(read=read)
        self._failures = 0

    def _after_failure(self, error: errors.StoreError | TimeoutError) -> float:
        """Note a call that failed; return a pause, in seconds."""
        if isinstance(error, TimeoutError):
            self._call_s = min(CALL_MAX_S, 2 * self._call_s)
            error = errors.OutcomeUnknown(
                store=self._context.address,
                action=f"counting adds to tally {self.name}",
                why="it took too long",
            )
        self._count("unknown" if error.outcome == errors.UNKNOWN else "refused")
        self._why = str(error).rstrip(".")
        if not (error.throttled or error.answered):
            self._context.health.failed(error)
        self._failures += 1
        spread = self._context.random.random()
        return backoff(self._failures, first_s=PAUSE_FIRST_S, max_s=PAUSE_MAX_S, spread=spread)


def are_of_now(beaten: Beaten, inc: int) -> bool:
    """Return True if incarnation `inc`, which the records are of, is known to be the present one.
    In another incarnation each key is new. A conflict may have kept the store from a look at the
    tally."""
    if beaten.tally is None:
        return not beaten.conflict
    return beaten.tally.inc == inc
