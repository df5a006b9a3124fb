"""Planted faults: the real classes with one rule broken each, which the simulation must find.

A mutant names the scenario in which it is looked for and the check that must see it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from idservice import errors
from idservice.allocation.catalogue_watch import CatalogueWatcher
from idservice.allocation.local_counter import LocalCounter
from idservice.allocation.refiller import Outcome, PendingReservation, Refiller, Result
from idservice.allocation.wait_queue import WaitQueue
from idservice.catalogue import rules
from idservice.core import sizing
from idservice.core.allocator import Allocator, Request
from idservice.core.gap_causes import GapCause
from idservice.stores.records import Counter, Grant, Position, ShardState
from tests.simulation.loop import elapse
from tests.simulation.scenarios import Parts
from tests.simulation.store import Barred, SimStore, Table

# --- the store and its client ---------------------------------------------------------------------


class InfersFromARead(SimStore):
    """After an unknown outcome it reads the position and takes what lies below it for its own."""

    async def reserve(self, counter: Counter, *, count: int, **rest: Any) -> Grant:
        try:
            return await super().reserve(counter, count=count, **rest)
        except errors.OutcomeUnknown:
            found = await self.position(counter)
            assert found is not None
            return Grant(range(found.next - count, found.next), found.rev)


class ReusesTheRange(SimStore):
    """Takes "unknown" for "not applied": the range it had meant to get is written once more."""

    meant: int | None = None

    async def reserve(self, counter: Counter, *, count: int, **rest: Any) -> Grant:
        found = self.data.positions[counter.name, 0]
        if self.meant is None:
            self.meant = found.next
        else:
            start, self.meant = self.meant, None
            found = msgspec.structs.replace(found, next=start + count, mark=start + count)
            self.data.positions[counter.name, 0] = found
            return Grant(range(start, start + count), found.rev)
        grant = await super().reserve(counter, count=count, **rest)
        self.meant = None
        return grant


class RetriesTheRequest(SimStore):
    """What a client library does by default: the same request again, and the answer to that one.

    Not a fault: the first range is burnt.
    """

    async def reserve(self, counter: Counter, **rest: Any) -> Grant:
        try:
            return await super().reserve(counter, **rest)
        except errors.OutcomeUnknown:
            return await super().reserve(counter, **rest)


class RetryIsTheSameBlock(SimStore):
    """Sends a request again, and believes that both times are one block, the first one."""

    async def reserve(self, counter: Counter, *, count: int, **rest: Any) -> Grant:
        before = self.data.positions[counter.name, 0].next
        try:
            return await super().reserve(counter, count=count, **rest)
        except errors.OutcomeUnknown:
            grant = await super().reserve(counter, count=count, **rest)
            return replace(grant, indices=range(before, before + count))


class GivesBackItsRun(SimStore):
    """Gives back the whole of its last reservation, the used part too."""

    start = 0

    async def reserve(self, counter: Counter, **rest: Any) -> Grant:
        grant = await super().reserve(counter, **rest)
        self.start = grant.indices.start
        return grant

    async def give_back(self, counter: Counter, found: Position, *, next: int, **rest: Any) -> bool:
        next = min(next, self.start) if next < found.next else next
        return await super().give_back(counter, found, next=next, **rest)


class GivesBackTwice(SimStore):
    """After an unknown outcome it reads and writes once more, a little later."""

    async def give_back(self, counter: Counter, found: Position, **rest: Any) -> bool:
        try:
            return await super().give_back(counter, found, **rest)
        except (errors.OutcomeUnknown, asyncio.CancelledError):
            self.again = asyncio.ensure_future(self._again(counter, **rest))
            raise

    async def _again(self, counter: Counter, **rest: Any) -> None:
        await asyncio.sleep(0.5)
        with contextlib.suppress(errors.StoreError):
            found = await self.position(counter)
            assert found is not None
            await super().give_back(counter, found, **rest)


class GivesBackUntilItWorks(GivesBackTwice):
    """Takes a refusal for a proof that nothing happened."""

    async def give_back(self, counter: Counter, found: Position, **rest: Any) -> bool:
        done = await SimStore.give_back(self, counter, found, **rest)
        if not done:
            self.again = asyncio.ensure_future(self._again(counter, **rest))
        return done


class ClampsBySubtraction(Table):
    """At the limit it grants what is left, and computes its start as the end minus a full step."""

    def reserve(self, counter: Counter, *, count: int, seen: int, room: int, shard: int) -> range:
        found, end = self.positions[counter.name, shard], room + count
        if room < found.next < end and found.epoch == counter.epoch:
            self.move(counter, shard, found.next, end)
            return range(end - count, end)
        return super().reserve(counter, count=count, seen=seen, room=room, shard=shard)


class Unconditional(Table):
    """Reserves without any look at epoch, `seen` and mark."""

    def reserve(self, counter: Counter, *, count: int, seen: int, room: int, shard: int) -> range:
        found = self.positions.get((counter.name, shard))
        if found is None or found.next > room:
            return super().reserve(counter, count=count, seen=seen, room=room, shard=shard)
        return self.move(counter, shard, found.next, found.next + count)


class WithoutEpoch(Table):
    """Takes any epoch for the right one."""

    def reserve(self, counter: Counter, **rest: Any) -> range:
        found = self.positions.get((counter.name, 0))
        epoch = counter.epoch if found is None else found.epoch
        return super().reserve(msgspec.structs.replace(counter, epoch=epoch), **rest)


class WithoutSeen(Table):
    """Does not compare with where the instance's own last reservation ended."""

    def reserve(self, counter: Counter, *, seen: int, **rest: Any) -> range:
        return super().reserve(counter, seen=0, **rest)


class WithoutMark(Table):
    """Does not compare with where the last reservation of anybody ended."""

    def reserve(self, counter: Counter, **rest: Any) -> range:
        if (counter.name, 0) in self.positions:
            self.set_by_hand(counter.name, mark=0)
        return super().reserve(counter, **rest)


class StartsFromZero(Table):
    """A reservation on a missing position creates it, as a bare ADD does."""

    def reserve(self, counter: Counter, *, count: int, seen: int, room: int, shard: int) -> range:
        self.positions.setdefault((counter.name, shard), Position(0, 0, 0, counter.epoch))
        return super().reserve(counter, count=count, seen=0, room=room, shard=shard)


class GivesBackByValue(Table):
    """Takes a position that stands where it stood for one that nobody wrote to."""

    def give_back(self, counter: Counter, found: Position, **rest: Any) -> bool:
        here = self.positions[counter.name, 0]
        found = msgspec.structs.replace(here, next=found.next)
        return super().give_back(msgspec.structs.replace(counter, epoch=here.epoch), found, **rest)


class GivesBackAtAnyRevision(Table):
    """Looks at epoch and value, and not at the revision."""

    def give_back(self, counter: Counter, found: Position, **rest: Any) -> bool:
        here = self.positions[counter.name, 0]
        return super().give_back(counter, msgspec.structs.replace(found, rev=here.rev), **rest)


class GivesBackWithoutTheValue(Table):
    """Looks at epoch and revision, which an old endpoint does not move."""

    def give_back(self, counter: Counter, found: Position, **rest: Any) -> bool:
        here = self.positions[counter.name, 0]
        return super().give_back(counter, msgspec.structs.replace(found, next=here.next), **rest)


async def claims_what_it_read(
    store: SimStore, counter: Counter, grant: Grant, *, shard: int
) -> list[range]:
    """Empties the list without a condition, and takes what the grant had told of it."""
    await store._call("claim", lambda _: store.data._write(counter, shard, returned=()))
    return [counter.layout(shard).ids(indices) for indices in grant.returned]


# --- the core -------------------------------------------------------------------------------------


class KeepsTheRest(Allocator):
    """A strict counter that keeps what it did not hand out."""

    def settle(self) -> None:
        pass


class BelievesOldAnswers(Allocator):
    """Takes whatever answer comes for the answer to its last request (no token)."""

    def granted(self, token: int, indices: range) -> bool:
        request = self._outstanding
        if request is not None and not self.retired:
            self._outstanding = Request(
                token=token,
                count=len(indices),
                seen=0,
                room=self.shards.present.layout.end - len(indices),
            )
        return super().granted(token, indices)


class AsksForAllAgain(Allocator):
    """After an unknown outcome it asks for as much again."""

    def refused(self, token: int, *, unknown: bool) -> None:
        super().refused(token, unknown=unknown)
        self._cut_to = None


class ForgetsUnknownGaps(Allocator):
    """Does not count what an unknown outcome burns."""

    def refused(self, token: int, *, unknown: bool) -> None:
        super().refused(token, unknown=unknown)
        self.gaps.pop("unknown", None)


class DropsUncounted(Allocator):
    """Forgets to count ids whose client has left."""

    def record_wasted(self, count: int) -> None:
        pass


# --- the shell ------------------------------------------------------------------------------------


class AwaitsInTake(LocalCounter):
    """Lets others run between reading the cursor and moving it."""

    async def next_id(self) -> int:
        remaining = self.allocator.buffer._remaining()
        if not remaining:
            return await super().next_id()
        await asyncio.sleep(0)
        self.allocator.buffer._point_at(remaining[1:])
        return remaining[0]


class HandsOutEarly(Refiller):
    """Hands out what it expects to get, before the store has said so."""

    async def _carry_out(self, asked: PendingReservation, *, in_background: bool) -> Outcome:
        request = asked.request
        expected = max(request.seen, asked.counter.start)
        asked.allocator.granted(request.token, range(expected, expected + request.count))
        self._queue.share_out(self._epoch_state.allocator, self._queue.arrivals, strict=False)
        outcome = await super()._carry_out(asked, in_background=in_background)
        return replace(outcome, result=Result.GRANTED)


class SharesWithLaterOnes(WaitQueue):
    """Gives a strict batch to whoever waits when it comes."""

    def share_out(self, allocator: Allocator, arrived: int, *, strict: bool) -> None:
        super().share_out(allocator, self.arrivals, strict=strict)


class NeverPauses(Refiller):
    """Tries again at once."""

    def _pause(self, failures: int) -> float:
        return 0.0


class HandsOutMeanwhile(LocalCounter):
    """Gives back what it goes on handing out until that is done."""

    async def close(self, patience_s: float) -> list[range]:
        self.allocator._gap(GapCause.STOP, self.allocator.held)  # counted as by the real one
        return self.allocator.buffer.blocks


class ClaimsAtAnyTime(Refiller):
    """Claims also when it has handed out newer ids already."""

    async def _claim(self, asked: PendingReservation, grant: Grant) -> bool:
        asked.shard.begun = False
        return await super()._claim(asked, grant)


class LetsThemWait(WaitQueue):
    """Notices late that a wait is over."""

    def _expire(self) -> None:
        self._loop.call_later(1.0, super()._expire)


class GivesUp(Refiller):
    """Never asks again after a failure."""

    async def outcomes(self, asked: PendingReservation | None) -> AsyncIterator[Outcome]:
        if asked is not None:
            outcome = await self._carry_out(asked, in_background=False)
            yield outcome
            self._running = not outcome.succeeded


class HearsLateAnswers(Refiller):
    """Does not hang up on a call that takes too long; its answer is passed on when it comes.

    Not a fault: the allocator drops it, by its token (I12).
    """

    async def _carry_out(self, asked: PendingReservation, *, in_background: bool) -> Outcome:
        real = self._context
        self._context = replace(real, store=_Patient(real.store, self, asked))  # type: ignore[arg-type]
        try:
            return await super()._carry_out(asked, in_background=in_background)
        finally:
            self._context = real


class _Patient:
    def __init__(self, store: Any, refill: Refiller, asked: PendingReservation) -> None:
        self._store, self._refill, self._asked = store, refill, asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def reserve(self, counter: Counter, **rest: Any) -> Grant:
        call = asyncio.ensure_future(self._store.reserve(counter, **rest))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            call.add_done_callback(self._late)
            raise

    def _late(self, call: "asyncio.Future[Grant]") -> None:
        refill = self._refill
        if call.cancelled() or call.exception() is not None:
            return
        present = refill._epoch_state.allocator
        if present.granted(self._asked.request.token, call.result().indices):
            refill._queue.share_out(present, refill._queue.arrivals, strict=False)


# --- change ---------------------------------------------------------------------------------------


class SealsBeside(Table):
    """Writes the seal beside the epoch instead of in its place, and so into no condition."""

    def __init__(self) -> None:
        super().__init__()
        self.seals: dict[tuple[str, int], str] = {}

    def shard_state(self, counter: Counter, shard: int) -> ShardState | None:
        found = super().shard_state(counter, shard)
        seal = self.seals.get((counter.name, shard))
        return (
            found if found is None or seal is None else msgspec.structs.replace(found, epoch=seal)
        )

    def seal(self, counter: Counter, shard: int, found: ShardState | None, seal: str) -> None:
        if found is not None and self.shard_state(counter, shard) == found:
            self.seals[counter.name, shard] = seal

    def open_shard(self, counter: Counter, shard: int, seal: str, epoch: str) -> None:
        if self.seals.get((counter.name, shard)) == seal:
            del self.seals[counter.name, shard]
            here = self.positions[counter.name, shard]
            self.positions[counter.name, shard] = Position(0, 0, here.rev + 1, epoch)


class OpensWhateverIsThere(Table):
    """Opens a shard without a look at its seal: a late copy resets the position."""

    def open_shard(self, counter: Counter, shard: int, seal: str, epoch: str) -> None:
        found = self.positions[counter.name, shard]
        super().open_shard(counter, shard, found.epoch, epoch)


class SealsWhateverIsThere(Table):
    """Seals a shard without a look at its epoch: a late copy closes it, and nobody knows why."""

    def seal(self, counter: Counter, shard: int, found: ShardState | None, seal: str) -> None:
        super().seal(counter, shard, self.shard_state(counter, shard), seal)


class RewritesWhateverIsThere(Table):
    """Writes an entry without a look at its revision: a late copy brings an old one back."""

    def rewrite(self, before: Counter, after: Counter) -> bool:
        return super().rewrite(self.entries[after.name], after)


class TakesOverWhatItRead(Table):
    """Ends an adoption at the position that was read when it was sealed: what an old endpoint took
    since is given out once more."""

    def finish_adoption(self, counter: Counter, seal: str, epoch: str, *, first: int) -> None:
        before = self.positions[counter.name, 0]
        super().finish_adoption(counter, seal, epoch, first=first)
        if self.positions[counter.name, 0] is not before:
            self.set_by_hand(counter.name, next=first, mark=first)


class LeavesTheOldValue(Table):
    """Ends an adoption beside the old endpoint's value, which stays a number to count on in."""

    def __init__(self) -> None:
        super().__init__()
        self.value: int | None = None

    def finish_adoption(self, counter: Counter, seal: str, epoch: str, *, first: int) -> None:
        before = self.positions[counter.name, 0].next
        super().finish_adoption(counter, seal, epoch, first=first)
        if counter.name in self.barred:
            self.barred.remove(counter.name)
            self.value = before

    def count_elsewhere(self, name: str, by: object) -> int:
        if self.value is None:
            return super().count_elsewhere(name, by)
        id = self.value + 1
        if id % 40:  # for a while: it never hears of it
            self.value += 1
            return id
        raise Barred


def one_seal_for_all(epoch: str) -> str:
    """A seal that does not name its change."""
    return "sealed:0.constant"


def from_the_position_alone(stand: ShardState | None) -> int:
    """Where a shard ended, without a look at its mark."""
    return (stand.next or 0) if stand is not None else 0


def without_what_came_before(base: int, reserved: Any, high: int) -> int:
    """The base of a new epoch from the indices alone, as if every epoch began at 0."""
    return max(reserved)


def revoked_by_the_last_change(
    entry: Counter, wish: Any, found: Any, random: Any, *, begun: Any = rules.begun
) -> Counter:
    """Forgets what was revoked before, once something else is changed."""
    after: Counter = begun(entry, wish, found, random)
    return msgspec.structs.replace(
        after, revoked=0 if after.revoked == entry.revoked else after.revoked
    )


class NeverRevokes(LocalCounter):
    """Uses up what is in memory, whatever the change was."""

    def apply_entry(self, entry: Counter) -> None:
        if entry.target_state == self.counter.target_state:
            entry = msgspec.structs.replace(entry, revoked=0)
        super().apply_entry(entry)


class RemembersTheLaterRevision(CatalogueWatcher):
    """Takes the revision that it finds after it read the entries for the one they are of."""

    async def _read_entries(self) -> None:
        await super()._read_entries()
        await elapse(0.5)
        self._later = await self._store.revision()

    async def _look(self) -> bool:
        found = await super()._look()
        self._revision = getattr(self, "_later", self._revision)
        return found


class NeverStale(CatalogueWatcher):
    """Goes on for ever without hearing of the catalogue."""

    def _go_stale(self) -> None:
        pass


class BelievesLateLooks(CatalogueWatcher):
    """Takes an answer for as fresh as it is late: its age counts from when it came."""

    async def _look(self) -> bool:
        before = self._heard_at
        found = await super()._look()
        if self._heard_at != before:
            self._heard_at = self._loop.time()
            self._set_timer()
        return found


class LeavesItStanding(CatalogueWatcher):
    """Waits for the operator to come back."""

    def _find_standing(self) -> None:
        pass


class NeverCompares(CatalogueWatcher):
    """Leaves it to the next reservation to notice that a position went back."""

    def _compare_positions(self) -> None:
        pass


# --- sizes ----------------------------------------------------------------------------------------


def no_low_water(*, rate: float, runway_s: float, held: int) -> int:
    """Refills when nothing is left."""
    return 0


def small_refill(*, rate: float, runway_s: float, held: int, used: int, block_max: int) -> int:
    """Holds a tenth of what the runway needs."""
    return sizing.BLOCK_MIN


@dataclass(frozen=True)
class Mutant:
    """A fault, where it is put, in which scenario it shows, and which check must see it."""

    fault: Any
    place: str  # "store", "table", or the dotted name that it replaces
    scenario: str
    check: str
    found_by: int = 0  # the seed that is tried first

    @property
    def parts(self) -> Parts:
        if self.place == "store":  # which sends what the service knows nothing of
            return Parts(store=self.fault, one_try=False)
        return Parts(table=self.fault) if self.place == "table" else Parts()


ALLOCATOR = "idservice.allocation.epoch_state.Allocator"
LOCAL_COUNTER = "idservice.allocation.service.LocalCounter"
REFILLER = "idservice.allocation.local_counter.Refiller"
WAIT_QUEUE = "idservice.allocation.local_counter.WaitQueue"
WATCHER = "idservice.allocation.service.CatalogueWatcher"
STANDS = "idservice.catalogue.rules.stand_reserved"
MUTANTS = [
    Mutant(InfersFromARead, "store", "block", "unique", found_by=14),
    Mutant(ReusesTheRange, "store", "block", "unique"),
    Mutant(RetryIsTheSameBlock, "store", "block", "unique", found_by=27),
    Mutant(ClampsBySubtraction, "table", "turmoil", "unique"),
    Mutant(Unconditional, "table", "turmoil", "unique", found_by=6),
    Mutant(WithoutEpoch, "table", "restored", "unique", found_by=9),
    Mutant(WithoutSeen, "table", "restored", "ledger"),
    Mutant(WithoutMark, "table", "turmoil", "unique", found_by=6),
    Mutant(StartsFromZero, "table", "turmoil", "unique", found_by=26),
    Mutant(GivesBackByValue, "table", "rolling", "unique", found_by=31),
    Mutant(GivesBackAtAnyRevision, "table", "rolling", "unique", found_by=31),
    Mutant(GivesBackWithoutTheValue, "table", "rolling", "unique"),
    Mutant(GivesBackTwice, "store", "rolling", "unique", found_by=2),
    Mutant(GivesBackUntilItWorks, "store", "rolling", "unique", found_by=5),
    Mutant(
        claims_what_it_read, "idservice.allocation.give_back.claim", "rolling", "unique", found_by=2
    ),
    Mutant(HandsOutMeanwhile, LOCAL_COUNTER, "rolling", "unique"),
    Mutant(GivesBackItsRun, "store", "rolling", "unique", found_by=14),
    Mutant(ClaimsAtAnyTime, REFILLER, "rolling", "order"),
    Mutant(KeepsTheRest, ALLOCATOR, "strict", "order"),
    Mutant(AsksForAllAgain, ALLOCATOR, "turmoil", "burn", found_by=4),
    Mutant(ForgetsUnknownGaps, ALLOCATOR, "block", "gaps"),
    Mutant(DropsUncounted, ALLOCATOR, "turmoil", "gaps", found_by=24),
    Mutant(AwaitsInTake, LOCAL_COUNTER, "block", "unique"),
    Mutant(HandsOutEarly, REFILLER, "block", "unique"),
    Mutant(SharesWithLaterOnes, WAIT_QUEUE, "strict", "order", found_by=11),
    Mutant(NeverPauses, REFILLER, "block", "tight loop"),
    Mutant(LetsThemWait, WAIT_QUEUE, "block", "deadline"),
    Mutant(GivesUp, REFILLER, "block", "resumes"),
    Mutant(WithoutEpoch, "table", "operated", "unique", found_by=5),
    Mutant(SealsBeside, "table", "hurried", "unique"),
    Mutant(OpensWhateverIsThere, "table", "hurried", "unique", found_by=3),
    Mutant(SealsWhateverIsThere, "table", "hurried", "false alarm"),
    Mutant(RewritesWhateverIsThere, "table", "operated", "standing"),
    Mutant(TakesOverWhatItRead, "table", "taken_over", "unique"),
    Mutant(LeavesTheOldValue, "table", "taken_over", "unique"),
    Mutant(one_seal_for_all, "idservice.core.epoch.sealed", "hurried", "unique", found_by=2),
    Mutant(from_the_position_alone, STANDS, "operated", "unique", found_by=5),
    Mutant(without_what_came_before, "idservice.catalogue.rules.first_free", "operated", "unique"),
    Mutant(
        revoked_by_the_last_change,
        "idservice.catalogue.rules.begun",
        "prompt",
        "revoked",
        found_by=3,
    ),
    Mutant(NeverRevokes, LOCAL_COUNTER, "prompt", "revoked"),
    Mutant(RemembersTheLaterRevision, WATCHER, "prompt", "revoked", found_by=6),
    Mutant(LeavesItStanding, WATCHER, "operated", "standing", found_by=3),
    Mutant(NeverCompares, WATCHER, "rewound", "unique"),
    Mutant(NeverStale, WATCHER, "cut_off", "stale"),
    Mutant(BelievesLateLooks, WATCHER, "cut_off", "revoked", found_by=6),
    Mutant(no_low_water, "idservice.core.sizing.low_water", "outage", "available"),
    Mutant(small_refill, "idservice.core.sizing.refill", "outage", "available"),
]
