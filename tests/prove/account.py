"""What became of every id that a store granted: who asked for it, who read it, and why nobody did.

For a counter whose indices are its ids (one shard, one epoch). The writes are those that the store
applied, whoever heard of them, in the order of their revisions.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from tests.simulation.checker import Operation, Violation, answered

HANDED_OUT = "handed out"  # somebody read it
WAITING = "waiting"  # given back, for the next instance to claim
UNHEARD = "unheard"  # the answer was lost or late, or the hop sent the request twice
KILLED = "killed"  # in the memory of a process that was killed
CLEAN = "clean"  # of a process that lives or stopped cleanly: it must have counted it


@dataclass(frozen=True, slots=True)
class Write:
    """One write to a position that the store applied: a grant, a give-back or a claim."""

    rev: int  # that it left
    by: str  # the instance
    kind: str  # grant, give_back or claim
    ids: tuple[range, ...]  # granted, listed as returned, or claimed
    next: int  # the position that it left
    heard: bool = True  # its answer reached the instance


@dataclass
class Account:
    """How many ids met each fate; `clean` says which instance should have counted how many."""

    fates: Counter[str] = field(default_factory=Counter)
    clean: Counter[str] = field(default_factory=Counter)


def account(
    writes: Iterable[Write],
    history: Iterable[Operation],
    *,
    start: int,
    killed: Collection[str],
) -> Account:
    """The fate of every id from `start` to the position. Linear in ids.

    Raises Violation where an id was granted that somebody held, or was read from who did not.
    """
    owners: list[Write | None] = []  # of each id from `start` on, as of the last write
    holders: dict[int, set[str]] = {}  # everybody who ever held an id that was given back
    for write in sorted(writes, key=lambda write: write.rev):
        if write.kind == "give_back":
            for at in range(write.next - start, len(owners)):
                _let_go(holders, owners, start + at, start)
            del owners[write.next - start :]
        for ids in write.ids:
            if write.kind == "grant" and ids.start != start + len(owners):
                raise Violation("ledger", f"{ids} granted where {start + len(owners)} is next")
            owners += [None] * (ids.stop - start - len(owners))
            for id in ids:
                _let_go(holders, owners, id, start)
            owners[ids.start - start : ids.stop - start] = [write] * len(ids)
    return _judged(owners, holders, history, start, lambda write: write.by in killed)


def _let_go(holders: dict[int, set[str]], owners: list[Write | None], id: int, start: int) -> None:
    owner = owners[id - start]
    if owner is not None and owner.kind != "give_back":
        holders.setdefault(id, set()).add(owner.by)


def _judged(
    owners: list[Write | None],
    holders: dict[int, set[str]],
    history: Iterable[Operation],
    start: int,
    is_killed: Callable[[Write], bool],
) -> Account:
    result = Account()
    read: set[int] = set()
    for op in answered(history):
        for id in (id for block in op.ids for id in block):
            owner = owners[id - start] if start <= id < start + len(owners) else None
            owned = owner is not None and owner.kind != "give_back" and owner.by == op.instance
            if not owned and op.instance not in holders.get(id, ()):
                raise Violation("grants", f"{id} was never granted to {op.instance}: {op}")
            read.add(id)
    result.fates[HANDED_OUT] = len(read)
    for id, owner in enumerate(owners, start):
        if id in read:
            continue
        assert owner is not None, f"{id} belongs to nobody"
        if owner.kind == "give_back":
            fate = WAITING
        elif not owner.heard:
            fate = UNHEARD
        else:
            fate = KILLED if is_killed(owner) else CLEAN
        result.fates[fate] += 1
        if fate == CLEAN:
            result.clean[owner.by] += 1
    return result


def account_by_force(
    writes: Iterable[Write],
    history: Iterable[Operation],
    *,
    start: int,
    killed: Collection[str],
) -> Counter[str]:
    """The fates found another way: for each id on its own, the last write that speaks of it."""
    in_order = sorted(writes, key=lambda write: write.rev)
    reached = in_order[-1].next if in_order else start
    fates: Counter[str] = Counter()
    for id in range(start, reached):
        if any(id in block for op in answered(history) for block in op.ids):
            fates[HANDED_OUT] += 1
            continue
        last = next(w for w in reversed(in_order) if any(id in ids for ids in w.ids))
        fates[
            WAITING
            if last.kind == "give_back"
            else UNHEARD
            if not last.heard
            else KILLED
            if last.by in killed
            else CLEAN
        ] += 1
    return fates
