"""The event loop's own lateness, in virtual time."""

import asyncio

import pytest

from idservice.observability.latency import LATENCY_BUCKETS_S, Latency
from idservice.observability.loop_lag import BEAT_S, watch
from idservice.observability.prometheus import pieces
from idservice.observability.readings import Snapshot

from .loop import VirtualLoop, run


def _over(lag: Latency, seconds: float) -> int:
    """How many beats came later than that."""
    return sum(lag.counts[LATENCY_BUCKETS_S.index(seconds) + 1 :])


def test_a_loop_that_stood_still_is_seen_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    lag = Latency()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        watching = asyncio.create_task(watch(lag))
        await asyncio.sleep(10 * BEAT_S + BEAT_S / 2)
        assert (sum(lag.counts), lag.counts[0]) == (10, 10), "in time"
        loop.now += 0.3
        await asyncio.sleep(10 * BEAT_S)
        loop.now += 3
        await asyncio.sleep(10 * BEAT_S)
        watching.cancel()

    run(main())
    assert (_over(lag, 0.1), _over(lag, 2.5)) == (2, 1)
    assert [record.action for record in caplog.records] == ["stood_still"]
    assert (
        "answered nothing for 3.0 s" in caplog.text or "answered nothing for 2.9 s" in caplog.text
    )


def test_the_lag_is_a_histogram_of_its_own_on_the_page() -> None:
    lag, latency = Latency(), Latency()
    lag.observe(0.3)
    text = b"".join(pieces(Snapshot([], True, latency, "1", lag=lag), counters_max=1))
    assert b"idservice_loop_lag_seconds_count 1.0" in text
    assert b'idservice_loop_lag_seconds_bucket{le="0.25"} 0.0' in text
    assert b"idservice_reservation_seconds_count 0.0" in text
