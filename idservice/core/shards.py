"""Chooses the shard on which an instance reserves, and keeps what is known of each in one epoch.

An instance stays with one shard until it is used up or takes no more writes now. Then it goes on to
the next in its own order. If many instances are turned away from one shard at the same moment, they
go to different ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from idservice.core.epoch import Layout

EXHAUSTED_RECHECK_S = 1.0  # how long "no room" is believed before the store is asked again


@dataclass(slots=True, eq=False)
class Shard:
    """One shard. All positions are indices."""

    layout: Layout
    seen: int = 0  # the end of this instance's last reservation; 0 before the first
    rev: int = 0  # the position's revision after that write
    found: int | None = None  # the position as the store told it, when there was no room
    used_up: bool = False  # that position leaves no index
    begun: bool = False  # ids of it came into memory
    end: int = field(init=False)  # the first index above the limit

    def __post_init__(self) -> None:
        self.end = self.layout.end

    @property
    def room(self) -> int:
        """The number of ids that the limit leaves here, as far as is known."""
        return max(0, self.end - max(self.seen, self.found or 0))


class Shards:
    """The shards of one epoch, in the order of `layouts`. `moves` counts moves to another one."""

    __slots__ = ("_at", "_found_at", "_moves", "_row")

    def __init__(self, *layouts: Layout, moves: dict[str, int] | None = None) -> None:
        assert layouts
        self._row = tuple(map(Shard, layouts))
        self._at = 0
        self._found_at = inf  # when there was no room last; infinite once that is not believed
        self._moves = moves if moves is not None else {}

    def __getitem__(self, number: int) -> Shard:
        return next(shard for shard in self._row if shard.layout.shard == number)

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._row)

    @property
    def present(self) -> Shard:
        """The shard on which it reserves now."""
        return self._row[self._at]

    @property
    def used_up(self) -> bool:
        """True if no id was left below the limit on any shard when that was last found out."""
        return all(shard.used_up or shard.seen >= shard.end for shard in self._row)

    def room(self, now: float) -> int:
        """Return the number of ids that the limit leaves, as far as is known without a call to the
        store."""
        self._forget_old(now)
        room = 0
        for shard in self._row:  # asked for each request that waits
            room += shard.room
        return room

    def choose(self, now: float) -> Shard | None:
        """Return the shard to ask next: the present one, or the next one that has room; None if
        none has.

        It becomes the present one.
        """
        self._forget_old(now)
        for steps in range(len(self._row)):
            if self._row[(self._at + steps) % len(self._row)].room:
                if steps:
                    self._go_on("exhausted", steps)
                return self.present
        return None

    def granted(self, number: int, indices: range) -> None:
        """Record that the store granted these indices of a shard."""
        shard = self[number]
        shard.seen, shard.begun = indices.stop, True
        self.had_room(number)

    def had_room(self, number: int) -> None:
        """Record that the shard had room for the whole request."""
        self[number].found, self[number].used_up = None, False

    def no_room(self, number: int, position: int, now: float) -> None:
        """Record that the store found a shard at `position`, with fewer indices left than were
        requested."""
        shard = self[number]
        shard.found, shard.used_up = position, position >= shard.end
        # One moment for all: a look at every shard may take longer than one answer is believed.
        self._found_at = now

    def throttled(self, number: int) -> None:
        """Record that a shard takes no more writes now."""
        if self.present.layout.shard == number:
            self._go_on("throttled")

    def _go_on(self, cause: str, steps: int = 1) -> None:
        if len(self._row) > 1:
            self._at = (self._at + steps) % len(self._row)
            self._moves[cause] = self._moves.get(cause, 0) + 1

    def _forget_old(self, now: float) -> None:
        """Forget which shards have no room, if that is old: a change may have made room."""
        if now - self._found_at >= EXHAUSTED_RECHECK_S:
            self._found_at = inf
            for shard in self._row:
                shard.found = None
