"""Tallies of another service: each request is passed on to it with its key."""

from idservice import errors
from idservice.client.http_async import AsyncTransport
from idservice.stores.tally_source import TallyReading, Told


class ChainedTallies:
    """A `TallySource` over the connection to a service."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def add(self, name: str, key: str, amount: str) -> Told:
        raise errors.ChangedElsewhere(store=self._transport.url)

    async def value(self, name: str) -> TallyReading:
        raise errors.ChangedElsewhere(store=self._transport.url)

    async def recorded(self, name: str, key: str) -> Told:
        raise errors.ChangedElsewhere(store=self._transport.url)
