"""Checks of a table's description and of its identity, for `serve`, `init` and `doctor` alike."""

import shlex

from idservice.stores.dynamodb import items
from idservice.stores.dynamodb.client import Answer, DynamoClient
from idservice.stores.findings import (
    ADVICE,
    BEHIND,
    FAULT,
    IDENTITY,
    WARNING,
    Finding,
    fine,
    schema_read,
)

KEY_SCHEMA = [{"AttributeName": items.KEY, "KeyType": "HASH"}]
KEY_TYPE = {"AttributeName": items.KEY, "AttributeType": "S"}
STRONG = "STRONG"
SPLIT = (
    "each region counts in its own copy, so two regions hand out the same ids; use a table without"
    " replicas, or remove the replicas"
)
WRITES_LOW = 5  # write units per second, below which a few instances that start are throttled


def split_over(table: Answer, region: str) -> str:
    """Return the other regions that count in their own copy of the table; empty if none do.

    Two regions that write one counter hand out the same ids: each sees its own copy, and the later
    write of an item silently replaces the other.
    """
    if table.get("MultiRegionConsistency") == STRONG:
        return ""
    return ", ".join(replicas(table, region))


def replicas(table: Answer, region: str) -> list[str]:
    """Return the other regions that hold a replica."""
    named = {str(each.get("RegionName")) for each in table.get("Replicas") or ()}
    return sorted(named - {region})


def why_split(regions: str) -> str:
    """Return why a table with replicas in these regions cannot hold counters, and what to do."""
    return f"{_replicas_in(regions)}; {SPLIT}"


def _replicas_in(regions: str) -> str:
    return f"it has replicas in {regions} without multi-Region strong consistency"


def check(table: Answer, name: str, region: str) -> list[Finding]:
    """Judge status, key and replicas; `serve` and `init` refuse a fault."""
    return [status(table, name, region), _keyed(table), _replicated(table, name, region)]


def advise(table: Answer, client: DynamoClient) -> list[Finding]:
    """Judge deletion protection, throughput, and if a table made anew would be noticed."""
    on = at(client, client.table)
    return [_protected(table, on), _provided(table, on), *_unidentified(table, client)]


def at(client: DynamoClient, table: str) -> str:
    """Return the options by which a command of AWS names a table, where the store is."""
    where = f"--table-name {table} --region {client.region}"
    return where + (f" --endpoint-url {shlex.quote(client.endpoint)}" if client.endpoint else "")


def missing(client: DynamoClient) -> Finding:
    """Return the fault that the region has no table of this name."""
    return Finding(
        FAULT, "table", f"region {client.region} has no table {client.table!r}",
        "name the right table and region; if it was in use before, restore it, because a new one"
        " starts from 0 and repeats ids; otherwise create it",
        f"idservice init --store {shlex.quote(client.store)}",
    )  # fmt: skip


def check_identity(item: Answer | None, table: Answer, client: DynamoClient) -> list[Finding]:
    """Compare the item `identity` with this version and with the table; `serve` refuses a fault."""
    store = shlex.quote(client.store)
    if item is None:
        return [
            Finding(
                FAULT, "schema", "it is not initialised (it has no item 'identity')",
                "if it was in use before, restore it, because a new one starts from 0 and repeats"
                " ids; otherwise initialise it", f"idservice init --store {store}",
            )
        ]  # fmt: skip
    schema = schema_read(items.shown(item.get("schema")), items.SCHEMA)
    recorded, found = items.string(item.get("table_id")), table.get("TableId")
    if found and not recorded:
        identity = Finding(
            ADVICE, IDENTITY, "the table's id is not recorded",
            "it was removed by hand; the next start records the one that the table has now",
        )  # fmt: skip
    elif found and recorded != found:
        identity = Finding(
            FAULT, IDENTITY, f"the table was recreated or restored (it has the id {found}, not"
            f" {recorded})", BEHIND,
            f"idservice fence --all --past N --store {store}",
        )  # fmt: skip
    elif not found:  # `advise` says so
        return [schema]
    else:
        identity = fine(IDENTITY, "the table is the one that was initialised")
    return [schema, identity]


def another(client: DynamoClient) -> Finding:
    """Return the fault that the table is another one than at the start of this process."""
    return Finding(
        FAULT, IDENTITY, f"table {client.table!r} was replaced by another one while this process"
        " ran", BEHIND, f"idservice fence --all --past N --store {shlex.quote(client.store)}",
    )  # fmt: skip


def status(table: Answer, name: str, region: str, *, about: str = "table") -> Finding:
    """Judge the status: a table answers requests also while its settings change."""
    found = table.get("TableStatus")
    if found in ("ACTIVE", "UPDATING"):
        return fine(about, f"{name} in region {region} is {found}")
    why = "wait until it is ACTIVE" if found == "CREATING" else "make it ACTIVE"
    return Finding(FAULT, about, f"it is {found}", f"until then no ids are reserved; {why}")


def _keyed(table: Answer) -> Finding:
    if KEY_TYPE in table.get("AttributeDefinitions", ()) and table.get("KeySchema") == KEY_SCHEMA:
        return fine("key", f"{items.KEY!r}, a string")
    return Finding(
        FAULT, "key", f"its key must be one partition key, {items.KEY!r}, a string",
        "name another table, or one that does not exist yet",
    )  # fmt: skip


def _replicated(table: Answer, name: str, region: str) -> Finding:
    about, elsewhere = "replicas", replicas(table, region)
    if split_over(table, region):
        first = f'\'[{{"Delete": {{"RegionName": "{elsewhere[0]}"}}}}]\''
        return Finding(
            FAULT, about, _replicas_in(", ".join(elsewhere)), SPLIT,
            f"aws dynamodb update-table --table-name {name} --region {region} --replica-updates"
            f" {first}",
        )  # fmt: skip
    if elsewhere:
        return Finding(
            WARNING, about, f"replicas in {', '.join(elsewhere)}, strongly consistent",
            "each write crosses regions, and such a table refuses transactions, by which counters"
            " are created and changed; ids themselves are safe",
        )  # fmt: skip
    return fine(about, "none")


def _protected(table: Answer, on: str) -> Finding:
    about = "deletion_protection"
    if table.get("DeletionProtectionEnabled"):
        return fine(about, "on")
    return Finding(
        WARNING, about, "off",
        "a table deleted by mistake takes every counter's position with it; a new table would start"
        " from 0 and repeat ids",
        f"aws dynamodb update-table {on} --deletion-protection-enabled",
    )  # fmt: skip


def _unidentified(table: Answer, client: DynamoClient) -> list[Finding]:
    if table.get("TableId"):
        return []  # `check_identity` compares it
    return [Finding(
        WARNING, IDENTITY, "this engine gives a table no id (TableId)",
        "a table that was restored, or deleted and made anew, is taken for the old one, and ids "
        "may be repeated: after either, stop all instances and fence every counter",
        f"idservice fence --all --past N --store {shlex.quote(client.store)}",
    )]  # fmt: skip


def _provided(table: Answer, on: str) -> Finding:
    about = "throughput"
    if table.get("BillingModeSummary", {}).get("BillingMode") == "PAY_PER_REQUEST":
        ceiling = table.get("OnDemandThroughput", {}).get("MaxWriteRequestUnits", -1)
        if ceiling is not None and ceiling > 0:
            return Finding(
                ADVICE, about, f"on demand, with a ceiling of {ceiling} writes a second",
                "above it reservations are refused until the next second",
                f"aws dynamodb update-table {on} --on-demand-throughput MaxWriteRequestUnits=-1",
            )  # fmt: skip
        return fine(about, "on demand")
    writes = table.get("ProvisionedThroughput", {}).get("WriteCapacityUnits", 0)
    return Finding(
        WARNING if writes < WRITES_LOW else ADVICE, about, f"provisioned: {writes} writes a second",
        "a reservation is a write: about one for each runway, counter and instance, and one for"
        " each batch of a strict counter; above the provisioned rate it is refused",
        f"aws dynamodb update-table {on} --billing-mode PAY_PER_REQUEST",
    )  # fmt: skip
