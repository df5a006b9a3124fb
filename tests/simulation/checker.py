"""What must hold of a run: checks over the history of operations, the ledger and the requests.

Every check raises `Violation`, which names it. They know nothing of how ids are handed out.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby, pairwise, permutations

from idservice.core.epoch import ordinal_on
from idservice.core.gap_causes import FROM_MEMORY
from idservice.observability.readings import CounterSample
from tests.simulation.store import GaveBack, Grant, Sent

PAUSE_MIN_S = 0.025  # between a failed try and the next one of the same counter


class Violation(AssertionError):
    """A promise was broken; `check` is the name of the one that saw it."""

    def __init__(self, check: str, text: str) -> None:
        self.check = check
        super().__init__(f"{check}: {text}")


@dataclass(slots=True)
class Operation:
    """One request for ids. `invoke` and `complete` number the events of a run, so that of any two
    one is the earlier; `began` and `ended` are times in seconds."""

    client: str
    instance: str
    counter: str
    count: int
    invoke: int
    began: float
    epoch: str = ""
    outcome: str = "info"  # ok: answered; fail: certainly nothing happened; info: all else
    error: str = ""
    ids: list[range] = field(default_factory=list)
    complete: int = 0
    ended: float = 0.0
    cold: bool = False  # the counter had to be read first
    left: int | None = None  # ids the store had left at the end, where it said "exhausted"

    @property
    def first(self) -> int:
        """The lowest of its ids."""
        return min(block[0] for block in self.ids)

    @property
    def last(self) -> int:
        """The highest of them."""
        return max(block[-1] for block in self.ids)


def answered(history: Iterable[Operation]) -> list[Operation]:
    """The operations whose ids somebody read."""
    return [op for op in history if op.outcome == "ok"]


def check_unique(history: Iterable[Operation], *, rising: bool = True) -> None:
    """No id twice among everything answered; every answer as long as asked for, and in rising order
    where that is promised."""
    seen: dict[tuple[str, int], Operation] = {}
    for op in answered(history):
        before = -1
        for block in op.ids:
            for id in block:
                if (other := seen.setdefault((op.counter, id), op)) is not op:
                    raise Violation("unique", f"{id} went to {other} and to {op}")
                if rising and id <= before:
                    raise Violation("batch", f"{id} after {before} in {op}")
                before = id
        if sum(len(block) for block in op.ids) != op.count:
            raise Violation("batch", f"{op.count} ids asked for in {op}")


def check_order(history: Iterable[Operation]) -> None:
    """Linearizable: what ended before another began has the lower ids. In O(n log n)."""
    events = []
    for op in answered(history):
        events.append((op.invoke, False, op))
        events.append((op.complete, True, op))
    events.sort(key=lambda event: event[:2])
    highest = -1
    holder: Operation | None = None
    for _, ends, op in events:
        if ends:
            if op.last > highest:
                highest, holder = op.last, op
        elif op.first <= highest:
            raise Violation("order", f"{holder} had ended before {op} began")


def order_by_force(history: Iterable[Operation]) -> bool:
    """Whether some order of the operations keeps real time and has rising ids: tries them all."""

    def possible(order: tuple[Operation, ...]) -> bool:
        return all(a.last < b.first for a, b in pairwise(order)) and not any(
            b.complete < a.invoke for at, a in enumerate(order) for b in order[at + 1 :]
        )

    return any(possible(order) for order in permutations(answered(history)))


def check_rising_per_instance(history: Iterable[Operation]) -> None:
    """The ids of one instance rise: nobody who asks later is given a lower one."""
    groups: dict[tuple[str, str], list[Operation]] = {}
    for op in answered(history):
        groups.setdefault((op.counter, op.instance), []).append(op)
    for group in groups.values():
        check_order(group)


def check_strict(history: Iterable[Operation]) -> None:
    """Each counter is linearizable over all instances."""
    groups: dict[str, list[Operation]] = {}
    for op in answered(history):
        groups.setdefault(op.counter, []).append(op)
    for group in groups.values():
        check_order(group)


def check_limits(history: Iterable[Operation], *, start: int, limit: int) -> None:
    """No id outside start .. limit, and "exhausted" only where less is left than asked for."""
    for op in history:
        if op.outcome == "ok" and not start <= op.first <= op.last <= limit:
            raise Violation("limit", f"{start} .. {limit} left by {op}")
        if op.left is not None and op.left >= op.count:
            raise Violation("exhausted", f"{op.left} were left for {op}")


def check_deadlines(history: Iterable[Operation], *, wait_s: float) -> None:
    """Nobody waits longer than is promised; a cold counter is read first, within as much again."""
    for op in history:
        longest = wait_s * (2 if op.cold else 1)
        if op.ended - op.began > longest + 1e-6:
            raise Violation("deadline", f"{op.ended - op.began:.3f} s > {longest} s: {op}")


class Ranges:
    """Grants, in the order of a ledger, to be found by the ids they hold: those of several shards
    interleave, and what was given back is in several of them."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._rows: dict[tuple[int, int], list[tuple[int, int, Grant]]] = {}
        for at, grant in enumerate(grants):
            step = grant.ids.step
            row = self._rows.setdefault((step, grant.ids.start % step), [])
            row.append((grant.ids.start, at, grant))
        self._starts: dict[tuple[int, int], list[int]] = {}
        self._ends: dict[tuple[int, int], list[int]] = {}  # of each row: the highest end so far
        for key, row in self._rows.items():
            row.sort(key=lambda one: one[:2])
            self._starts[key] = [start for start, _, _ in row]
            self._ends[key] = [*accumulate((grant.ids.stop for _, _, grant in row), max)]

    def of(self, id: int) -> Grant | None:
        """The last grant that holds this id: what is handed out is never granted again."""
        found: tuple[int, Grant] | None = None
        for (step, rest), row in self._rows.items():
            if id % step != rest:
                continue
            ends = self._ends[step, rest]
            at = bisect_right(self._starts[step, rest], id) - 1
            while at >= 0 and ends[at] > id:
                _, order, grant = row[at]
                if id in grant.ids and (found is None or order > found[0]):
                    found = order, grant
                at -= 1
        return found[1] if found is not None else None


def check_rising_per_shard(history: Iterable[Operation], ledger: Iterable[Grant]) -> None:
    """The ids of one instance rise within each shard of an epoch, also within one answer."""
    grants = Ranges(ledger)
    groups: dict[tuple[str, str, str, int], list[Operation]] = {}
    for op in answered(history):
        parts: dict[tuple[str, int], list[range]] = {}
        for block in op.ids:
            grant = grants.of(block[0])
            assert grant is not None
            blocks = parts.setdefault((grant.epoch, grant.shard), [])
            if blocks and blocks[-1][-1] >= block[0]:
                raise Violation("batch", f"{block} after {blocks} in {op}")
            blocks.append(block)
        for of, blocks in parts.items():
            part = op if len(parts) == 1 else replace(op, ids=blocks)
            groups.setdefault((op.counter, op.instance, *of), []).append(part)
    for group in groups.values():
        check_order(group)


def check_backed_by_grants(
    history: Iterable[Operation], ledger: Iterable[Grant], stores: dict[str, object]
) -> None:
    """Each id answered lies in a range of which the store had told this very instance (I2)."""
    told: dict[int, list[Grant]] = {}
    for grant in ledger:
        if grant.answered:
            told.setdefault(id(grant.store), []).append(grant)
    owned = {store: Ranges(grants) for store, grants in told.items()}
    for op in answered(history):
        ranges = owned.get(id(stores[op.instance]), Ranges([]))
        for block in op.ids:
            for one in (block[0], block[-1]):
                if ranges.of(one) is None:
                    raise Violation("grants", f"{one} was never granted to {op.instance}: {op}")


def check_ledger(
    ledger: Iterable[Grant], *, start: int, given_back: Iterable[tuple[int, GaveBack]] = ()
) -> None:
    """Ranges of one shard and epoch follow each other without overlap or hole, but for what a
    give-back gave up."""
    ends: dict[tuple[str, str, int], int] = {}
    later = deque(given_back)
    for at, grant in enumerate(ledger):
        while later and later[0][0] <= at:
            back = later.popleft()[1]
            ends[back.counter, back.epoch, back.shard] = back.next
        if grant.claimed:
            continue
        here = grant.counter, grant.epoch, grant.shard
        expected = ends.get(here)
        if expected is None and grant.epoch.startswith("1."):
            # Where a later one begins depends: the position of an adopted item is never reset.
            base = grant.ids.start - grant.indices.start
            expected = start - base if grant.ids.step == 1 else 0
        if expected is not None and grant.indices.start != expected:
            raise Violation("ledger", f"{grant} where {expected} was the next index")
        ends[here] = grant.indices.stop


def check_epochs(ledger: Iterable[Grant], given_back: Iterable[tuple[int, GaveBack]] = ()) -> None:
    """Every id of a later epoch is above all that were granted in the ones before, but for what was
    given back: that was granted to nobody."""
    last: dict[tuple[str, str, int], tuple[Grant, int]] = {}  # of each shard, and where it ended
    floors: dict[tuple[str, str], int] = {}
    later = deque(given_back)
    for at, grant in enumerate(ledger):
        while later and later[0][0] <= at:
            back = later.popleft()[1]
            of = back.counter, back.epoch, back.shard
            if of in last:
                last[of] = last[of][0], back.next
        if grant.claimed:
            continue
        here = grant.counter, grant.epoch
        if here not in floors:
            ends = (_end(*found) for of, found in last.items() if of[0] == grant.counter)
            floors[here] = max(ends, default=0)
        if grant.ids.start < floors[here]:
            raise Violation("epochs", f"{grant} is below {floors[here]}, above all before")
        last[*here, grant.shard] = grant, grant.indices.stop


def _end(grant: Grant, next: int) -> int:
    """The first id above those of a shard whose position is at `next`."""
    return grant.ids.start + grant.ids.step * (next - 1 - grant.indices.start) + 1


def check_revoked(
    history: Iterable[Operation],
    ledger: Iterable[Grant],
    revocations: Iterable[tuple[float, int]],
    *,
    within_s: float,
) -> None:
    """No id of a revoked epoch is answered to who asks later than `within_s` after it was revoked.

    `revocations` are the times, in order, and the highest ordinals.
    """
    grants = Ranges(ledger)
    for op in answered(history):
        for block in op.ids:
            grant = grants.of(block[0])
            assert grant is not None
            ordinal = ordinal_on(grant.epoch)
            for at, revoked in revocations:
                if ordinal <= revoked and op.began > at + within_s:
                    raise Violation("revoked", f"epoch {ordinal} was revoked at {at}: {op}")


def check_gaps(
    history: Iterable[Operation], ledger: Iterable[Grant], *, instance: str, store: object,
    reading: CounterSample, one_try: bool = True,
) -> None:  # fmt: skip
    """Of one instance that did not crash: every id it was granted is issued, in memory, or a gap
    counted by cause; what was burnt unheard is counted as unknown, at least."""
    mine = [g for g in ledger if g.store is store and g.counter == reading.counter and not g.copy]
    told = sum(len(g.ids) for g in mine if g.answered)
    unheard = {
        cause: sum(len(g.ids) for g in mine if not g.answered and g.claimed == (cause == "claim"))
        for cause in ("unknown", "claim")
    }
    issued = sum(
        op.count
        for op in answered(history)
        if op.instance == instance and op.counter == reading.counter
    )
    gaps = reading.gaps
    memory = sum(gaps.get(cause, 0) for cause in FROM_MEMORY)
    late = gaps.get("late", 0)
    strict = any(grant.nonce for grant in mine)
    if strict:  # what a batch got may be learnt from a later one, or never: then it is unknown
        granted, counted = told + sum(unheard.values()), reading.reserved + late
        if one_try and not counted <= granted <= counted + gaps.get("unknown", 0):
            raise Violation("gaps", f"{granted} ids were granted to {instance}: {reading}")
    for what, left, right in (
        ("ids answered are ids counted as issued", issued, reading.issued),
        ("ids told are ids reserved or late", told, reading.reserved + late),
        (
            "reserved = issued + held + gaps + given back",
            reading.reserved,
            issued + reading.held + memory + reading.returned,
        ),
    ):
        if left != right and not (strict and what.startswith("ids told")):
            raise Violation("gaps", f"{what}: {left} != {right} on {instance}: {reading}")
    for cause, count in unheard.items():
        if one_try and not strict and count > gaps.get(cause, 0):
            raise Violation("gaps", f"{count} ids burnt unheard on {instance}: {reading}")


def check_accounted(
    history: Iterable[Operation], ledger: Iterable[Grant], readings: Iterable[CounterSample],
    *, start: int, reached: int, returned: Iterable[range], exact: bool,
) -> None:  # fmt: skip
    """Every id that was passed is handed out, waits to be claimed, or is a gap that somebody
    counted; those of a request that a hop applied twice nobody can know of."""
    handed_out = sum(op.count for op in answered(history))
    lost = reached - start - handed_out - sum(map(len, returned))
    counted = sum(sum(reading.gaps.values()) for reading in readings)
    copies = sum(len(grant.ids) for grant in ledger if grant.copy)
    if not (lost == counted if exact else 0 <= lost <= counted + copies):
        raise Violation("accounted", f"{lost} ids are missing, {counted} are counted as gaps")


def _batches(sent: Iterable[Sent]) -> Iterator[Sent]:
    """Copies of the same batch as one request, which ended when the last one did."""
    for nonce, copies in groupby(sent, key=lambda one: one.nonce or id(one)):
        first, *others = copies
        if not others:
            yield first
            continue
        for before, after in pairwise([first, *others]):
            if after.at - before.at < PAUSE_MIN_S - 1e-9:
                raise Violation("tight loop", f"{after} is a copy of {before}")
        outcomes = {first.outcome, *(one.outcome for one in others)}
        known = [one for one in ("granted", "displaced", "no_room", "unknown") if one in outcomes]
        yield Sent(
            first.counter,
            first.count,
            first.at,
            outcome=known[0] if known else first.outcome,
            until=max(one.until for one in (first, *others)),
            nonce=str(nonce),
        )


def check_requests(sent: Iterable[Sent], *, need_max: int, strict: bool) -> None:
    """One request at a time; a pause after a failed one, unless it told that there was no room;
    halves after unknown outcomes, but for what the first in line needs. `sent` is of one instance
    and one counter; copies of one batch may overlap, and are counted as one."""
    for before, after in pairwise(_batches(sent)):
        if after.at < before.until:
            raise Violation("one at a time", f"{after} was sent during {before}")
        told = before.outcome in ("granted", "displaced", "no_room")
        if not told and after.at - before.until < PAUSE_MIN_S - 1e-9:
            raise Violation("tight loop", f"{after} follows {before} at once")
        if before.outcome == "unknown" and not strict:
            most = max(before.count // 2, need_max, 1)
            if after.count > most:
                raise Violation("burn", f"{after.count} > {most} after {before}")
