"""The stop of a serving process: its signals, its time limits, and the drain.

A stop signal begins the stop; a second one ends the process at once. During the drain, answers say
`Connection: close` before connections are closed. Otherwise an idle connection could be
closed just as its client sends a request, and that request would fail.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from idservice.access.usage import UsageMeter
from idservice.server.exits import EXIT_FAILURE
from idservice.server.listener import Listener
from idservice.web.connection import ConnectionLimit

log = logging.getLogger("idservice.server")

STOP_MAX_S = 9.0  # for the whole stop: containers are killed 10 s after they were asked to
GIVE_BACK_KEPT_S = 0.5  # of that, for returning unused ids
ROUND_TRIP_S = 0.2  # for connections on their way in to arrive
FINISH_MAX_S = 6.0  # for requests in flight, once the listeners are closed
LAST_CALL_S = 0.5  # for a client that connected just before that to send a request
ABANDON_S = 0.5  # for cancelled handlers to end
USAGE_MAX_S = 1.0  # for the last totals of what was handed out
USAGE_MIN_S = 0.25  # for the same, if returning ids took all the time there was


@dataclass(slots=True)
class StopSwitch:
    """Begins the stop of the process, on a signal or on request."""

    main: asyncio.Task[object]
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    signalled: bool = False
    started: bool = False
    draining: bool = False

    def stop(self) -> None:
        """Begin the stop; a start that is still under way is cancelled."""
        if not self.asked.is_set():
            self.asked.set()
            if not self.started:
                self.main.cancel()

    def on_signal(self) -> None:
        """Begin the stop; a second signal ends the process at once."""
        if self.signalled:
            os._exit(EXIT_FAILURE)
        self.signalled = True
        self.stop()


async def drain(
    switch: StopSwitch, listeners: list[Listener], limit: ConnectionLimit, seconds: float
) -> None:
    """Answer as not ready for `seconds`, stop accepting, then finish the requests in flight."""
    log.info("stopping", extra={"action": "stopping"})
    clock = asyncio.get_running_loop().time
    end = clock() + STOP_MAX_S - GIVE_BACK_KEPT_S
    switch.draining = True
    for listener in listeners:
        listener.drain()
    await asyncio.sleep(seconds)
    for listener in listeners:
        listener.turn_away()
    await asyncio.sleep(ROUND_TRIP_S)
    for listener in listeners:
        await listener.stop_accepting()
    # aiohttp's own shutdown reads no further: neither the rest of a body nor the first request of a
    # connection. So it comes once nothing is left to read.
    most = min(FINISH_MAX_S, max(0.0, end - clock()))
    await limit.emptied(last_call=min(LAST_CALL_S, most), most=most)
    async with asyncio.TaskGroup() as group:
        for listener in listeners:
            group.create_task(listener.close())
    log.info("stopped", extra={"action": "stopped"})


async def stop_meter(meter: UsageMeter, stop_by: Callable[[], float]) -> None:
    """Write the last totals of a process, within what is left of the time for its stop."""
    left_s = stop_by() - asyncio.get_running_loop().time()
    await meter.stop(max(USAGE_MIN_S, min(left_s, USAGE_MAX_S)))
