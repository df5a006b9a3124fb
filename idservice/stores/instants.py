"""Words a time as answers have it: text in UTC, with milliseconds."""

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=256)  # the adds of one commit share their time
def instant(ms: int) -> str:
    """Return milliseconds since 1970 as text: `2026-11-03T10:00:00.123Z`."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
