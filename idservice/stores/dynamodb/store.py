"""DynamoDB as a store: many instances on one table, and each reservation one conditional write.

The rules of the requests are those of `protocol`. `client` knows what an answer proves, `items` how
a counter is written down.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Self

from idservice import errors
from idservice.core import epoch as epochs
from idservice.core.writer import Batch
from idservice.stores.address import DynamoAddress
from idservice.stores.dynamodb import adopt as adoption
from idservice.stores.dynamodb import client as dynamo
from idservice.stores.dynamodb import examine as examination
from idservice.stores.dynamodb import items, requests
from idservice.stores.dynamodb.calls import TableCalls
from idservice.stores.dynamodb.client import Answer, CallRefused, CallUnanswered, DynamoClient
from idservice.stores.dynamodb.keys import DynamoKeys
from idservice.stores.dynamodb.table import Table, TableIdentities
from idservice.stores.dynamodb.tallies import DynamoTallies
from idservice.stores.dynamodb.usage import DynamoUsage
from idservice.stores.findings import Clock, Finding
from idservice.stores.protocol import SentReservation
from idservice.stores.records import (
    DELETED,
    Adopted,
    Counter,
    Grant,
    Position,
    ShardState,
    Writers,
)

ADOPT_TRIES = 8  # of an adoption; one fails if the catalogue moves between its first and last call


class DynamoStore:
    """Keeps counters in one DynamoDB table; adopted ones may live in another of the same region."""

    def __init__(self, address: DynamoAddress) -> None:
        self.hold_s: float | None = None
        self.address = str(address)
        self._name = address.table
        self._client = DynamoClient(self.address, address.table, address.region, address.endpoint)
        self._table = Table(self._client)
        self._tables = TableIdentities(address.table)
        self._calls = TableCalls(self._client, self._tables, self._table)
        self.tallies = DynamoTallies(self._client, self._tables, self._calls)
        self.keys = DynamoKeys(self._client, self._tables, self._calls)
        self.usage = DynamoUsage(self._client, self._calls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self._client.aclose()

    # --- the table -------------------------------------------------------------------------------

    async def init(self, first: Counter) -> bool:
        return await self._table.init(first)

    async def verify(self) -> None:
        await self._tables.own.recognise(self._table.verify)

    async def accept_identity(self) -> None:
        await self._table.accept_identity()

    async def examine(self, clock: Clock, *, thorough: bool) -> list[Finding]:
        return await examination.examine(self._client, clock, thorough=thorough)

    async def examine_item(self, counter: Counter) -> list[Finding]:
        return await examination.examine_item(self._client, counter)

    # --- reading ---------------------------------------------------------------------------------

    async def counter(self, name: str) -> Counter | None:
        counter = await self.entry(name)
        item = None if counter is None else counter.adopted_item
        if counter is not None and item is not None and item.table_id:
            check, table = partial(self._recognise_adopted, counter), self._tables.of(counter)
            await (check() if table is self._tables.own else table.recognise(check))
        return counter

    async def entry(self, name: str) -> Counter | None:
        action = f"reading counter {name}"
        item = await self._calls.get(self._name, items.entry_key(name), action)
        return None if item is None else self._entry(item, action)

    async def with_table_identity(self, counter: Counter) -> Counter:
        if counter.adopted_item is None:
            return counter
        table = await self._table_of(counter)
        return adoption.with_table_identity(counter, table.get("TableId"))

    async def _recognise_adopted(self, counter: Counter) -> None:
        table = await self._table_of(counter)
        adoption.recognise(self.address, counter, table, self._client.region)

    async def _table_of(self, counter: Counter) -> Answer:
        """Return the description of the table that holds an adopted counter's item."""
        assert counter.adopted_item is not None
        table = counter.adopted_item.table
        answer = await self._calls.read(
            "DescribeTable", f"looking at table {table}", TableName=table
        )
        found: Answer = answer["Table"]
        return found

    async def counters(self) -> list[Counter]:
        action = "reading the counters"
        request = items.scan_of_entries(self._name)
        found = []
        while True:
            answer = await self._calls.read("Scan", action, **request)
            found += [self._entry(item, action) for item in answer["Items"]]
            if not answer.get("LastEvaluatedKey"):
                return sorted(found, key=lambda counter: counter.name)
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def page(self, after: str, most: int) -> list[Counter]:
        listed = await self.counters()  # a scan finds them in no order
        return [one for one in listed if one.name > after and one.state != DELETED][:most]

    async def position(self, counter: Counter, shard: int = 0) -> Position | None:
        place = items.place_of(counter, shard, self._name)
        item = await self._calls.get(place.table, place.key, f"reading counter {counter.name}")
        if item is None:
            return None
        try:
            return items.position_in(item, items.place_in(item, place, counter))
        except ValueError as error:
            raise errors.PositionIllFormed(
                store=self.address, name=counter.name, why=error
            ) from error

    async def locate(
        self, table: str, key: Mapping[str, str], attribute: str, returns: str
    ) -> tuple[Adopted, int]:
        """Find the item of a counter that is to be adopted, and its value, as `adopt.locate`."""
        await self._calls.ensure(f"looking at table {table}")
        return await adoption.locate(self._client, table, key, attribute, returns)

    # --- create ----------------------------------------------------------------------------------

    async def create(self, counter: Counter) -> Counter:
        for _ in range(ADOPT_TRIES):
            created = await self._create(counter)
            if created is not None:
                return created
        why = (
            "its item was prepared, but its entry was refused: counters or access keys are changed"
        )
        why += " all the time; repeat the command when that is over"
        action = f"creating counter {counter.name}"
        raise errors.OutcomeUnknown(store=self.address, action=action, why=why)

    async def _create(self, counter: Counter) -> Counter | None:
        """Create a counter, as `create`; None if the catalogue moved during an adoption."""
        action = f"creating counter {counter.name}"
        await self._calls.ensure(action)
        positions, revision = [], None
        if counter.adopted is None:
            positions = items.new_positions(self._name, counter)
        else:
            found = await self.counter(counter.name)
            if found is not None:
                return found
            # The entry is written only if no other one was since these were read: of two operators
            # who adopt the item under two names at once, one is refused and looks again.
            revision = await self._revision(action)
            adoption.check_alone(counter, await self.counters(), self._name)
            counter = await adoption.take_over(self._client, counter, counter.adopted)
        head = requests.head_moved(self._name, revision)
        try:
            writes = [items.new_entry(self._name, counter), head, *positions]
            await self._client.transact(writes, action)
            return counter
        except CallRefused as refused:
            self._tables.not_found(refused, self._name)
            found = await self.counter(counter.name)
            if found is not None:
                return found
            if counter.adopted is not None:
                if refused.reasons[1:2] == ("ConditionalCheckFailed",):
                    return None
                why = "its item was prepared, but its entry was refused; repeat the command"
                raise errors.OutcomeUnknown(store=self.address, action=action, why=why) from refused
            why = items.why_not_created(counter, refused.reasons)
            if not why:
                raise
            raise errors.NotApplied(store=self.address, action=action, why=why) from refused
        except errors.NotApplied as unsent:
            if counter.adopted is None:
                raise
            why = f"its item was prepared, but its entry not written ({unsent.fields['why']});"
            why += " repeat the command"
            raise errors.OutcomeUnknown(store=self.address, action=action, why=why) from unsent
        except CallUnanswered as unanswered:
            try:
                found = await self.counter(counter.name)
            except errors.StoreError:
                raise unanswered from None  # not the reading's error, which says "not applied"
            if found is None:
                raise
            return found

    # --- change ----------------------------------------------------------------------------------

    async def revision(self) -> int:
        try:
            await self._tables.own.look(self._table.look)
            return await self._revision("reading the catalogue")
        except BaseException:
            self._tables.own.unanswered()
            raise

    async def _revision(self, action: str) -> int:
        head = await self._calls.get(self._name, {items.KEY: {"S": items.HEAD}}, action) or {}
        found = items.number(head.get("revision"))
        if found is None:
            raise errors.NotApplied(store=self.address, action=action, why=items.NO_HEAD)
        return found

    async def rewrite(self, before: Counter, after: Counter) -> bool:
        action = f"changing counter {after.name}"
        await self._calls.ensure(action)
        entry = requests.entry_rewritten(self._name, before, after)
        try:
            await self._client.transact([entry, requests.head_moved(self._name)], action)
        except CallRefused as refused:
            self._tables.not_found(refused, self._name)
            if refused.reasons[:1] == ("ConditionalCheckFailed",):
                return False
            raise
        return True

    async def shard_state(self, counter: Counter, shard: int) -> ShardState | None:
        place = items.place_of(counter, shard, self._name)
        item = await self._calls.get(place.table, place.key, f"reading counter {counter.name}")
        if item is None:
            return None
        return items.shard_state_in(item, place, counter)

    async def seal(self, counter: Counter, shard: int, found: ShardState | None, seal: str) -> None:
        place = items.place_of(counter, shard, self._name)
        if found is not None:
            write = requests.epoch_replaced(place, found.epoch, seal)
        else:
            assert counter.adopted is None  # an adopted item is never created
            write = requests.created_closed(place, seal)
        await self._write_if(write, f"sealing counter {counter.name}")

    async def open_shard(
        self, counter: Counter, shard: int, seal: str, epoch: str, *, value: int
    ) -> None:
        action = f"opening an epoch of counter {counter.name}"
        place = items.place_of(counter, shard, self._name)
        if counter.adopted is not None:
            for write in requests.reopened(place, seal, epoch, value):
                await self._write_if(write, action)
            return
        item = await self._calls.get(place.table, place.key, action) or {}
        await self._write_if(requests.opened(place, item, seal, epoch), action)

    async def finish_adoption(self, counter: Counter, seal: str, epoch: str, *, first: int) -> None:
        place = items.place_of(counter, 0, self._name)
        for write in requests.finished(place, counter, seal, epoch, first):
            await self._write_if(write, f"finishing the adoption of counter {counter.name}")

    async def _write_if(self, write: dict[str, Any], action: str) -> bool:
        """Send one conditional write; return True if its condition held."""
        await self._calls.ensure(action)
        try:
            await self._client.call("UpdateItem", action, **write)
        except CallRefused as refused:
            self._tables.not_found(refused, write["TableName"])
            if refused.said != dynamo.CONDITION_FAILED:
                raise
            return False
        return True

    # --- positions -------------------------------------------------------------------------------

    async def reserve(
        self,
        counter: Counter,
        *,
        count: int,
        seen: int,
        room: int,
        shard: int = 0,
        batch: Batch | None = None,
    ) -> Grant:
        assert count > 0
        assert seen <= room  # DynamoDB refuses such a condition as malformed
        assert batch is None or (batch.count, shard) == (count, 0)
        place = items.place_of(counter, shard, self._name)
        sent = SentReservation(self.address, counter, count, seen, room, batch)
        write = requests.reserve(sent, place)
        try:
            written = await self._write(counter, shard, write, sent.action)
        except CallRefused as refused:
            if refused.said == dynamo.CONDITION_FAILED:
                if not refused.item:
                    self._tables.of(counter, shard).invalidate()
                return requests.read_refusal(sent, place, refused.item)
            if refused.said == dynamo.INVALID:
                await self.position(counter, shard)  # raises if that is the cause: `rev` is missing
            raise
        return requests.read_grant(sent, place, written)

    async def writers(self, counter: Counter) -> Writers | None:
        place = items.place_of(counter, 0, self._name)
        action = f"reading the writers of counter {counter.name}"
        item = await self._calls.get(place.table, place.key, action)
        return None if item is None else items.writers_in(item)

    async def register(self, counter: Counter, name: str, *, registrations: int) -> bool:
        place = items.place_of(counter, 0, self._name)
        write = requests.register(place, counter, name, registrations)
        return await self._write_if(write, f"registering a writer of counter {counter.name}")

    async def prune(self, counter: Counter, name: str, seq: int) -> None:
        place = items.place_of(counter, 0, self._name)
        write = requests.prune(place, name, seq)
        await self._write_if(write, f"pruning a writer of counter {counter.name}")

    async def give_back(
        self,
        counter: Counter,
        found: Position,
        *,
        next: int,
        returned: tuple[range, ...],
        shard: int = 0,
    ) -> bool:
        place = items.place_of(counter, shard, self._name)
        write = requests.give_back(place, counter.epoch, found, next, returned)
        action = f"giving back ids of counter {counter.name}"
        return await self._write_once(counter, shard, write, action) is not None

    async def claim(self, counter: Counter, rev: int, shard: int = 0) -> tuple[range, ...]:
        place = items.place_of(counter, shard, self._name)
        action = f"claiming ids of counter {counter.name}"
        write = requests.claim(place, counter.epoch, rev)
        before = await self._write_once(counter, shard, write, action)
        try:
            return () if before is None else requests.read_claim(before, rev)
        except ValueError as why:
            raise errors.OutcomeUnknown(store=self.address, action=action, why=why) from why

    async def _write_once(
        self, counter: Counter, shard: int, write: dict[str, Any], action: str
    ) -> Answer | None:
        """Return the attributes in the answer to one write; None if its condition did not hold."""
        try:
            return await self._write(counter, shard, write, action)
        except CallRefused as refused:
            if refused.said != dynamo.CONDITION_FAILED:
                raise
            return None

    async def _write(
        self, counter: Counter, shard: int, write: dict[str, Any], action: str
    ) -> Answer:
        """Send one write to a recognised table and return the attributes in its answer. Raises as
        `TableCalls.write`."""
        answer = await self._calls.write(
            "UpdateItem", action, table=self._tables.of(counter, shard),
            ensure=partial(self._ensure_table_of, counter, shard, action), **write,
        )  # fmt: skip
        attributes: Answer = answer["Attributes"]
        return attributes

    async def close_gone_back(self, counter: Counter, found: str, shard: int = 0) -> None:
        place = items.place_of(counter, shard, self._name)
        write = requests.epoch_replaced(place, found, epochs.gone_back(found))
        await self._write_if(write, f"closing the position of counter {counter.name}")

    # --- requests --------------------------------------------------------------------------------

    async def _ensure_table_of(self, counter: Counter, shard: int, action: str) -> None:
        """Recognise also a shard's table. Changes do not: one of them accepts a new table."""
        await self._calls.ensure(action)
        table = self._tables.of(counter, shard)
        if table is not self._tables.own:
            await table.ensure(partial(self._recognise_adopted, counter))

    def _entry(self, item: Answer, action: str) -> Counter:
        try:
            return items.entry_in(item)
        except ValueError as error:  # msgspec's are ones too
            name = items.shown(item.get(items.KEY))
            why = f"this version cannot read {name}: {error}; was a newer one used?"
            raise errors.NotApplied(store=self.address, action=action, why=why) from error
