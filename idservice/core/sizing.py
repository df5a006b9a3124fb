"""How many ids to reserve, and when: in seconds of use (the runway), not in ids."""

from math import ceil, floor

BLOCK_MIN = 10  # ids; the first block of a counter, and the least a refill asks for
GROWTH_MAX = 8  # a refill asks for at most this many times what was used since the last one
WINDOW_MIN_S = 0.001  # a shorter time than this says nothing about a rate


def rate(used: float, seconds: float) -> float:
    """Ids per second, where `used` ids were handed out within `seconds`."""
    return used / max(seconds, WINDOW_MIN_S)


def low_water(*, rate: float, runway_s: float, held: int) -> int:
    """How many ids may be left before the next refill begins.

    One runway of them, so that an outage that begins with the refill is survived; half of what is
    held where that is less (a counter that grows); half of the least block where nothing is known
    of the rate yet.
    """
    return min(max(ceil(rate * runway_s), BLOCK_MIN // 2), held // 2)


def refill(*, rate: float, runway_s: float, held: int, used: int, block_max: int) -> int:
    """How many ids to ask for so that two runways are held; between 1 and `block_max`.

    A refill brings memory back to two runways when one is left: one store write per runway,
    whatever the rate. Growth is bounded by what was used (a burst of ten requests is no rate),
    after the step rule of TiDB's allocator, which scales a step by the time the last one lasted.
    """
    wanted = ceil(2 * rate * runway_s) - held
    return min(max(BLOCK_MIN, min(wanted, GROWTH_MAX * used)), block_max)


def loan(*, rate: float, runway_s: float, held: int, used: int, block_max: int) -> int:
    """The same for ids that expire: none where not even one is used within two runways, because
    what is not used in time is a gap; between 0 and `block_max`."""
    wanted = floor(2 * rate * runway_s) - held
    return max(0, min(wanted, GROWTH_MAX * used, block_max))
