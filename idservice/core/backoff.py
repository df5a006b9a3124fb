"""The pause after failures in a row."""

DOUBLINGS_MAX = 10  # so that the power stays finite


def pause(failures: int, *, first_s: float, max_s: float, spread: float = 1.0) -> float:
    """Return the seconds to wait after `failures` in a row: `first_s`, doubled with each further
    one, `max_s` at most.

    `spread` is random, 0 .. 1, and takes away up to half, so that not all instances return at once.
    """
    longest = min(max_s, first_s * 2.0 ** min(failures - 1, DOUBLINGS_MAX))
    return longest * (0.5 + 0.5 * spread)
