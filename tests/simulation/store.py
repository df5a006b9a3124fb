"""A store in memory, behind a network that loses, delays and repeats what is sent over it.

`Table` is what the store holds: several `SimStore` handles over one table are several instances'
connections to one store. Without `faults` a handle is a plain, quick and honest store for any
event loop; with them it needs the virtual loop, because it keeps people waiting.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any, Self

import msgspec

from idservice import errors
from idservice.core import epoch as epochs
from idservice.core.usage import UsagePart
from idservice.core.writer import Batch, Record
from idservice.stores import records
from idservice.stores.findings import Clock, Finding
from idservice.stores.key_store import KeyBucket
from idservice.stores.protocol import SentReservation
from idservice.stores.records import DELETED, Counter, Position, ShardState, Writers
from tests.simulation.key_store import SimKeys
from tests.simulation.tally_store import SimTallies, TallyTable
from tests.simulation.usage_store import SimUsage

ADDRESS = "sim:"
HANG_S = 60.0  # longer than any deadline of ours


@dataclass(slots=True)
class Grant:
    """One reservation that was applied, whoever may have heard of it; or one range of a claim."""

    counter: str
    epoch: str
    indices: range
    ids: range
    store: object
    copy: bool  # applied a second time, by a hop that sent the request again
    answered: bool = False  # the caller got the answer before it gave up
    claimed: bool = False
    nonce: str = ""  # of a strict counter's batch
    closed: bool = False  # its answer was made when its epoch was over
    shard: int = 0


@dataclass(slots=True)
class GaveBack:
    """One give-back that was applied: the position stood at `before` and is at `next` since."""

    counter: str
    epoch: str
    before: int
    next: int
    copy: bool
    at: float  # loop time
    shard: int = 0


@dataclass(slots=True)
class Sent:
    """One reservation as its caller saw it."""

    counter: str
    count: int
    at: float
    outcome: str = "unknown"  # until an answer says otherwise
    until: float = float("inf")
    nonce: str = ""  # the same in every copy of a strict counter's batch


class Barred(Exception):
    """What an old endpoint is answered when its value is a text."""


class Table:
    """The records themselves, every operation at one instant, and a ledger of what was granted."""

    def __init__(self) -> None:
        self.recorded: object = None  # the identity that `init` wrote down
        self.tallies = TallyTable()
        self.buckets: dict[str, KeyBucket] = {}  # of access keys
        self.usage: dict[tuple[int, str], UsagePart] = {}  # by day and name
        self.identity: object = "the first"  # the one the table has; another after a restore
        self.revision = 0
        self.entries: dict[str, Counter] = {}
        self.positions: dict[tuple[str, int], Position] = {}
        self.registrations: dict[str, int] = {}
        self.records: dict[str, dict[str, Record]] = {}  # of strict counters' writers
        self.ledger: list[Grant] = []
        self.on_entry: Callable[[Counter], None] | None = None  # told of every rewrite
        self.given_back: list[tuple[int, GaveBack]] = []  # and how many grants were before
        self.barred: set[str] = set()  # whose old endpoint adds to a text
        self.ended: dict[tuple[str, str, int], int] = {}  # where each epoch left its shards

    def init(self, first: Counter) -> bool:
        if self.recorded is not None:
            self.verify()
            return False
        self.recorded = self.identity
        self.create(first)
        return True

    def verify(self) -> None:
        if self.recorded is None:
            raise errors.StoreUnready(store=ADDRESS, why="it is not initialised; run init")
        if self.recorded != self.identity:
            raise errors.StoreReplaced(store=ADDRESS, why="its identity is another")

    def rewrite_keys(self, after: KeyBucket) -> bool:
        if self.buckets.get(after.number, KeyBucket(after.number)).rev != after.rev - 1:
            return False
        self.buckets[after.number] = after
        self.revision += 1
        return True

    def write_usage(self, part: UsagePart) -> bool:
        found = self.usage.get((part.day, part.name))
        if found is not None and found.seq >= part.seq:
            return False
        self.usage[part.day, part.name] = part
        return True

    def look(self) -> int:
        self.verify()
        return self.revision

    def counter(self, name: str) -> Counter | None:
        return self.entries.get(name)

    def counters(self) -> list[Counter]:
        return [self.entries[name] for name in sorted(self.entries)]

    def page(self, after: str, most: int) -> list[Counter]:
        there = [one for one in self.counters() if one.state != DELETED]
        return [one for one in there if one.name > after][:most]

    def create(self, counter: Counter) -> Counter:
        found = self.entries.get(counter.name)
        if found is not None:
            return found
        first = counter.start - counter.base
        self.revision += 1
        self.entries[counter.name] = counter
        for shard in range(counter.shards):
            self.positions[counter.name, shard] = Position(first, first, 0, counter.initial_epoch)
        return counter

    def position(self, counter: Counter, shard: int) -> Position | None:
        found = self.positions.get((counter.name, shard))
        if found is not None and not (isinstance(found.next, int) and isinstance(found.mark, int)):
            raise errors.PositionIllFormed(store=ADDRESS, name=counter.name, why="no integer")
        return found

    def reserve(
        self,
        counter: Counter,
        *,
        count: int,
        seen: int,
        room: int,
        shard: int,
        batch: Batch | None = None,
    ) -> range:
        assert count > 0
        assert 0 <= seen <= room
        asked = SentReservation(ADDRESS, counter, count, seen, room, batch)
        record = self.record(counter, batch)
        found = self.positions.get((counter.name, shard))
        if found is None or found.epoch != counter.epoch:
            return asked.interpret_failure(found, record).indices
        found = self.position(counter, shard)
        assert found is not None
        if not (max(found.mark, seen) <= found.next <= room and self.follows(batch, record)):
            return asked.interpret_failure(found, record).indices
        if batch is not None:
            mine = Record(batch.seq, found.next + count, batch.nonce)
            self.records.setdefault(counter.name, {})[batch.writer] = mine
        return self.move(counter, shard, found.next, found.next + count)

    def record(self, counter: Counter, batch: Batch | None) -> Record | None:
        """What the writer of a batch has on the position."""
        return self.records.get(counter.name, {}).get(batch.writer) if batch else None

    def follows(self, batch: Batch | None, record: Record | None) -> bool:
        """Whether the batch is the next one of its writer."""
        return batch is None or (record is not None and record.seq == batch.seq - 1)

    def writers(self, counter: Counter) -> Writers | None:
        if (counter.name, 0) not in self.positions:
            return None
        seqs = {name: one.seq for name, one in self.records.get(counter.name, {}).items()}
        return Writers(self.registrations.get(counter.name, 0), seqs)

    def register(self, counter: Counter, name: str, registrations: int) -> bool:
        here, found = self.positions.get((counter.name, 0)), self.writers(counter)
        if here is None or here.epoch != counter.epoch:
            return False
        if found is None or found.registrations != registrations or name in found.seqs:
            return False
        self.registrations[counter.name] = registrations + 1
        self.records.setdefault(counter.name, {})[name] = Record(0)
        self.set_by_hand(counter.name, rev=here.rev + 1)
        return True

    def prune(self, counter: Counter, name: str, seq: int) -> None:
        here, records = self.positions.get((counter.name, 0)), self.records.get(counter.name, {})
        if here is not None and name in records and records[name].seq == seq:
            del records[name]
            self.set_by_hand(counter.name, rev=here.rev + 1)

    def forget_writers(self, name: str) -> None:
        """Nobody is registered, and nobody ever was in this epoch."""
        self.registrations.pop(name, None)
        self.records.pop(name, None)

    def granted(self, nonce: str) -> Grant | None:
        """The grant to a batch that was applied."""
        return next((g for g in reversed(self.ledger) if nonce and g.nonce == nonce), None)

    def move(self, counter: Counter, shard: int, start: int, stop: int) -> range:
        """Write a position as a reservation of start .. stop does."""
        self._write(counter, shard, next=stop, mark=stop)
        return range(start, stop)

    def _write(self, counter: Counter, shard: int, **fields: Any) -> None:
        found = self.positions[counter.name, shard]
        self.positions[counter.name, shard] = msgspec.structs.replace(
            found, rev=found.rev + 1, **fields
        )

    def give_back(
        self, counter: Counter, found: Position, *, next: int, returned: tuple[range, ...],
        shard: int,
    ) -> bool:  # fmt: skip
        here = self.positions.get((counter.name, shard))
        conditions = (counter.epoch, found.rev, found.next)
        if here is None or (here.epoch, here.rev, here.next) != conditions:
            return False
        self._write(counter, shard, next=next, mark=min(next, found.mark), returned=returned)
        return True

    def claim(self, counter: Counter, rev: int, shard: int) -> tuple[range, ...]:
        here = self.positions.get((counter.name, shard))
        if here is None or (here.epoch, here.rev) != (counter.epoch, rev):
            return ()
        self._write(counter, shard, returned=())
        return here.returned

    def count_elsewhere(self, name: str, by: object) -> int:
        """What the old endpoint of an adopted item does: the value moves, and nothing else."""
        found, counter = self.positions[name, 0], self.entries[name]
        if name in self.barred:
            raise Barred
        self.set_by_hand(name, next=found.next + 1)
        indices = range(found.next, found.next + 1)
        ids = counter.layout().ids(indices)
        # A closed position still counts on from the epoch before.
        epoch = counter.epoch if ":" in found.epoch else found.epoch
        self.ledger.append(Grant(name, epoch, indices, ids, by, False, answered=True))
        return ids.start

    def close_gone_back(self, counter: Counter, found: str, shard: int) -> None:
        here = self.positions.get((counter.name, shard))
        if here is not None and here.epoch == found:
            self.positions[counter.name, shard] = msgspec.structs.replace(
                here, epoch=epochs.gone_back(found), rev=here.rev + 1
            )

    # --- change ----------------------------------------------------------------------------------

    def accept_identity(self) -> None:
        self.recorded = self.identity

    def rewrite(self, before: Counter, after: Counter) -> bool:
        if self.entries[after.name].rev != before.rev:
            return False
        self.entries[after.name] = after
        self.move_revision(before, after)
        if self.on_entry is not None:
            self.on_entry(after)
        return True

    def move_revision(self, before: Counter, after: Counter) -> None:
        self.revision += 1

    def shard_state(self, counter: Counter, shard: int) -> ShardState | None:
        found = self.positions.get((counter.name, shard))
        if found is None:
            return None
        whole = (value if isinstance(value, int) else None for value in (found.next, found.mark))
        return ShardState(found.epoch, *whole)

    def seal(self, counter: Counter, shard: int, found: ShardState | None, seal: str) -> None:
        here = self.positions.get((counter.name, shard))
        if here is None and found is None:
            self.positions[counter.name, shard] = Position(0, 0, 0, seal)
        elif here is not None and found is not None and here.epoch == found.epoch:
            self.positions[counter.name, shard] = msgspec.structs.replace(
                here, epoch=seal, rev=here.rev + 1
            )

    def open_shard(self, counter: Counter, shard: int, seal: str, epoch: str) -> None:
        here = self.positions.get((counter.name, shard))
        if here is not None and here.epoch == seal:
            self.ended[counter.name, counter.epoch, shard] = here.next
            self.positions[counter.name, shard] = Position(0, 0, here.rev + 1, epoch)
            self.forget_writers(counter.name)

    def reached(self, counter: Counter, shard: int) -> int:
        """Where a shard stands in this entry's epoch, or stood when the next one began on it."""
        ended = self.ended.get((counter.name, counter.epoch, shard))
        return self.positions[counter.name, shard].next if ended is None else ended

    def open_adopted(self, counter: Counter, seal: str, epoch: str, *, value: int) -> None:
        here = self.positions.get((counter.name, 0))
        if here is not None and here.epoch == seal:
            raised = {"next": value, "mark": value} if here.next < value else {}
            self._write(counter, 0, epoch=epoch, returned=(), **raised)

    def finish_adoption(self, counter: Counter, seal: str, epoch: str, *, first: int) -> None:
        here = self.positions.get((counter.name, 0))
        if here is not None and here.epoch == seal:
            there = max(first, counter.base + here.next)
            self.positions[counter.name, 0] = Position(there, there, here.rev + 1, epoch)
            self.barred.add(counter.name)

    # --- what people do to it by hand ------------------------------------------------------------

    def set_by_hand(self, name: str, shard: int = 0, **fields: Any) -> None:
        """Change attributes of a position as an editor of tables would: nothing else moves."""
        found = self.positions[name, shard]
        self.positions[name, shard] = msgspec.structs.replace(found, **fields)

    def repair(self, name: str, random: str) -> Counter:
        """Open the next epoch of a counter above every id ever granted, as a fence does."""
        before = self.entries[name]
        base = max((g.ids.stop for g in self.ledger if g.counter == name), default=before.start)
        epoch = epochs.epoch_name(before.ordinal + 1, random)
        entry = self.entries[name] = msgspec.structs.replace(
            before, epoch=epoch, base=base, rev=before.rev + 1
        )
        self.revision += 1
        self.positions[name, 0] = Position(0, 0, 0, epoch)
        self.forget_writers(name)
        return entry


@dataclass
class Faults:
    """How the network misbehaves: a probability for each way, and windows of outage (seconds)."""

    lost_before: float = 0.0  # the request never arrives
    lost_after: float = 0.0  # the answer never arrives
    late_request: float = 0.0  # applied when the caller has long given up
    late_answer: float = 0.0  # applied at once, answered when the caller has given up
    repeated: float = 0.0  # applied once more, at any later time
    throttled: float = 0.0  # refused, and said so
    unsure_back: float = 0.0  # as `lost_after` or `resent`, of give-backs alone
    resent: float = 0.0  # applied, then sent again, and only the second answer is passed on
    latency_s: tuple[float, float] = (0.001, 0.01)
    conflicts: float = 0.0  # of commits to tallies: another transaction is in the way
    outages: list[tuple[float, float]] = field(default_factory=list)
    hot: set[int] = field(default_factory=set)  # shards that take no reservation now

    KINDS = ("lost_before", "lost_after", "late_request", "late_answer", "throttled", "resent")

    @classmethod
    def swarm(cls, rng: Random) -> "Faults":
        """Some ways switched off entirely, others frequent: rare combinations come up early."""
        faults = cls()
        for kind in (*cls.KINDS, "repeated"):
            if rng.random() < 0.5:
                setattr(faults, kind, rng.choice((0.02, 0.1, 0.25)))
        faults.latency_s = rng.choice(((0.0, 0.001), (0.001, 0.02), (0.05, 0.3), (0.0, 1.0)))
        if rng.random() < 0.3:
            start = rng.uniform(0.5, 4.0)
            faults.outages.append((start, start + rng.uniform(0.5, 6.0)))
        return faults

    def heal(self) -> None:
        """From now on everything arrives, once and soon."""
        for field_ in dataclasses.fields(Faults):
            setattr(self, field_.name, 0.0)
        self.latency_s = (0.001, 0.01)
        self.outages = []
        self.hot = set()

    def fate(self, rng: Random, now: float) -> str:
        """What becomes of one request."""
        for start, stop in self.outages:
            if start <= now < stop:
                return "lost_before"
        drawn = rng.random()
        for kind in self.KINDS:
            drawn -= getattr(self, kind)
            if drawn < 0:
                return kind
        return "fine"


def throttled(action: str) -> errors.NotApplied:
    """What a store says that takes no more now."""
    error = errors.NotApplied(store=ADDRESS, action=action, why="throttled")
    error.throttled = True
    return error


class SimStore:
    """One handle on a table; implements `CatalogueStore`."""

    def __init__(
        self, random: Random, data: Table | None = None, faults: Faults | None = None
    ) -> None:
        self.address = ADDRESS
        self.hold_s: float | None = None
        self.random = random
        self.data = data if data is not None else Table()
        self.faults = faults
        self.tallies = SimTallies(
            self.data.tallies, self._call, random=random, conflicts=self._conflicts
        )
        self.keys = SimKeys(self.data, self._call)
        self.usage = SimUsage(self.data, self._call)
        self.sent: list[Sent] = []  # reservations
        self.asks: list[Any] = []  # of strict counters, see `account`
        self.calls = 0  # operations of every kind
        self.too_late = 0  # give-backs that were refused
        self.on_answer: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    async def init(self, first: Counter) -> bool:
        return await self._call("init", lambda _: self.data.init(first))

    async def verify(self) -> None:
        await self._call("verify", lambda _: self.data.verify())

    async def examine(self, clock: Clock, *, thorough: bool) -> list[Finding]:
        return []

    async def examine_item(self, counter: Counter) -> list[Finding]:
        return []

    async def counter(self, name: str) -> Counter | None:
        return await self._call("read", lambda _: self.data.counter(name))

    async def entry(self, name: str) -> Counter | None:
        return await self.counter(name)

    async def counters(self) -> list[Counter]:
        return await self._call("read", lambda _: self.data.counters())

    async def page(self, after: str, most: int) -> list[Counter]:
        return await self._call("read", lambda _: self.data.page(after, most))

    async def accept_identity(self) -> None:
        await self._call("accept", lambda _: self.data.accept_identity())

    async def revision(self) -> int:
        return await self._call("read", lambda _: self.data.look())

    async def rewrite(self, before: Counter, after: Counter) -> bool:
        return await self._call("rewrite", lambda _: self.data.rewrite(before, after))

    async def with_table_identity(self, counter: Counter) -> Counter:
        return counter

    async def shard_state(self, counter: Counter, shard: int) -> ShardState | None:
        return await self._call("read", lambda _: self.data.shard_state(counter, shard))

    async def seal(self, counter: Counter, shard: int, found: ShardState | None, seal: str) -> None:
        await self._call("seal", lambda _: self.data.seal(counter, shard, found, seal))

    async def open_shard(
        self, counter: Counter, shard: int, seal: str, epoch: str, *, value: int
    ) -> None:
        def apply(_: bool) -> None:
            if counter.adopted is not None:
                self.data.open_adopted(counter, seal, epoch, value=value)
            else:
                self.data.open_shard(counter, shard, seal, epoch)

        await self._call("open", apply)

    async def finish_adoption(self, counter: Counter, seal: str, epoch: str, *, first: int) -> None:
        await self._call(
            "open", lambda _: self.data.finish_adoption(counter, seal, epoch, first=first)
        )

    async def create(self, counter: Counter) -> Counter:
        return await self._call("create", lambda _: self.data.create(counter))

    async def position(self, counter: Counter, shard: int = 0) -> Position | None:
        return await self._call("read", lambda _: self.data.position(counter, shard))

    async def reserve(
        self,
        counter: Counter,
        *,
        count: int,
        seen: int,
        room: int,
        shard: int = 0,
        batch: Batch | None = None,
    ) -> records.Grant:
        loop, nonce = asyncio.get_running_loop(), batch.nonce if batch else ""
        sent = Sent(counter.name, count, loop.time(), nonce=nonce)
        self.sent.append(sent)
        asked: dict[str, Any] = {"count": count, "seen": seen, "room": room, "shard": shard}
        if batch is not None:
            asked["batch"] = batch

        refused, applied = False, []

        def apply(copy: bool) -> tuple[records.Grant, Grant | None]:
            nonlocal refused
            here = self.data.positions.get((counter.name, shard))
            try:
                indices = self.data.reserve(counter, **asked)
            except errors.NotApplied:
                refused = True
                raise
            written = self.data.positions[counter.name, shard]
            answer = records.Grant(indices, written.rev, written.returned)
            if here == written:  # as an earlier copy was told
                before = self.data.granted(nonce)
                if before is not None:
                    before.closed |= written.epoch != counter.epoch
                return answer, before
            ids = counter.layout(shard).ids(indices)
            copy = copy and (refused or not nonce)  # whichever copy is first applies a batch
            grant = Grant(
                counter.name, counter.epoch, indices, ids, self, copy, nonce=nonce, shard=shard
            )
            self.data.ledger.append(grant)
            applied.append(grant)
            return answer, grant

        try:
            if self.faults is not None and shard in self.faults.hot:
                await asyncio.sleep(self.random.uniform(*self.faults.latency_s))
                raise throttled("reserve")
            answer, grant = await self._call("reserve", apply)
        except errors.OutcomeUnknown:
            raise
        except errors.NotApplied as error:
            kinds = {errors.OutOfTurn: "displaced", errors.NoRoom: "no_room"}
            sent.outcome = kinds.get(type(error), "not_applied")
            if type(error) is errors.EpochChanged:
                # What the hop sent again was refused, after a change that left no trace of what the
                # first one did: nobody can know of it.
                for grant in applied:
                    grant.copy = True
            raise
        finally:
            sent.until = loop.time()
        if grant is not None:
            grant.answered = True
        sent.outcome = "granted"
        return answer

    async def writers(self, counter: Counter) -> Writers | None:
        return await self._call("read", lambda _: self.data.writers(counter))

    async def register(self, counter: Counter, name: str, *, registrations: int) -> bool:
        return await self._call(
            "register", lambda _: self.data.register(counter, name, registrations)
        )

    async def prune(self, counter: Counter, name: str, seq: int) -> None:
        await self._call("prune", lambda _: self.data.prune(counter, name, seq))

    async def give_back(
        self, counter: Counter, found: Position, *, next: int, returned: tuple[range, ...],
        shard: int = 0,
    ) -> bool:  # fmt: skip
        def apply(copy: bool) -> bool:
            if not self.data.give_back(counter, found, next=next, returned=returned, shard=shard):
                self.too_late += 0 if copy else 1
                return False
            now = asyncio.get_running_loop().time()
            here = GaveBack(counter.name, counter.epoch, found.next, next, copy, now, shard)
            self.data.given_back.append((len(self.data.ledger), here))
            return True

        return bool(await self._call("give back", apply))

    async def claim(self, counter: Counter, rev: int, shard: int = 0) -> tuple[range, ...]:
        def apply(copy: bool) -> list[Grant]:
            layout = counter.layout(shard)
            grants = [
                Grant(
                    counter.name,
                    counter.epoch,
                    taken,
                    layout.ids(taken),
                    self,
                    copy,
                    claimed=True,
                    shard=shard,
                )
                for taken in self.data.claim(counter, rev, shard)
            ]
            self.data.ledger += grants
            return grants

        grants = await self._call("claim", apply)
        for grant in grants:
            grant.answered = True
        return tuple(grant.indices for grant in grants)

    async def close_gone_back(self, counter: Counter, found: str, shard: int = 0) -> None:
        await self._call("close", lambda _: self.data.close_gone_back(counter, found, shard))

    # --- the network -----------------------------------------------------------------------------

    def _conflicts(self) -> float:
        return self.faults.conflicts if self.faults is not None else 0.0

    async def _call(self, action: str, apply: Callable[[bool], Any]) -> Any:
        """Send one request; `apply` carries it out, told whether it is a second copy."""
        self.calls += 1
        faults = self.faults
        if faults is None:
            await asyncio.sleep(0)
            return apply(False)
        loop, rng = asyncio.get_running_loop(), self.random
        fate = faults.fate(rng, loop.time())
        if action == "give back" and fate == "fine" and rng.random() < faults.unsure_back:
            fate = rng.choice(("lost_after", "resent"))
        going, coming = rng.uniform(*faults.latency_s) / 2, rng.uniform(*faults.latency_s) / 2
        if fate == "throttled":
            await asyncio.sleep(going + coming)
            raise throttled(action)
        if fate == "late_request":
            going += rng.uniform(1.0, 12.0)
        if fate == "late_answer":
            coming += rng.uniform(1.0, 12.0)
        answer: asyncio.Future[Any] = loop.create_future()

        def arrive(copy: bool) -> None:
            try:
                result, failed = apply(copy), None
            except errors.IdserviceError as error:
                result, failed = None, error
            if not copy and fate != "lost_after":
                loop.call_later(coming, reply, result, failed)

        def reply(result: Any, failed: errors.IdserviceError | None) -> None:
            if answer.done():
                return  # nobody waits for it any more
            if self.on_answer is not None:
                self.on_answer()
            if failed is None:
                answer.set_result(result)
            else:
                answer.set_exception(failed)

        if fate == "resent":
            loop.call_later(going / 2, arrive, True)
        if fate != "lost_before":
            loop.call_later(going, arrive, False)
            if action != "read" and rng.random() < faults.repeated:
                loop.call_later(going + rng.uniform(0.0, 10.0), arrive, True)
        if fate in ("lost_before", "lost_after"):
            # Either the connection breaks, or there is silence until the caller gives up.
            await asyncio.sleep(going + coming if rng.random() < 0.5 else HANG_S)
            raise self._broken(action)
        return await answer

    def _broken(self, action: str) -> errors.StoreError:
        if action == "verify":
            return errors.StoreUnready(store=ADDRESS, why="no answer", waiting_helps=True)
        kind = errors.NotApplied if action == "read" else errors.OutcomeUnknown
        return kind(store=ADDRESS, action=action, why="connection reset")
