"""Ids for an application: `Client`, and for asyncio `AsyncClient`.

    with Client("http://127.0.0.1:8080", "orders") as orders:
        order.id = orders.next_id()

Ranges are taken from the service ahead of need, so that an id costs next to nothing; what is not
used within `hold` seconds is dropped. Strict counters are never taken ahead. Ids come in no order
but for strict counters, and an id of one client is never an id of another.

`Client` needs nothing but the standard library, `AsyncClient` also aiohttp.
"""

from typing import TYPE_CHECKING, Any

from idservice.client.blocking import Client
from idservice.client.buffer import BadBatch, NotOpen
from idservice.client.protocol import Refused
from idservice.errors import IdserviceError, WaitedTooLong

if TYPE_CHECKING:
    from idservice.client.asynchronous import AsyncClient

__all__ = [
    "AsyncClient",
    "BadBatch",
    "Client",
    "IdserviceError",
    "NotOpen",
    "Refused",
    "WaitedTooLong",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncClient":
        from idservice.client.asynchronous import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
