"""The contract of `UsageStore`, kept by every store alike."""

from dataclasses import replace

import pytest

from idservice.core.limits import ID_MAX
from idservice.core.usage import PART_ROWS, RunEnd, UsageKind, UsagePart, UsageRow
from idservice.stores.protocol import CatalogueStore
from idservice.stores.usage_store import UsageStore

DAY = 20_700
NOW = DAY * 86_400_000 + 5
ROWS = (
    UsageRow(UsageKind.IDS, "acme.orders", 42, 60),
    UsageRow(UsageKind.IDS, "gifts", ID_MAX, ID_MAX),
    UsageRow(UsageKind.ADDS, "gifts", 7),
)
PART = UsagePart(DAY, "k7f3q9m2xw", 0, 1, NOW, NOW + 50_000, RunEnd.OPEN, ROWS)


@pytest.fixture
def usage(store: CatalogueStore) -> UsageStore:
    return store.usage


@pytest.fixture
def others(other: CatalogueStore) -> UsageStore:
    """The same usage by another handle: an instance that remembers nothing."""
    return other.usage


async def test_a_part_is_read_back_as_it_was_written(usage: UsageStore, others: UsageStore) -> None:
    assert await usage.parts(DAY) == []
    assert await usage.write(PART)
    assert await usage.parts(DAY) == await others.parts(DAY) == [PART]


async def test_a_day_shows_its_own_parts_and_all_of_them_by_name(
    usage: UsageStore, others: UsageStore
) -> None:
    second = replace(PART, number=1, rows=())
    other = replace(PART, run="aaaaaaaaaa", end=RunEnd.STOP)
    later = replace(PART, day=DAY + 1, end=RunEnd.MIDNIGHT)
    for part, handle in ((PART, usage), (other, others), (second, usage), (later, usage)):
        assert await handle.write(part)
    assert await others.parts(DAY) == [other, PART, second]
    assert await usage.parts(DAY + 1) == [later]
    assert await usage.parts(DAY - 1) == []


async def test_a_part_is_replaced_only_by_one_with_a_higher_number(
    usage: UsageStore, others: UsageStore
) -> None:
    newer = replace(PART, seq=3, rows=ROWS[:1], end=RunEnd.STOP)
    assert await usage.write(PART)
    assert await usage.write(newer)
    for late in (PART, replace(PART, seq=2), replace(PART, seq=3)):
        assert not await usage.write(late)
        assert not await others.write(late)
    assert await usage.parts(DAY) == [newer]
    assert await others.write(replace(PART, seq=9))


async def test_a_part_has_room_for_the_longest_rows(usage: UsageStore) -> None:
    rows = tuple(
        UsageRow(UsageKind.IDS, f"{number:-<64}", ID_MAX, ID_MAX) for number in range(PART_ROWS)
    )
    full = replace(PART, rows=rows)
    assert await usage.write(full)
    assert await usage.parts(DAY) == [full]
