"""Words times and days as answers have them: text in UTC, times with milliseconds."""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
FIRST_DAY = date(1970, 1, 1)


@lru_cache(maxsize=256)  # the adds of one commit share their time
def instant(ms: int) -> str:
    """Return milliseconds since 1970 as text: `2026-11-03T10:00:00.123Z`."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def day_text(day: int) -> str:
    """Return days since 1970 as text: `2026-11-03`."""
    return (FIRST_DAY + timedelta(days=day)).isoformat()


def day_in(text: str) -> int:
    """Return the day in such a text. Raises ValueError."""
    if not DAY.fullmatch(text):  # date.fromisoformat() also takes 20261103 and 2026-W45-2
        raise ValueError(f"{text[:80]!r} is no day as 2026-11-03 is")
    return (date.fromisoformat(text) - FIRST_DAY).days
