"""The observations of a run: answers, their ids and latencies, and errors."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from idservice.cli.bench.request import BenchRequest, read_id
from idservice.cli.bench.verdict import Distinct, Order, Scope

KINDS_MAX = 20  # kinds of errors told apart
HALF = 128  # buckets per power of two: one is at most 1/128 of its values wide
SHIFT = HALF.bit_length()  # each whole number below 2 * HALF has its own bucket
NS_MAX = 2**63 - 1
SIZE = (63 - SHIFT + 2) * HALF


class Histogram:
    """Durations in whole nanoseconds, in buckets that grow with the value.

    Its memory is bounded, and no quantile is off by more than 1 %.
    """

    __slots__ = ("_counts", "max", "total")

    def __init__(self) -> None:
        self._counts = [0] * SIZE
        self.total = 0
        self.max = 0

    def record(self, ns: int) -> None:
        """Count one duration; a negative one counts as 0."""
        if ns > self.max:
            self.max = min(ns, NS_MAX)
        ns = min(max(ns, 0), NS_MAX)
        shift = max(0, ns.bit_length() - SHIFT)
        self._counts[shift * HALF + (ns >> shift)] += 1
        self.total += 1

    def quantile(self, share: float) -> int:
        """Return the duration in ns that `share` of all did not exceed; 0 if there are none.

        It is never less than the true value, at most 1 % more, and exact at 1. 0 < share <= 1.
        """
        missing = min(self.total, max(1, -int(-share * self.total // 1)))
        for index, count in enumerate(self._counts):
            missing -= count
            if count and missing <= 0:
                shift = max(0, index // HALF - 1)
                return min(((index - shift * HALF + 1) << shift) - 1, self.max)
        return 0

    def copy(self) -> Self:
        other = type(self)()
        other._counts, other.total, other.max = self._counts[:], self.total, self.max
        return other

    def since(self, earlier: Self) -> Self:
        """Return the durations counted after `earlier` was copied; `max` is that of both."""
        later = self.copy()
        later.total -= earlier.total
        later._counts = [a - b for a, b in zip(self._counts, earlier._counts, strict=True)]
        return later


@dataclass(slots=True)
class BenchResults:
    """The observations, which grow while the load runs. Times are in ns of the load's clock.

    Ids are checked and errors counted from the first request. Figures are of the requests that were
    due from `begin` on.
    """

    ask: BenchRequest
    one_order: bool = False  # over all connections, as of a strict counter; else on each
    begin: int = NS_MAX
    end: int = NS_MAX  # later answers came when nothing more was sent
    requests: int = 0  # answered with ids between `begin` and `end`
    ids: int = 0  # in the answers to those requests
    latency: Histogram = field(default_factory=Histogram)
    late: Histogram = field(default_factory=Histogram)  # delay of the load itself
    succeeded: int = 0
    unreadable: int = 0  # answers with status 200 and another body than asked for
    unanswered: int = 0
    reconnects: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    order: Order = field(default_factory=Order)
    distinct: Distinct = field(init=False)
    _shared: Scope = field(init=False)

    def __post_init__(self) -> None:
        self.distinct = Distinct(self.ask.step)
        self._shared = Scope(self.order)

    def scope(self) -> Scope:
        """Return the scope in which the ids of a new connection rise."""
        return self._shared if self.one_order else Scope(self.order)

    def answered(
        self, status: int, body: bytes, *, intended: int, now: int, scope: Scope, floor: int
    ) -> None:
        """Take the answer to a request that was due at `intended` and sent at `floor`."""
        if status != 200:
            self.error(f"{status} {_code(body)}".rstrip())
            return
        if self.ask.single and (id := read_id(body)) >= 0:  # nearly always, so without a list
            count = 1
            self.distinct.add(id)
            scope.answered(floor, id)
        else:
            blocks = self.ask.blocks(body)
            if blocks is None:
                self.unreadable += 1
                self.error("200 unreadable")
                return
            count = self._check(blocks, scope, floor)
        self.succeeded += 1
        if intended >= self.begin:
            self.latency.record(now - intended)
            if now <= self.end:
                self.requests += 1
                self.ids += count

    def took(self, blocks: list[range]) -> None:
        """Take ids that came before or after the run, one request after the other."""
        self._check(blocks, self._shared, self._shared.highest if self.one_order else -1)

    def _check(self, blocks: list[range], scope: Scope, floor: int) -> int:
        """Check the blocks of an answer; return the number of their ids."""
        for block in blocks:
            self.distinct.add_block(block)
        scope.answered_blocks(floor, blocks)
        return sum(map(len, blocks))

    def error(self, kind: str) -> None:
        """Count an error that does not concern the ids."""
        if kind not in self.errors and len(self.errors) >= KINDS_MAX:
            kind = "other"
        self.errors[kind] += 1

    def not_answered(self, intended: int, now: int) -> None:
        """Count a request that was given up at the end; it took at least this long."""
        self.unanswered += 1
        if intended >= self.begin:
            self.latency.record(now - intended)

    def was_due(self, intended: int, now: int) -> None:
        """Note that the load saw at `now` that a request was due."""
        if intended >= self.begin:
            self.late.record(now - intended)


def _code(body: bytes) -> str:
    """Return the `code` of a problem+json."""
    try:
        code = json.loads(body)["code"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(code)[:40]
