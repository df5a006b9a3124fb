"""Times as answers have them."""

from datetime import UTC, datetime

from idservice.stores.instants import instant


def test_a_time_has_its_milliseconds_and_is_not_rounded() -> None:
    first = int(datetime(2026, 11, 3, 10, tzinfo=UTC).timestamp()) * 1000
    assert instant(first + 123) == "2026-11-03T10:00:00.123Z"
    for ms in range(1000):
        assert instant(first + ms) == f"2026-11-03T10:00:00.{ms:03d}Z"
    assert instant(first - 1) == "2026-11-03T09:59:59.999Z"
    assert instant(0) == "1970-01-01T00:00:00.000Z"
