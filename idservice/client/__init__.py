"""Ids for an application: `Client`, and for asyncio `AsyncClient`.

    with Client("http://127.0.0.1:8080", "orders") as orders:
        order.id = orders.next_id()

    orders = Client("http://127.0.0.1:8080", "orders").open()  # of a module, until the process ends

Ranges are taken from the service ahead of need, so an id costs next to nothing. Ids that are not
used within `hold` seconds are dropped. Strict counters are never taken ahead: each call asks for
its own ids. Only the ids of a strict counter come in order. No two clients get the same id.

Theory of operation. `blocking` and `asynchronous` are the two clients; each owns a `ClientBuffer`
(`buffer`), which holds the ids and decides, without I/O, when to refill and what to send. A call
takes an id from memory; if there is none, it waits for a refill. The synchronous client refills in
a thread, the other in a task. For a strict counter, and before the first answer tells the mode, a
call sends requests of its own (`ClientBuffer.borrow`).
`http_sync` and `http_async` send a request once and return the raw answer, or raise
NoUsableAnswer. `protocol` reads answers: only a well-formed refusal with the outcome `not_applied`
proves that no id is used up. After any other failure the next request has a new nonce, and the ids
of the failed one, if any, become a gap. An answer of a newer epoch replaces the ids in memory.
After a fork the child drops the ids and connections, which are the parent's.

`Client` needs only the standard library, `AsyncClient` also aiohttp.
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
