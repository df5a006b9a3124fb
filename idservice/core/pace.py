"""How far the ids of an epoch have got, and how fast they go: what tells when a limit is reached.

An instance sees more than its own use: between two of its reservations lies what others took.
"""

SPAN_S = 3600.0  # the pace is that of the last one to two of these
LEAST_S = 10.0  # a shorter time says nothing


class Pace:
    """The highest id this instance was granted in one epoch, and how that moved with time."""

    __slots__ = ("_from_at", "_from_id", "_since_at", "_since_id", "highest")

    def __init__(self) -> None:
        self.highest: int | None = None
        self._from_id = self._since_id = 0  # the highest once,
        self._from_at = self._since_at = 0.0  # and when: long ago, and since

    def saw(self, id: int, now: float) -> None:
        """An id was granted to a request that was made at `now`."""
        if self.highest is None:
            self._from_id = self._since_id = id
            self._from_at = self._since_at = now
        self.highest = max(id, self.highest or 0)
        if now - self._since_at >= SPAN_S:
            self._from_id, self._from_at = self._since_id, self._since_at
            self._since_id, self._since_at = self.highest, now

    def per_second(self, now: float) -> float:
        """Ids a second by which the counter moves on, all instances together; 0: not known."""
        if self.highest is None or now - self._from_at < LEAST_S:
            return 0.0
        return (self.highest - self._from_id) / (now - self._from_at)
