"""Services as they may be met, for who looks at their page: no store, only what it would show."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from aiohttp import web
from msgspec import structs

from idservice.errors import (
    CounterSuspect,
    Exhausted,
    Moved,
    Suspended,
    TallySuspended,
    TallyWentBack,
    UnknownCounter,
    WentBack,
)
from idservice.observability.latency import Latency
from idservice.observability.readings import CounterSample, CounterState, CounterStats, Snapshot
from idservice.observability.tally_readings import TallySample, TallyStats
from idservice.web.problems import guard
from idservice.web.status_page import StatusRoutes

NAMES = (
    "orders", "members", "tickets", "invoices", "donations", "parcels", "bookings", "refunds",
    "sessions", "votes",
)  # fmt: skip
STANDING = CounterState(
    epoch=1, strict=False, shards=1, limit=2**53 - 1, runway=30.0, stock=3000, low=1500,
    highest=4_812_003, pace=50.0,
)  # fmt: skip
WENT_BACK = WentBack(
    store="dynamodb:counters", name="invoices", position=4100, above=77210, epoch="2.9f"
)


def reading(
    name: str, *, rate: float = 50.0, seconds: float = 45.0, **standing: object
) -> CounterSample:
    """A counter in order, but for what is said otherwise."""
    low, held = max(5, int(rate * 30)), int(rate * seconds)
    shown = structs.replace(STANDING, low=low, stock=2 * low, highest=4_812_003, pace=rate)
    stats = CounterStats(latency=Latency([], 0.3))
    for took in (0.0008, 0.002, 0.003, 0.004, 0.004, 0.02):
        stats.latency.observe(took)
    return CounterSample(
        name, 4_000_000, 4_000_000 + held, held, rate, 0, {}, stats,
        state=structs.replace(shown, **standing),
    )  # fmt: skip


def in_trouble() -> list[CounterSample]:
    """One of each."""
    suspect = CounterSuspect(name="invoices", why=str(WENT_BACK))
    suspended = Suspended(name="refunds")
    exhausted = Exhausted(name="tickets", count=1, limit=999_999)
    gone = {"held": 0, "gaps": {"went_back": 2950, "unknown": 400}}
    return [
        replace(reading("invoices", code=suspect.code, why=str(suspect), epoch=2), **gone),
        replace(reading("refunds", rate=0, code=suspended.code, why=str(suspended)), held=0),
        replace(reading("tickets", code=exhausted.code, why=str(exhausted), limit=999_999), held=0),
        replace(reading("bookings", rate=800.0, seconds=9.0), waiting=14),
        reading("receipts", strict=True, rate=210.0, seconds=0, stock=0, epoch=4),
        replace(
            reading("votes", rate=0.0, seconds=1, stock=10, low=5, highest=9, pace=0.0), held=10
        ),
    ]


def closed() -> list[CounterSample]:
    """One in order, one that was deleted and one that was moved: both were busy."""
    deleted, moved = UnknownCounter(name="members"), Moved(name="tickets", why="it was moved")
    return [
        reading("orders"),
        replace(reading("members", code=deleted.code, why=str(deleted)), held=0),
        replace(reading("tickets", code=moved.code, why=str(moved)), held=0),
    ]


def many(count: int, at: float) -> list[CounterSample]:
    """Counters in order, as busy as they are at a time."""
    made = []
    for number in range(count):
        name = NAMES[number % len(NAMES)] + (f"-{number // 10}" if number >= 10 else "")
        rate = round(3 * 1.9 ** (number % 14), 1)
        seconds = 60 - (at * (0.8 + number % 5 / 10) + 7 * number) % 30
        one = reading(name, rate=rate, seconds=seconds, limit=10 ** (8 + number % 9))
        used = int(one.issued + rate * at)
        made.append(replace(one, issued=used, gaps={"unknown": 100} if number % 9 == 4 else {}))
    return made


def sums() -> list[TallySample]:
    """Tallies of each kind."""
    at = 1_763_999_700_000
    suspended = TallySuspended(name="refunds", by="by ana@ops (a fraud is looked at)")
    lost = "It is not known yet if key 'don-17' of tally 'donations' is counted: it took too long."
    back = TallyWentBack(
        store="dynamodb:counters", name="seats", how="went back from 812 to 790", action="", why=""
    )

    def stats(done: int, beaten: int = 0) -> TallyStats:
        made = TallyStats({"done": done, "beaten": beaten}, {"counted": 40 * done})
        for took in (0.004, 0.004, 0.009, 0.02):
            made.commit_seconds.observe(took)
        return made

    return [
        TallySample("sales", stats(9000), 31, 1840.0, 52.0),
        TallySample("donations", stats(700, 40), 0, 3.4, 2.9, trouble=lost, trouble_at=at),
        TallySample("refunds", stats(12), code=suspended.code, why=str(suspended)),
        TallySample("seats", stats(790), 2, code=back.code, why=str(back), trouble=str(back),
                    trouble_at=at),
    ]  # fmt: skip


@dataclass
class Scene:
    """What is shown; `readings` are asked for at a time of the scene's own clock."""

    readings: Callable[[float], list[CounterSample]]
    now: float = 1_764_000_000.0
    step: float = 0.0  # by which the clock moves with each look
    store_error: str = ""
    looks: int = 0
    away: bool = False
    tallies: list[TallySample] = field(default_factory=list)

    async def snapshot(self) -> Snapshot:
        """As `Whole` gives it."""
        self.looks += 1
        self.now += self.step
        latency, lag = Latency(), Latency()
        for _ in range(99):
            latency.observe(0.003)
            lag.observe(0.0004)
        lag.observe(0.004)
        return Snapshot(
            self.readings(self.now - 1_764_000_000.0), not self.store_error, latency, "0.1.0",
            lag, workers=2, store_error=self.store_error, uptime_s=8040.0,
            tallies=self.tallies,
        )  # fmt: skip


SCENES: dict[str, Callable[[float], list[CounterSample]]] = {
    "nothing": lambda _: [],
    "one": lambda at: [replace(one, counter="default") for one in many(1, at)],
    "forty": lambda at: many(40, at),
    "trouble": lambda at: [
        *in_trouble(), *(one for one in many(12, at) if one.counter not in ("invoices", "refunds",
                                                      "tickets", "bookings", "votes"))
    ],
    "closed": lambda _: closed(),
    "thousand": lambda at: many(1000, at),
}  # fmt: skip


@asynccontextmanager
async def shown(scene: Scene) -> AsyncIterator[str]:
    """The page of a scene, at the URL."""
    routes = StatusRoutes(scene, "dynamodb:counters?region=eu-central-1", lambda: scene.now)  # type: ignore[arg-type]

    @web.middleware
    async def absent(request: web.Request, handler: object) -> web.StreamResponse:
        if scene.away:
            raise web.HTTPServiceUnavailable
        return await handler(request)  # type: ignore[operator, no-any-return]

    app = web.Application(middlewares=[guard, absent])
    app.router.add_get("/", routes.page, allow_head=False)
    app.router.add_get("/v1/status", routes.json, allow_head=False)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
