"""An examination of a DynamoDB store: its table, what protects it, the clock, and permissions.

Changes nothing: a write is tried under a condition that never holds.
"""

import shlex
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from idservice import errors
from idservice.stores.dynamodb import client as dynamo
from idservice.stores.dynamodb import description, items
from idservice.stores.dynamodb.client import Answer, CallRefused, DynamoClient
from idservice.stores.findings import ADVICE, FAULT, OK, WARNING, Clock, Finding, fine
from idservice.stores.records import VALUE, Adopted, Counter

SKEW_WARNED_S = 30.0
SKEW_MAX_S = 300.0  # beyond it AWS believes no signature
NEVER = {
    "ConditionExpression": "#e = :never",
    "ExpressionAttributeNames": {"#e": "epoch"},
    "ExpressionAttributeValues": {":never": {"S": "never: a try by doctor"}},
}
UNCHANGED = {"UpdateExpression": "SET #e = :never"}
UNREACHABLE = (
    "without it no ids are reserved; ids in memory last for one runway. Check that it runs, the"
    " region, the endpoint, the network and the role"
)
OURS = {items.KEY, VALUE, "mark", "rev", "epoch", "revision", "config", "state"}


async def examine_item(client: DynamoClient, counter: Counter) -> list[Finding]:
    """Judge the table of an adopted counter's item, as `CatalogueStore.examine_item`."""
    examination = _Examination(client)
    if counter.adopted_item is not None:
        await examination.item(counter, counter.adopted_item)
    return examination.found


async def examine(client: DynamoClient, clock: Clock, *, thorough: bool) -> list[Finding]:
    """Judge the table, as `IdStore.examine`."""
    examination = _Examination(client, clock)
    try:
        table = await examination.table(client.table)
        if table is not None:
            checked = description.check(table, client.table, client.region)
            examination.found += [*checked, *description.advise(table, client)]
            examination.answers = not any(
                one.level == FAULT and one.about == "key" for one in checked
            )
        if thorough and table is not None and examination.answers:
            await examination.identity(table)
        if thorough and examination.answers:
            examination.found.append(await examination.expiry(client.table))
            examination.found.append(await examination.recovery())
            await examination.calls()
    except errors.StoreUnready as error:  # no credentials, say
        examination.found.append(Finding(FAULT, "reach", str(error.fields["why"]), UNREACHABLE))
    return examination.found


class _Examination:
    """Collects findings."""

    def __init__(self, client: DynamoClient, clock: Clock | None = None) -> None:
        self.client = client
        self.clock = clock
        self.found: list[Finding] = []
        self.answers = True  # the table exists and answers: further questions make sense

    async def _ask(self, operation: str, table: str, **request: Any) -> Answer:
        """Send one request. Raises StoreError."""
        return await self.client.call(
            operation, f"looking at table {table}", TableName=table, **request
        )

    # --- the table -------------------------------------------------------------------------------

    async def table(self, name: str, *, about: str = "table") -> Answer | None:
        """Return a table's description; None, and a finding, if it cannot be read."""
        try:
            answer = await self._ask("DescribeTable", name)
        except errors.StoreUnready:
            raise
        except errors.StoreError as error:
            self.found.append(self._not_described(error, name, about))
            return None
        table: Answer = answer["Table"]
        if self.clock is not None:
            self.found += _skew(answer, self.clock)
        return table

    def _not_described(self, error: errors.StoreError, name: str, about: str) -> Finding:
        """Return the finding for a table that is missing, denied, or not reached."""
        why = str(error.fields["why"])
        if _error_name(error) == dynamo.NO_TABLE:
            self.answers = False
            if about == "table":
                return description.missing(self.client)
            found = f"region {self.client.region} has no table {name!r}"
            return Finding(FAULT, about, found, "its counter cannot be served; restore the table")
        if _error_name(error) == dynamo.DENIED:
            return _not_allowed("DescribeTable", name, FAULT, "serving needs it")
        self.answers = False
        return Finding(FAULT, "reach", why, UNREACHABLE)

    async def identity(self, table: Answer) -> None:
        """Compare the recorded identity with the table's."""
        try:
            key = {items.KEY: {"S": items.IDENTITY}}
            answer = await self._ask("GetItem", self.client.table, Key=key, ConsistentRead=True)
        except errors.StoreError:
            return  # `calls` says why
        self.found += description.check_identity(answer.get("Item"), table, self.client)

    # --- what protects it ------------------------------------------------------------------------

    async def expiry(self, table: str, own: Mapping[str, object] | None = None) -> Finding:
        """Judge if items are deleted once a time in them has passed."""
        about = "time_to_live"
        try:
            answer = await self._ask("DescribeTimeToLive", table)
        except errors.StoreError as error:
            return _unknown(error, about, "DescribeTimeToLive", "do items expire?")
        described = answer["TimeToLiveDescription"]
        name = described.get("AttributeName", "")
        if described.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
            return fine(about, f"off on table {table}")
        is_ours = name in OURS or items.is_of_an_epoch(name) or name in (own or ())
        return Finding(
            FAULT if is_ours else WARNING, about, f"on, by attribute {name!r} of table {table}",
            "DynamoDB deletes an item when the time in this attribute has passed, and every"
            " position looks like one" if is_ours else
            "an item that ever gets this attribute is deleted, with its position",
            f"aws dynamodb update-time-to-live {description.at(self.client, table)}"
            f" --time-to-live-specification Enabled=false,AttributeName={name}",
        )  # fmt: skip

    async def recovery(self) -> Finding:
        """Judge if a lost table can be recovered."""
        about, table = "recovery", self.client.table
        try:
            answer = await self._ask("DescribeContinuousBackups", table)
        except errors.StoreError as error:
            operation, question = "DescribeContinuousBackups", "can the table be recovered?"
            return _unknown(error, about, operation, question)
        described = answer["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
        if described.get("PointInTimeRecoveryStatus") == "ENABLED":
            return fine(about, "point-in-time recovery is on")
        return Finding(
            WARNING, about, "point-in-time recovery is off",
            "a lost or damaged table cannot be restored, and the positions of all counters are"
            " lost with it",
            f"aws dynamodb update-continuous-backups {description.at(self.client, table)}"
            " --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true",
        )  # fmt: skip

    # --- permissions -----------------------------------------------------------------------------

    async def calls(self) -> None:
        """Try each call without any effect, and report which are allowed."""
        position = {items.KEY: {"S": "ctr:default"}}
        entry = {items.KEY: {"S": f"{items.ENTRY}default"}}
        revision = {items.KEY: {"S": items.HEAD}}  # positions are read with the counters
        tries: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
            ("GetItem", FAULT, "serving needs it", {"Key": revision, "ConsistentRead": True}),
            ("UpdateItem", FAULT, "serving needs it", {"Key": position, **UNCHANGED, **NEVER}),
            ("PutItem", ADVICE, "only init and create need it", {"Item": entry, **NEVER}),
            ("Scan", ADVICE, "only counters, fence --all and doctor need it", {"Limit": 1}),
        )
        allowed = []
        for operation, level, needed, request in tries:
            finding = await self._try(operation, self.client.table, level, needed, request)
            if finding.level == OK:
                allowed.append(operation)
            else:
                self.found.append(finding)
        if allowed:
            self.found.append(fine("permissions", f"allowed: {', '.join(allowed)}"))

    async def _try(
        self, operation: str, table: str, level: str, needed: str, request: dict[str, Any]
    ) -> Finding:
        try:
            await self._ask(operation, table, **request)
        except errors.StoreError as error:
            if _error_name(error) == dynamo.DENIED:
                return _not_allowed(operation, table, level, needed)
            if _error_name(error) != dynamo.CONDITION_FAILED:
                why = f"{needed}; try again, and if it stays so, check endpoint and network"
                return Finding(WARNING, "reach", str(error.fields["why"]), why)
        return fine("permissions", operation)

    # --- items of other tables -------------------------------------------------------------------

    async def item(self, counter: Counter, adopted: Adopted) -> None:
        """Judge the table of an adopted item."""
        about = "adopted_table"
        table = await self.table(adopted.table, about=about)
        if table is None:
            return
        self.found.append(description.status(table, adopted.table, self.client.region, about=about))
        regions = description.split_over(table, self.client.region)
        name = f"table {adopted.table} of counter {counter.name}"
        if regions:
            why = "two regions hand out the same ids; remove them"
            self.found.append(Finding(FAULT, about, f"{name} has replicas in {regions}", why))
        found = table.get("TableId")
        if None not in (adopted.table_id, found) and found != adopted.table_id:
            why = "its position may be behind ids that are in use"
            run = (
                f"idservice fence {counter.name} --past N --store {shlex.quote(self.client.store)}"
            )
            self.found.append(Finding(FAULT, about, f"{name} was recreated or restored", why, run))
        key = items.foreign_key(adopted)
        self.found.append(await self.expiry(adopted.table, {**key, adopted.attribute: None}))
        for operation, request in (
            ("GetItem", {"Key": key}),
            ("UpdateItem", {"Key": key, **UNCHANGED, **NEVER}),
        ):
            finding = await self._try(
                operation, adopted.table, FAULT, f"counter {counter.name} needs it", request
            )
            if finding.level != OK:
                self.found.append(finding)


def _skew(answer: Answer, clock: Clock) -> list[Finding]:
    """Compare the engine's clock with ours, if it gives one."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        skew = clock() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return []
    if abs(skew) < SKEW_WARNED_S:
        return [fine("clock", "within 30 s of the engine's")]
    return [Finding(
        FAULT if abs(skew) >= SKEW_MAX_S else WARNING, "clock",
        f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the engine's",
        "requests are signed with the time; AWS refuses them from about five minutes on; ids do not"
        " depend on it", "timedatectl set-ntp true",
    )]  # fmt: skip


def _unknown(error: errors.StoreError, about: str, operation: str, what: str) -> Finding:
    """Return advice for a question that only doctor asks: its denial is not a fault."""
    why = str(error.fields["why"])
    if _error_name(error) == dynamo.DENIED:
        why = f"dynamodb:{operation} is not allowed to this role; only doctor needs it"
    elif _error_name(error) == dynamo.NO_OPERATION:
        why = "this engine does not support the question"
    return Finding(ADVICE, about, f"unknown: {what}", why)


def _error_name(error: errors.StoreError) -> str:
    """Return DynamoDB's own name for an error; empty if it gave none."""
    return error.said if isinstance(error, CallRefused) else ""


def _not_allowed(operation: str, table: str, level: str, needed: str) -> Finding:
    return Finding(
        level, "permissions", f"dynamodb:{operation} on table {table} is not allowed",
        f"{needed}; allow it to the role or user that this command shows",
        "aws sts get-caller-identity",
    )  # fmt: skip
