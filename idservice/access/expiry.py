"""Reads when an access key expires: a day, or an instant."""

import re
from datetime import UTC, datetime

DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
TIME = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
INSTANT = re.compile(f"{DAY}([Tt ]{TIME})?", re.ASCII)
RULE = (
    "a day such as 2027-11-01, from whose beginning in UTC the key is refused, or an instant such"
    " as 2027-11-01T12:00:00Z"
)


def expiry_ms(text: str) -> int:
    """Return the time as milliseconds since 1970. Raises ValueError with the rule."""
    try:
        if not INSTANT.fullmatch(text):
            raise ValueError
        found = datetime.fromisoformat(text.upper())
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError(f"it must be {RULE}") from None
