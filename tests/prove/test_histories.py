"""The history checker finds what is planted, agrees with brute force, and can disagree."""

import random

import pytest

from tests.prove import histories
from tests.prove.account import account
from tests.prove.histories import PLANTED, grant, op, prove_histories
from tests.simulation import checker
from tests.simulation.checker import Violation


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bad_history_is_refused(name: str) -> None:
    history, check, word = PLANTED[name]
    with pytest.raises(Violation) as raised:
        check(history)
    assert raised.value.check == word
    if word == "order":
        assert not checker.order_by_force(history)


@pytest.mark.long
def test_the_checks_agree_with_brute_force_on_thousands_of_random_histories() -> None:
    verdict = prove_histories(histories=4000, seed=1)
    print(verdict)
    assert verdict.holds, verdict


def test_the_random_histories_are_good_and_bad_ones_of_every_kind() -> None:
    rng = random.Random(1)
    good = sum(histories.linearizable(histories.random_history(rng)) for _ in range(1000))
    assert 200 < good < 900
    fates = set()
    for _ in range(300):
        writes, history = histories.random_writes(rng)
        fates |= set(+account(writes, history, start=0, killed="y").fates)
    assert fates == {"handed out", "waiting", "unheard", "killed", "clean"}


@pytest.mark.parametrize("check", ["check_strict", "check_unique"])
def test_a_check_that_sees_nothing_is_found_out(
    check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, check, lambda history: None)
    assert not prove_histories(histories=200, seed=1).holds


def test_a_check_of_the_order_that_looks_at_starts_only_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def by_start(history: list[checker.Operation]) -> None:
        ids = [one.first for one in sorted(history, key=lambda one: one.invoke)]
        if ids != sorted(ids):
            raise Violation("order", "too strict")

    monkeypatch.setattr(checker, "check_strict", by_start)
    assert not prove_histories(histories=200, seed=1).holds


def test_an_account_that_forgets_who_was_killed_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forgets(*arguments: object, killed: object, **rest: object) -> object:
        return account(*arguments, killed=(), **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(histories, "account", forgets)
    assert not prove_histories(histories=200, seed=1).holds


@pytest.mark.long
def test_the_checks_of_a_long_history_take_no_more_than_a_sort_of_it() -> None:
    long = [op(2 * at, 2 * at + 1, at) for at in range(50_000)]
    checker.check_unique(long)
    checker.check_strict(long)
    with pytest.raises(Violation, match="order"):
        checker.check_strict([*long[:-1], op(100_001, 100_002, 1)])
    found = account([grant(1, 0, 60_000)], long, start=0, killed=())
    assert found.clean == {"i": 10_000}


def test_an_id_that_was_given_back_and_granted_again_has_two_holders() -> None:
    back = histories.Write(2, "i", "give_back", (), 3)
    writes = [grant(1, 0, 5), back, grant(3, 3, 9, "j")]
    history = [op(1, 2, 0, 3), op(3, 4, 3, 2, instance="j")]
    found = account(writes, history, start=0, killed=())
    assert found.fates == {"handed out": 5, "clean": 4}
    assert found.clean == {"j": 4}
    with pytest.raises(Violation, match="grants"):
        account(writes, [op(1, 2, 5, instance="i")], start=0, killed=())
