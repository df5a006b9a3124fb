"""After an incomplete restore: no adds until `fence --all`, which makes each sum anew."""

import json
import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.test_main import Run, _here, assert_refused, run
from tests.engines import by_hand
from tests.stores import backends
from tests.stores.test_dynamodb_table import recreate

__all__ = ["_here", "run"]  # fixtures, used by name


@pytest.fixture
def restored_file(tmp_path: Path, _here: None, run: Run) -> tuple[str, ...]:
    """A copy of a file, torn, as the store that is named."""
    fill(run)
    shutil.copy(tmp_path / "idservice.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as database:
        database.execute("UPDATE tally SET sum = 250, rev = 1, adds = 1 WHERE name = 'gifts'")
        database.execute("DELETE FROM tally_add WHERE tally = 'lost' AND key = 'b'")
        database.commit()
    return ("--store", "sqlite:copy.db")


@pytest.fixture
def restored_table(dynoxide_url: str, _here: None, run: Run) -> tuple[str, ...]:
    """A table made anew, torn, as the store that is named."""
    backend = backends.dynoxide(dynoxide_url)
    at = ("--store", f"dynamodb:{backend.address}")
    fill(run, *at)
    with by_hand(dynoxide_url) as client:
        recreate(client, backend.table)
        client.update_item(
            TableName=backend.table, Key={"pk": {"S": "tally:gifts"}},
            UpdateExpression="SET #s = :s, rev = :one, adds = :one",
            ExpressionAttributeNames={"#s": "sum"},
            ExpressionAttributeValues={":s": {"N": "250"}, ":one": {"N": "1"}},
        )  # fmt: skip
        client.delete_item(TableName=backend.table, Key={"pk": {"S": "add:lost:1:b"}})
    return at


def fill(run: Run, *at: str) -> None:
    assert run("init", *at).code == 0
    for name in ("gifts", "lost", "whole"):
        assert run("tally", "create", name, "--decimals", "2", *at).code == 0
        for key, amount in (("a", "2.50"), ("b", "1.00"), ("c", "-0.25")):
            assert run("tally", "add", name, amount, "--key", key, *at).code == 0


@pytest.mark.parametrize(
    "kind", ["restored_file", pytest.param("restored_table", marks=pytest.mark.needs_engine)]
)
def test_sums_of_a_torn_restore_are_made_anew_before_the_store_is_accepted(
    request: pytest.FixtureRequest, run: Run, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    at = request.getfixturevalue(kind)
    assert_refused(run("tally", "add", "gifts", "1", *at), 3, "fence --all")
    planned = run("fence", "--all", "--ahead", "0", "--dry-run", *at)
    said = [line for line in planned.out.splitlines() if line.startswith("tally ")]
    assert (planned.code, said) == (0, [
        "tally gifts: its sum is 3.25 instead of 2.50, made anew of its 3 records",
        "tally lost: its sum is 2.25 instead of 3.25, made anew of its 2 records",
    ])  # fmt: skip
    assert "sums that agree with their records: 1\n" in planned.out
    assert_refused(run("tally", "add", "gifts", "1", *at), 3, "fence --all")
    with caplog.at_level(logging.WARNING, "idservice.change"):
        done = run("fence", "--all", "--ahead", "0", *at)
    assert done.code == 0, done.err
    assert "adds since the copy are not in its sums: send them again" in done.out
    assert [line for line in done.out.splitlines() if line.startswith("tally ")] == said
    logged = [one.message for one in caplog.records if "tally gifts: its sum" in one.message]
    assert len(logged) == 1
    assert "3.25 instead of 2.50" in logged[0]
    assert "revision 4" in logged[0]  # above that of every record
    # The adds are sent again: those in the copy count once, and the lost one is counted.
    for name in ("gifts", "lost", "whole"):
        for key, amount in (("a", "2.50"), ("b", "1.00"), ("c", "-0.25")):
            assert run("tally", "add", name, amount, "--key", key, *at).code == 0
        shown = json.loads(run("tally", "show", name, "--json", *at).out)
        assert shown["sum"] == "3.25", shown
        assert run("tally", "audit", name, *at).code == 0
    again = run("fence", "--all", "--ahead", "0", *at)
    assert again.code == 0
    assert "tally" not in again.out


@pytest.mark.usefixtures("_here")
def test_a_record_that_cannot_be_read_leaves_the_store_as_it_was(run: Run) -> None:
    fill(run)
    with closing(sqlite3.connect("idservice.db")) as database:
        database.execute("UPDATE tally_add SET kind = 'odd' WHERE key = 'b' AND tally = 'gifts'")
        database.execute("UPDATE identity SET inode = 1")
        database.commit()
    assert_refused(run("fence", "--all", "--ahead", "0"), 1, "'b'", "'odd'")
    assert_refused(run("tally", "show", "whole"), 3, "fence --all")
