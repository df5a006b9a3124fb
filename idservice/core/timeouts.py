"""How long a call to the store may take, and how long after a failed one the next is sent."""

BACKOFF_FIRST_S = 0.05  # the pause after a failed refill, doubled with each further failure
BACKOFF_MAX_S = 2.0
REFILL_MAX_S = 5.0  # what a refill in the background may take at most,
REFILL_MIN_S = 2.0  # and at least: a quarter of a short runway is too short for a slow store
ATTEMPT_MIN_S = 0.05  # a store call is given at least this long
STALE_MIN_S = 60.0


def lasts(*, held: int, rate: float) -> float:
    """Seconds until memory is empty, at the rate last measured, for several tries before it is;
    infinite where it is empty already, and there is nothing to hurry for."""
    return held / rate if held and rate else float("inf")


def in_background(*, lasts_s: float, runway_s: float) -> float:
    """Seconds that a call may take for which nobody waits."""
    return min(max(min(runway_s, lasts_s) / 4, REFILL_MIN_S), REFILL_MAX_S)


def waited_for(left_s: float, *, most_s: float = float("inf")) -> float:
    """Seconds that a call may take for which somebody waits, for `left_s` at most."""
    return max(ATTEMPT_MIN_S, min(most_s, left_s))


def pause(failures: int, *, lasts_s: float, spread: float) -> float:
    """Seconds from one failed try to the next, after so many of them; `spread` is random, 0 .. 1,
    so that not all instances come at once."""
    longest = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10))
    longest = min(longest, max(BACKOFF_FIRST_S, lasts_s / 4))
    return longest * (0.5 + 0.5 * spread)


def stale_after(runway: float) -> float:
    """Return the seconds without a read of the catalogue after which an instance stops serving.

    `runway` is the longest of its counters.
    """
    return max(STALE_MIN_S, 2 * runway)
