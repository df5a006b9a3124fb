"""The table that holds a DynamoDB store: how it is made, told from another, and found unusable."""

import asyncio
import logging
import secrets
from typing import Any

from idservice import errors
from idservice.stores.dynamodb import client as dynamo
from idservice.stores.dynamodb import description, items
from idservice.stores.dynamodb.client import Answer, Client, Refused, Unheard
from idservice.stores.records import Counter

log = logging.getLogger("idservice.store")

POLL_S = 1.0
ACTIVE_MAX_POLLS = 60
BACKUPS_POLL_S = 2.0
BACKUPS_TRIES = 8
KEY_SCHEMA = [{"AttributeName": items.KEY, "KeyType": "HASH"}]
# Both answer requests; the second is in the middle of a change of its settings.
IN_SERVICE = ("ACTIVE", "UPDATING")


class Table:
    """The table of a store, as one that is to be created or recognised."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.name = client.table

    # --- is it the one? --------------------------------------------------------------------------

    async def verify(self) -> None:
        """As `Store.verify`."""
        table = await self._description()
        if table is None:
            raise self._no_table("DescribeTable")
        self._check_status(table)
        self._check_key(table)
        self._check_replicas(table)
        identity = await self._identity()
        if identity is None:
            raise self._unready(
                "it is not initialised (it has no item 'identity'). Run `idservice init --store"
                f" '{self.client.store}'`; where it was in use before, restore it instead: a new"
                " one starts from 0 and repeats ids",
                "GetItem",
            )
        schema = items.number(identity.get("schema"))
        if schema != items.SCHEMA:
            raise self._unready(
                f"it has schema {schema} and this version reads {items.SCHEMA}; use the version"
                " that wrote it, or a newer one",
                "GetItem",
            )
        recorded, found = items.string(identity.get("table_id")), table.get("TableId")
        if found and not recorded:  # taken away by hand
            await self._remember(found)
        elif found and recorded != found:
            raise errors.StoreReplaced(
                store=self.client.store,
                why=f"table {self.name!r} in region {self.client.region} was recreated or restored"
                f" since (it has id {found}, not {recorded}), so its positions may be behind ids"
                " that are in use. Go on above them: idservice fence --all, see"
                " docs/how-to/recover.md",
            )

    async def accept(self) -> None:
        """As `Store.accept`."""
        table = await self._description()
        if table is None:
            raise self._no_table("DescribeTable")
        if table.get("TableId"):
            await self._remember(table["TableId"], anew=True)

    async def _remember(self, table_id: str, *, anew: bool = False) -> None:
        action = "recording the table's identity"
        unless = "" if anew else " AND attribute_not_exists(#t)"
        try:
            await self.client.call(
                "UpdateItem",
                action,
                TableName=self.name,
                Key={items.KEY: {"S": items.IDENTITY}},
                UpdateExpression="SET #t = :id",
                ConditionExpression=f"attribute_exists(#k){unless}",
                ExpressionAttributeNames={"#k": items.KEY, "#t": "table_id"},
                ExpressionAttributeValues={":id": {"S": table_id}},
                ReturnValues="UPDATED_NEW",
            )
        except Refused as refused:
            if refused.said != dynamo.CONDITION_FAILED:  # else another instance did
                raise self._unready(str(refused.fields["why"]), "") from refused
        except Unheard as unheard:
            why = str(unheard.fields["why"])
            raise self._unready(why, "", waiting_helps=True) from unheard

    def _check_status(self, table: Answer) -> None:
        status = table.get("TableStatus")
        if status not in IN_SERVICE:
            creating = status == "CREATING"
            advice = "wait until it is ACTIVE" if creating else "make it ACTIVE"
            raise self._unready(
                f"it is {status}; {advice}", "DescribeTable", waiting_helps=creating
            )

    def _check_key(self, table: Answer) -> None:
        kinds = table.get("AttributeDefinitions", ())
        text = {"AttributeName": items.KEY, "AttributeType": "S"} in kinds
        if not text or table.get("KeySchema") != KEY_SCHEMA:
            raise self._unready(
                f"its key must be one partition key, {items.KEY!r}, a string; name another table,"
                " or one that does not exist yet",
                "DescribeTable",
            )

    def _check_replicas(self, table: Answer) -> None:
        regions = description.split_over(table, self.client.region)
        if regions:
            raise self._unready(description.why_split(regions), "DescribeTable")

    # --- creation --------------------------------------------------------------------------------

    async def init(self, first: Counter) -> bool:
        """As `Store.init`: any step may be found done, by an attempt that died or by another."""
        assert first.adopted is None
        table = await self._active()
        self._check_key(table)
        self._check_replicas(table)
        if await self._identity() is not None:
            return False
        await self._recoverable()
        return await self._record(table, first)

    async def _active(self) -> Answer:
        """The table's description once it is ready, created if need be."""
        created = False
        for _ in range(ACTIVE_MAX_POLLS):
            table = await self._description()
            if table is None and not created:
                created = True
                await self._create()
                continue
            # Just after its creation a table may also be not found.
            if table is not None and table.get("TableStatus") != "CREATING":
                self._check_status(table)
                return table
            await asyncio.sleep(POLL_S)
        raise self._unready(
            f"it is not ACTIVE after {ACTIVE_MAX_POLLS * POLL_S:g} s; run init again later",
            "DescribeTable",
            waiting_helps=True,
        )

    async def _create(self) -> None:
        try:
            await self.client.call(
                "CreateTable",
                "creating the table",
                TableName=self.name,
                KeySchema=KEY_SCHEMA,
                AttributeDefinitions=[{"AttributeName": items.KEY, "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
                DeletionProtectionEnabled=True,
            )
        except Refused as refused:
            if refused.said != dynamo.IN_USE:  # another init was first
                raise self._failed("CreateTable", refused) from refused
        except Unheard as unheard:
            raise self._failed("CreateTable", unheard) from unheard

    async def _recoverable(self) -> None:
        """Switch point-in-time recovery on. Where that cannot be, the store works without."""
        why = "it is not offered yet"
        for _ in range(BACKUPS_TRIES):
            try:
                await self.client.call(
                    "UpdateContinuousBackups",
                    "switching recovery on",
                    TableName=self.name,
                    PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
                )
                return
            except (Refused, Unheard) as error:
                why = str(error.fields["why"])
                if not (isinstance(error, Refused) and error.said == dynamo.NO_BACKUPS_YET):
                    break
            await asyncio.sleep(BACKUPS_POLL_S)  # AWS offers it a little after the creation
        log.warning(
            "point-in-time recovery of table %s is not switched on: %s; switch it on by hand",
            self.name,
            why,
            extra={"action": "recovery_off"},
        )

    async def _record(self, table: Answer, first: Counter) -> bool:
        """Identity, head, first entry and position, all or none; False where another did it."""
        ours = secrets.token_hex(16)
        identity: dict[str, Any] = {
            items.KEY: {"S": items.IDENTITY},
            "id": {"S": ours},
            "schema": {"N": str(items.SCHEMA)},
        }
        if table.get("TableId"):
            identity["table_id"] = {"S": table["TableId"]}
        head = {items.KEY: {"S": items.HEAD}, "revision": {"N": "1"}}
        writes = [
            items.new(self.name, identity),
            items.new(self.name, head),
            items.new_entry(self.name, first),
            *items.new_positions(self.name, first),
        ]
        try:
            await self.client.transact(writes, "initialising the table")
            return True
        except (Refused, Unheard) as error:
            found = await self._identity()
            if found is not None:
                return items.string(found.get("id")) == ours  # else another init was first
            if isinstance(error, Refused) and "ConditionalCheckFailed" in error.reasons:
                taken = [
                    write["Put"]["Item"][items.KEY]["S"]
                    for write, reason in zip(writes, error.reasons, strict=False)
                    if reason == "ConditionalCheckFailed"
                ]
                raise self._unready(
                    f"it already holds {' and '.join(map(repr, taken))} but no 'identity', so it"
                    " was in use: restore it, or name another table",
                    "TransactWriteItems",
                ) from error
            raise self._failed("TransactWriteItems", error) from error

    # --- requests --------------------------------------------------------------------------------

    async def _description(self) -> Answer | None:
        """What DescribeTable says; None where there is no such table."""
        action = "looking at the table"
        try:
            answer = await self.client.call("DescribeTable", action, TableName=self.name)
        except Refused as refused:
            if refused.said == dynamo.NO_TABLE:
                return None
            raise self._failed("DescribeTable", refused) from refused
        except Unheard as unheard:
            raise self._failed("DescribeTable", unheard) from unheard
        table: Answer = answer["Table"]
        return table

    async def _identity(self) -> Answer | None:
        try:
            answer = await self.client.call(
                "GetItem",
                "reading the identity",
                TableName=self.name,
                Key={items.KEY: {"S": items.IDENTITY}},
                ConsistentRead=True,
            )
        except (Refused, Unheard) as error:
            raise self._failed("GetItem", error) from error
        return answer.get("Item")

    # --- why not ---------------------------------------------------------------------------------

    def _no_table(self, operation: str) -> errors.StoreUnready:
        return self._unready(
            "there is no such table; name the right table and region, or create it with"
            f" `idservice init --store '{self.client.store}'`. Where it was in use before, restore"
            " it: a new one starts from 0 and repeats ids",
            operation,
        )

    def _failed(self, operation: str, error: Refused | Unheard) -> errors.StoreUnready:
        """What a start is to say of a call that failed."""
        why = str(error.fields["why"])
        if isinstance(error, Unheard):
            why += "; check region, endpoint and network"
            return self._unready(why, "", waiting_helps=error.passing)
        if error.said == dynamo.NO_TABLE:
            return self._no_table(operation)
        return self._unready(why, "", waiting_helps=error.said in dynamo.THROTTLED)

    def _unready(
        self, why: str, operation: str, *, waiting_helps: bool = False
    ) -> errors.StoreUnready:
        asked = f"{self.client.where(operation)}: " if operation else ""
        return errors.StoreUnready(
            store=self.client.store, why=asked + why, waiting_helps=waiting_helps
        )
