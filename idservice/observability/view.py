"""Defines the view of a running service that its pages and exporters show."""

from dataclasses import dataclass
from typing import Protocol

from idservice.observability.readings import CounterSample, Snapshot


@dataclass(frozen=True, slots=True)
class Readiness:
    """The reason why the next id cannot be served, and the fault of a service that still serves.

    Either is empty if there is none.
    """

    not_ready: str
    degraded: str


class ServiceView(Protocol):
    """A service with all its workers. Each method raises ParentSilent if they cannot be asked."""

    async def snapshot(self) -> Snapshot:
        """Return everything that is counted."""

    async def readiness(self) -> Readiness:
        """Return if the next id can be served."""

    async def reading(self, counter: str) -> CounterSample | None:
        """Return the sample of a counter; None if it is not in use."""
