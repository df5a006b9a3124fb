"""The history checker, checked itself: planted bad histories, and thousands of small random ones
on which it must agree with a checker that goes through all possibilities."""

import random
from collections import Counter
from collections.abc import Callable

from tests.prove.account import Write, account, account_by_force
from tests.prove.verdict import Verdict
from tests.simulation import checker
from tests.simulation.checker import Operation, Violation

Check = Callable[[list[Operation]], object]


def op(invoke: int, complete: int, first: int, count: int = 1, **fields: object) -> Operation:
    """An answered request for ids from `first` on."""
    values = {"client": "c", "instance": "i", "counter": "n", "outcome": "ok", "began": 0.0}
    return Operation(
        **(values | fields),  # type: ignore[arg-type]
        count=count,
        invoke=invoke,
        complete=complete,
        ids=[range(first, first + count)],
    )


def _falling() -> Operation:
    falls = op(1, 2, 5, 2)
    falls.ids = [range(6, 7), range(5, 6)]
    return falls


def _short() -> Operation:
    short = op(1, 2, 5, 3)
    short.count = 4
    return short


def grant(rev: int, start: int, stop: int, by: str = "i", **fields: bool) -> Write:
    """A reservation of start .. stop as the store applied it."""
    return Write(rev, by, "grant", (range(start, stop),), stop, **fields)


def _accounted(*writes: Write) -> Check:
    return lambda history: account(writes, history, start=0, killed=())


PLANTED: dict[str, tuple[list[Operation], Check, str]] = {  # history, check, the word it must say
    "an id twice": ([op(1, 2, 5), op(3, 4, 5)], checker.check_unique, "unique"),
    "an id in two overlapping batches": (
        [op(1, 4, 5, 3), op(2, 3, 7)], checker.check_unique, "unique",
    ),
    "an id from two instances": (
        [op(1, 2, 5), op(3, 4, 5, instance="j")], checker.check_unique, "unique",
    ),
    "a batch that is short": ([_short()], checker.check_unique, "batch"),
    "a batch that falls": ([_falling()], checker.check_unique, "batch"),
    "a lower id later": ([op(1, 2, 5), op(3, 4, 4)], checker.check_strict, "order"),
    "a lower id later, from another instance": (
        [op(1, 2, 5), op(3, 4, 4, instance="j")], checker.check_strict, "order",
    ),
    "a lower id inside of a longer request": (
        [op(1, 2, 5), op(3, 6, 9), op(4, 5, 4)], checker.check_strict, "order",
    ),
    "an id below the end of an earlier batch": (
        [op(1, 2, 5, 10), op(3, 4, 4)], checker.check_strict, "order",
    ),
    "a lower id later from one instance": (
        [op(1, 2, 5), op(3, 4, 4)], checker.check_rising_per_instance, "order",
    ),
    "an id that was never granted": ([op(1, 2, 5)], _accounted(grant(1, 0, 5)), "grants"),
    "an id of another instance's": (
        [op(1, 2, 5)], _accounted(grant(1, 0, 5), grant(2, 5, 9, "j")), "grants",
    ),
    "a range granted twice": ([], _accounted(grant(1, 0, 5), grant(2, 3, 8)), "ledger"),
    "a range left out": ([], _accounted(grant(1, 0, 5), grant(2, 6, 8)), "ledger"),
}  # fmt: skip


def planted_unseen() -> list[str]:
    """The planted histories that a check lets pass, or calls something else."""
    unseen = []
    for name, (history, check, word) in PLANTED.items():
        try:
            check(history)
        except Violation as violation:
            if violation.check == word:
                continue
        unseen.append(name)
    return unseen


def random_history(rng: random.Random) -> list[Operation]:
    """Up to five requests, in most cases near to what a correct counter does."""
    count = rng.randint(1, 5)
    times = rng.sample(range(2 * count), 2 * count)
    values = rng.sample(range(0, 30, 4), count)
    if rng.random() < 0.6:
        values.sort()
        times.sort(key=lambda time: time + rng.uniform(0, 4))
    history = []
    for at in range(count):
        invoke, complete = sorted(times[2 * at : 2 * at + 2])
        first = values[at] if rng.random() < 0.97 else values[0]
        outcome = "ok" if rng.random() < 0.95 else "info"  # which nobody read
        history.append(op(invoke, complete, first, rng.choice((1, 1, 3)), outcome=outcome))
    return history


def linearizable(history: list[Operation]) -> bool:
    """The verdict of the checks that are quick."""
    try:
        checker.check_unique(history)
        checker.check_strict(history)
    except Violation:
        return False
    return True


def random_writes(rng: random.Random) -> tuple[list[Write], list[Operation]]:
    """What a store did for three instances, told in any order, and what of it was read."""
    writes: list[Write] = []
    history: list[Operation] = []
    waiting: list[range] = []
    ids: tuple[range, ...]
    next = 0
    for rev in range(1, rng.randint(2, 9)):
        by, kind = rng.choice("xyz"), rng.choice(("grant", "grant", "give_back", "claim"))
        if kind == "grant":
            ids = (range(next, next + rng.randint(1, 4)),)
            next = ids[0].stop
        elif kind == "claim":
            ids, waiting = tuple(waiting), []
        else:
            last = writes[-1] if writes and writes[-1].kind == "grant" else None
            if last is not None and not any(id in b for o in history for b in o.ids
                                            for id in last.ids[0]):  # fmt: skip
                next = last.ids[0].start + rng.randint(0, len(last.ids[0]) - 1)
                unused = rng.randint(last.ids[0].start, next)
                waiting = [*waiting, range(unused, next)] if unused < next else waiting
            ids = tuple(waiting)
        write = Write(rev, by, kind, ids, next, heard=rng.random() < 0.8)
        writes.append(write)
        if write.heard and kind != "give_back":
            for block in ids:
                taken = rng.randint(0, len(block))
                if taken and rng.random() < 0.6:
                    history.append(op(1, 2, block.start, taken, instance=by))
    rng.shuffle(writes)
    return writes, history


def prove_histories(*, histories: int, seed: int) -> Verdict:
    """Plant the bad ones, then compare the checks with going through everything."""
    verdict = Verdict("histories", seed, f"make prove ARGS='histories --seed {seed}'")
    verdict.violations += [f"planted and not seen: {name}" for name in planted_unseen()]
    rng = random.Random(seed)
    verdicts: Counter[bool] = Counter()
    fates: Counter[str] = Counter()
    for number in range(histories):
        history = random_history(rng)
        by_force = checker.order_by_force(history)
        verdicts[by_force] += 1
        if linearizable(history) != by_force:
            verdict.violations.append(f"history {number}: by force {by_force}, of {history}")
        writes, history = random_writes(rng)
        expected = account_by_force(writes, history, start=0, killed="y")
        found = account(writes, history, start=0, killed="y").fates
        fates.update(found)
        if +found != +expected:
            verdict.violations.append(f"account {number}: {found}, by force {expected}: {writes}")
    told = ", ".join(f"{fate} {ids}" for fate, ids in sorted(fates.items()))
    verdict.figures += [
        f"{len(PLANTED)} bad histories planted, {len(planted_unseen())} not seen",
        f"{histories} histories ({verdicts[True]} linearizable) judged as by trying every order",
        f"{histories} ledgers accounted as by going through every id: {told}",
    ]
    return verdict
