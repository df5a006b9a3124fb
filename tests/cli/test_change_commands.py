"""The commands that change counters: what they print, and how they end."""

import json
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from idservice import errors
from idservice.cli.store_commands import operator
from tests.cli.test_main import Run, _here, assert_refused, run

__all__ = ["_here", "run"]  # fixtures, used by name


@pytest.fixture(autouse=True)
def _initialised(_here: None, run: Run) -> None:
    assert run("init").code == 0
    assert run("create", "orders").code == 0
    assert run("next", "orders", "--count", "10").code == 0


def state_of(run: Run, name: str = "orders") -> str:
    state: str = json.loads(run("show", name, "--json").out)["state"]
    return state


def test_set_goes_on_from_there(run: Run) -> None:
    said = run("set", "orders", "--next", "500", "--reason", "ticket 17")
    assert (said.code, said.out) == (0, "counter orders: active, epoch 2, ids from 500\n")
    assert run("next", "orders").out == "500\n"


def test_set_refuses_to_repeat_ids_or_to_skip_a_million(run: Run) -> None:
    assert_refused(run("set", "orders", "--next", "9"), 1, "ids up to 9", "--allow-lower")
    assert_refused(run("set", "orders", "--next", "1000011"), 1, "1000001 ids", "--force")
    assert run("next", "orders").out == "10\n"
    assert run("set", "orders", "--next", "2000000", "--force").code == 0
    assert run("next", "orders").out == "2000000\n"


def test_set_goes_down_when_the_longest_silence_is_over(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idservice.core.timeouts.STALE_MIN_S", 0.0)
    said = run("set", "orders", "--next", "5", "--allow-lower", "--runway", "1")
    assert (said.code, said.out) == (0, "counter orders: active, epoch 2, ids from 5\n")
    assert run("next", "orders").out == "5\n"


def test_a_counter_under_change_gives_no_ids_and_no_advice_to_fence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: object) -> None:
        raise errors.Stopped()

    with monkeypatch.context() as patch:
        patch.setattr("idservice.catalogue.changer.EpochChanger._outlast_the_stale", interrupted)
        assert run("set", "orders", "--next", "5", "--allow-lower").code == 1
    said = run("next", "orders")
    assert_refused(said, 1, "'orders'", "(set) is under way")
    assert "fence" not in said.err


def test_configure_changes_the_limit_and_the_runway(run: Run) -> None:
    said = run("configure", "orders", "--limit", "99", "--runway", "60", "--reason", "two digits")
    assert said.code == 0
    assert said.out == "counter orders: active, epoch 2, ids from 10, limit 99, runway 60 s\n"
    again = run("configure", "orders", "--limit", "99", "--runway", "60")
    assert again.out == "counter orders: already active, nothing was changed\n"
    said = run("configure", "orders", "--runway", "2.5")
    assert said.out == "counter orders: active, epoch 2, limit 99, runway 2.5 s\n"
    assert run("next", "orders").out == "10\n"


def test_a_change_of_bounds_names_no_first_id_because_ids_go_on(run: Run) -> None:
    """It said `ids from 0` of a counter that began at 100 and had been used."""
    assert run("create", "cards", "--start", "100").code == 0
    assert run("next", "cards", "--count", "7").code == 0
    said = run("configure", "cards", "--rate-max", "20")
    assert said.out.startswith("counter cards: active, epoch 1, limit 9007199254740991, rate_max")


def test_a_hint_of_a_change_comes_last_and_names_the_store_as_it_was_named(run: Run) -> None:
    at = ("--store", "sqlite:idservice.db")
    said = run("configure", "orders", "--limit", "9", "--force", *at)
    assert said.out == (
        "counter orders: exhausted, epoch 2, limit 9; it is exhausted at once: no id is left up to"
        " its limit 9. Raise that with `idservice configure orders --limit N --store"
        " sqlite:idservice.db`\n"
    )
    planned = run("fence", "orders", "--past", "50", "--dry-run", *at)
    assert "`idservice configure orders --limit N --store sqlite:idservice.db`" in planned.out


def test_configure_refuses_a_limit_that_leaves_no_ids(run: Run) -> None:
    said = run("configure", "orders", "--limit", "9")
    assert_refused(said, 1, "ids up to 9", "exhausted at once", "--force")
    assert run("next", "orders").out == "10\n"
    assert run("configure", "orders", "--limit", "9", "--force").code == 0
    exhausted = run("next", "orders")
    assert_refused(exhausted, 1, "idservice configure orders --limit N")
    hint = exhausted.err.partition("`idservice ")[2].partition("`")[0].replace(" N", " 20")
    assert run(*hint.split()).code == 0
    assert 10 < int(run("next", "orders").out) <= 20


def test_a_limit_that_is_nearly_reached_is_raised_by_the_advice_of_doctor(run: Run) -> None:
    assert run("set", "orders", "--next", "99").code == 0
    assert run("configure", "orders", "--limit", "99").code == 0
    findings = json.loads(run("doctor", "--json").out)["findings"]
    (found,) = [one for one in findings if one["about"] == "limit"]
    assert found["run"].startswith("idservice configure orders --limit N")
    assert run(*shlex.split(found["run"].replace(" N", " 5000"))[1:]).code == 0
    assert json.loads(run("show", "orders", "--json").out)["limit"] == 5000


def test_suspend_and_resume(run: Run) -> None:
    assert run("suspend", "orders").out == "counter orders: suspended, epoch 2\n"
    assert_refused(run("next", "orders"), 1, "suspended", "resume orders")
    assert state_of(run) == "suspended"
    assert run("suspend", "orders").out == (
        "counter orders: already suspended, nothing was changed\n"
    )
    assert run("resume", "orders").out == "counter orders: active, epoch 3, ids from 10\n"
    assert run("next", "orders").out == "10\n"


def test_a_deleted_counter_is_gone_and_its_name_goes_on_above(run: Run) -> None:
    assert run("delete", "orders").out == "counter orders: deleted, epoch 2\n"
    for words in (("next", "orders"), ("show", "orders"), ("delete", "orders"),
                  ("set", "orders", "--next", "99"), ("resume", "orders")):  # fmt: skip
        assert_refused(run(*words), 1, "no counter 'orders'")
    assert "orders" not in run("counters").out
    assert run("create", "orders").out == "counter orders: created, ids from 10\n"
    assert run("create", "orders").out == ("counter orders: already there, configured the same\n")
    assert run("next", "orders").out == "10\n"


def test_a_counter_that_fence_all_leaves_is_told_and_is_a_failure(run: Run) -> None:
    with sqlite3.connect("idservice.db") as database:
        database.execute("DELETE FROM position WHERE counter = 'orders'")
    said = run("fence", "--all", "--ahead", "50")
    assert said.code == 1
    assert "counter default: active, epoch 2, ids from 50" in said.out
    assert "left as it is" in said.err
    assert "not fenced, and without ids until they are fenced: orders" in said.err
    assert "`idservice fence orders --past N`" in said.err
    assert run("fence", "orders", "--past", "99").code == 0
    assert run("fence", "--all", "--ahead", "50").code == 0


def test_a_fence_of_many_counters_tells_failures_and_a_total(run: Run) -> None:
    """It printed a line and two records of the log for each counter."""
    for name in ("b", "c", "d", "e"):
        assert run("create", name).code == 0
    said = run("fence", "--all", "--ahead", "100")
    assert said.out.splitlines() == [
        "6 counters are fenced, 0 are left as they are",
        "sqlite:idservice.db is accepted as the right store; restart its instances",
    ]
    with closing(sqlite3.connect("idservice.db")) as database, database:
        database.execute("DELETE FROM position WHERE counter = 'c'")
    said = run("fence", "--all", "--ahead", "100")
    assert said.code == 1
    assert said.out.splitlines()[0] == "5 counters are fenced, 1 are left as they are"
    assert [line.split(":")[1] for line in said.err.splitlines()] == [
        " left as it is", " not fenced, and without ids until they are fenced",
    ]  # fmt: skip


def test_fence_goes_past_a_number_or_ahead(run: Run) -> None:
    assert run("fence", "orders", "--past", "99").out == (
        "counter orders: active, epoch 2, ids from 100\n"
    )
    assert run("fence", "orders", "--ahead", "50").out == (
        "counter orders: active, epoch 3, ids from 150\n"
    )


def test_a_fence_that_leaves_no_ids_or_skips_a_million_needs_force(run: Run) -> None:
    """It pushed a counter past its limit, called that `active`, and exited with 0."""
    assert run("configure", "orders", "--limit", "2000").code == 0
    refused = run("fence", "--all", "--past", "3000001")
    assert refused.code == 1
    assert "'default' was not changed: going on from 3000002 would skip" in refused.err
    assert (
        "'orders' was not changed: if it goes on from 3000002, it is exhausted at once"
        in refused.err
    )
    assert "nothing was changed, because of default, orders" in refused.err
    assert refused.out == ""
    beyond = run("fence", "orders", "--past", str(2**60))
    assert_refused(beyond, 1, "exhausted at once", "--force")
    assert run("next", "orders").out == "10\n"
    forced = run("fence", "orders", "--past", "2500", "--force")
    assert forced.code == 0
    assert "counter orders: exhausted, epoch 3; it is exhausted at once" in forced.out
    assert json.loads(run("show", "orders", "--json").out)["state"] == "exhausted"
    assert run("fence", "orders", "--ahead", "5").code == 0  # as exhausted as before


def test_a_fence_shows_before_and_after_and_changes_nothing_if_dry(run: Run) -> None:
    assert run("configure", "orders", "--limit", "2000").code == 0
    before = Path("idservice.db").read_bytes()
    fine = run("fence", "--all", "--past", "99", "--dry-run")
    assert fine.code == 0
    assert fine.out == (
        "counter default: ids go on from 100 instead of 0\n"
        "counter orders: ids go on from 100 instead of 10\n"
    )
    assert "nothing was changed" in fine.err
    refused = run("fence", "orders", "--ahead", "5000", "--dry-run")
    assert refused.code == 1
    assert refused.out.startswith("counter orders: ids go on from 5010 instead of 10; it is exhaus")
    assert run("fence", "orders", "--ahead", "5000", "--dry-run", "--force").code == 0
    assert Path("idservice.db").read_bytes() == before


def test_a_fence_guards_its_number_also_behind_a_change_that_was_left(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change under way takes the number over before the fence itself is checked."""

    async def interrupted(*_: object) -> None:
        raise errors.Stopped()

    with monkeypatch.context() as patch:
        patch.setattr("idservice.catalogue.changer.EpochChanger._seal_shards", interrupted)
        assert run("suspend", "orders").code == 1
    assert_refused(run("fence", "orders", "--past", "3000000"), 1, "would skip", "--force")
    assert run("resume", "orders").out == "counter orders: active, epoch 3, ids from 10\n"


def test_show_tells_operator_time_and_reason_of_the_last_change(run: Run) -> None:
    for words, what in (
        (("create", "tickets"), "create"),
        (("suspend", "tickets"), "suspend"),
        (("configure", "tickets", "--runway", "9"), "configure"),
        (("delete", "default"), ""),
    ):
        assert run(*words, "--reason", f"because {what}").code == 0
        change = json.loads(run("show", "tickets", "--json").out)["last_change"]
        assert what in ("", change["what"])
        assert (change["by"], change["at"][-1]) == (operator(), "Z")
        assert change["reason"].startswith("because")
    said = run("show", "tickets").out
    assert f"last_change: configure by {operator()} at 20" in said
    assert "(because configure)\n" in said


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("set", "orders"), ("--next",)),
        (("set", "orders", "--next", "-1"), ("--next",)),
        (("set", "orders", "--next", "1_0"), ("--next", "1_0")),
        (("set", "-x", "--next", "1"), ()),
        (("set", "or/ders", "--next", "1"), ("or/ders",)),
        (("configure", "orders"), ("--limit", "--runway")),
        (("configure", "orders", "--runway", "0.5"), ("--runway", "from 1 to 86400")),
        (("configure", "orders", "--limit", "-1"), ("--limit",)),
        (("suspend",), ("NAME",)),
        (("suspend", "orders", "--reason", "two\nlines"), ("reason",)),
        (("fence", "orders"), ("--past", "--ahead")),
        (("fence", "--past", "1"), ("--all",)),
        (("fence", "orders", "--all", "--past", "1"), ("--all",)),
        (("fence", "orders", "--past", "1", "--ahead", "1"), ("--past", "--ahead")),
    ],
    ids=" ".join,
)
def test_bad_usage_changes_nothing(
    run: Run, words: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path
) -> None:
    assert_refused(run(*words), 2, *parts)
    database = sqlite3.connect(tmp_path / "idservice.db")
    (config,) = database.execute("SELECT config FROM entry WHERE name = 'orders'").fetchone()
    database.close()
    assert "rev" not in json.loads(config)


def test_of_a_counter_of_our_own_no_adoption_can_be_finished(run: Run) -> None:
    assert_refused(run("adopt", "orders"), 2, "--finish", "create NAME --adopt-table")
    assert_refused(run("adopt", "--finish", "orders"), 1, "not adopted")
    assert run("next", "orders").out == "10\n"


def test_a_counter_is_moved_and_says_where_it_is(run: Run, tmp_path: Path) -> None:
    assert run("init", "--store", "sqlite:other.db").code == 0
    there = f"sqlite:{tmp_path / 'other.db'}"
    said = run("move", "orders", "--to", "sqlite:other.db", "--reason", "ticket 18")
    assert said.code == 0
    assert said.out == (
        f"counter orders: moved to {there}, active, epoch 2, ids from 10; serve it with --store"
        f" '{there}'\n"
    )
    assert run("move", "orders", "--to", "sqlite:other.db").out == said.out
    assert run("next", "orders", "--store", "sqlite:other.db").out == "10\n"
    for words in (("next", "orders"), ("create", "orders"), ("delete", "orders"),
                  ("set", "orders", "--next", "99"), ("resume", "orders")):  # fmt: skip
        assert_refused(run(*words), 1, "it was moved to", there)
    assert state_of(run) == "moved"
    assert run("init", "--store", "sqlite:third.db").code == 0
    assert run("move", "orders", "--store", "sqlite:other.db", "--to", "sqlite:third.db").code == 0
    again = run("move", "orders", "--to", "sqlite:other.db").out
    assert again.startswith(f"counter orders: moved to {there}, and on: it was moved to sqlite:")
    assert "third.db; serve it with --store" in again
    assert "orders   moved" in run("counters").out


def test_a_name_in_use_at_the_target_is_to_be_deleted_there(run: Run, tmp_path: Path) -> None:
    there = f"sqlite:{tmp_path / 'other.db'}"
    for words in (("init",), ("create", "orders"), ("next", "orders")):
        assert run(*words, "--store", there).code == 0
    here = ("--store", "sqlite:idservice.db")
    delete = f"`idservice delete orders --store {there}`"
    assert_refused(run("move", "orders", "--to", "sqlite:other.db", *here), 1, delete)
    assert run("delete", "orders", "--store", there).code == 0
    assert run("move", "orders", "--to", "sqlite:other.db", *here).code == 0
    assert run("next", "orders", "--store", there).out == "10\n"


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("move", "orders"), 2, "--to"),
        (("move", "orders", "--to", "http://127.0.0.1:1"), 2, "--to is 'http://127.0.0.1:1'"),
        (("move", "orders", "--to", "sqlite:"), 2, "--to is 'sqlite:'"),
        (("move", "orders", "--to", "sqlite:none.db"), 3, "missing or empty"),
        (("move", "orders", "--to", "sqlite:idservice.db"), 2, "is in already"),
        (("move", "nobody", "--to", "sqlite:idservice.db"), 1, "no counter 'nobody'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_move_that_cannot_be_changes_nothing(
    run: Run, words: tuple[str, ...], code: int, part: str, tmp_path: Path
) -> None:
    assert_refused(run(*words), code, part)
    assert run("next", "orders").out == "10\n"
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("word", ["suspend", "resume", "delete"])
def test_of_an_unknown_counter_nothing_can_be_changed(run: Run, word: str) -> None:
    assert_refused(run(word, "nobody"), 1, "no counter 'nobody'")
