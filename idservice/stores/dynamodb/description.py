"""What a table's description says of how the table is kept, and what follows for counters in it."""

from idservice.stores.dynamodb.client import Answer
from idservice.stores.findings import ADVICE, FAULT, WARNING, Finding, fine

STRONG = "STRONG"
WRITES_LOW = 5  # write units per second, below which a few instances that start are throttled


def split_over(table: Answer, region: str) -> str:
    """The other regions that write copies of their own of this table; empty where none do.

    Two regions that write one counter hand out the same ids: each sees its own copy, and the later
    write of an item silently replaces the other.
    """
    if table.get("MultiRegionConsistency") == STRONG:
        return ""
    return ", ".join(replicas(table, region))


def replicas(table: Answer, region: str) -> list[str]:
    """The other regions that hold a replica."""
    named = {str(each.get("RegionName")) for each in table.get("Replicas") or ()}
    return sorted(named - {region})


def why_split(regions: str) -> str:
    """Why a table that is split over regions cannot hold counters, and what to do."""
    return (
        f"it has replicas in {regions} without multi-Region strong consistency, so that each region"
        " counts on a copy of its own and hands out the same ids; use a table without replicas, or"
        " take the replicas away (aws dynamodb update-table --replica-updates)"
    )


def read(table: Answer, name: str, region: str) -> list[Finding]:
    """Replicas, deletion protection and throughput."""
    on = f"--table-name {name} --region {region}"
    return [_replicated(table, region, on), _protected(table, on), _provided(table, on)]


def _replicated(table: Answer, region: str, on: str) -> Finding:
    about, elsewhere = "replicas", replicas(table, region)
    if split_over(table, region):
        first = f'\'[{{"Delete": {{"RegionName": "{elsewhere[0]}"}}}}]\''
        return Finding(
            FAULT, about, f"replicas in {', '.join(elsewhere)}, eventually consistent",
            "each region counts on a copy of its own, so two regions hand out the same ids, and no"
            " error says so; counters are refused on such a table",
            f"aws dynamodb update-table {on} --replica-updates {first}",
        )  # fmt: skip
    if elsewhere:
        return Finding(
            WARNING, about, f"replicas in {', '.join(elsewhere)}, strongly consistent",
            "each write crosses regions, and such a table refuses transactions, by which counters"
            " are created and changed; ids themselves are safe",
        )  # fmt: skip
    return fine(about, "none: one region counts")


def _protected(table: Answer, on: str) -> Finding:
    about = "deletion_protection"
    if table.get("DeletionProtectionEnabled"):
        return fine(about, "on")
    return Finding(
        WARNING, about, "off",
        "who deletes the table by mistake takes every counter's position with it; a new table would"
        " begin at 0 and repeat ids",
        f"aws dynamodb update-table {on} --deletion-protection-enabled",
    )  # fmt: skip


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
        " each batch of a strict counter; beyond what is provisioned it is refused",
        f"aws dynamodb update-table {on} --billing-mode PAY_PER_REQUEST",
    )  # fmt: skip
