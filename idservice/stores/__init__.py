"""Stores of counters: `open_store` returns the one that an address names.

Theory of operation. `protocol` defines two interfaces. An `IdStore` gives ids; a `CatalogueStore`
also keeps the catalogue of counters and their positions. `allocation` reserves and gives back,
`catalogue` creates and changes counters. `has_catalogue` is the only question about the kind of a
store. `sqlite` and `dynamodb` are stores of our own; `chained` borrows ids from another service.
`records` are the values that they exchange, `findings` the results of their checks: `verify` raises
the first fault of the same checks that `doctor` prints.
A position is one row or item per shard. Each operation on it is one conditional write. Its
conditions prove what the caller believes: the epoch is current (no change came between), `next` is
not below `mark` (it was not moved back), `next` is at least `seen` (no restored copy), and `rev` is
unchanged (nothing was written since it was read). `SentReservation` reads a failed reservation in
the only safe order.
An operation ends in one of three ways: its result; NotApplied, which proves that nothing happened;
or OutcomeUnknown. After OutcomeUnknown a reserved range is burnt (I4), and only what may be
repeated is sent again. Engines are imported only when used.
"""

from collections.abc import Callable

from idservice.client.own_key import OwnKey
from idservice.client.protocol import HOLD_S
from idservice.client.tally_calls import WAIT_S
from idservice.errors import Usage
from idservice.stores.address import DynamoAddress, SQLiteAddress, parse
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.records import Counter


def open_store(
    address: str,
    *,
    hold_s: float = HOLD_S,
    wait_s: float = WAIT_S,
    own_key: Callable[[], OwnKey] = OwnKey,
) -> IdStore:
    """Return the store at an address, not yet entered. Raises Usage.

    If it is another service, `hold_s` is how long its ids are held, `wait_s` how long it is asked
    about a tally, in seconds, and `own_key` returns the access key that the service is shown.
    """
    match parse(address):
        case SQLiteAddress(path):
            from idservice.stores.sqlite.store import SQLiteStore

            return SQLiteStore(path)
        case DynamoAddress() as table:
            from idservice.stores.dynamodb import DynamoStore

            return DynamoStore(table)
        case service:
            from idservice.client.http_async import AsyncTransport
            from idservice.stores.chained import CONNECT_MAX_S, ChainedStore

            transport = AsyncTransport(service, own_key(), connect_s=CONNECT_MAX_S)
            return ChainedStore(transport, hold_s=hold_s, wait_s=wait_s)


def preload(address: str) -> None:
    """Import what the store at `address` needs, for processes to share that are forked later.

    Raises Usage.
    """
    open_store(address)
    if isinstance(parse(address), DynamoAddress):
        import aioboto3  # noqa: F401


async def initialise(store: IdStore, first: Counter) -> bool:
    """Create the store with a first counter, as `CatalogueStore.init`. Raises Usage."""
    if has_catalogue(store):
        return await store.init(first)
    raise Usage(why=f"{store.address} is a service; its store is initialised where it runs")
