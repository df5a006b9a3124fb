"""The commands of tallies: what they print, what they refuse, and that a retry keeps its key."""

import asyncio
import contextlib
import json
import logging
import shlex
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from idservice import errors
from idservice.catalogue.counters import new_counter
from idservice.cli import main, store_commands
from idservice.server import stop_signals
from idservice.stores import initialise, open_store
from idservice.stores.address import DynamoAddress
from idservice.stores.sqlite.tallies import SQLiteTallies
from idservice.tallies.changes import new_tally
from idservice.tallies.committer import Committer
from tests.cli.test_main import Run, _here, assert_refused, run
from tests.served import served

__all__ = ["_here", "run"]  # fixtures, used by name


@pytest.fixture
def gifts(run: Run) -> Run:
    """A store with a tally that has two decimals and a floor."""
    assert run("init").code == 0
    said = run("tally", "create", "gifts", "--decimals", "2", "--floor", "-10", "--start", "3")
    assert said.out == "tally gifts: created, its sum is 3.00\n"
    return run


def shown(run: Run, name: str = "gifts") -> dict[str, object]:
    said: dict[str, object] = json.loads(run("tally", "show", name, "--json").out)
    return said


def test_an_add_prints_its_key_and_sum_and_the_same_key_is_counted_once(gifts: Run) -> None:
    first = gifts("tally", "add", "gifts", "12.5", "--key", "don-1")
    assert first.out == (
        "tally gifts: 12.50 was added under key don-1, which made 15.50 at revision 1\n"
    )
    again = gifts("tally", "add", "gifts", "12.50", "--key", "don-1")
    assert "was added before under key don-1" in again.out
    made = [json.loads(gifts("tally", "add", "gifts", "1", "--json").out) for _ in range(2)]
    assert [(one["sum"], one["rev"], one["replayed"]) for one in made] == [
        ("16.50", 2, False), ("17.50", 3, False),
    ]  # fmt: skip
    assert made[0]["key"] != made[1]["key"], "each has a new one"
    assert len(made[0]["key"]) == 32
    assert (shown(gifts)["sum"], shown(gifts)["adds"]) == ("17.50", 3)


@pytest.mark.parametrize("amount", ["-5.00", "-5", "-.5"])
def test_a_negative_amount_is_no_flag(gifts: Run, amount: str) -> None:
    said = gifts("tally", "add", "gifts", amount)
    if amount == "-.5":
        assert_refused(said, 2, "amount is '-.5'", "such as 12 or -0.5")
    else:
        assert "-5.00 was added" in said.out
        assert gifts("tally", "configure", "gifts", "--floor", "-2").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["add", "gifts", "0.001"], 2, ["at most 2 digits"]),
        (["add", "gifts", "1", "--key", "a b"], 2, ["a b", "128"]),
        (["add", "gifts", "-13.01", "--key", "k"], 1, ["3.00", "below -10.00", "final for key"]),
        (["add", "other", "1"], 1, ["no tally 'other'", "idservice tally create other"]),
        (["add", "gifts"], 2, ["AMOUNT"]),
        (["create", "gifts"], 1, ["decimals is 2, not 0"]),
        (["create", "x", "--floor", "1"], 2, ["start is 0"]),
        (["create", "x", "--decimals", "10"], 2, ["from 0 to 9"]),
        (["create", "x", "--shards", "2"], 2, ["--shards is refused: a tally is one item"]),
        (["configure", "gifts"], 2, ["--floor X or --ceiling X"]),
        (["configure", "gifts", "--floor", "4"], 1, ["its sum is outside of these bounds"]),
        (["set", "gifts"], 2, ["--sum"]),
        (["move", "gifts", "--to", "x"], 2, ["move is refused", "stay in the store"]),
        (["adopt", "gifts"], 2, ["adopt is refused"]),
        (["reshard", "gifts"], 2, ["reshard is refused"]),
        (["next", "gifts"], 2, ["idservice tally add NAME AMOUNT"]),
        (["shwo", "gifts"], 2, ["invalid choice: 'shwo'", "'show'"]),
        (["add", "gifts", "1", "--kye", "k"], 2, ["did you mean --key?"]),
        ([], 2, ["COMMAND", "idservice tally --help"]),
        (["show", "gifts", "--url", "http://h:1", "--store", "sqlite:x"], 2, ["--url", "--store"]),
        (["list", "--store", "http://h:1"], 1, ["http://h:1 is a service"]),
        (["suspend", "gifts", "--store", "http://h:1"], 1, ["http://h:1 is a service"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_a_refusal_is_one_line_that_says_why(
    gifts: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, parts: list[str]
) -> None:
    async def answers(_: object) -> None: ...

    monkeypatch.setattr("idservice.stores.chained.ChainedStore.verify", answers)
    assert_refused(gifts("tally", *arguments), code, *parts)
    assert (shown(gifts)["sum"], shown(gifts)["state"]) == ("3.00", "active")


def test_after_an_unknown_outcome_the_printed_command_asks_with_the_same_key(
    gifts: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = SQLiteTallies.commit

    async def applied_without_an_answer(self: SQLiteTallies, wanted: object) -> None:
        await commit(self, wanted)  # type: ignore[arg-type]
        raise errors.OutcomeUnknown(store="s", action="counting", why="the answer was lost")

    with monkeypatch.context() as broken:
        broken.setattr(SQLiteTallies, "commit", applied_without_an_answer)
        broken.setattr("idservice.tallies.committer.PAUSE_FIRST_S", 60.0)
        broken.setattr("idservice.tallies.committer.PAUSE_MAX_S", 60.0)
        said = gifts("tally", "add", "gifts", "-2.50", "--timeout", "3")
    assert_refused(said, 1, "not known yet", "the answer was lost")
    (command,) = [part for part in said.err.split("`") if part.startswith("idservice tally add")]
    assert "tally add gifts -2.50 --key " in command
    again = gifts(*shlex.split(command)[1:])
    assert "-2.50 was added before" in again.out
    assert shown(gifts)["sum"] == "0.50", "it was counted once"


@pytest.mark.parametrize("command", [("add", "gifts", "5"), ("set", "gifts", "--sum", "5")])
def test_an_answer_that_cannot_be_printed_names_the_command_with_its_key(
    gifts: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Without the key that was made for it, the add would be counted again."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("idservice.cli.tally_commands.print", full, raising=False)
        said = gifts("tally", *command)
    assert_refused(said, 1, "was changed", "No space left", f"idservice tally {command[0]} gifts")
    again = shlex.split(said.err.split("`")[1])[1:]
    assert gifts(*again).code == 0
    assert shown(gifts)["sum"] == {"add": "8.00", "set": "5.00"}[command[0]]


def test_an_interrupted_add_names_the_command_with_its_key(
    gifts: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: object, **__: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    monkeypatch.setattr(Committer, "settle", interrupted)
    with pytest.raises(asyncio.CancelledError):
        gifts("tally", "add", "gifts", "1", "--key", "k")
    said = gifts._capsys.readouterr().err
    assert "`idservice tally add gifts 1 --key k`" in said


def test_set_tells_both_sums_and_keeps_who_and_why(
    gifts: Run, caplog: pytest.LogCaptureFixture
) -> None:
    said = gifts("tally", "set", "gifts", "--sum", "0", "--key", "new-year", "--reason", "new year")
    assert said.out == ("tally gifts: set from 3.00 to 0.00 at revision 1, under key new-year\n")
    again = gifts("tally", "set", "gifts", "--sum", "0", "--key", "new-year")
    assert again.out.endswith("under key new-year, as before\n")
    (line,) = [one.getMessage() for one in caplog.records if "set by" in one.getMessage()]
    assert "(new year): its sum was 3.00 and is 0.00 at revision 1" in line


def test_a_tally_is_suspended_resumed_configured_and_deleted(gifts: Run) -> None:
    assert gifts("tally", "suspend", "gifts", "--reason", "fraud").code == 0
    assert_refused(gifts("tally", "add", "gifts", "1"), 1, "suspended by", "(fraud)")
    assert gifts("tally", "resume", "gifts").out == "tally gifts: active, its sum is 3.00\n"
    bounds = gifts("tally", "configure", "gifts", "--floor", "none", "--ceiling", "9")
    assert bounds.out == "tally gifts: active, its sum is 3.00, floor none, ceiling 9.00\n"
    assert shown(gifts)["floor"] is None
    assert "deleted" in gifts("tally", "delete", "gifts").out
    assert_refused(gifts("tally", "show", "gifts"), 1, "no tally 'gifts'")
    assert gifts("tally", "list").out.split() == [
        "NAME", "STATE", "SUM", "RECORDS", "FLOOR", "CEILING", "LAST", "ADD", "OR", "CHANGE",
    ]  # fmt: skip


def test_the_list_has_every_tally_in_natural_order(gifts: Run) -> None:
    for name in ("b10", "b9"):
        assert gifts("tally", "create", name).code == 0
    lines = gifts("tally", "list").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["b9", "b10", "gifts"]
    rows = [json.loads(line) for line in gifts("tally", "list", "--json").out.splitlines()]
    assert rows[2] == shown(gifts)
    assert {"floor": "-10.00", "ceiling": None, "start": "3.00"}.items() <= rows[2].items()


def test_audit_agrees_and_names_what_differs(gifts: Run) -> None:
    for key in "abc":
        assert gifts("tally", "add", "gifts", "1", "--key", key).code == 0
    good = gifts("tally", "audit", "gifts")
    assert (good.code, good.out) == (
        0, "tally gifts: its sum is 6.00 at revision 3, and 3 records agree\n"
    )  # fmt: skip
    with closing(sqlite3.connect("idservice.db")) as file, file:
        file.execute("""UPDATE tally SET "sum" = 1, rev = 2, adds = 2""")  # an older copy of it
    bad = gifts("tally", "audit", "gifts")
    assert bad.code == 1
    assert "its sum is 0.01 at revision 2 with 2 records" in bad.out
    assert "3 records, which make 6.00, the last at revision 3" in bad.out
    assert "idservice fence --all" in bad.out
    here = ("--store", "sqlite:idservice.db")
    assert "fence --all --ahead N --store sqlite:idservice.db`" in gifts(
        "tally", "audit", "gifts", *here
    ).out  # fmt: skip
    told = json.loads(gifts("tally", "audit", "gifts", "--json").out)
    assert (told["agrees"], told["sum"], told["sum_of_records"]) == (False, "0.01", "6.00")


def test_adds_during_an_audit_are_no_fault(gifts: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gifts("tally", "add", "gifts", "1", "--key", "a").code == 0
    every = SQLiteTallies.every_record

    async def amid(self: SQLiteTallies, name: str, inc: int):  # type: ignore[no-untyped-def]
        with closing(sqlite3.connect("idservice.db")) as file, file:
            file.execute("""UPDATE tally SET "sum" = 500, rev = 2, adds = 2""")
            file.execute("""INSERT INTO tally_add VALUES ('gifts', 1, 'b', 'counted', 100, 500, 2,
                            5, '')""")
        async for record in every(self, name, inc):
            yield record

    monkeypatch.setattr(SQLiteTallies, "every_record", amid)
    said = gifts("tally", "audit", "gifts")
    assert (said.code, said.out.count("agree")) == (0, 1)


def test_doctor_compares_sums_and_names_what_refuses_adds(
    gifts: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "each agrees with its records" in gifts("doctor").out
    gifts("tally", "add", "gifts", "-13", "--key", "a")
    gifts("tally", "suspend", "gifts")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3 * 86_400)
    said = gifts("doctor", "--json")
    found = {one["about"]: one for one in json.loads(said.out)["findings"]}
    assert found["tally_bound"]["found"] == "tally gifts: its sum is its floor, -10.00"
    assert found["tally_state"]["found"] == "tally gifts: it is suspended for 3 days"
    assert found["tally_sum"]["level"] == "ok"
    with closing(sqlite3.connect("idservice.db")) as file, file:
        file.execute("""UPDATE tally SET "sum" = 7""")
    bad = gifts("doctor")
    assert bad.code == 1
    assert (
        "fault    tally_sum: tally gifts: its sum is 0.07, and its records make -10.00" in bad.out
    )
    assert "idservice fence --all --ahead N --store sqlite:idservice.db" in bad.out


def test_trouble_is_told_once_and_not_in_the_log_before(
    gifts: Run, caplog: pytest.LogCaptureFixture
) -> None:
    away = ("--url", "http://127.0.0.1:1", "--timeout", "0.2")
    with caplog.at_level(logging.INFO, "idservice.health"):
        said = gifts("tally", "add", "gifts", "1", "--key", "a", *away)
    assert (said.code, said.err.count("\n")) == (1, 1), said.err
    assert said.err.startswith("idservice: It is not known yet if key 'a'")
    assert "idservice.health" not in {record.name for record in caplog.records}


def test_a_reason_that_is_too_long_is_refused_for_the_tally(gifts: Run) -> None:
    for change in (("set", "gifts", "--sum", "1"), ("suspend", "gifts")):
        said = gifts("tally", *change, "--reason", "x" * 201)
        assert_refused(said, 2, "The tally cannot be configured", "at most 200 printable")


def test_doctor_says_what_differs_if_the_sum_does_not(gifts: Run) -> None:
    gifts("tally", "add", "gifts", "1", "--key", "a")
    with closing(sqlite3.connect("idservice.db")) as file, file:
        file.execute("UPDATE tally SET rev = 0")
    said = gifts("doctor").out
    numbers = (
        "its number of records is 1 and its revision 0, and there are 1, the last at revision 1"
    )
    assert numbers in said
    assert "its sum stays 4.00" in gifts("fence", "--all", "--ahead", "0", "--dry-run").out


def test_a_tally_whose_row_alone_is_gone_comes_back_with_its_records(gifts: Run) -> None:
    gifts("tally", "add", "gifts", "1", "--key", "a")
    with closing(sqlite3.connect("idservice.db")) as file, file:
        file.execute("DELETE FROM tally")
    bad = gifts("doctor")
    assert (bad.code, "tally gifts is gone, and 1 of its records are not" in bad.out) == (1, True)
    again = ("--decimals", "2", "--start", "3.00")
    assert gifts("tally", "create", "gifts", *again).code == 0
    assert "4.00 instead of 3.00" in gifts("fence", "--all", "--ahead", "0").out
    audit = gifts("tally", "audit", "gifts")
    assert (audit.code, "4.00 at revision 2, and 1 record agrees" in audit.out) == (0, True)
    assert gifts("doctor").code == 0


def test_doctor_does_not_have_a_later_incarnation_created_anew(gifts: Run) -> None:
    """It would have the records of the first one, and count the latest keys again."""
    gifts("tally", "add", "gifts", "1", "--key", "a")
    gifts("tally", "delete", "gifts")
    gifts("tally", "create", "gifts")
    gifts("tally", "add", "gifts", "5", "--key", "b")
    with closing(sqlite3.connect("idservice.db")) as file, file:
        file.execute("DELETE FROM tally")
    said = gifts("doctor").out
    assert "its row with `inc` = 2 was deleted by hand" in said
    assert "tally create gifts" not in said


def test_doctor_reads_no_tallies_where_that_reads_a_whole_table(
    gifts: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_commands, "parse", lambda _: DynamoAddress("counters"))
    assert "tally_sum" not in gifts("doctor").out


async def test_a_service_is_asked_for_sums_by_url_and_as_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_store(f"sqlite:{tmp_path}/s.db") as store:
        await initialise(store, new_counter("default", Random(1)))
        async with served(store) as service:
            url = service.url

            async def said(*arguments: str) -> tuple[int, str]:
                code = await asyncio.to_thread(_run_in_thread, *arguments)
                return code, capsys.readouterr().out

            await store.tallies.create(new_tally("gifts", decimals=2))  # type: ignore[union-attr]
            code, out = await said("tally", "add", "gifts", "1.5", "--key", "k", "--url", url)
            assert (code, out) == (
                0, "tally gifts: 1.50 was added under key k, which made 1.50 at revision 1\n"
            )  # fmt: skip
            _, out = await said("tally", "add", "gifts", "1.50", "--key", "k", "--store", url)
            assert "was added before under key k" in out
            _, out = await said("tally", "show", "gifts", "--url", url, "--json")
            shown = json.loads(out)
            assert set(shown) == {"tally", "sum", "at", "as_of", "rev"}
            assert (shown["sum"], shown["rev"]) == ("1.50", 1)
            code, _ = await said("tally", "add", "other", "1", "--url", url)
            assert code == 1


def _run_in_thread(*arguments: str) -> int:
    """Run a command beside the service that it asks; only the main thread hears signals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stop_signals, "as_ctrl_c", contextlib.nullcontext)
        return main.main(list(arguments))


def test_help_names_every_command_of_the_group(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["tally", "--help"], ["help", "tally"]):
        with pytest.raises(SystemExit) as ended:
            run(*arguments)
        assert ended.value.code == 0
        text = capsys.readouterr().out
        for name in ("create", "add", "show", "list", "set", "configure", "suspend", "audit"):
            assert f"    {name}" in text
    with pytest.raises(SystemExit):
        run("help", "tally", "add")
    assert "AMOUNT" in capsys.readouterr().out
    assert not Path("idservice.db").exists()
