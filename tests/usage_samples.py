"""Usage of two customers on days that are long over, as two runs wrote it."""

from idservice.core.limits import NUMBER_MAX
from idservice.core.usage import DAY_MS, RunEnd, UsageKind, UsagePart, UsageRow
from idservice.stores.instants import day_in
from idservice.stores.usage_store import UsageStore

DAY = day_in("2026-10-05")
NOON = DAY * DAY_MS + DAY_MS // 2


def part(
    run: str, *rows: tuple[UsageKind, str, int, int | None], day: int = DAY,
    end: RunEnd = RunEnd.STOP,
) -> UsagePart:  # fmt: skip
    return UsagePart(
        day, run, 0, 1, NOON, NOON + 60_000, end, tuple(UsageRow(*row) for row in rows)
    )


ORDERS = (UsageKind.IDS, "acme.orders", 42, 60)
PARTS = (
    part("aaaaaaaaaa", ORDERS, (UsageKind.ADDS, "acme.gifts", 7, None)),
    part("bbbbbbbbbb", (UsageKind.IDS, "acme.orders", 8, 10), end=RunEnd.OPEN),
    part("cccccccccc", (UsageKind.IDS, "acme2.orders", NUMBER_MAX + 1, NUMBER_MAX + 1)),
    part("aaaaaaaaaa", ORDERS, day=DAY + 1, end=RunEnd.MIDNIGHT),
)


async def fill(store: UsageStore) -> None:
    for one in PARTS:
        assert await store.write(one)


CSV = """\
day,counter,kind,count,reserved,final
2026-10-05,acme.gifts,adds,7,,true
2026-10-05,acme.orders,ids,50,70,true
2026-10-06,acme.orders,ids,42,60,true
"""
