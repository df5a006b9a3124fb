"""Whether the store answers, as this instance last saw it."""

import asyncio
import logging

from idservice.observability.readings import Latency

log = logging.getLogger("idservice.health")


class StoreHealth:
    """Whether the store answered when it was last asked, and how long its answers took."""

    def __init__(self) -> None:
        self.latency = Latency()
        self.down = asyncio.Event()
        self.last_error: Exception | None = None

    @property
    def up(self) -> bool:
        """Whether the last call got an answer."""
        return not self.down.is_set()

    def answered(self) -> None:
        """The store answered, be it with a refusal."""
        if self.down.is_set():
            log.info("the store answers again", extra={"action": "store_up"})
        self.down.clear()
        self.last_error = None

    def failed(self, error: Exception) -> None:
        """The store gave no answer, or could not serve."""
        if not self.down.is_set():
            log.warning("%s", error, extra={"action": "store_down"})
        self.last_error = error
        self.down.set()
