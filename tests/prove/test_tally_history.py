"""The judge of a tally's history finds what is planted by hand, and lets a good one pass."""

from dataclasses import replace
from decimal import Decimal

import pytest

from tests.prove.tally_history import Asked, Entry, check_history
from tests.simulation.checker import Violation

History = list[Asked]


def add(
    key: str, amount: int, sum: int, rev: int, when: tuple[int, int], **fields: object
) -> Asked:
    """An add that was answered."""
    entry = Entry(key, True, Decimal(amount), Decimal(sum), rev, rev)
    values = {"entry": entry, "outcome": "ok"} | fields
    return Asked("c", "add", key, str(amount), *when, **values)  # type: ignore[arg-type]


def refused(key: str, amount: int, sum: int, rev: int, when: tuple[int, int]) -> Asked:
    """An add that was refused for good."""
    entry = Entry(key, False, Decimal(amount), Decimal(sum), rev, rev)
    return Asked("c", "add", key, str(amount), *when, "refused", entry=entry)


def read(sum: int, rev: int, when: tuple[int, int]) -> Asked:
    return Asked("r", "read", "", "", *when, "ok", sum=Decimal(sum), rev=rev, at=rev)


def absent(key: str, when: tuple[int, int]) -> Asked:
    return Asked("r", "lookup", key, "", *when, "absent")


def operator(kind: str, rev: int, when: tuple[int, int]) -> Asked:
    return Asked("o", kind, "", "", *when, "ok", rev=rev, at=rev)


def unheard(key: str, amount: int, when: tuple[int, int], outcome: str = "unknown") -> Asked:
    return Asked("c", "add", key, str(amount), *when, outcome)


GOOD: History = [
    add("a", 5, 5, 1, (1, 4)),
    add("b", 2, 7, 2, (2, 6)),
    add("c", -3, 4, 2, (3, 7)),  # of the same commit
    read(4, 2, (5, 8)),
    add("a", 5, 5, 1, (9, 10), replayed=True),
    refused("d", -9, 4, 3, (11, 14)),
    absent("e", (12, 13)),
    unheard("e", 1, (15, 16)),
    operator("suspend", 4, (17, 18)),
    operator("resume", 5, (19, 20)),
    add("e", 1, 5, 6, (21, 22)),
    Asked("c", "add", "e", "7", 23, 24, "reused", first=Decimal(1)),
    read(5, 6, (25, 26)),
]


def with_(number: int, asked: Asked) -> History:
    """The good one, with another request at one place."""
    return [*GOOD[:number], asked, *GOOD[number + 1 :]]


def and_(*more: Asked) -> History:
    return [*GOOD, *more]


BAD: dict[str, tuple[History, str]] = {
    "a read of an older revision": (with_(12, read(4, 3, (25, 26))), "order"),
    "a read of another sum": (with_(12, read(4, 6, (25, 26))), "read"),
    "a read of the future": (with_(3, read(5, 6, (5, 8))), "order"),
    "a key counted twice": (with_(4, add("a", 5, 10, 7, (9, 27), replayed=True)), "fate"),
    "an amount counted twice": (with_(10, add("e", 1, 6, 6, (21, 22))), "sum"),
    "an add that is in no sum": (with_(10, add("e", 1, 4, 6, (21, 22))), "sum"),
    "an add that was answered and is not there": (and_(absent("a", (30, 31))), "lost"),
    "a refusal that is counted": (
        and_(add("d", -9, -5, 7, (30, 31))), "fate",
    ),
    "a refusal within the bounds": (with_(5, refused("d", -2, 4, 3, (11, 14))), "bounds"),
    "a refusal at a sum that never was": (with_(5, refused("d", -9, 2, 3, (11, 14))), "sum"),
    "a sum below the floor": (
        [add("a", -5, -5, 1, (1, 2))], "bounds",
    ),
    "a later add at an earlier revision": (
        [add("a", 5, 7, 2, (1, 2)), add("b", 2, 2, 1, (3, 4))], "order",
    ),
    "two of one commit, one after the other": (
        [add("a", 5, 5, 1, (1, 2)), add("b", 2, 7, 1, (3, 4))], "order",
    ),
    "an answer before anybody asked": (
        [add("a", 5, 5, 1, (3, 4), replayed=True), read(5, 1, (1, 2))], "order",
    ),
    "what nobody asked for": (
        and_(replace(add("x", 1, 6, 7, (30, 31)), kind="lookup")), "asked",
    ),
    "a record of another amount": (with_(0, replace(GOOD[0], amount="6")), "amount"),
    "the same amount called another": (
        with_(11, replace(GOOD[11], amount="1")), "amount",
    ),
    "counted, and told it was not": (
        [unheard("a", 5, (1, 2), "not_applied"),
         replace(add("a", 5, 5, 1, (3, 4)), kind="lookup")], "not_applied",
    ),
    "an add amid a suspension": (
        [operator("suspend", 1, (1, 2)), add("a", 5, 5, 2, (3, 4)),
         operator("resume", 3, (5, 6))], "closed",
    ),
    "a time that falls": (with_(12, replace(GOOD[12], at=2, rev=7)), "at"),
    "two times of one revision": (with_(12, replace(GOOD[12], at=9)), "at"),
    "a first answer for what was there before": (
        with_(4, replace(GOOD[4], replayed=False)), "order",
    ),
}  # fmt: skip


def judged(history: History) -> None:
    check_history(history, floor=Decimal(0))


def test_a_good_history_passes_and_each_fate_is_told() -> None:
    fates = check_history(GOOD, floor=Decimal(0))
    assert {key: one.counted for key, one in fates.items()} == {
        "a": True, "b": True, "c": True, "d": False, "e": True,
    }  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_of_a_tally_is_refused(name: str) -> None:
    history, check = BAD[name]
    with pytest.raises(Violation) as raised:
        judged(history)
    assert raised.value.check == check, raised.value


def test_a_resume_that_nobody_heard_of_may_have_ended_a_suspension() -> None:
    history, _ = BAD["an add amid a suspension"]
    unknown = Asked("o", "resume", "", "", 2, 3, "unknown")
    judged([history[0], unknown, *history[1:]])
