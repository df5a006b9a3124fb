"""What people read of a counter that was adopted, or is in another store."""

import re

import pytest

from idservice.cli.counter_table import print_row, print_table

ITEM = {"table": "donation-data", "key": {"context": "atomicCounter", "id": "id"}}


def test_an_adopted_item_is_named_as_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    print_row(
        {
            "counter": "members",
            "adopted": {**ITEM, "attribute": "counterValue", "returns": "old"},
            "home": ITEM,
            "arrived": True,
            "next_by_shard": [7, 8],
            "runway_seconds": None,
        }
    )
    place = "donation-data[context=atomicCounter,id=id]"
    old = " (its old endpoint answers the value before the increment)"
    assert capsys.readouterr().out.splitlines() == [
        "counter:        members",
        f"adopted:        {place}.counterValue{old}",
        f"home:           {place}",
        "arrived:        yes",
        "next_by_shard:  7, 8",
        "runway_seconds: –",
    ]


def test_a_counter_that_moved_says_where_and_one_under_change_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    about = {"shards": 1, "runway": 30.0, "start": 0, "limit": "99"}
    print_table(
        [
            {"counter": "a", "state": "moved", "next": 50, "moved_to": "sqlite:b.db", **about},
            {"counter": "b", "state": "active", "change": "set", "next": "100", **about},
            {"counter": "c", "state": "suspect", **about},
        ]
    )
    assert [line.split("  ") for line in _lines(capsys)[1:]] == [
        ["a", "moved", "50", "50%", "1", "30 s", "sqlite:b.db"],
        ["b", "active (set under way)", "100", "100%", "1", "30 s", "–"],
        ["c", "suspect", "–", "–", "1", "30 s", "–"],
    ]


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [re.sub(" {2,}", "  ", line) for line in capsys.readouterr().out.splitlines()]
