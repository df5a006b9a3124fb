"""Bounds the ids that requests may take of one counter: in one request, and per second."""

BURST_S = 1.0  # as many ids may be taken at once as the rate gives in this time


class Allowance:
    """The bounds of a counter that has any, and the ids that may be taken now.

    In any stretch of time at most `burst` ids are taken, and `rate_max` more per second. `most` is
    the largest request: a larger one than `burst` could never be served.
    """

    __slots__ = ("_at", "_left", "burst", "most", "rate_max", "request_max")

    def __init__(self, request_max: int | None, rate_max: float | None, *, now: float) -> None:
        self.request_max, self.rate_max = request_max, rate_max
        self.burst = max(1, int(rate_max * BURST_S)) if rate_max is not None else None
        bounds = [bound for bound in (request_max, self.burst) if bound is not None]
        self.most = min(bounds)
        self._left = float(self.burst or 0)
        self._at = now

    def wait_s(self, count: int, now: float) -> float:
        """Return the seconds until `count` ids may be taken, at most `burst`; 0 if they may now."""
        if self.rate_max is None or self.burst is None:
            return 0.0
        self._left = min(self._left + (now - self._at) * self.rate_max, float(self.burst))
        self._at = now
        return max(0.0, (count - self._left) / self.rate_max)

    def take(self, count: int, now: float) -> bool:
        """Take ids off the allowance; return False and take none if they may not be taken now."""
        if count > self.most or self.wait_s(count, now) > 0:
            return False
        self._left -= count
        return True
