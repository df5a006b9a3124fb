"""The command `usage`: a table for people, CSV and JSON for programs, and what it refuses."""

import asyncio
import json

import pytest

from idservice.access.usage_report import NOTES
from idservice.server.process import STORE_DEFAULT
from idservice.stores.sqlite.store import SQLiteStore
from tests import usage_samples
from tests.cli.test_main import Run, _here, assert_refused, run

SILENT = "Run bbbbbbbbbb of 2026-10-05 ended without a stop"
__all__ = ["_here", "run"]  # fixtures, used by name


@pytest.fixture
def used(run: Run) -> Run:
    """A store with usage of two customers."""
    assert run("init").code == 0

    async def filled() -> None:
        async with SQLiteStore(STORE_DEFAULT.partition(":")[2]) as store:
            await usage_samples.fill(store.usage)

    asyncio.run(filled())
    return run


def test_the_table_has_a_line_for_each_name_and_the_rules_below_it(used: Run) -> None:
    said = used("usage", "--month", "2026-10", "--scope", "acme.*")
    assert said.code == 0
    assert said.out.splitlines() == [
        "NAME         STATE  KIND  COUNT  RESERVED",
        "acme.gifts   final  adds  7      –",
        "acme.orders  final  ids   92     130",
        "",
        "2026-10-01 to 2026-10-31, scope acme.*: 92 ids, 7 adds",
        f"{SILENT}; its last write was at 2026-10-05T12:01:00.000Z.",
        *NOTES,
    ]


def test_csv_is_printed_alone_and_the_rules_beside_it(used: Run) -> None:
    said = used("usage", "--from", "2026-10-01", "--to", "2026-10-31", "--scope", "acme.*", "--csv")
    assert (said.code, said.out) == (0, usage_samples.CSV)
    assert said.err.splitlines() == [*NOTES]


def test_json_is_what_a_service_answers(used: Run) -> None:
    report = json.loads(used("usage", "--month", "2026-10", "--json").out)
    assert (report["from"], report["to"], report["scope"]) == ("2026-10-01", "2026-10-31", "*")
    assert [row["counter"] for row in report["usage"]] == [
        "acme.gifts", "acme.orders", "acme2.orders", "acme.orders",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("--month", "2026-13"), "the month is '2026-13'; write one since 1970 as 2026-10"),
        (("--month", "9999-12"), "the month is '9999-12'; write one since 1970 as 2026-10"),
        (("--month", "1969-12"), "the month is '1969-12'; write one since 1970 as 2026-10"),
        (("--month", "2026-10", "--to", "2026-10-31"), "it names a month and days"),
        (("--from", "2999-01-01"), "its first day, 2999-01-01, is after its last one"),
        (("--scope", "a*"), "the scope 'a*' is not allowed (did you mean `a.*`?); "),
    ],
)
def test_a_period_that_cannot_be_is_refused(used: Run, given: tuple[str, ...], why: str) -> None:
    assert_refused(used("usage", *given), 2, "The usage cannot be reported like this: ", why)


def test_two_formats_at_once_are_refused(used: Run) -> None:
    assert_refused(used("usage", "--csv", "--json"), 2, "--csv cannot be combined with --json")
