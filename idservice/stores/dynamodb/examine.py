"""A look at a DynamoDB store: its table, what protects it, the clock, and which calls are allowed.

Changes nothing: a write is tried under a condition that never holds.
"""

import shlex
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from idservice import errors
from idservice.stores.dynamodb import client as dynamo
from idservice.stores.dynamodb import description, items
from idservice.stores.dynamodb.client import Answer, Client, Refused
from idservice.stores.findings import ADVICE, FAULT, OK, WARNING, Clock, Finding, fine
from idservice.stores.records import VALUE, Adopted, Counter

SKEW_WARNED_S = 30.0
SKEW_MAX_S = 300.0  # beyond it AWS believes no signature
NEVER = {
    "ConditionExpression": "#e = :never",
    "ExpressionAttributeNames": {"#e": "epoch"},
    "ExpressionAttributeValues": {":never": {"S": "never: a look by doctor"}},
}
OURS = {items.KEY, VALUE, "mark", "rev", "epoch", "revision", "config", "state"}


async def examine_item(client: Client, counter: Counter) -> list[Finding]:
    """As `CatalogueStore.examine_item`."""
    look = _Look(client)
    if counter.elsewhere is not None:
        await look.item(counter, counter.elsewhere)
    return look.found


async def examine(client: Client, clock: Clock, *, thorough: bool) -> list[Finding]:
    """As `IdStore.examine`."""
    look = _Look(client, clock)
    try:
        table = await look.table(client.table)
        if table is not None:
            checked = description.check(table, client.table, client.region)
            look.found += [*checked, *description.advise(table, client.table, client.region)]
            look.answers = not any(one.level == FAULT and one.about == "key" for one in checked)
        if thorough and table is not None and look.answers:
            await look.identity(table)
        if thorough and look.answers:
            await look.expiry(client.table)
            await look.recovery()
            await look.calls()
    except errors.StoreUnready as error:  # no credentials, say
        look.found.append(Finding(FAULT, "reach", str(error.fields["why"]), _UNREACHABLE))
    return look.found


_UNREACHABLE = "without it no id is reserved; what is in memory lasts for a runway"


class _Look:
    """What was found so far."""

    def __init__(self, client: Client, clock: Clock | None = None) -> None:
        self.client = client
        self.clock = clock
        self.found: list[Finding] = []
        self.answers = True  # whether there is anybody, and anything, to ask more of

    async def _ask(self, operation: str, table: str, **request: Any) -> Answer:
        """Raises StoreError."""
        return await self.client.call(
            operation, f"looking at table {table}", TableName=table, **request
        )

    @property
    def _store(self) -> str:
        """As a command names it."""
        return shlex.quote(self.client.store)

    def _on(self, table: str) -> str:
        return f"--table-name {table} --region {self.client.region}"

    # --- the table -------------------------------------------------------------------------------

    async def table(self, name: str, *, about: str = "table") -> Answer | None:
        """A table's description, where it can be had."""
        try:
            answer = await self._ask("DescribeTable", name)
        except errors.StoreUnready:
            raise
        except errors.StoreError as error:
            self.found.append(self._unseen(error, name, about))
            return None
        table: Answer = answer["Table"]
        if self.clock is not None:
            self._skew(answer, self.clock)
        return table

    def _unseen(self, error: errors.StoreError, name: str, about: str) -> Finding:
        """Not there, not allowed, or not heard of: three different things to do."""
        why = str(error.fields["why"])
        if _said(error) == dynamo.NO_TABLE:
            self.answers = False
            if about == "table":
                return description.missing(self.client)
            found = f"region {self.client.region} has no table {name!r}"
            return Finding(FAULT, about, found, "its counter cannot be served; restore the table")
        if _said(error) == dynamo.DENIED:
            return _not_allowed("DescribeTable", name, FAULT, "serving needs it")
        self.answers = False
        return Finding(FAULT, "reach", why, _UNREACHABLE)

    def _skew(self, answer: Answer, clock: Clock) -> None:
        """The engine's clock against ours; nothing where it does not tell."""
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        try:
            skew = clock() - parsedate_to_datetime(date).timestamp()
        except (TypeError, ValueError):
            return
        if abs(skew) < SKEW_WARNED_S:
            self.found.append(fine("clock", "within 30 s of the engine's"))
            return
        self.found.append(
            Finding(
                FAULT if abs(skew) >= SKEW_MAX_S else WARNING, "clock",
                f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the engine's",
                "requests are signed with the time, and from some five minutes on none is believed;"
                " ids do not depend on it",
                "timedatectl set-ntp true",
            )
        )  # fmt: skip

    async def identity(self, table: Answer) -> None:
        """Compare the recorded identity with the table's."""
        try:
            key = {items.KEY: {"S": items.IDENTITY}}
            answer = await self._ask("GetItem", self.client.table, Key=key, ConsistentRead=True)
        except errors.StoreError:
            return  # `calls` says why
        self.found += description.check_identity(answer.get("Item"), table, self.client)

    # --- what protects it ------------------------------------------------------------------------

    async def expiry(self, table: str, own: Mapping[str, object] | None = None) -> None:
        """Whether items are deleted when a number in them is a time that is over."""
        about = "time_to_live"
        try:
            answer = await self._ask("DescribeTimeToLive", table)
        except errors.StoreError as error:
            self._untold(error, about, "DescribeTimeToLive", "whether items expire")
            return
        told = answer["TimeToLiveDescription"]
        name = told.get("AttributeName", "")
        if told.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
            self.found.append(fine(about, f"off on table {table}"))
            return
        bites = name in OURS or items.is_of_an_epoch(name) or name in (own or ())
        self.found.append(
            Finding(
                FAULT if bites else WARNING, about, f"on, by attribute {name!r} of table {table}",
                "DynamoDB deletes an item when the number in it is a time that is over, as every"
                " position is" if bites else
                "an item that ever gets this attribute is deleted, with its position",
                f"aws dynamodb update-time-to-live {self._on(table)} --time-to-live-specification"
                f" Enabled=false,AttributeName={name}",
            )
        )  # fmt: skip

    async def recovery(self) -> None:
        """Whether a table that is lost can be had back."""
        about, table = "recovery", self.client.table
        try:
            answer = await self._ask("DescribeContinuousBackups", table)
        except errors.StoreError as error:
            self._untold(error, about, "DescribeContinuousBackups", "whether it can be recovered")
            return
        told = answer["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
        if told.get("PointInTimeRecoveryStatus") == "ENABLED":
            self.found.append(fine(about, "point-in-time recovery is on"))
            return
        self.found.append(
            Finding(
                WARNING, about, "point-in-time recovery is off",
                "a table that is lost or spoilt cannot be had back, and with it is lost up to where"
                " each counter was",
                f"aws dynamodb update-continuous-backups {self._on(table)}"
                " --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true",
            )
        )  # fmt: skip

    def _untold(self, error: errors.StoreError, about: str, operation: str, what: str) -> None:
        """What only this look asks is no fault where it is not allowed, or not known."""
        if _said(error) == dynamo.DENIED:
            why = f"dynamodb:{operation} is not allowed to this role; only doctor asks it"
        elif _said(error) == dynamo.NO_OPERATION:
            why = "this engine does not know the question"
        else:
            why = str(error.fields["why"])
        self.found.append(Finding(ADVICE, about, f"it cannot be told {what}", why))

    # --- permissions -----------------------------------------------------------------------------

    async def calls(self) -> None:
        """Which calls are allowed, each tried without any effect."""
        position = {items.KEY: {"S": "ctr:default"}}
        entry = {items.KEY: {"S": f"{items.ENTRY}default"}}
        tries: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
            ("GetItem", FAULT, "serving needs it", {"Key": position, "ConsistentRead": True}),
            ("UpdateItem", FAULT, "serving needs it", {"Key": position, **_UNCHANGED, **NEVER}),
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
            if _said(error) == dynamo.DENIED:
                return _not_allowed(operation, table, level, needed)
            if _said(error) != dynamo.CONDITION_FAILED:
                return Finding(WARNING, "reach", str(error.fields["why"]), needed)
        return fine("permissions", operation)

    # --- items of other tables -------------------------------------------------------------------

    async def item(self, counter: Counter, adopted: Adopted) -> None:
        """The table of an item that was adopted."""
        about = "adopted_table"
        table = await self.table(adopted.table, about=about)
        if table is None:
            return
        self.found.append(description.status(table, adopted.table, self.client.region, about=about))
        regions = description.split_over(table, self.client.region)
        if regions:
            self.found.append(
                Finding(FAULT, about, f"table {adopted.table} of counter {counter.name} has"
                        f" replicas in {regions}", "each region hands out the same ids")
            )  # fmt: skip
        found = table.get("TableId")
        if None not in (adopted.table_id, found) and found != adopted.table_id:
            self.found.append(
                Finding(
                    FAULT, about, f"table {adopted.table} of counter {counter.name} was recreated"
                    " or restored", "its position may be behind ids that are in use",
                    f"idservice fence {counter.name} --past N --store {self._store}",
                )
            )  # fmt: skip
        key = {name: {kind: value} for name, kind, value in adopted.key}
        await self.expiry(adopted.table, {**key, adopted.attribute: None})
        for operation, request in (
            ("GetItem", {"Key": key}),
            ("UpdateItem", {"Key": key, **_UNCHANGED, **NEVER}),
        ):
            finding = await self._try(
                operation, adopted.table, FAULT, f"counter {counter.name} needs it", request
            )
            if finding.level != OK:
                self.found.append(finding)


_UNCHANGED = {"UpdateExpression": "SET #e = :never", "ReturnValues": "UPDATED_NEW"}


def _said(error: errors.StoreError) -> str:
    """DynamoDB's own name for it; empty where it said nothing."""
    return error.said if isinstance(error, Refused) else ""


def _not_allowed(operation: str, table: str, level: str, needed: str) -> Finding:
    return Finding(
        level, "permissions", f"dynamodb:{operation} on table {table} is not allowed",
        f"{needed}; allow it to the role or user that this shows",
        "aws sts get-caller-identity",
    )  # fmt: skip
