"""The observations of a run: answers, their ids and latencies, and errors."""

import json
from dataclasses import dataclass, field

from idservice.cli.bench.answers import BenchRequest, read_id
from idservice.cli.bench.histogram import NS_MAX, Histogram
from idservice.cli.bench.verdict import Distinct, Order, Scope

KINDS_MAX = 20  # kinds of errors told apart


@dataclass(slots=True)
class Tally:
    """The observations, which grow while the load runs. Times are in ns of the load's clock.

    Ids are checked and errors counted from the first request. Figures are of the requests that were
    due from `begin` on.
    """

    ask: BenchRequest
    one_order: bool = False  # over all connections, as of a strict counter; else on each
    begin: int = NS_MAX
    end: int = NS_MAX  # later answers came when nothing more was sent
    requests: int = 0  # answered with ids between `begin` and `end`,
    ids: int = 0  # and with how many
    latency: Histogram = field(default_factory=Histogram)
    late: Histogram = field(default_factory=Histogram)  # delay of the load itself
    succeeded: int = 0
    unreadable: int = 0  # answers with status 200 and another body than asked for
    unanswered: int = 0
    reconnects: int = 0
    errors: dict[str, int] = field(default_factory=dict)
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
            count = self._many(body, scope, floor)
            if not count:
                self.unreadable += 1
                self.error("200 unreadable")
                return
        self.succeeded += 1
        if intended >= self.begin:
            self.latency.record(now - intended)
            if now <= self.end:
                self.requests += 1
                self.ids += count

    def took(self, blocks: list[range]) -> None:
        """Take ids that came before or after the run, one request after the other."""
        for block in blocks:
            self.distinct.add_block(block)
        floor = self._shared.highest if self.one_order else -1
        self._shared.answered_blocks(floor, blocks)

    def _many(self, body: bytes, scope: Scope, floor: int) -> int:
        blocks = self.ask.blocks(body)
        if blocks is None:
            return 0
        for block in blocks:
            self.distinct.add_block(block)
        scope.answered_blocks(floor, blocks)
        return sum(map(len, blocks))

    def error(self, kind: str) -> None:
        """Count an error that does not concern the ids."""
        if kind not in self.errors and len(self.errors) >= KINDS_MAX:
            kind = "other"
        self.errors[kind] = self.errors.get(kind, 0) + 1

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
