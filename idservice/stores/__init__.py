"""Opens the store that an address names; engines are imported only when used."""

from idservice.client.protocol import HOLD_S
from idservice.errors import Usage
from idservice.stores.address import DynamoAddress, SQLiteAddress, parse
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.records import Counter


def open_store(address: str, *, hold_s: float = HOLD_S) -> IdStore:
    """Return the store at an address, not yet entered. Raises Usage.

    `hold_s` is how long ids of another service are held, in seconds.
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
            from idservice.stores.chained import ChainedStore

            return ChainedStore(AsyncTransport(service), hold_s=hold_s)


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
