"""Opens the store that an address names; engines are imported only when used."""

from idservice.client.protocol import HOLD_S
from idservice.errors import Usage
from idservice.stores.protocol import Store


def open_store(address: str, *, hold_s: float = HOLD_S) -> Store:
    """The store at `sqlite:PATH`, `dynamodb:TABLE[?region=…&endpoint=…]` or, another service being
    the store, `http://HOST:PORT`; not yet entered. `hold_s`: how long ids of a service are held.

    Raises Usage where the address is of no known form.
    """
    engine, colon, rest = address.partition(":")
    if colon and rest and engine == "sqlite":
        from idservice.stores.sqlite.store import SQLiteStore

        return SQLiteStore(rest)
    if colon and rest and engine == "dynamodb":
        from idservice.stores.dynamodb import DynamoStore

        return DynamoStore.from_address(rest)
    if engine in ("http", "https", "unix"):
        from idservice.stores.chained import ChainedStore

        return ChainedStore.from_address(address, hold_s=hold_s)
    raise Usage(
        why=f"--store is {address!r}; it must be sqlite:PATH,"
        " dynamodb:TABLE[?region=REGION&endpoint=URL] or http://HOST:PORT"
    )


def preload(address: str) -> None:
    """Import what the store at `address` needs, for processes to share that are forked later.

    Raises Usage.
    """
    open_store(address)
    if address.startswith("dynamodb:"):
        import aioboto3  # noqa: F401
