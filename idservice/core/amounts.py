"""Reads and writes exact amounts, as whole numbers of the smallest unit. None is a float (T4)."""

import re

AMOUNT_MAX = 10**18 - 1  # of the smallest unit; exact in SQLite's integers and DynamoDB's numbers
DECIMALS_MAX = 9
WHOLE_MAX = 18  # digits before the point
WRITTEN = (
    f"a number such as 12 or -0.5, of at most {WHOLE_MAX} digits before the point and"
    f" {DECIMALS_MAX} after it"
)
# The most digits that an amount within AMOUNT_MAX can have before and after its point.
AMOUNT = re.compile(r"(-?)(0|[1-9][0-9]{0,17})(?:\.([0-9]{1,9}))?", re.ASCII)
LONG = re.compile(r"-?[1-9][0-9]{18,}", re.ASCII)


def units(text: str, decimals: int) -> int:
    """Return the amount that `text` names, in units of 10^-decimals.

    Raises ValueError with the rule that the text breaks. One digit too many is refused, and not
    rounded.
    """
    match = AMOUNT.fullmatch(text)
    if match is None:
        if LONG.fullmatch(text):
            raise ValueError(_range(decimals))
        raise ValueError(rule(decimals))
    sign, whole, fraction = match[1], match[2], match[3] or ""
    if len(fraction) > decimals:
        raise ValueError(rule(decimals))
    value = int(whole + fraction.ljust(decimals, "0"))
    if value > AMOUNT_MAX:
        raise ValueError(_range(decimals))
    return -value if sign else value


def rule(decimals: int) -> str:
    """Return in words how an amount is written."""
    if not decimals:
        return "a whole number such as 12 or -3, without a point"
    places = "1 digit" if decimals == 1 else f"{decimals} digits"
    return f"a number such as 12 or -0.5, with at most {places} after the point"


def _range(decimals: int) -> str:
    """Return in words how large an amount may be."""
    beyond = written(AMOUNT_MAX + 1, decimals)
    return f"above -{beyond} and below {beyond}"


def written(value: int, decimals: int) -> str:
    """Return an amount as text, always with all its decimals: 1250 as 12.50."""
    digits = str(abs(value)).rjust(decimals + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}" if decimals else f"{sign}{digits}"
