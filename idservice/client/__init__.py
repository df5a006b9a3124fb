"""Ids for an application: `Client`, and for asyncio `AsyncClient`.

    with Client("http://127.0.0.1:8080", "orders") as orders:
        order.id = orders.next_id()

Ranges are taken from the service ahead of need, so that an id costs next to nothing; what is not
used within `hold` seconds is dropped. Strict counters are never taken ahead. Ids come in no order
but for strict counters, and an id of one client is never an id of another.

`Client` needs nothing but the standard library, `AsyncClient` also aiohttp.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idservice.client.asynchronous import AsyncClient
    from idservice.client.blocking import Client
    from idservice.client.buffer import BadBatch, NotOpen
    from idservice.client.protocol import Refused
    from idservice.errors import IdserviceError, WaitedTooLong

__all__ = [
    "AsyncClient",
    "BadBatch",
    "Client",
    "IdserviceError",
    "NotOpen",
    "Refused",
    "WaitedTooLong",
]

# Imported at the first use: an application needs one of the two clients, a command neither.
_MODULES = {
    "AsyncClient": "idservice.client.asynchronous",
    "BadBatch": "idservice.client.buffer",
    "Client": "idservice.client.blocking",
    "IdserviceError": "idservice.errors",
    "NotOpen": "idservice.client.buffer",
    "Refused": "idservice.client.protocol",
    "WaitedTooLong": "idservice.errors",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
