"""The effect of a slow store: p99.9 of `GET /next` over a 1 ms store and over one of 1 s.

Two real servers over SQLite get requests alternately from one open-loop generator, so that both
meet the same machine at the same time. A latency counts from the time at which the request was
meant to be sent. The runway is so short that both refill several times a round.
"""

import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.delayed import VARIABLE
from benchmarks.load import Clock, Target, at_rate
from benchmarks.measure import ROUNDS, Row, check, distinct, ratio, spread
from benchmarks.processes import get, on_load_core, serving

GOAL = 1.2
CONNECTIONS = 32
TICK_S = 0.002  # the service's loop counts whole milliseconds, at both ends of a reservation


@dataclass(frozen=True, slots=True)
class Size:
    """The extent. A refill may take a quarter of the runway: a store of 1 s needs 4 s."""

    slow_s: float = 1.0
    fast_s: float = 0.001
    runway_s: int = 5
    rate: int = 1_000
    warm_up_s: float = 16.0
    rounds: int = ROUNDS
    round_s: float = 8.0


QUICK = Size(slow_s=0.1, runway_s=1, rate=200, warm_up_s=1.0, rounds=1, round_s=1.6)


class Server:
    """A server over a store that takes `delay_s` per answer, and what was measured of it."""

    def __init__(self, delay_s: float, size: Size, clock: Clock, stack: ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        store = f"sqlite:{Path(folder) / 'store'}"
        self.port, _, _ = stack.enter_context(
            serving(
                *("--store", store, "--init", "--runway", str(size.runway_s)),
                module="benchmarks.delayed",
                environment={VARIABLE: str(delay_s)},
            )
        )
        self.delay_s = delay_s
        self.target = Target(self.port, CONNECTIONS, stack, clock)
        self.tails: list[float] = []
        self.medians: list[float] = []
        self._before = Counted(0, 0, 0.0)

    def __str__(self) -> str:
        return f"{self.delay_s * 1000:g} ms"

    def steady(self) -> None:
        """Begin to count."""
        self._before = Counted.of(self.port)

    def round(self) -> None:
        """Note the figures of a round that is over."""
        latencies = sorted(self.target.latencies)
        self.target.latencies.clear()
        self.tails.append(latencies[int(0.999 * len(latencies))])
        self.medians.append(median(latencies))

    def counted(self) -> "Counted":
        """Return the counts since `steady`."""
        found = Counted.of(self.port).since(self._before)
        check(found.refills > 0, f"no refill from the store of {self} while it was measured")
        least = found.refills * (self.delay_s - TICK_S)
        check(found.seconds >= least, f"the store of {self} was faster: {found}")
        distinct(self.target.ids)
        return found


@dataclass(frozen=True, slots=True)
class Counted:
    """Reservations granted, requests that waited, and the time of reservations."""

    refills: int
    waits: int
    seconds: float

    @classmethod
    def of(cls, port: int, counter: str = "default") -> "Counted":
        """Return the counts so far, from the metrics page."""
        status, page = get(port, "/metrics")
        check(status == 200, f"/metrics answers {status}")
        return cls(
            refills=round(
                _metric(
                    page, f'idservice_reservations_total{{counter="{counter}",result="granted"}}'
                )
            ),
            waits=round(_metric(page, f'idservice_waits_total{{counter="{counter}"}}')),
            seconds=_metric(page, "idservice_reservation_seconds_sum"),
        )

    def since(self, before: "Counted") -> "Counted":
        """Return the counts since an earlier time."""
        return Counted(
            self.refills - before.refills, self.waits - before.waits, self.seconds - before.seconds
        )


def _metric(page: str, name: str) -> float:
    found = re.search(re.escape(name) + r" (\S+)", page)
    check(found is not None, f"no {name} on /metrics")
    assert found is not None
    return float(found[1])


def run(quick: bool) -> list[Row]:
    """Return the rows of `latency`."""
    size = QUICK if quick else Size()
    clock = Clock()
    with ExitStack() as stack:
        stack.enter_context(on_load_core())
        fast = Server(size.fast_s, size, clock, stack)
        slow = Server(size.slow_s, size, clock, stack)
        targets = [fast.target, slow.target]
        at_rate(targets, clock, size.rate, size.warm_up_s)
        for server in (fast, slow):
            server.target.latencies.clear()
            server.steady()
        for _ in range(size.rounds):
            at_rate(targets, clock, size.rate, size.round_s)
            fast.round()
            slow.round()
        return _rows(fast, slow, size, clock)


def _rows(fast: Server, slow: Server, size: Size, clock: Clock) -> list[Row]:
    of_fast, of_slow = fast.counted(), slow.counted()
    each_round = [one / other for one, other in zip(slow.tails, fast.tails, strict=True)]
    return [
        Row(
            f"latency: p99.9 at {size.rate:,}/s, store of {slow} / {fast}",
            median(each_round),
            "×",
            GOAL,
            f"{_ms(slow.tails)} beside {_ms(fast.tails)} ms, rounds {spread(each_round)};"
            f" {of_slow.refills} and {of_fast.refills} refills; load held up {clock.lost:.2f} s",
        ),
        Row(
            "latency: median, likewise",
            ratio(slow.medians, fast.medians),
            "×",
            note=f"{_ms(slow.medians)} beside {_ms(fast.medians)} ms",
        ),
        Row(
            f"latency: requests that waited for the store of {slow}",
            of_slow.waits,
            goal=0,
            note=f"of {round(size.rate * size.round_s) * size.rounds:,};"
            f" {of_fast.waits} for that of {fast}",
        ),
    ]


def _ms(figures: list[float]) -> str:
    return f"{median(figures) * 1000:.2f}"
