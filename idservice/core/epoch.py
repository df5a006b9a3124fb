"""An epoch of a counter: its written name, its shards, and the base of the next one.

An instance stays with one shard until that is used up or throttled. Then the instance goes on to
the next one in its own order. Therefore instances that leave one shard at the same moment go to
different ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

FIRST_ORDINAL = 1
SEALED, GONE_BACK = "sealed:", "gone-back:"
EXHAUSTED_RECHECK_S = 1.0  # how long "no room" is believed before the store is asked again


def epoch_name(ordinal: int, random: str) -> str:
    """Return the name of an open epoch, as a position carries it: `<ordinal>.<random>`. The random
    part tells two epochs of one ordinal apart (two stores, a restored table)."""
    return f"{ordinal}.{random}"


def ordinal_of(epoch: str) -> int:
    """Return the ordinal in the name of an open epoch. Raises ValueError for any other text."""
    ordinal, dot, random = epoch.partition(".")
    if not (dot and random and ordinal.isascii() and ordinal.isdigit()):
        raise ValueError(f"{epoch!r} is not an epoch")
    return int(ordinal)


def gone_back(epoch: str) -> str:
    """Return the text that replaces the epoch of a position that went back: it grants nothing."""
    return f"{GONE_BACK}{ordinal_of(epoch)}"


def sealed(epoch: str) -> str:
    """Return the seal that a position carries while the change that opens `epoch` is under way.

    The seal names that change. With a constant, a late copy of one opening would pass in another
    change.
    """
    ordinal_of(epoch)
    return f"{SEALED}{epoch}"


def ordinal_on(position: str | None) -> int:
    """Return the ordinal of the epoch that a position carries: open, sealed, or gone back. It is 0,
    below every epoch, for any other text, which was not written by idservice."""
    if position is None:
        return 0
    if position.startswith(GONE_BACK):
        position = position.removeprefix(GONE_BACK) + ".closed"
    try:
        return ordinal_of(position.removeprefix(SEALED))
    except ValueError:
        return 0


def first_base(start: int, shards: int) -> int:
    """Return the base of the first epoch of a counter that was not adopted. With one shard index
    and id agree; with several every shard begins at index 0."""
    return start if shards > 1 else 0


def first_free(base: int, reserved: Sequence[int], high: int) -> int:
    """Return the lowest id above all that were ever granted, and not below the base.

    `reserved` is, for each shard of the epoch that ends, the larger of position and mark, because a
    position alone may have been moved back by hand. `high` is the same for all epochs before.
    """
    shards = len(reserved)
    ends = (
        Layout(base=base, limit=base, shard=shard, shards=shards).id(index - 1) + 1
        for shard, index in enumerate(reserved)
        if index
    )
    return max(high, base, *ends) if reserved else high


def base_of(free: int, *, floor: int, ahead: int, lower: bool) -> int:
    """Return the base of an epoch: `floor`, or higher if ids from there may be in use already.

    `free` is above every id known to be granted, `ahead` is the distance to keep from it. With
    `lower` it is `floor`, whatever was granted: the operator answers for repeated ids.
    """
    return floor if lower else max(free + ahead, floor)


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout by which the indices of one shard become ids in one epoch (I6)."""

    base: int
    limit: int
    shard: int = 0
    shards: int = 1

    def ids(self, indices: range) -> range:
        """Return the ids of a stretch of indices of this shard, in rising order."""
        assert indices.step == 1
        return range(self.id(indices.start), self.id(indices.stop), self.shards)

    def id(self, index: int) -> int:
        """Return the id of one index."""
        return self.base + self.shard + self.shards * index

    def indices(self, ids: range) -> range | None:
        """Return the stretch of indices that yields these ids, without those below the base; None
        if there is none. A block of the epoch before may reach into this one."""
        first, rest = divmod(ids.start - self.base - self.shard, self.shards)
        last = first + len(ids)
        if ids.step != self.shards or rest or last <= 0:
            return None
        return range(max(0, first), last)

    @property
    def end(self) -> int:
        """The first index whose id is above the limit; 0 if the shard has no id below it."""
        return max(0, (self.limit - self.base - self.shard) // self.shards + 1)


@dataclass(slots=True, eq=False)
class Shard:
    """One shard. All positions are indices."""

    layout: Layout
    seen: int = 0  # the end of this instance's last reservation; 0 before the first
    rev: int = 0  # the position's revision after that write
    found: int | None = None  # the position in the store's answer that there is no room
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
    """The shards of one epoch, in the order of `layouts`. `moves` counts changes of the present
    shard by cause."""

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
        """The shard on which this instance reserves now."""
        return self._row[self._at]

    @property
    def used_up(self) -> bool:
        """True if no id was left below the limit on any shard when that was last found out."""
        return all(shard.used_up or shard.seen >= shard.end for shard in self._row)

    def room(self, now: float) -> int:
        """Return the number of ids that the limit leaves, as far as is known here."""
        self._forget_old(now)
        room = 0
        for shard in self._row:  # asked for each request that waits
            room += shard.room
        return room

    def choose(self, now: float) -> Shard | None:
        """Return the shard to ask next: the present one, or else the next with room, which becomes
        the present one; None if none has room."""
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
        """Record that the store found too few indices left above `position`."""
        shard = self[number]
        shard.found, shard.used_up = position, position >= shard.end
        # One moment for all: a look at every shard may take longer than one answer is believed.
        self._found_at = now

    def throttled(self, number: int) -> None:
        """Record that the store throttles a shard."""
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
