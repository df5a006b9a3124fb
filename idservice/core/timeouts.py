"""Time limits of calls to the store, and the pause after a failed one; all in seconds."""

BACKOFF_FIRST_S = 0.05  # the pause after a failed refill, doubled with each further failure
BACKOFF_MAX_S = 2.0
DOUBLINGS_MAX = 10  # so that the power stays finite
REFILL_MAX_S = 5.0  # for a refill in the background, at most
REFILL_MIN_S = 2.0  # for the same at least: a quarter of a short runway is too short for a store
ATTEMPT_MIN_S = 0.05  # a store call is given at least this long
STALE_MIN_S = 60.0


def lasts(*, held: int, rate: float) -> float:
    """Return the seconds until memory is empty at the rate last measured. Infinite if it is empty
    already: then nothing is gained by hurrying."""
    return held / rate if held and rate else float("inf")


def in_background(*, lasts_s: float, runway_s: float) -> float:
    """Return how long a call may take if no request waits for it."""
    return min(max(min(runway_s, lasts_s) / 4, REFILL_MIN_S), REFILL_MAX_S)


def waited_for(left_s: float, *, most_s: float = float("inf")) -> float:
    """Return how long a call may take if a request waits for it for another `left_s`."""
    return max(ATTEMPT_MIN_S, min(most_s, left_s))


def pause(failures: int, *, lasts_s: float, spread: float) -> float:
    """Return the pause after failed refills: several tries must fit in while memory lasts."""
    max_s = min(BACKOFF_MAX_S, max(BACKOFF_FIRST_S, lasts_s / 4))
    return backoff(failures, first_s=BACKOFF_FIRST_S, max_s=max_s, spread=spread)


def backoff(failures: int, *, first_s: float, max_s: float, spread: float = 1.0) -> float:
    """Return the pause after `failures` in a row, in seconds.

    It is `first_s` after the first one and doubles with each further one, up to `max_s`. `spread`,
    a random number from 0 to 1, takes away up to half, so that clients do not return together.
    """
    longest = min(max_s, first_s * 2.0 ** min(failures - 1, DOUBLINGS_MAX))
    return longest * (0.5 + 0.5 * spread)


def stale_after(runway_s: float) -> float:
    """Return how long to serve without the catalogue; `runway_s` is the longest of all counters."""
    return max(STALE_MIN_S, 2 * runway_s)
