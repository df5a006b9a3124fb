"""Power cuts lose nothing that the SQLite store acknowledged; with weaker settings they would."""

import os
from random import Random

import pytest

from tests.prove.disk import Disk, Event
from tests.prove.power import prove_power, why_no_power_cut
from tests.prove.power_tallies import ALONE, SPLIT

pytestmark = [pytest.mark.process]

STEPS = 20


@pytest.fixture(autouse=True)
def _needs_a_compiler() -> None:
    missing = why_no_power_cut()
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{missing} (CI must not skip it)")
    if missing:
        pytest.skip(missing)


def test_no_id_comes_twice_and_no_add_is_lost_wherever_the_power_is_cut() -> None:
    verdict = prove_power(steps=STEPS, seed=0, quiet=True)
    print(verdict)
    assert verdict.holds, verdict


@pytest.mark.parametrize(
    ("pragmas", "sees"),
    [
        # The name of the journal comes back, and with it what was before: hence EXTRA.
        (["synchronous=FULL"], "unique"),
        (["synchronous=NORMAL"], "unique"),
        (["synchronous=OFF"], "unique|opens"),
        (["journal_mode=WAL", "synchronous=NORMAL"], "unique"),
        (["journal_mode=WAL", "synchronous=OFF"], "unique|opens"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_lose_what_was_acknowledged_are_found_out(
    pragmas: list[str], sees: str
) -> None:
    verdict = prove_power(steps=STEPS, seed=0, pragmas=pragmas, quiet=True)
    print(verdict)
    [violation] = verdict.violations
    assert violation.split(":")[0] in sees.split("|")


@pytest.mark.parametrize(
    ("fault", "sees"),
    [
        ("synchronous=FULL", "lost"),
        ("synchronous=OFF", "lost|sum|opens"),
        (SPLIT, "sum"),
    ],
)
def test_a_lost_add_and_a_sum_without_its_records_are_found_out(fault: str, sees: str) -> None:
    verdict = prove_power(steps=STEPS, seed=0, pragmas=[ALONE, fault], quiet=True)
    [violation] = verdict.violations
    assert violation.split(":")[0] in sees.split("|"), verdict


def test_a_log_that_is_synced_at_every_write_is_not_found_guilty() -> None:
    """Not what the store uses; but who calls everything a loss proves nothing."""
    pragmas = ["journal_mode=WAL", "synchronous=FULL"]
    verdict = prove_power(steps=STEPS // 2, seed=0, pragmas=pragmas, quiet=True)
    assert verdict.holds, verdict


# --- the disk -------------------------------------------------------------------------------------

CREATE = "65602"


def written(*events: tuple[str, ...]) -> Disk:
    disk = Disk("/f")
    for call, *words in events:
        data = words.pop().encode() if call == "write" else b""
        disk.happen(Event(call, tuple(words), data))
    return disk


def left(disk: Disk) -> list[dict[str, bytes]]:
    states: list[dict[str, bytes]] = []
    for state in disk.states(Random(1), random=200):
        if state not in states:
            states.append(state)
    return states


def test_only_what_was_synced_is_sure() -> None:
    begun = (("open", "3", CREATE, "/f/a"), ("write", "3", "0", "2", "xy"))
    assert left(written(*begun)) == [{}, {"a": b""}, {"a": b"xy"}]
    named = (*begun, ("open", "4", "0", "/f"), ("sync", "4"), ("close", "4"))
    assert left(written(*named)) == [{"a": b""}, {"a": b"xy"}]
    synced = (*named, ("sync", "3"))
    assert left(written(*synced)) == [{"a": b"xy"}]
    cut = (*synced, ("truncate", "3", "1"))
    assert left(written(*cut)) == [{"a": b"xy"}, {"a": b"x"}]


def test_a_file_that_was_removed_comes_back_until_the_folder_is_synced() -> None:
    removed = (
        ("open", "3", CREATE, "/f/a"), ("write", "3", "0", "2", "xy"), ("sync", "3"),
        ("open", "4", "0", "/f"), ("sync", "4"), ("close", "3"), ("unlink", "/f/a"),
    )  # fmt: skip
    assert left(written(*removed)) == [{"a": b"xy"}, {}]
    assert left(written(*removed, ("sync", "4"))) == [{}]
    again = (*removed, ("open", "5", CREATE, "/f/a"), ("write", "5", "0", "1", "z"))
    assert {"a": b"xy"} in left(written(*again))
    assert {"a": b"z"} in left(written(*again))


def test_a_write_may_be_torn_between_sectors() -> None:
    old, new = "o" * 1024, "n" * 1024
    torn = written(
        ("open", "3", CREATE, "/f/a"), ("open", "4", "0", "/f"), ("sync", "4"),
        ("write", "3", "0", "1024", old), ("sync", "3"), ("write", "3", "0", "1024", new),
    )  # fmt: skip
    halves = [state["a"][:1] + state["a"][-1:] for state in left(torn)]
    assert sorted(halves) == [b"nn", b"no", b"on", b"oo"]
