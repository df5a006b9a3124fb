"""The size of a block: how many ids to reserve, and when. It is measured in seconds of use (the
runway), not in ids."""

from math import ceil, floor

BLOCK_MIN = 10  # ids; the first block of a counter, and the least a refill asks for
GROWTH_MAX = 8  # a refill asks for at most this many times what was used since the last one
BLOCK_ANY = 10_000_000  # ids that a refill may take, whatever share of the ids left they are
BLOCK_MAX = 10**12  # ids that a refill takes at most, by default
LEFT_SHARE = 1000  # a larger refill takes at most 1/1000 of the ids left
WINDOW_MIN_S = 0.001  # a shorter time than this says nothing about a rate
PACE_SPAN_S = 3600.0  # the pace is that of the last one to two of these
PACE_MIN_S = 10.0  # a shorter time says nothing about a pace


def rate(used: float, seconds: float) -> float:
    """Return ids per second, after `used` ids within `seconds`."""
    return used / max(seconds, WINDOW_MIN_S)


def low_water(*, rate: float, runway_s: float, held: int) -> int:
    """Return how many ids are left when the next refill begins.

    These last for one runway, so that an outage that begins with the refill is survived. For a
    counter that grows they are half of what is held. Before a rate is known they are half of the
    smallest block.
    """
    return min(max(ceil(rate * runway_s), BLOCK_MIN // 2), held // 2)


def refill(*, rate: float, runway_s: float, held: int, used: int, block_max: int) -> int:
    """Return how many ids to request so that two runways are held; between 1 and `block_max`.

    A refill brings memory back to two runways when one is left: one store write per runway,
    whatever the rate. Growth is bounded by what was used, since a burst of ten requests is not a
    rate. TiDB's allocator has a similar rule: it scales a step by the time the last one lasted.
    """
    wanted = ceil(2 * rate * runway_s) - held
    return min(max(BLOCK_MIN, min(wanted, GROWTH_MAX * used)), block_max)


def ceiling(block_max: int, *, left: int) -> int:
    """Return the most that a refill may ask for beyond what is waited for, if `left` are left.

    It is set so high that blocks are bounded by time: with range requests in a loop one runway is
    billions of ids. Of a counter that ends soon, one instance must not take most of the rest.
    """
    return min(block_max, max(BLOCK_ANY, left // LEFT_SHARE))


def loan(*, rate: float, runway_s: float, held: int, used: int, block_max: int) -> int:
    """Return the same for ids that expire; between 0 and `block_max`. It is 0 if not even one id is
    used within two runways: an id not used in time is a gap."""
    wanted = floor(2 * rate * runway_s) - held
    return max(0, min(wanted, GROWTH_MAX * used, block_max))


class Pace:
    """The highest id that this instance was granted in one epoch, and how it moved with time.

    It tells when a limit is reached. An instance sees more than its own use: between two of its
    reservations lie those of other instances.
    """

    __slots__ = ("_from_at", "_from_id", "_since_at", "_since_id", "highest")

    def __init__(self) -> None:
        self.highest: int | None = None
        self._from_id = self._since_id = 0  # the highest id long ago, and more recently
        self._from_at = self._since_at = 0.0  # the times of these two

    def saw(self, id: int, now: float) -> None:
        """Take note of an id granted to a request that was made at `now`."""
        if self.highest is None:
            self._from_id = self._since_id = id
            self._from_at = self._since_at = now
        self.highest = max(id, self.highest or 0)
        if now - self._since_at >= PACE_SPAN_S:
            self._from_id, self._from_at = self._since_id, self._since_at
            self._since_id, self._since_at = self.highest, now

    def per_second(self, now: float) -> float:
        """Return ids per second by which all instances together move on; 0 if not known."""
        if self.highest is None or now - self._from_at < PACE_MIN_S:
            return 0.0
        return (self.highest - self._from_id) / (now - self._from_at)
