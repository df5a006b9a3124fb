"""Opens the store that an address names; engines are imported only when used."""

from idservice.errors import Usage
from idservice.stores.protocol import Store


def open_store(address: str) -> Store:
    """The store at `sqlite:PATH` or `dynamodb:TABLE[?region=…&endpoint=…]`, not yet entered.

    Raises Usage where the address is of no known form.
    """
    engine, colon, rest = address.partition(":")
    if colon and rest and engine == "sqlite":
        from idservice.stores.sqlite import SQLiteStore

        return SQLiteStore(rest)
    if colon and rest and engine == "dynamodb":
        from idservice.stores.dynamodb import DynamoStore

        return DynamoStore.from_address(rest)
    raise Usage(
        why=f"--store is {address!r}; it must be sqlite:PATH or"
        " dynamodb:TABLE[?region=REGION&endpoint=URL]"
    )
