"""Measures the lag of the event loop: time in which the process answers no request."""

import asyncio
import logging

from idservice.observability.latency import Latency

log = logging.getLogger("idservice.loop")

BEAT_S = 0.1
STILL_S = 1.0  # a delay that is logged


async def watch(lag: Latency) -> None:
    """Count into `lag`, at each beat, the time by which it was late. Runs until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + BEAT_S
        await asyncio.sleep(BEAT_S)
        late_s = max(0.0, loop.time() - due)
        lag.observe(late_s)
        if late_s >= STILL_S:
            log.warning(
                "the process answered nothing for %.1f s: it got no CPU, was stopped, or was busy",
                late_s,
                extra={"action": "stood_still"},
            )
