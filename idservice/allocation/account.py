"""What the allocators of one counter counted: the present one, and those that it replaced."""

from dataclasses import replace
from typing import Any

from idservice.core.allocator import Allocator
from idservice.observability.readings import CounterSample, CounterState, CounterStats


class Account:
    """Adds up over all allocators of the counter `name`; `tally` is what else is counted of it."""

    __slots__ = ("_name", "_past", "_tally")

    def __init__(self, name: str, tally: CounterStats) -> None:
        self._name = name
        self._tally = tally
        self._past: CounterSample | None = None  # of those that were replaced, where there are any

    def close(self, allocator: Allocator) -> None:
        """Keep what an allocator counted that is replaced and holds nothing any more."""
        self._past = self._with(allocator)
        allocator.gaps = {}  # what is still to come is counted when it came

    def add_late(self, allocator: Allocator) -> None:
        """What came to a replaced allocator since."""
        past = self._before
        self._past = replace(past, gaps=_together(past.gaps, allocator.gaps))
        allocator.gaps = {}

    def reading(
        self, allocator: Allocator, *, now: float, waiting: int, standing: CounterState
    ) -> CounterSample:
        """Everything since the start, `allocator` being the present one."""
        return self._with(
            allocator,
            held=allocator.held,
            rate=allocator.present_rate(now),
            waiting=waiting,
            standing=standing,
        )

    def _with(self, allocator: Allocator, **present: Any) -> CounterSample:
        past = self._before
        return replace(
            past,
            **present,
            issued=past.issued + allocator.issued_ids,
            reserved=past.reserved + allocator.granted_ids,
            gaps=_together(past.gaps, allocator.gaps),
            returned=past.returned + allocator.returned_ids,
        )

    @property
    def _before(self) -> CounterSample:
        return self._past or CounterSample(self._name, 0, 0, 0, 0.0, 0, {}, self._tally)


def _together(gaps: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {cause: gaps.get(cause, 0) + more.get(cause, 0) for cause in {**gaps, **more}}
