"""The table that holds a DynamoDB store: its creation, its recognition, and its identity."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from idservice import errors
from idservice.stores.dynamodb import client as dynamo
from idservice.stores.dynamodb import description, items, requests
from idservice.stores.dynamodb.client import (
    Answer,
    CallNotSent,
    CallNotSigned,
    CallRefused,
    CallUnanswered,
    DynamoClient,
)
from idservice.stores.dynamodb.items import Place
from idservice.stores.findings import FAULT, Finding, refusal
from idservice.stores.records import Counter

log = logging.getLogger("idservice.store")

POLL_S = 1.0
ACTIVE_MAX_POLLS = 60
BACKUPS_POLL_S = 2.0
BACKUPS_TRIES = 8
# Less than it takes to delete a table and restore one under its name, and more than lies between
# two looks at the catalogue.
SILENCE_MAX_S = 5.0
FAILED = (CallRefused, CallNotSent, CallNotSigned, CallUnanswered)
LOOK_MAX_S = 2.0  # so that two looks in a row are less than that apart

Moment = tuple[float, float]  # by the clock that a pause of the process does not stop, and by date


def now() -> Moment:
    """Return the present moment. The date goes on while a machine sleeps; the other may not."""
    return time.monotonic(), time.time()


class TableIdentity:
    """Knows if a table is still the one that was recognised; another may have its name by now.

    It is to be recognised again after something was not found in it, after a look that was not
    answered, and after a silence in which a replacement would not have been noticed. A pause of
    this process is such a silence: therefore moments are those at which requests were made.
    """

    def __init__(self) -> None:
        self._invalidations = 0
        self._settled = 0  # invalidations before it was last recognised
        self._heard: Moment | None = None  # the last moment known; none until it is recognised
        self._checking = asyncio.Lock()

    @property
    def is_invalid(self) -> bool:
        """Return True if the table was invalidated since it was last recognised."""
        return self._settled != self._invalidations

    def invalidate(self) -> None:
        """Have the table compared again: an item was not found, or the table is another one."""
        self._invalidations += 1

    def answered(self, asked_at: Moment) -> None:
        """Note that the table answered a call that was sent at this moment. After a silence the
        answer does not tell which table gave it."""
        if self._heard is not None and not self._is_due:
            self._heard = max(self._heard, asked_at)

    def unanswered(self) -> None:
        """Note that a look at the table was not answered."""
        if self._heard is not None:
            self._heard = (0.0, 0.0)

    async def recognise(self, check: Callable[[], Awaitable[None]]) -> None:
        """Recognise the table by `check`, which raises if it is another one."""
        invalidations, asked_at = self._invalidations, now()
        await check()
        self._settled, self._heard = invalidations, asked_at

    async def look(self, check: Callable[[], Awaitable[bool]]) -> None:
        """Run a `check` that returns True if the table is the same. If it raises StoreReplaced,
        invalidate the table, and raise that error. Do not wait for long: tables are described by
        another service than the one that serves their items, which goes on."""
        asked_at = now()
        try:
            async with asyncio.timeout(LOOK_MAX_S):
                if await check() and self._heard is not None:
                    self._heard = max(self._heard, asked_at)
        except errors.StoreReplaced:
            self.invalidate()
            raise
        except (errors.StoreError, TimeoutError):
            pass

    async def ensure(self, check: Callable[[], Awaitable[None]]) -> None:
        """Recognise the table by `check` if that is due."""
        if self._is_due:
            async with self._checking:  # one for all calls that come meanwhile
                if self._is_due:
                    await self.recognise(check)

    @property
    def _is_due(self) -> bool:
        if self._heard is None:
            return self.is_invalid
        silences = (abs(at - heard) for at, heard in zip(now(), self._heard, strict=True))
        return self.is_invalid or max(silences) > SILENCE_MAX_S


class TableIdentities:
    """The identities of a store's own table, and of the tables that adopted items are in."""

    def __init__(self, name: str) -> None:
        self.own = TableIdentity()
        self._name = name
        self._adopted: dict[tuple[str, str], TableIdentity] = {}  # by name and recorded identity

    def of(self, counter: Counter, shard: int = 0) -> TableIdentity:
        """Return the identity of the table that a shard is in."""
        item = counter.adopted_item
        if item is None or shard or item.table == self._name or item.table_id is None:
            return self.own
        return self._adopted.setdefault((item.table, item.table_id), TableIdentity())

    def not_found(self, refused: CallRefused, name: str) -> bool:
        """Return True if the refusal is that there is no table of this name; its identity is
        invalidated."""
        if refused.said != dynamo.NO_TABLE:
            return False
        known = [table for (its, _), table in self._adopted.items() if its == name]
        for table in [self.own] if name == self._name else known:
            table.invalidate()
        return True


class Table:
    """Creates and recognises the table of a store."""

    def __init__(self, client: DynamoClient) -> None:
        self.client = client
        self.name = client.table
        self._known: tuple[str | None, str | None] | None = None  # ids, ours and the table's
        self._judged: str | None = None  # the table's id at the last `verify`, whatever that said

    # --- recognition -----------------------------------------------------------------------------

    async def verify(self) -> None:
        """Compare the table with the recorded identity, as `IdStore.verify`."""
        table = await self._description()
        if table is None:
            raise self._no_table("DescribeTable")
        self._judged = table.get("TableId")
        self._refuse(description.check(table, self.name, self.client.region), table)
        item = await self._identity()
        self._refuse(description.check_identity(item, table, self.client))
        found = items.string((item or {}).get("id")), table.get("TableId")
        if self._known not in (None, found):  # made anew, or fenced as a restored one
            self._refuse([description.another(self.client)], table)
        self._known = found
        if item and not item.get("table_id") and table.get("TableId"):  # removed by hand
            await self._remember(table["TableId"])

    async def look(self) -> bool:
        """Return True if the table has the same id as at the last `verify`, False if that is not
        told. Raises StoreUnready."""
        table = await self._description() or {}
        found = table.get("TableId")
        if self._known is None or found is None:
            return False
        if found != self._known[1]:
            self._refuse([description.another(self.client)], table)
        return True

    def _refuse(self, findings: Iterable[Finding], table: Answer | None = None) -> None:
        """Raise the first fault: of what DescribeTable said of `table`, else of the identity."""
        operation = "DescribeTable" if table else "GetItem"
        creating = table is not None and table.get("TableStatus") == "CREATING"
        for finding in findings:
            if finding.level == FAULT:
                asked = f"{self.client.where(operation)}: "
                raise refusal(finding, self.client.store, asked=asked, waiting_helps=creating)

    async def accept_identity(self) -> None:
        """Record the table's identity, as `CatalogueStore.accept_identity`."""
        table = await self._description()
        if table is None:
            raise self._no_table("DescribeTable")
        if self._judged not in (None, table.get("TableId")):  # replaced while it was fenced
            self._refuse([description.another(self.client)], table)
        if table.get("TableId"):
            await self._remember(table["TableId"], anew=True)

    async def _remember(self, table_id: str, *, anew: bool = False) -> None:
        unless = "" if anew else " AND attribute_not_exists(#v)"
        await self._call(
            "UpdateItem",
            "recording the table's identity",
            expected=dynamo.CONDITION_FAILED,  # another instance recorded it first
            **requests.update(
                Place(self.name, {items.KEY: {"S": items.IDENTITY}}, "table_id"),
                "SET #v = :id", f"attribute_exists(#k){unless}", id=table_id,
            ),
        )  # fmt: skip

    # --- creation --------------------------------------------------------------------------------

    async def init(self, first: Counter) -> bool:
        """Create what is missing: an earlier attempt, or one of another process, may have done any
        step."""
        assert first.adopted is None
        table = await self._active()
        self._refuse(description.check(table, self.name, self.client.region), table)
        if await self._identity() is not None:
            return False
        await self._recoverable()
        return await self._record(table, first)

    async def _active(self) -> Answer:
        """Return the description of the table once it is ready. Create a missing table first."""
        created = False
        for _ in range(ACTIVE_MAX_POLLS):
            table = await self._description()
            if table is None and not created:
                created = True
                await self._create()
                continue
            # Just after its creation a table may also be not found.
            if table is not None and table.get("TableStatus") != "CREATING":
                return table
            await asyncio.sleep(POLL_S)
        raise self._unready(
            f"it is not ACTIVE after {ACTIVE_MAX_POLLS * POLL_S:g} s; run init again later",
            "DescribeTable",
            waiting_helps=True,
        )

    async def _create(self) -> None:
        await self._call(
            "CreateTable",
            "creating the table",
            expected=dynamo.IN_USE,  # another init was first
            TableName=self.name,
            KeySchema=description.KEY_SCHEMA,
            AttributeDefinitions=[description.KEY_TYPE],
            BillingMode="PAY_PER_REQUEST",
            DeletionProtectionEnabled=True,
        )

    async def _recoverable(self) -> None:
        """Switch point-in-time recovery on. Without it the store works all the same."""
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
            except FAILED as error:
                why = str(error.fields["why"])
                said = error.said if isinstance(error, CallRefused) else ""
                if said == dynamo.NO_OPERATION:
                    log.warning(
                        "table %s has no point-in-time recovery, because this engine has none; a"
                        " table on AWS has it",
                        self.name, extra={"action": "recovery_off"},
                    )  # fmt: skip
                    return
                if said != dynamo.NO_BACKUPS_YET:
                    break
            await asyncio.sleep(BACKUPS_POLL_S)  # AWS offers it a little after the creation
        log.warning(
            "point-in-time recovery of table %s is not switched on: %s; switch it on by hand",
            self.name, why, extra={"action": "recovery_off"},
        )  # fmt: skip

    async def _record(self, table: Answer, first: Counter) -> bool:
        """Write identity, head, first entry and position, all or none; False if another did."""
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
        except FAILED as error:
            found = await self._identity()
            if found is not None:
                return items.string(found.get("id")) == ours  # else another init was first
            if isinstance(error, CallRefused) and "ConditionalCheckFailed" in error.reasons:
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
        """Return the answer of DescribeTable; None if there is no such table."""
        answer = await self._call(
            "DescribeTable", "looking at the table", expected=dynamo.NO_TABLE, TableName=self.name
        )
        return answer and answer["Table"]

    async def _identity(self) -> Answer | None:
        key = {items.KEY: {"S": items.IDENTITY}}
        answer = await self._call(
            "GetItem", "reading the identity", TableName=self.name, Key=key, ConsistentRead=True
        )
        return answer and answer.get("Item")

    async def _call(
        self, operation: str, action: str, *, expected: str = "", **request: object
    ) -> Answer | None:
        """Return the answer; None for the `expected` refusal. Raises StoreUnready."""
        try:
            return await self.client.call(operation, action, **request)
        except FAILED as error:
            if isinstance(error, CallRefused) and error.said == expected:
                return None
            raise self._failed(operation, error) from error

    # --- why not ---------------------------------------------------------------------------------

    def _no_table(self, operation: str) -> errors.StoreUnready:
        missing = description.missing(self.client)
        return refusal(missing, self.client.store, asked=f"{self.client.where(operation)}: ")

    def _failed(self, operation: str, error: errors.StoreError) -> errors.StoreUnready:
        """Return the error of a start whose call failed."""
        if isinstance(error, CallRefused) and error.said == dynamo.NO_TABLE:
            return self._no_table(operation)
        # A token that has expired: credentials are looked up anew meanwhile.
        expired = isinstance(error, CallRefused) and error.said == dynamo.EXPIRED
        why, passing = str(error.fields["why"]), error.throttled or expired
        passing = passing or isinstance(error, CallNotSigned)
        if isinstance(error, CallNotSent | CallUnanswered):
            why += (
                f" (for {self.client.where(operation)})" if isinstance(error, CallNotSent) else ""
            )
            why, passing = f"{why}; check region, endpoint and network", error.passing
        return errors.StoreUnready(store=self.client.store, why=why, waiting_helps=passing)

    def _unready(
        self, why: str, operation: str, *, waiting_helps: bool = False
    ) -> errors.StoreUnready:
        why = f"{self.client.where(operation)}: {why}"
        return errors.StoreUnready(store=self.client.store, why=why, waiting_helps=waiting_helps)
