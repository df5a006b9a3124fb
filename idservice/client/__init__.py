"""Ids and tallies for an application: `Client`, and for asyncio `AsyncClient`.

    with Client("http://127.0.0.1:8080", "orders") as orders:
        order.id = orders.next_id()

    orders = Client("http://127.0.0.1:8080", "orders").open()  # of a module, until the process ends

    donations = orders.tally("donations")
    answer = donations.add("12.50", key=payment.id)  # counted once, however often it is sent

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
`tally` is a sum as an application uses it. `tally_calls` decides what to send and when to send it
again: always with the same key, so that it is counted once. `tally_protocol` reads the answers.

`Client` needs only the standard library, `AsyncClient` also aiohttp.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idservice.client.asynchronous import AsyncClient
    from idservice.client.blocking import Client
    from idservice.client.buffer import BadBatch, NotOpen
    from idservice.client.protocol import Refused
    from idservice.client.tally import AsyncClientTally, ClientTally
    from idservice.client.tally_calls import TallyNotRead
    from idservice.client.tally_protocol import SettledAdd, TallyValue
    from idservice.errors import (
        AddUnsettled,
        BadAmount,
        BadKey,
        IdserviceError,
        KeyReused,
        OutOfBounds,
        TallySuspended,
        UnknownAdd,
        UnknownTally,
        WaitedTooLong,
    )

__all__ = [
    "AddUnsettled",
    "AsyncClient",
    "AsyncClientTally",
    "BadAmount",
    "BadBatch",
    "BadKey",
    "Client",
    "ClientTally",
    "IdserviceError",
    "KeyReused",
    "NotOpen",
    "OutOfBounds",
    "Refused",
    "SettledAdd",
    "TallyNotRead",
    "TallySuspended",
    "TallyValue",
    "UnknownAdd",
    "UnknownTally",
    "WaitedTooLong",
]

# Imported at the first use: an application needs one of the two clients, a command neither.
_MODULES = {
    "AddUnsettled": "idservice.errors",
    "AsyncClient": "idservice.client.asynchronous",
    "AsyncClientTally": "idservice.client.tally",
    "BadAmount": "idservice.errors",
    "BadBatch": "idservice.client.buffer",
    "BadKey": "idservice.errors",
    "Client": "idservice.client.blocking",
    "ClientTally": "idservice.client.tally",
    "IdserviceError": "idservice.errors",
    "KeyReused": "idservice.errors",
    "NotOpen": "idservice.client.buffer",
    "OutOfBounds": "idservice.errors",
    "Refused": "idservice.client.protocol",
    "SettledAdd": "idservice.client.tally_protocol",
    "TallyNotRead": "idservice.client.tally_calls",
    "TallySuspended": "idservice.errors",
    "TallyValue": "idservice.client.tally_protocol",
    "UnknownAdd": "idservice.errors",
    "UnknownTally": "idservice.errors",
    "WaitedTooLong": "idservice.errors",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
