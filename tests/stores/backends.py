"""The stores under contract, each with the means to change its data behind its back."""

import os
import sqlite3
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any, Protocol, Self

import pytest

from idservice.catalogue.counters import new_counter
from idservice.client.address import ServiceAddress
from idservice.client.http_async import AsyncTransport
from idservice.stores.address import DynamoAddress
from idservice.stores.chained import ChainedStore
from idservice.stores.dynamodb import DynamoStore, description
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import Counter
from idservice.stores.sqlite.store import SQLiteStore
from tests import engines, served
from tests.simulation.store import SimStore, Table

ENGINES = ["moto", pytest.param("dynoxide", marks=pytest.mark.needs_engine)]
# For long ways through writes that are seen on both elsewhere: the faster one, where it is there.
ENGINE = ENGINES[0 if engines.why_no_dynoxide() and os.environ.get("CI") != "true" else 1]

_written: dict[str, list[dict[str, Any]]] = {}  # by `init`, by the URL of an engine


class Backend(Protocol):
    """Data that several handles can be opened on.

    `cannot` names values and attributes that the engine does not hold, or does not judge as
    DynamoDB does, and rows of the contract that are not for it, and why. `wish` is what counters
    are created with, and `is_new` whether `init` has something to do.
    """

    cannot: dict[object, str]
    wish: dict[str, Any] = {}  # noqa: RUF012  never changed
    is_new: bool = True

    def open(self) -> CatalogueStore:
        """A new handle, not yet entered."""
        ...

    async def init(self, store: CatalogueStore) -> None:
        """Initialise the data, of which `store` is a handle."""
        assert await store.init(new_counter("default", Random()))

    def push(self, counter: Counter, **attributes: object) -> None:
        """Set attributes of shard 0 by hand; None takes one away."""
        ...

    def delete(self, counter: Counter) -> None:
        """Delete the position of shard 0 by hand."""
        ...


class SQLite(Backend):
    """A file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "counters.db"
        self.cannot: dict[object, str] = {
            41.5: "STRICT tables hold integers only",
            "text": "STRICT tables hold integers only",
            7: "a TEXT column makes a text of it",
            None: "columns are NOT NULL",
        }

    def open(self) -> CatalogueStore:
        return SQLiteStore(str(self.path))

    def push(self, counter: Counter, **attributes: object) -> None:
        columns = ", ".join(f"{name} = ?" for name in attributes)
        self._write(
            f"UPDATE position SET {columns} WHERE counter = ? AND shard = 0",
            *attributes.values(),
            counter.name,
        )

    def delete(self, counter: Counter) -> None:
        self._write("DELETE FROM position WHERE counter = ? AND shard = 0", counter.name)

    def _write(self, statement: str, *values: object) -> None:
        database = sqlite3.connect(self.path)
        try:
            assert database.execute(statement, values).rowcount == 1
            database.commit()
        finally:
            database.close()


class Simulated(Backend):
    """The model that the simulation runs on, without its faults."""

    def __init__(self) -> None:
        self.data = Table()
        self.cannot: dict[object, str] = {
            "rev": "the model counts revisions and reads nothing from them",
            "epoch": "the model's epochs are texts",
        }

    def open(self) -> CatalogueStore:
        return SimStore(Random(1), self.data)

    def push(self, counter: Counter, **attributes: object) -> None:
        self.data.set_by_hand(counter.name, **attributes)

    def delete(self, counter: Counter) -> None:
        del self.data.positions[counter.name, 0]


NO_INIT = "a service's store is initialised where it runs"
ITS_OWN = "the service judges its positions itself, and lends nothing it doubts"
NOT_TOLD = "neither the random part of an epoch nor the revision is told to others"


class Chained(Simulated):
    """Services over the same, each handle having one of its own.

    Its counters are strict, because a service takes ids of others ahead.
    """

    wish = {"strict": True}  # noqa: RUF012  never changed
    is_new = False

    def __init__(self) -> None:
        super().__init__()
        self.data.init(new_counter("default", Random(1), strict=True))
        rows = {
            NO_INIT: "a_store_is_not_verified_before a_second_init of_two_inits",
            ITS_OWN: "a_missing_position closing nobody_is_granted another_epoch a_position_below"
            " a_position_one_below a_position_put_back an_ill_formed",
            NOT_TOLD: "a_reservation_moves a_counter_is_read_back creating_the_same"
            " who_creates_second twenty_who_create counters_are_listed",
            "a refusal does not say how many are left": "the_limit_is_handed_out",
            "one exchange is no longer than a million ids": "the_highest_limit",
        }
        self.cannot = {f"test_{row}": why for why, names in rows.items() for row in names.split()}

    def open(self) -> CatalogueStore:
        return _Served(SimStore(Random(1), self.data))


class _Served(ChainedStore):
    """A handle with the service that it asks."""

    def __init__(self, store: CatalogueStore) -> None:
        self._store = store
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        made = await self._stack.enter_async_context(served.served(self._store))
        super().__init__(AsyncTransport(ServiceAddress.parse(made.url)))
        return await super().__aenter__()

    async def __aexit__(self, *what: Any) -> None:
        await super().__aexit__(*what)
        await self._stack.aclose()


class Dynamo(Backend):
    """A table on one of the engines."""

    def __init__(self, url: str, *, cannot: dict[object, str] | None = None) -> None:
        self.url = url
        self.table = f"test-{uuid.uuid4().hex}"
        self.cannot = cannot or {}

    @property
    def address(self) -> str:
        return f"{self.table}?region={engines.REGION}&endpoint={self.url}"

    def open(self) -> DynamoStore:
        return DynamoStore(DynamoAddress.parse(self.address))

    async def init(self, store: CatalogueStore) -> None:
        """As the product does it, once for each engine: it takes six requests. The next tables get
        a copy of what that wrote, in two."""
        with engines.by_hand(self.url) as client:
            if self.url not in _written:
                await super().init(store)
                _written[self.url] = client.scan(TableName=self.table)["Items"]
                return
            made = client.create_table(
                TableName=self.table,
                KeySchema=description.KEY_SCHEMA,
                AttributeDefinitions=[description.KEY_TYPE],
                BillingMode="PAY_PER_REQUEST",
                DeletionProtectionEnabled=True,
            )["TableDescription"]
            own = {"id": {"S": uuid.uuid4().hex}}  # each table is another one
            if "TableId" in made:  # moto's tables have none
                own["table_id"] = {"S": made["TableId"]}
            items = [item | own if "schema" in item else item for item in _written[self.url]]
            puts = [{"PutRequest": {"Item": item}} for item in items]
            client.batch_write_item(RequestItems={self.table: puts})

    def push(self, counter: Counter, **attributes: object) -> None:
        given = {name: value for name, value in attributes.items() if value is not None}
        sets = [f"#{name} = :{name}" for name in given]
        removes = [f"#{name}" for name in attributes if name not in given]
        request: dict[str, Any] = {
            "UpdateExpression": (f"SET {', '.join(sets)} " if sets else "")
            + (f"REMOVE {', '.join(removes)}" if removes else ""),
            "ExpressionAttributeNames": {f"#{name}": name for name in attributes},
        }
        if given:
            request["ExpressionAttributeValues"] = {
                f":{name}": engines.attribute(value) for name, value in given.items()
            }
        with engines.by_hand(self.url) as client:
            client.update_item(
                TableName=self.table,
                Key=self.key(counter),
                ConditionExpression="attribute_exists(pk)",
                **request,
            )

    def delete(self, counter: Counter) -> None:
        with engines.by_hand(self.url) as client:
            client.delete_item(TableName=self.table, Key=self.key(counter))

    @staticmethod
    def key(counter: Counter) -> dict[str, Any]:
        return {"pk": {"S": f"ctr:{counter.name}"}}


def moto(url: str) -> Dynamo:
    """Without what moto does otherwise than DynamoDB."""
    return Dynamo(url, cannot={"text": "moto answers 500 to arithmetic with a text"})


def dynoxide(url: str) -> Dynamo:
    """Judges every value as DynamoDB does."""
    return Dynamo(url)


def of_engine(request: pytest.FixtureRequest) -> Dynamo:
    """A table on the engine that a test is run with."""
    if request.param == "moto":
        return moto(request.getfixturevalue("moto_url"))
    return dynoxide(request.getfixturevalue("dynoxide_url"))
