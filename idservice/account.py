"""What the allocators of one counter counted: the present one, and those that it replaced."""

from dataclasses import replace

from idservice.core.allocator import Allocator
from idservice.metrics import Reading, Tally


class Account:
    """Adds up over all allocators of the counter `name`; `tally` is what else is counted of it."""

    def __init__(self, name: str, tally: Tally) -> None:
        self._past = Reading(name, 0, 0, 0, 0.0, 0, {}, tally)

    def close(self, allocator: Allocator) -> None:
        """Keep what an allocator counted that is replaced and holds nothing any more."""
        self._past = self._with(allocator)
        allocator.gaps = {}  # what is still to come is counted when it came

    def add_late(self, allocator: Allocator) -> None:
        """What came to a replaced allocator since."""
        self._past = replace(self._past, gaps=self._gaps_with(allocator))
        allocator.gaps = {}

    def reading(self, allocator: Allocator, *, waiting: int) -> Reading:
        """Everything since the start, `allocator` being the present one."""
        return replace(
            self._with(allocator), held=allocator.held, rate=allocator.rate, waiting=waiting
        )

    def _with(self, allocator: Allocator) -> Reading:
        past = self._past
        return replace(
            past,
            issued=past.issued + allocator.issued_ids,
            reserved=past.reserved + allocator.granted_ids,
            gaps=self._gaps_with(allocator),
            returned=past.returned + allocator.returned_ids,
        )

    def _gaps_with(self, allocator: Allocator) -> dict[str, int]:
        gaps = dict(self._past.gaps)
        for cause, ids in allocator.gaps.items():
            gaps[cause] = gaps.get(cause, 0) + ids
        return gaps
