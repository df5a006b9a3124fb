"""The load of a fleet of sidecars on one table, by simulation with the real allocator.

Direct: each sidecar reserves on the table. Chained: each sidecar borrows from a few central
services, and drops ids that it has held for 10 s. A sample of sidecars is simulated and scaled up
(see `sidecar`): they depend on each other only through the item that they share. As a check, one
cell of either kind is also simulated with every single sidecar.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from math import ceil, inf
from random import Random
from statistics import mean

from benchmarks.cost import LIST_PRICES, POLL_S, monthly
from benchmarks.measure import Row, check, distinct, short
from benchmarks.picture import Line, lines
from benchmarks.sidecar import CHAINED, DIRECT, Kind, Sample, sample
from idservice.allocation.context import Limits
from idservice.core.allocator import Allocator
from idservice.core.epoch import Layout, Shards
from idservice.stores.records import LIMIT_DEFAULT

SIDECARS = (10, 100, 1_000, 10_000, 100_000)
RATES = (1, 10, 100, 1_000)
ITEM_WRITES = 1_000  # write units per second that one item takes
ITEM_READS = 3_000  # read units per second, likewise; the head of the catalogue is one item
CENTRALS_MIN = 2  # one may fail
CENTRAL_MAX = 20_000  # requests per second for each central
SAMPLE_MAX = 200
SAMPLE_IDS = 3_000_000  # about as many as are taken out of memory for one sample
CHECKED = (1_000, 10)  # sidecars and rate of the cells that are simulated in full
DRAWN_RATE = 100
TOLERANCE = 0.05
BEFORE = ("writes/s", "reads/s", "lost per crash: mean (most)")
AFTER = ("$ a month", "one item carries it")
COLUMNS = {
    "direct": (*BEFORE, "writes of one in its first minute", *AFTER),
    "chained": (
        *BEFORE,
        "dropped as too old",
        "centrals × requests/s, ids lost per crash of one, its runway",
        *AFTER,
    ),
}


@dataclass(frozen=True, slots=True)
class Size:
    """The extent of the simulation."""

    sidecars: tuple[int, ...] = SIDECARS
    rates: tuple[int, ...] = RATES
    windows: int = 10
    central_s: tuple[float, float] = (60.0, 180.0)  # the ends of the warm-up and of the run
    sample_max: int = SAMPLE_MAX
    checked: int = CHECKED[0]


QUICK = Size((10, 10_000), (1, 10), 2, (60.0, 180.0), sample_max=10, checked=20)


def run(quick: bool) -> list[Row]:
    """Return the rows of `fleet`."""
    size = QUICK if quick else Size()
    rows = []
    for rate in size.rates:
        for way, kind in (("direct", DIRECT), ("chained", CHAINED)):
            found = _sample(kind, rate, size)
            rows += [_cell(way, sidecars, found, size) for sidecars in size.sidecars]
    return [*rows, *_checked(size, rows)]


def _sample(kind: Kind, rate: int, size: Size) -> Sample:
    each = rate * (kind.warm_up_s + size.windows * kind.window_s)
    instances = min(size.sample_max, max(16, round(SAMPLE_IDS / each)))
    return sample(kind, rate, instances=instances, windows=size.windows)


def _cell(way: str, sidecars: int, found: Sample, size: Size) -> Row:
    parts: dict[str, float | str] = {"way": way, "sidecars": sidecars, "rate": found.rate}
    if way == "direct":
        on_table, writes = sidecars, sidecars * found.refills_per_s
    else:
        asked = sidecars * found.refills_per_s
        on_table = max(CENTRALS_MIN, ceil(asked / CENTRAL_MAX))
        sizes = [count for life in found.lives for _, count in life.refills]
        of_one = central(
            _poisson(asked / on_table, sizes, Random(f"{sidecars} {found.rate}")), size
        )
        writes = on_table * of_one.writes_per_s
        parts |= {
            "centrals": on_table,
            "asked": asked,
            "expired": found.expired,
            "central_waited": of_one.waited,
            "central_lost": of_one.held,
            "central_runway_s": of_one.held / (asked * mean(sizes) / on_table),
            "central_lost_most": of_one.most,
        }
    reads = on_table / POLL_S
    parts |= {
        "writes": writes,
        "reads": reads,
        "lost": found.held,
        "lost_most": found.held_most,
        "waited": found.waited,
        "first_minute": found.starts,
        "sample": len(found.lives),
        "dollars": monthly(writes, reads),
        "verdict": _verdict(writes, reads),
    }
    note = f"{short(reads)} reads/s; a crash loses {short(found.held)} ids, at most"
    note += f" {found.held_most:,}; {_dollars(parts)} a month; {parts['verdict']}"
    return Row(
        f"fleet: {sidecars:,} × {found.rate:,} ids/s, {way}",
        writes,
        "writes/s",
        None,
        note,
        parts=parts,
    )


def _verdict(writes: float, reads: float) -> str:
    over = []
    if writes > ITEM_WRITES:
        over.append(f"writes, without {ceil(writes / ITEM_WRITES)} shards")
    if reads > ITEM_READS:
        over.append("polls, unless chained")
    return f"over the limit: {'; '.join(over)}" if over else "one item"


# --- the central tier -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Central:
    """The figures of one central service after the warm-up."""

    writes_per_s: float
    held: float
    most: int
    waited: int


def central(requests: Iterator[tuple[float, int]], size: Size) -> Central:
    """Return the figures of one central service that is asked for these numbers of ids."""
    warm, until = size.central_s
    allocator = Allocator(
        Shards(Layout(base=0, limit=LIMIT_DEFAULT)),
        now=0.0,
        runway_s=DIRECT.runway_s,
        block_max=Limits().block_max,
    )
    position, waited, line = 0, 0, list[int]()
    writes: list[float] = []
    held: list[int] = []
    now, request, answer_at = 0.0, allocator.due(0.0), DIRECT.answer_s
    writes.append(0.0)
    at, count = next(requests)
    while now < until:
        if at < answer_at:
            now = at
            if line or allocator.take_batch(count) is None:
                line.append(count)
                waited += now >= warm
            at, count = next(requests, (inf, 0))
            if now >= warm:
                held.append(allocator.held)
            if answer_at < inf:
                continue
        else:
            assert request is not None
            now, answer_at = answer_at, inf
            check(
                allocator.granted(request.token, range(position, position + request.count)),
                "a grant was refused",
            )
            position += request.count
            while line and allocator.take_batch(line[0]) is not None:
                line.pop(0)
        request = allocator.due(now, waiting=sum(line), first=line[0] if line else 0)
        if request is not None:
            writes.append(now)
            answer_at = now + DIRECT.answer_s
    check(position == allocator.issued_ids + allocator.held, "ids were lost")
    steady = [at for at in writes if at >= warm]
    check(len(steady) >= 3, f"only {len(steady)} writes of a central were seen")
    return Central(
        writes_per_s=(len(steady) - 1) / (steady[-1] - steady[0]),
        held=mean(held),
        most=max(held),
        waited=waited,
    )


def _poisson(per_s: float, sizes: list[int], random: Random) -> Iterator[tuple[float, int]]:
    """Yield refills of many independent sidecars: at random times, of the sizes of the sample."""
    now = 0.0
    while True:
        now += random.expovariate(per_s)
        yield now, random.choice(sizes)


# --- every single sidecar -------------------------------------------------------------------------


def _checked(size: Size, rows: list[Row]) -> list[Row]:
    """Return two cells with all of their sidecars, compared with the cells that are scaled up."""
    sidecars, rate = size.checked, CHECKED[1]
    direct = sample(DIRECT, rate, instances=sidecars, windows=size.windows, with_ids=True)
    distinct(list(chain.from_iterable(life.ids or () for life in direct.lives)))
    chained = sample(CHAINED, rate, instances=sidecars, windows=size.windows)
    seconds: dict[int, int] = {}
    for life in direct.lives:
        for at, _ in life.refills:
            seconds[int(at)] = seconds.get(int(at), 0) + 1
    random, centrals = Random(1), CENTRALS_MIN
    merged = sorted(refill for life in chained.lives for refill in life.refills)
    of_one = iter([refill for refill in merged if random.random() < 1 / centrals])
    ends = CHAINED.warm_up_s + chained.seconds
    # One pass is too short for a central, so it is repeated.
    once = list(of_one)
    again = chain.from_iterable(
        ((at - CHAINED.warm_up_s + turn * chained.seconds, count) for at, count in once)
        for turn in range(ceil(size.central_s[1] / chained.seconds) + 1)
    )
    check(all(at < ends for at, _ in once), "a refill after the end")
    writes = {
        "direct": sidecars * direct.refills_per_s,
        "chained": centrals * central(again, size).writes_per_s,
    }
    scaled = {
        str(row.parts["way"]): row.figure
        for row in rows
        if (row.parts["sidecars"], row.parts["rate"]) == (sidecars, rate)
    }
    found = []
    for way, figure in writes.items():
        other = scaled.get(way)
        beside = f"scaled up: {short(other)}" if other else "no such cell was scaled up"
        if way == "direct":
            beside += f"; the worst second {max(seconds.values())}; all ids distinct"
        found.append(
            Row(f"fleet: {sidecars:,} × {rate:,} ids/s, {way}, every sidecar simulated",
                figure, "writes/s", note=beside)
        )  # fmt: skip
        check(
            other is None or abs(figure / other - 1) < TOLERANCE,
            f"{way}: {figure} writes/s, scaled up {other}",
        )
    return found


# --- table and picture ----------------------------------------------------------------------------


def documents(rows: list[Row]) -> dict[str, str]:
    """Return a table of all cells, and the picture of those with one rate."""
    cells = [row.parts for row in rows if row.parts]
    return {"fleet.md": _table(cells), "fleet.svg": _picture(cells)}


def _table(cells: list[dict[str, float | str]]) -> str:
    """Return all cells as Markdown, one way after the other."""
    text = []
    for way in ("direct", "chained"):
        text += [
            f"| {' | '.join([f'{way}: sidecars × ids/s', *COLUMNS[way]])} |",
            f"|{'---|' * (1 + len(COLUMNS[way]))}",
        ]
        for cell in cells:
            if cell["way"] != way:
                continue
            row = [
                f"{cell['sidecars']:,} × {cell['rate']:,}",
                short(float(cell["writes"])),
                short(float(cell["reads"])),
                f"{short(float(cell['lost']))} ({cell['lost_most']:,})",
            ]
            if way == "direct":
                row.append(short(float(cell["first_minute"])))
            else:
                row.append(f"{float(cell['expired']):.0%}")
                each = short(float(cell["asked"]) / int(cell["centrals"]))
                lost, lasts = short(float(cell["central_lost"])), float(cell["central_runway_s"])
                row.append(f"{cell['centrals']} × {each}, {lost}, {lasts:.2g} s")
            verdict = "yes" if cell["verdict"] == "one item" else f"**no**: {cell['verdict']}"
            text.append(f"| {' | '.join([*row, _dollars(cell), verdict])} |")
        text.append("")
    return "\n".join([*text, f"30 days; {LIST_PRICES}.", ""])


def _picture(cells: list[dict[str, float | str]]) -> str:
    rates = sorted({int(cell["rate"]) for cell in cells})
    rate = DRAWN_RATE if DRAWN_RATE in rates else rates[-1]

    def share(way: str, what: str, most: int) -> list[tuple[float, float]]:
        return [
            (float(cell["sidecars"]), float(cell[what]) / most * 100)
            for cell in cells
            if cell["way"] == way and cell["rate"] == rate
        ]

    tier = [
        (size, max(reads, writes))
        for (size, reads), (_, writes) in zip(
            share("chained", "reads", ITEM_READS),
            share("chained", "writes", ITEM_WRITES),
            strict=True,
        )
    ]
    return lines(
        [
            Line("direct: polls", share("direct", "reads", ITEM_READS)),
            Line("direct: writes", share("direct", "writes", ITEM_WRITES)),
            Line("behind central services", tier),
        ],
        title="How many sidecars one DynamoDB table carries",
        subtitle=f"Load on its busiest item, in % of what one item takes; {rate:,} ids/s each",
        x="sidecars",
        y_unit=" %",
        limit=(100.0, "over the limit of one item"),
        note=f"Simulated with the real allocator; a poll is a consistent read every {POLL_S:g} s.",
    )


def _dollars(cell: dict[str, float | str]) -> str:
    dollars = float(cell["dollars"])
    return f"${dollars:,.0f}" if dollars >= 10 else f"${dollars:.2f}"
