"""One sidecar's life in virtual time, with the real allocator, and a sample of many such lives.

Requests for one id each come at random (Poisson), from a seed. Between two of its refills a sidecar
does not depend on the others. So each is simulated separately up to its next refill, and refills
are carried out in the order of time.
"""

from array import array
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heappop, heapreplace
from random import Random
from statistics import mean

from benchmarks.measure import check
from idservice.allocation.context import Limits
from idservice.client.protocol import HOLD_S
from idservice.core.allocator import Allocator, Request
from idservice.core.epoch import Layout, Shards
from idservice.stores.records import LIMIT_DEFAULT

NEVER = float("inf")
PEEKS = 500  # looks into the memory of each sidecar


@dataclass(frozen=True, slots=True)
class Kind:
    """The supply of a sidecar. With `hold_s` ids expire that time after they were requested.

    It is observed for windows, after a warm-up.
    """

    runway_s: float
    answer_s: float
    hold_s: float | None
    warm_up_s: float
    window_s: float


DIRECT = Kind(Limits().runway, answer_s=0.01, hold_s=None, warm_up_s=90.0, window_s=30.0)
CHAINED = Kind(Limits().runway, answer_s=0.003, hold_s=HOLD_S, warm_up_s=30.0, window_s=10.0)


class Table:
    """One position that all sidecars move."""

    def __init__(self) -> None:
        self.position = 0

    def reserve(self, count: int) -> range:
        """Return the next `count` indices."""
        self.position += count
        return range(self.position - count, self.position)


@dataclass(slots=True)
class Life:
    """The figures of one sidecar. Everything but `starts` is of the time after the warm-up."""

    starts: int = 0  # refills in the first minute
    refills: list[tuple[float, int]] = field(default_factory=list)  # when, and for how many ids
    peeks: list[int] = field(default_factory=list)  # ids in memory
    most: int = 0
    expired: int = 0
    waited: int = 0
    ids: "array[int] | None" = None  # all that were handed out, if they are to be checked


class Sidecar:
    """An allocator, and the number of requests that wait for it."""

    def __init__(self, kind: Kind, life: Life) -> None:
        self.allocator = Allocator(
            Shards(Layout(base=0, limit=LIMIT_DEFAULT)),
            now=0.0,
            runway_s=kind.runway_s,
            block_max=Limits().block_max,
            hold_s=kind.hold_s,
        )
        self.expires_at = NEVER
        self.waiting = 0
        self._life = life
        self._borrows = kind.hold_s is not None

    def take(self) -> bool:
        """Take one id as `LocalCounter.take` does; return True if `due` is to be asked."""
        id = self.allocator.buffer.take()
        looked = id is None
        if looked:
            self.allocator.buffer.advance()
            id = self.allocator.buffer.take()
        if id is None:
            self.waiting += 1
        elif self._life.ids is not None:
            self._life.ids.append(id)
        return looked

    def due(self, now: float) -> Request | None:
        """Return the request to send now, if any."""
        return self.allocator.due(now, waiting=self.waiting, first=min(1, self.waiting))

    def granted(self, request: Request, asked_at: float, ids: range, now: float) -> None:
        """Take a block, first for requests that wait."""
        if self._borrows:
            fits = self.allocator.borrowed(request.token, [ids], now, since=asked_at)
        else:
            fits = self.allocator.granted(request.token, ids)
        check(fits, "a grant was refused")
        waited, self.waiting = self.waiting, 0
        for _ in range(waited):
            self.take()
        self.expires_at = self.allocator.expires_at or NEVER

    def expire(self, now: float) -> int:
        """Drop ids that have expired; return their number."""
        before = self.allocator.gaps.get("expired", 0)
        self.allocator.expire(now)
        self.expires_at = self.allocator.expires_at or NEVER
        return self.allocator.gaps.get("expired", 0) - before


def live(
    kind: Kind, rate: float, until: float, random: Random, life: Life
) -> Generator[tuple[float, int], range, None]:
    """Live up to `until`. Yields the time and the number of indices of each request, and is sent
    the indices."""
    sidecar = Sidecar(kind, life)
    began = now = random.random() * min(
        kind.runway_s, kind.hold_s or NEVER
    )  # they do not start all at once
    peek_every = max(1, round(rate * (until - kind.warm_up_s) / PEEKS))
    request, asked_at, answer_at, ids = sidecar.due(now), now, NEVER, range(0)
    arrivals, arrival = 0, now + random.expovariate(rate)
    while now < until:
        if request is not None and answer_at == NEVER:
            ids = yield now, request.count
            life.starts += now < began + 60.0
            if now >= kind.warm_up_s:
                life.refills.append((now, request.count))
            asked_at, answer_at = now, now + kind.answer_s
        if arrival < answer_at and arrival < sidecar.expires_at:
            now = arrival
            arrival += random.expovariate(rate)
            arrivals += 1
            if now >= kind.warm_up_s and arrivals % peek_every == 0:
                life.peeks.append(sidecar.allocator.held)  # at random instants, as requests are
            if sidecar.take() and answer_at == NEVER:
                request = sidecar.due(now)
        elif answer_at <= sidecar.expires_at:
            assert request is not None
            now, answer_at = answer_at, NEVER
            life.waited += sidecar.waiting if now >= kind.warm_up_s else 0
            sidecar.granted(request, asked_at, ids, now)
            life.most = max(life.most, sidecar.allocator.held) if now >= kind.warm_up_s else 0
            request = sidecar.due(now)
        else:
            now = sidecar.expires_at
            expired = sidecar.expire(now)
            life.expired += expired if now >= kind.warm_up_s else 0
            if answer_at == NEVER:
                request = sidecar.due(now)
    allocator = sidecar.allocator
    gaps = sum(allocator.gaps.values())
    check(
        allocator.granted_ids == arrivals - sidecar.waiting + allocator.held + gaps, "ids were lost"
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of `lives` in the `seconds` after the warm-up."""

    kind: Kind
    rate: int
    lives: list[Life]
    seconds: float
    position: int

    @property
    def refills_per_s(self) -> float:
        """Refills of one sidecar per second, on average."""
        return mean(len(life.refills) for life in self.lives) / self.seconds

    @property
    def starts(self) -> float:
        """Refills of one sidecar in its first minute, on average."""
        return mean(life.starts for life in self.lives)

    @property
    def held(self) -> float:
        """Ids in the memory of one at a random instant."""
        return mean(ids for life in self.lives for ids in life.peeks)

    @property
    def held_most(self) -> int:
        """The most that any of them held."""
        return max(life.most for life in self.lives)

    @property
    def expired(self) -> float:
        """Share of the ids granted that were dropped because they expired."""
        granted = sum(count for life in self.lives for _, count in life.refills)
        return sum(life.expired for life in self.lives) / granted

    @property
    def waited(self) -> int:
        """Requests that found memory empty."""
        return sum(life.waited for life in self.lives)


@lru_cache
def sample(
    kind: Kind, rate: int, *, instances: int, windows: int, with_ids: bool = False
) -> Sample:
    """Simulate sidecars on one table, each asked `rate` times a second."""
    until = kind.warm_up_s + windows * kind.window_s
    table, lives, asking = Table(), [Life() for _ in range(instances)], []
    for number, life in enumerate(lives):
        life.ids = array("Q") if with_ids else None
        one = live(kind, rate, until, Random(f"{rate} {number}"), life)
        asking.append((*next(one), number, one))
    asking.sort()
    while asking:
        _, count, number, one = asking[0]
        try:
            heapreplace(asking, (*one.send(table.reserve(count)), number, one))
        except StopIteration:
            heappop(asking)
    return Sample(kind, rate, lives, until - kind.warm_up_s, table.position)
