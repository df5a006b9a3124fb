"""Words a time as answers have it: text in UTC, with milliseconds."""

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=256)  # the adds of one commit share their time
def instant(ms: int) -> str:
    """Return milliseconds since 1970 as text: `2026-11-03T10:00:00.123Z`."""
    seconds, rest = divmod(ms, 1000)  # whole numbers: a float may round to the millisecond before
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{rest:03d}Z"
